"""What a network weighs and costs: parameters, floating-point operations, time in onnxruntime."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from secateur.formats import onnx_model
from secateur.formats.onnx_model import Model
from secateur.pipeline import flops, onnxrt
from secateur.pipeline.prune import layers

_WARM_UP, _RUNS, _SECONDS = 5, 200, 0.5


def sizes(model: Model) -> dict[str, int]:
    """Parameters, weights and floating-point operations, with and without those that are zero (see
    `formats.measurements`). A zero weight saves its products: each weight of a layer is used as often as any other.
    """
    arrays = onnx_model.initializers(model.proto)
    floats = [array for array in arrays.values() if array.dtype.kind == "f"]
    prunable = layers.find(model.proto, model.name)
    weights = [arrays[name] for name in dict.fromkeys(layer.weight for layer in prunable)]
    dense = {
        layer.name: np.count_nonzero(arrays[layer.weight]) / arrays[layer.weight].size for layer in prunable
    }
    cost = flops.count(model)
    used = sum(round(node.multiply_adds * dense.get(node.name, 1.0)) for node in cost.nodes)
    return {
        "parameters": sum(array.size for array in floats),
        "nonzero_parameters": sum(int(np.count_nonzero(array)) for array in floats),
        "weights": sum(array.size for array in weights),
        "nonzero_weights": sum(int(np.count_nonzero(array)) for array in weights),
        "flops": cost.flops,
        "nonzero_flops": 2 * used,
    }


def place(model: Model, dense: Model | None) -> dict[str, str | float]:
    """What can be told of a model's place in a study: its sparsity, and the method "dense" of the dense model itself.

    The sparsity is the share of the prunable weights that are gone: of those of `dense`, where there is one, so that
    those count that shrinking removed.
    """
    kept = sizes(model)["nonzero_weights"]
    whole = sizes(dense or model)["weights"]
    found: dict[str, str | float] = {"sparsity": (whole - kept) / whole if whole else 0.0}
    return found | ({"method": "dense"} if dense is not None and dense.sha256 == model.sha256 else {})


def milliseconds(model: Model) -> float:
    """The median time of one image in onnxruntime on one thread, of up to 200 runs in half a second."""
    session = onnxrt.session(model)
    feeds, names = onnxrt.zeros(session), [value.name for value in session.get_outputs()]
    times: list[float] = []
    for run in range(_WARM_UP + _RUNS):
        started = time.perf_counter()
        session.run(names, feeds)
        if run >= _WARM_UP:
            times.append(time.perf_counter() - started)
        if sum(times) > _SECONDS:
            break
    return 1000 * median(times)
