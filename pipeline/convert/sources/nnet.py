"""`.nnet` files (Reluplex, ACAS Xu) as chains of Gemm and Relu.

Their networks take normalised inputs and give normalised outputs. As they are, that is what the ONNX model does, too;
with `nnet_normalise` the normalisation is folded into the first and the last layer, so that inputs and outputs have
their physical units. (The clipping of inputs to their minima and maxima is left to the property.)
"""

from __future__ import annotations

import re

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from secateur.formats import nnet
from secateur.formats.nnet import Nnet
from secateur.pipeline.convert.sources.source import Array, Content, Format, Function, Options, Source

_OPSET, _IR_VERSION = 13, 8
_EXAMPLES = 32
_START = re.compile(rb"\s*(//|\d+\s*,\s*\d+\s*,\s*\d+\s*,\s*\d+\s*,?\s*$)", re.MULTILINE)


def read(content: Content, options: Options) -> Source:
    """The network, compared with its own arithmetic in float64, also on points between its minima and maxima.

    Raises:
        InputError: the line at which it is malformed.
    """
    network = nnet.from_bytes(content.data, content.name)
    if options.nnet_normalise:
        note = "normalisation is folded in: inputs and outputs have their physical units"
    else:
        note = "inputs and outputs are normalised: --nnet-normalise folds the normalisation in"
    weights, biases = _layers(network, options.nnet_normalise)
    points = np.random.default_rng(0).uniform(
        network.minima, network.maxima, (_EXAMPLES, len(network.minima))
    )
    if not options.nnet_normalise:
        points = (points - network.means[:-1]) / network.ranges[:-1]
    return Source(
        _chain(weights, biases),
        content.sha256,
        "nnet",
        _function(network, options.nnet_normalise),
        (note,),
        points.astype(np.float32),
    )


FORMAT = Format(".nnet", lambda content: _START.match(content.data) is not None, read)


def _layers(network: Nnet, normalise: bool) -> tuple[list[nnet.Array], list[nnet.Array]]:
    weights, biases = list(network.weights), list(network.biases)
    if normalise:
        means, ranges = network.means, network.ranges
        biases[0] = biases[0] - weights[0] @ (means[:-1] / ranges[:-1])
        weights[0] = weights[0] / ranges[:-1]
        weights[-1] = weights[-1] * ranges[-1]
        biases[-1] = biases[-1] * ranges[-1] + means[-1]
    return weights, biases


def _function(network: Nnet, normalise: bool) -> Function:
    means, ranges = network.means, network.ranges

    def function(rows: Array) -> Array:
        x = rows.astype(np.float64)
        if normalise:
            x = (x - means[:-1]) / ranges[:-1]
        *hidden, last = zip(network.weights, network.biases, strict=True)
        for weight, bias in hidden:
            x = np.maximum(x @ weight.T + bias, 0.0)
        x = x @ last[0].T + last[1]
        return x * ranges[-1] + means[-1] if normalise else x

    return function


def _chain(weights: list[nnet.Array], biases: list[nnet.Array]) -> onnx.ModelProto:
    nodes, tensors, value = [], [], "input"
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
        names = [f"fc{index}.weight", f"fc{index}.bias"]
        for name, array in zip(names, (weight, bias), strict=True):
            tensors.append(numpy_helper.from_array(array.astype(np.float32), name))
        last = index == len(weights)
        result = "output" if last else f"fc{index}.output"
        nodes.append(helper.make_node("Gemm", [value, *names], [result], f"fc{index}", transB=1))
        value = result
        if not last:
            value = f"relu{index}.output"
            nodes.append(helper.make_node("Relu", [result], [value], f"relu{index}"))
    graph = helper.make_graph(
        nodes,
        "nnet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", weights[0].shape[1]])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", len(biases[-1])])],
        tensors,
    )
    imports = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=imports, producer_name="secateur", ir_version=_IR_VERSION)
