"""Criteria by gradients against the same formulas written in torch by hand, on networks written in torch by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch.nn import functional

from factories import cnn, mlp, model
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model, from_proto, initializers, set_initializer
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import criteria, layers, prune
from secateur.pipeline.prune.criteria import Context, Samples
from secateur.pipeline.train.attacks import attack_images
from secateur.pipeline.train.graph import TrainableGraph

Tensors = dict[str, torch.Tensor]
Network = Callable[[Tensors, torch.Tensor], torch.Tensor]
BY_DATA = ["snip", "taylor", "taylor-channel", "grasp", "hydra"]


def data(shape: tuple[int, ...], n: int = 20, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return Samples(random.random((n, *shape), np.float32), random.integers(0, 3, n))


def score(name: str, source: Model, samples: Samples | None, **changes) -> criteria.Saliency:
    found = tuple(layers.find(source.proto))
    return criteria.score(name, Context(source, found, data=samples, **changes))


def tensors(proto: onnx.ModelProto) -> Tensors:
    return {name: torch.tensor(array, requires_grad=True) for name, array in initializers(proto).items()}


def run_cnn(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    x = functional.conv2d(x, p["conv0.weight"], p["conv0.bias"], stride=2, padding=1)
    x = functional.batch_norm(x, p["bn0.mean"].detach(), p["bn0.var"].detach(), p["bn0.scale"], p["bn0.bias"])
    x = functional.conv2d(x.relu(), p["conv1.weight"], p["conv1.bias"], stride=2, padding=1)
    return functional.linear(x.relu().flatten(1), p["fc.weight"], p["fc.bias"])


def run_mlp(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    for layer in range(2):
        x = functional.linear(x, p[f"fc{layer}.weight"], p[f"fc{layer}.bias"]).relu()
    return functional.linear(x, p["fc2.weight"], p["fc2.bias"])


NETWORKS = [
    pytest.param(cnn(seed=3), run_cnn, data((1, 8, 8)), id="cnn"),
    pytest.param(mlp([6, 9, 7, 3], seed=3), run_mlp, data((6,)), id="mlp"),
]


def loss(run: Network, p: Tensors, samples: Samples, rows: slice = slice(None), temperature: float = 1.0):
    x, y = torch.tensor(samples.images[rows]), torch.tensor(samples.labels[rows])
    return functional.cross_entropy(run(p, x) / temperature, y)


@pytest.mark.parametrize(("proto", "run", "samples"), NETWORKS)
def test_snip_is_the_derivative_by_the_mask(proto, run, samples):
    p = tensors(proto)
    found = score("snip", from_proto(proto), samples)
    masks = {name: torch.ones_like(p[name], requires_grad=True) for name in found}
    masked = p | {name: p[name] * mask for name, mask in masks.items()}
    loss(run, masked, samples).backward()
    for name, values in found.items():
        assert np.allclose(values, masks[name].grad.abs().numpy(), rtol=1e-4, atol=1e-8), name


@pytest.mark.parametrize(("proto", "run", "samples"), NETWORKS)
def test_taylor_averages_over_batches(proto, run, samples):
    found = score("taylor", from_proto(proto), samples, options={"batch": "8"})
    channels = score("taylor-channel", from_proto(proto), samples, options={"batch": "8"})
    for name, values in found.items():
        expected, squares = np.zeros(values.shape), np.zeros(len(values))
        for start, end in pairwise((0, 8, 16, 20)):
            p = tensors(proto)
            loss(run, p, samples, slice(start, end)).backward()
            product = (p[name] * p[name].grad).detach().numpy()
            expected += np.abs(product) * (end - start) / 20
            squares += product.reshape(len(product), -1).sum(axis=1) ** 2 * (end - start) / 20
        assert np.allclose(values, expected, rtol=1e-4, atol=1e-8), name
        assert np.allclose(channels[name], squares, rtol=1e-3, atol=1e-8), name


@pytest.mark.parametrize(("proto", "run", "samples"), NETWORKS)
def test_taylor_with_one_batch_is_snip(proto, run, samples):
    taylor = score("taylor", from_proto(proto), samples, options={"batch": "128"})
    for name, values in score("snip", from_proto(proto), samples).items():
        assert np.allclose(taylor[name], values)


@pytest.mark.parametrize("batch", [7, 128])
@pytest.mark.parametrize(("proto", "run", "samples"), NETWORKS)
def test_grasp_is_half_the_gradient_of_the_squared_gradient(proto, run, samples, batch, monkeypatch):
    monkeypatch.setattr("secateur.pipeline.prune.criteria.differentiable.BATCH", batch)
    p = tensors(proto)
    found = score("grasp", from_proto(proto), samples, options={"temperature": "2"})
    weights = [p[name] for name in found]
    first = torch.autograd.grad(loss(run, p, samples, temperature=2), weights, create_graph=True)
    square = torch.stack([(g**2).sum() for g in first]).sum()
    for name, weight, second in zip(found, weights, torch.autograd.grad(square, weights), strict=True):
        expected = (weight * second / 2).detach().numpy()
        assert np.allclose(found[name], expected, rtol=1e-3, atol=1e-7), name


def test_synflow_of_a_chain_of_matrices():
    """R = 1ᵀ|W₃||W₂||W₁|1: a weight's score is the sum over all paths through it."""
    proto = mlp([5, 6, 4, 3], seed=1)
    one, two, three = (np.abs(initializers(proto)[f"fc{i}.weight"].astype(np.float64)) for i in range(3))
    expected = {
        "fc0.weight": one * np.outer(three.sum(0) @ two, np.ones(5)),
        "fc1.weight": two * np.outer(three.sum(0), one.sum(1)),
        "fc2.weight": three * np.outer(np.ones(3), two @ one.sum(1)),
    }
    found = score("synflow", from_proto(proto), None)
    assert all(np.allclose(found[name], values, rtol=1e-12) for name, values in expected.items())


