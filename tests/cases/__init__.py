"""Small networks around single operators: one case a way of using an operator.

`from cases import CASES, case` (tests/ is on pytest's path). A case puts its operators between two ReLU layers, so that
bounds through them are not trivial. In `CASES` are all of them; those of `RELU` are bounded with ReLUs alone.
"""

from __future__ import annotations

import numpy as np

from cases.affine import AFFINE
from cases.curved import CURVED
from cases.moves import MOVES
from cases.piecewise import PIECEWISE
from nets import INPUTS, Net
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt

RELU = AFFINE | MOVES | PIECEWISE
CASES = RELU | CURVED


def case(name: str, seed: int = 0) -> Model:
    """The network of one case: dense – ReLU – the operator – ReLU – dense, two outputs."""
    net = Net(seed)
    last, width = append(net, "x", INPUTS, name)
    return net.finish(net.dense(last, width, 2), opset(name))


def append(net: Net, value: str, width: int, name: str) -> tuple[str, int]:
    """dense – ReLU – the operator – ReLU on a row of `width` numbers: the name of the row that comes out, its width."""
    shape, build, *_ = CASES[name]
    hidden = net("Relu", net.dense(value, width, int(np.prod(shape))))
    inner = build(net, net("Reshape", hidden, net.ints(*shape)))
    last = net("Reshape", net("Relu", inner), net.ints(1, -1))
    return last, onnxrt.run(net.finish(last, opset(name)), np.zeros((1, net.inputs), np.float32)).size


def opset(name: str) -> int:
    """The operator set that the case is written in."""
    return int(CASES[name][2]) if len(CASES[name]) > 2 else 17


def operators() -> set[str]:
    """The operators that occur in the cases."""
    return {node.op_type for name in CASES for node in case(name).graph.node}
