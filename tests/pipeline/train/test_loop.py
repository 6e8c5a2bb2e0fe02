"""Training: deterministic, masks held exactly, statistics written back, nothing else touched."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from factories import mlp
from secateur.formats import dataset, onnx_model
from secateur.formats.dataset import Dataset
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.train.attacks import attack_images
from secateur.pipeline.train.evaluate import evaluate, predictions
from secateur.pipeline.train.graph import TrainableGraph
from secateur.pipeline.train.loop import Epoch, train
from secateur.pipeline.train.settings import Settings
from secateur.pipeline.train.start import starting_model


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset.load("digits", "train", 300)


@pytest.fixture(scope="module")
def start(digits: Dataset) -> Model:
    return starting_model("digits_cnn", digits)


@pytest.fixture(scope="module")
def mask(start: Model) -> Mask:
    random = np.random.default_rng(0)
    weights = {name: array for name, array in onnx_model.initializers(start.proto).items() if array.ndim >= 2}
    keep = {name: random.random(array.shape) < 0.3 for name, array in weights.items()}
    return Mask(keep, start.sha256, "random", "weight")


@pytest.mark.parametrize(
    "settings",
    [
        Settings(epochs=2, seed=3),
        Settings(epochs=2, objective="adversarial", epsilon=0.05),
        Settings(
            epochs=1, objective="adversarial", epsilon=0.05, attack_steps=3, optimizer="sgd", schedule="step"
        ),
    ],
    ids=["standard", "fgsm", "pgd"],
)
def test_the_same_seed_gives_the_same_bytes(
    start: Model, digits: Dataset, mask: Mask, settings: Settings
) -> None:
    first, second = (train(start, digits, settings, mask=mask) for _ in range(2))
    assert onnx_model.to_bytes(first.model.proto) == onnx_model.to_bytes(second.model.proto)
    other = train(start, digits, dataclasses.replace(settings, seed=9), mask=mask)
    assert other.model.sha256 != first.model.sha256


def test_training_learns_and_is_reported_epoch_by_epoch(start: Model, digits: Dataset) -> None:
    epochs: list[Epoch] = []
    result = train(start, digits, Settings(epochs=8), progress=epochs.append)
    assert tuple(epochs) == result.history
    assert [epoch.epoch for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    best = max(epoch.validation for epoch in epochs)
    assert epochs[result.best_epoch - 1].validation == best
    assert all(epoch.validation < best for epoch in epochs[result.best_epoch :])
    assert evaluate(result.model, dataset.load("digits")).accuracy > 0.85


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_mask_is_held_exactly_and_survivors_move(
    start: Model, digits: Dataset, mask: Mask, optimizer: str
) -> None:
    settings = Settings(epochs=2, optimizer=optimizer, weight_decay=0.01)  # type: ignore[arg-type]
    before = onnx_model.initializers(start.proto)
    after = onnx_model.initializers(train(start, digits, settings, mask=mask).model.proto)
    for name, keep in mask.tensors.items():
        assert not after[name][~keep].any()
        assert np.mean(after[name][keep] != before[name][keep]) > 0.5


def test_only_weights_and_statistics_change(start: Model, digits: Dataset) -> None:
    result = train(start, digits, Settings(epochs=1))
    before, after = start.proto, result.model.proto
    assert list(before.graph.node) == list(after.graph.node)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.opset_import) == list(after.opset_import)
    names = list(onnx_model.initializers(before))
    assert list(onnx_model.initializers(after)) == names
    for name in names:
        assert not np.array_equal(
            onnx_model.initializers(before)[name], onnx_model.initializers(after)[name]
        ), name
    steps = onnx_model.provenance(after)
    assert [step["command"] for step in steps] == ["build", "train"]
    assert steps[-1]["source_sha256"] == start.sha256


def test_batch_statistics_follow_torch(start: Model, digits: Dataset) -> None:
    """One step of one batch at learning rate ~0: running statistics = 0.9 · old + 0.1 · the batch's."""
    few = Dataset("few", digits.images[:40], digits.labels[:40], 10)
    settings = Settings(epochs=1, batch_size=40, learning_rate=1e-12, validation=0)
    after = onnx_model.initializers(train(start, few, settings).model.proto)
    weights = onnx_model.initializers(start.proto)
    convolved = torch.nn.functional.conv2d(
        torch.from_numpy(few.images),
        *(torch.tensor(weights[f"conv1.{part}"]) for part in ("weight", "bias")),
        padding=1,
    )
    mean, variance = convolved.mean((0, 2, 3)).numpy(), convolved.var((0, 2, 3)).numpy()
    assert np.allclose(after["bn1.running_mean"], 0.1 * mean, atol=1e-5)
    assert np.allclose(after["bn1.running_var"], 0.9 + 0.1 * variance, atol=1e-5)


