"""What `inspect` finds in a model, counted by hand."""

from __future__ import annotations

import numpy as np

from factories import box_property, cnn, mlp
from secateur.formats import onnx_model, vnnlib
from secateur.formats.onnx_model import from_proto, initializers
from secateur.pipeline.inspect import inspect
from secateur.pipeline.prune import prune


def test_operators_shapes_and_zeros():
    dense = from_proto(cnn(channels=4), "net.onnx")
    pruned = prune(dense, "magnitude", sparsity=0.5, granularity="channel", scope="layer")
    found = inspect(from_proto(pruned.proto, "net.onnx"))
    assert found.operators == {"Conv": 2, "Relu": 2, "BatchNormalization": 1, "Flatten": 1, "Gemm": 1}
    assert found.inputs[0].shape == ("N", 1, 8, 8)
    assert found.outputs[0].shape == ("N", 3)
    assert found.opsets == {"": 17}
    arrays = initializers(pruned.proto)
    assert found.parameters == sum(array.size for array in arrays.values())
    assert found.zeros == sum(int((array == 0).sum()) for array in arrays.values())
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert (tensors["conv0.weight"].channels, tensors["conv0.weight"].zero_channels) == (4, 2)
    assert tensors["bn0.var"].channels is None
    assert (
        "tensor: conv0.weight, float 4x1x3x3, zeros 18 of 36 (50.00%), zero channels 2 of 4" in found.lines()
    )
    assert found.provenance == onnx_model.provenance(pruned.proto)
    assert found.stability is None


def test_stable_neurons_of_a_property():
    """Input in [0, 1]²; the neurons are x0 + 1 (active), −x0 − 1 (inactive) and x0 − x1 (unstable)."""
    proto = mlp([2, 3, 1])
    weight = np.array([[1, 0], [-1, 0], [1, -1]], np.float32)
    onnx_model.set_initializer(proto, "fc0.weight", weight)
    onnx_model.set_initializer(proto, "fc0.bias", np.array([1, -1, 0], np.float32))
    query = vnnlib.parse(box_property([0, 0], [1, 1], 1, "(<= Y_0 0)"), "p.vnnlib")
    (layer,) = inspect(from_proto(proto), query).stability or ()
    assert (layer.neurons, layer.active, layer.inactive, layer.unstable) == (3, 1, 1, 1)