def test_synflow_is_conserved_from_layer_to_layer():
    """Theorem 1 of the source: every layer's scores sum to R, convolutions and normalisation included."""
    found = score("synflow", from_proto(cnn(seed=5)), None)
    sums = [values.sum() for values in found.values()]
    assert np.allclose(sums, sums[0], rtol=1e-12) and sums[0] > 0


def test_synflow_stays_finite_in_deep_networks():
    found = score("synflow", from_proto(mlp([8, *[64] * 40, 3], scale=8)), None)
    assert all((values > 0).any() for values in found.values())


def test_the_robust_loss_is_that_of_attacked_images():
    source, samples = from_proto(cnn(seed=3)), data((1, 8, 8))
    options = {"loss": "robust", "attack-steps": "3"}
    robust = score("snip", source, samples, epsilon=0.1, options=options, seed=4)
    graph = TrainableGraph(source)
    x, y = graph.inputs(samples.images), torch.tensor(samples.labels)
    moved = attack_images(graph, x, y, 0.1, 3, torch.Generator().manual_seed(4)).numpy()
    plain = score("snip", source, Samples(moved, samples.labels))
    unmoved = score("snip", source, samples)
    for name, values in robust.items():
        assert np.allclose(values, plain[name])
        assert not np.allclose(values, unmoved[name], rtol=1e-2)
    with pytest.raises(InputError, match="the robust loss needs a positive ε"):
        score("snip", source, samples, options={"loss": "robust"})


def test_a_last_softmax_is_left_out():
    proto = mlp([6, 5, 3], seed=2)
    tailed = onnx.ModelProto.FromString(proto.SerializeToString())
    tailed.graph.node[-1].output[0] = "logits"
    tailed.graph.node.append(helper.make_node("Softmax", ["logits"], ["y"], axis=1))
    samples = data((6,))
    for name in ("snip", "synflow"):
        expected = score(name, from_proto(proto), samples)
        found = score(name, from_proto(tailed), samples)
        assert all(np.allclose(found[key], expected[key]) for key in expected), name


def ranks(values: np.ndarray) -> np.ndarray:
    """Of different values: how many of the layer's are no larger, as a share."""
    return (values.ravel()[:, None] >= values.ravel()).mean(axis=1).reshape(values.shape)


def test_hydra_starts_from_the_weights():
    proto = cnn(seed=1)
    found = score("hydra", from_proto(proto), data((1, 8, 8)), options={"epochs": "0"})
    for name, values in found.items():
        assert np.allclose(values, ranks(np.abs(initializers(proto)[name]))), name