def test_adversarial_images_stay_in_the_ball_and_hurt(digits: Dataset, start: Model) -> None:
    model = train(start, digits, Settings(epochs=8)).model
    graph = TrainableGraph(model)
    x, y = graph.inputs(digits.images), torch.from_numpy(digits.labels)
    loss = torch.nn.functional.cross_entropy
    with torch.no_grad():
        clean = loss(graph(x), y)
        previous = clean
        for steps in (1, 10):
            with torch.enable_grad():
                moved = attack_images(graph, x, y, 0.1, steps, torch.Generator().manual_seed(0))
            assert float((moved - x).abs().max()) <= 0.1 + 1e-6
            assert float(moved.min()) >= 0 and float(moved.max()) <= 1
            assert loss(graph(moved), y) > previous
            previous = loss(graph(moved), y)
    assert previous > 2 * clean


def test_a_flat_network_takes_images(digits: Dataset) -> None:
    source = onnx_model.from_proto(mlp([64, 16, 10]))
    result = train(source, digits, Settings(epochs=5, learning_rate=0.01))
    assert evaluate(result.model, digits).accuracy > evaluate(source, digits).accuracy + 0.3


def test_zero_epochs_write_the_start(start: Model, digits: Dataset) -> None:
    result = train(start, digits, Settings(epochs=0))
    assert result.best_epoch == 0
    for name, array in onnx_model.initializers(result.model.proto).items():
        assert np.array_equal(array, onnx_model.initializers(start.proto)[name])


def test_what_does_not_fit_is_refused(start: Model, digits: Dataset, mask: Mask) -> None:
    def with_tensor(name: str, keep: np.ndarray) -> Mask:
        return dataclasses.replace(mask, tensors={name: keep})

    with pytest.raises(InputError, match="'nowhere', which is not a trained weight"):
        train(start, digits, Settings(epochs=1), mask=with_tensor("nowhere", np.ones(3, bool)))
    with pytest.raises(InputError, match=r"shape \[3\]: expected \[16, 1, 3, 3\]"):
        train(start, digits, Settings(epochs=1), mask=with_tensor("conv1.weight", np.ones(3, bool)))
    with pytest.raises(InputError, match="has 5 inputs, the images of digits have 64"):
        train(onnx_model.from_proto(mlp([5, 10])), digits)
    with pytest.raises(InputError, match="has 3 outputs, digits has 10 classes"):
        train(onnx_model.from_proto(mlp([64, 3])), digits)
    with pytest.raises(InputError, match="no device"):
        train(start, digits, Settings(epochs=1, device="cuda:99"))
    with pytest.raises(CheckFailed, match="diverged"):
        train(onnx_model.from_proto(mlp([64, 16, 10])), digits, Settings(optimizer="sgd", learning_rate=1e20))


def test_evaluation_counts_what_onnxruntime_says(start: Model) -> None:
    images = dataset.load("digits", "test", 150)
    session = onnxrt.session(start)
    (logits,) = session.run(None, {"input": images.images})
    given = np.asarray(logits).argmax(1)
    result = evaluate(start, images)
    assert np.array_equal(predictions(start, images), given)
    assert result.images == 150
    assert result.accuracy == np.mean(given == images.labels)
    for true in range(10):
        for said in range(10):
            assert result.confusion[true, said] == np.sum((images.labels == true) & (given == said))
        share = result.per_class[true]
        assert share == pytest.approx(np.mean(given[images.labels == true] == true))
    missing = Dataset("two", images.images[images.labels < 2], images.labels[images.labels < 2], 10)
    assert evaluate(start, missing).per_class[5] is None
