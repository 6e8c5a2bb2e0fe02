"""Activation criteria, recorded in onnxruntime, against torch by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from torch.nn import functional

from factories import cnn, mlp, model
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model, from_proto, initializers
from secateur.pipeline.prune import criteria, layers
from secateur.pipeline.prune.criteria import Context, Samples


def score(name: str, source: Model, samples: Samples | None) -> criteria.Saliency:
    return criteria.score(name, Context(source, tuple(layers.find(source.proto)), data=samples))


def test_means_and_zeros_of_a_convolutional_network():
    proto = cnn(seed=6)
    images = np.random.default_rng(0).random((70, 1, 8, 8), np.float32)  # more than are recorded at once
    p = {name: torch.tensor(array) for name, array in initializers(proto).items()}
    x = functional.conv2d(torch.tensor(images), p["conv0.weight"], p["conv0.bias"], stride=2, padding=1)
    x = functional.batch_norm(x, p["bn0.mean"], p["bn0.var"], p["bn0.scale"], p["bn0.bias"]).relu()
    y = functional.conv2d(x, p["conv1.weight"], p["conv1.bias"], stride=2, padding=1).relu()
    source = from_proto(proto)
    means, alive = (score(name, source, Samples(images)) for name in ("activation", "apoz"))
    assert set(means) == set(alive) == {"conv0.weight", "conv1.weight"}  # behind fc there is no activation
    for name, values in (("conv0.weight", x), ("conv1.weight", y)):
        assert np.allclose(means[name], values.mean((0, 2, 3)).numpy(), atol=1e-5)
        assert np.allclose(alive[name], (values > 0).float().mean((0, 2, 3)).numpy(), atol=1e-3)


def test_signed_activations_count_by_size():
    constants = {"w": np.array([[1, -1, 0]], np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Tanh", ["m"], ["y"])]
    source = from_proto(model(nodes, constants, ["N", 1], ["N", 3]))
    found = score("activation", source, Samples(np.array([[1.0], [-2.0]], np.float32)))["w"]
    expected = (np.tanh(1) + np.tanh(2)) / 2
    assert np.allclose(found, [expected, expected, 0])


def test_channels_of_dense_layers_and_fixed_batches():
    proto = mlp([4, 5, 2], seed=3)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    images = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    arrays = initializers(proto)
    hidden = np.maximum(images @ arrays["fc0.weight"].T + arrays["fc0.bias"], 0)
    found = score("apoz", from_proto(proto), Samples(images))
    assert np.allclose(found["fc0.weight"], (hidden > 0).mean(axis=0))


@pytest.mark.parametrize("name", ["activation", "apoz"])
def test_what_is_missing_is_named(name):
    with pytest.raises(InputError, match=f"criterion '{name}' needs data"):
        score(name, from_proto(mlp([4, 5, 2])), None)
    with pytest.raises(InputError, match="no scores for any layer: no activation stands behind it"):
        score(name, from_proto(mlp([4, 2])), Samples(np.zeros((1, 4), np.float32)))