class Top(torch.autograd.Function):
    """The top k of |s| as ones, with a gradient that passes straight to |s|."""

    @staticmethod
    def forward(ctx, magnitude, k):
        mask = torch.zeros(magnitude.numel())
        mask[magnitude.flatten().argsort(descending=True, stable=True)[:k]] = 1
        return mask.view_as(magnitude)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def test_hydra_learns_as_its_source_does():
    """Against scores as parameters of a straight-through function, trained by torch's own optimiser."""
    proto, samples = mlp([6, 9, 7, 3], seed=3), data((6,))
    options = {"epochs": "3", "rate": "0.05", "batch": "8"}
    found = score("hydra", from_proto(proto), samples, options=options, sparsity=0.6, seed=2)
    p = {name: tensor.detach() for name, tensor in tensors(proto).items()}
    scores = {
        name: torch.nn.Parameter(p[name] * np.sqrt(6 / p[name].shape[1]) / p[name].abs().max())
        for name in found
    }
    optimizer = torch.optim.Adam(scores.values(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        for rows in torch.split(torch.randperm(20, generator=generator), 8):
            chosen = {n: p[n] * Top.apply(s.abs(), round(0.4 * s.numel())) for n, s in scores.items()}
            optimizer.zero_grad()
            loss(run_mlp, p | chosen, samples, rows.numpy()).backward()
            optimizer.step()
            scheduler.step()
    for name, values in found.items():
        expected = ranks(scores[name].detach().abs().numpy())
        assert np.allclose(values, expected), name
        assert not np.allclose(values, ranks(p[name].abs().numpy())), name  # it has learned something


def test_hydra_lowers_the_loss_of_the_network_that_is_left():
    """The labels are the whole network's own: which half of it knows them best?"""
    proto, images = mlp([6, 16, 12, 3], seed=4, scale=3), data((6,), 60).images
    samples = Samples(images, onnxrt.run(proto, images).argmax(axis=1))

    def left(epochs: int) -> float:
        options = {"epochs": str(epochs), "rate": "0.05"}
        p = tensors(proto)
        for name, values in score("hydra", from_proto(proto), samples, options=options).items():
            keep = values >= np.sort(values.ravel())[-round(values.size / 2)]
            p[name] = p[name] * torch.tensor(keep)
        return loss(run_mlp, p, samples).item()

    assert left(40) < 0.5 * left(0)


def test_hydra_leaves_what_is_gone():
    proto, samples = mlp([6, 9, 7, 3], seed=3), data((6,))
    keep = {"fc0.weight": np.arange(54).reshape(9, 6) % 3 > 0}
    set_initializer(proto, "fc0.weight", initializers(proto)["fc0.weight"] * keep["fc0.weight"])
    found = score("hydra", from_proto(proto), samples, keep=keep)["fc0.weight"]
    assert found[~keep["fc0.weight"]].max() < found[keep["fc0.weight"]].min()


def test_hydras_network_is_the_one_that_a_global_threshold_leaves():
    source, samples = from_proto(mlp([6, 9, 6, 3], seed=3)), data((6,))
    masks = [
        prune(source, "hydra", sparsity=2 / 3, scope=scope, data=samples).mask.tensors
        for scope in ("global", "layer")
    ]
    assert all(np.array_equal(masks[0][name], masks[1][name]) for name in masks[0])


@pytest.mark.parametrize("name", [*BY_DATA, "synflow"])
def test_same_seed_same_scores(name):
    samples = None if name == "synflow" else data((1, 8, 8))
    first, again = (score(name, from_proto(cnn(seed=4)), samples, seed=1) for _ in range(2))
    assert all(first[key].tobytes() == again[key].tobytes() for key in first)


@pytest.mark.parametrize("name", BY_DATA)
def test_labels_must_be_there_and_fit(name):
    source = from_proto(mlp([6, 5, 3]), "net.onnx")
    with pytest.raises(InputError, match=rf"net\.onnx: criterion '{name}' needs data"):
        score(name, source, None)
    with pytest.raises(InputError, match="needs labelled data"):
        score(name, source, Samples(np.zeros((2, 6), np.float32)))
    with pytest.raises(InputError, match="the network has 3 outputs, the data a label 3"):
        score(name, source, Samples(np.zeros((2, 6), np.float32), np.array([0, 3])))
    with pytest.raises(InputError, match="6 inputs, the samples have 5"):
        score(name, source, Samples(np.zeros((2, 5), np.float32), np.array([0, 1])))


def test_operators_without_a_derivative_are_refused_by_name():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Trilu", ["m"], ["y"]),
    ]
    source = from_proto(model(nodes, {"w": np.ones((4, 3), np.float32)}, ["N", 4], ["N", 3]))
    with pytest.raises(UnsupportedError, match="Trilu"):
        score("snip", source, data((4,)))
