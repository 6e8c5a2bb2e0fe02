"""Curves, steps, products of variables and what is made of them: one case a way of using each."""

from __future__ import annotations

from cases.shared import IMAGE, LINE, ROW, Case, both
from nets import Build, Net


def _signed(operator: str, opset: int = 17, **attributes: object) -> Case:
    """The operator on numbers of both signs."""
    return ROW, lambda net, v: net(operator, net.dense(v, 6, 5), **attributes), opset


def _positive(operator: str, least: float = 0.5) -> Case:
    """The operator on numbers from `least` on."""
    return ROW, lambda net, v: net(operator, net("Add", v, net.constant(least)))


def _power(exponent: float, least: float | None = None) -> Case:
    """The power of numbers of both signs, or of those from `least` on."""

    def build(net: Net, v: str) -> str:
        base = net.dense(v, 6, 5) if least is None else net("Add", v, net.constant(least))
        return net("Pow", base, net.constant(exponent))

    return ROW, build


def _scaled(operator: str, *shape: int, **attributes: object) -> Build:
    """A normalisation with scale and bias of this shape."""
    return lambda net, v: net(operator, v, net.weight(*shape), net.weight(*shape), **attributes)


def _attention(net: Net, v: str) -> str:
    """softmax(Q·Kᵀ)·V of three tokens and two heads."""
    queries, keys, values = (
        net("Transpose", net("Reshape", net.dense(v, 4, 4), net.ints(1, 3, 2, 2)), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    scores = net("MatMul", queries, net("Transpose", keys, perm=[0, 1, 3, 2]))
    weights = net("Softmax", net("Mul", scores, net.constant(0.7)), axis=-1)
    return net("MatMul", weights, values)


def _composed_gelu(net: Net, v: str) -> str:
    """As exporters wrote it before opset 20."""
    x = net.dense(v, 6, 5)
    gate = net("Add", net("Erf", net("Div", x, net.constant(1.4142135))), net.constant(1.0))
    return net("Mul", net("Mul", x, gate), net.constant(0.5))


def _silu(net: Net, v: str) -> str:
    x = net.dense(v, 6, 5)
    return net("Mul", net("Sigmoid", x), x)


CURVED: dict[str, Case] = {
    "Sigmoid": _signed("Sigmoid"),
    "Tanh": _signed("Tanh"),
    "Erf": _signed("Erf"),
    "Atan": _signed("Atan"),
    "Softsign": _signed("Softsign"),
    "Softplus": _signed("Softplus"),
    "Exp": _signed("Exp"),
    "Sin": _signed("Sin"),
    "Cos": _signed("Cos"),
    "Elu": _signed("Elu", alpha=0.7),
    "Celu": _signed("Celu", alpha=0.7),
    "Selu": _signed("Selu"),
    "HardSwish": _signed("HardSwish"),
    "Gelu": _signed("Gelu", 20),
    "Gelu tanh": _signed("Gelu", 20, approximate="tanh"),
    "Gelu composed": (ROW, _composed_gelu),
    "Swish": _signed("Swish", 24, alpha=1.5),
    "Swish composed": (ROW, _silu),
    "Mish": _signed("Mish", 18),
    "Sign": _signed("Sign"),
    "Floor": _signed("Floor"),
    "Ceil": _signed("Ceil"),
    "Round": _signed("Round"),
    "Log": _positive("Log"),
    "Sqrt": _positive("Sqrt", 0.0),
    "Reciprocal": _positive("Reciprocal"),
    "Reciprocal negative": (ROW, lambda n, v: n("Reciprocal", n("Sub", n.constant(-0.5), v))),
    "Pow square": _power(2.0),
    "Pow cube": _power(3.0),
    "Pow fourth": _power(4.0),
    "Pow root": _power(0.5, 0.0),
    "Pow fraction": _power(1.3, 0.0),
    "Pow negative": _power(-2.0, 0.5),
    "Pow negative fraction": _power(-0.5, 0.5),
    "Pow inverse": _power(-1.0, 0.5),
    "Pow one": _power(1.0),
    "Pow nothing": (ROW, lambda n, v: n("Add", v, n("Pow", v, n.constant(0.0)))),
    "Pow base": (ROW, lambda n, v: n("Pow", n.constant(1.7), n.dense(v, 6, 5))),
    "Mul variables": (ROW, both(lambda n, a, b: n("Mul", a, b))),
    "Mul itself": (ROW, lambda n, v: n("Mul", v, v)),
    "Mul broadcast": (LINE, lambda n, v: n("Mul", v, n("ReduceSum", v, n.ints(1)))),
    "Div variables": (ROW, both(lambda n, a, b: n("Div", b, n("Add", a, n.constant(0.5))))),
    "Div of constant": (ROW, lambda n, v: n("Div", n.constant(2.0), n("Add", v, n.constant(0.5)))),
    "Sum": (ROW, both(lambda n, a, b: n("Sum", a, n.weight(1, 6), b, n.constant(0.3)))),
    "Mean": (ROW, both(lambda n, a, b: n("Mean", a, b, n.constant(0.3)))),
    "MatMul variables": ((1, 2, 3), lambda n, v: n("MatMul", v, n("Transpose", n("Neg", v), perm=[0, 2, 1]))),
    "MatMul variable vectors": ((4,), lambda n, v: n("MatMul", v, n.dense(v, 4, 4))),
    "MatMul variable matrix, vector": ((2, 3), lambda n, v: n("MatMul", v, n("ReduceSum", v, n.ints(0), keepdims=0))),
    "MatMul variable vector, matrix": ((3, 2), lambda n, v: n("MatMul", n("ReduceSum", v, n.ints(1), keepdims=0), v)),
    "MatMul broadcast": ((2, 1, 3), lambda n, v: n("MatMul", v, n("Reshape", v, n.ints(1, 3, 2)))),
    "MatMul constant stack": ((2, 2, 3), lambda n, v: n("MatMul", v, n.weight(2, 3, 2))),
    "MatMul constant stack left": ((3, 2), lambda n, v: n("MatMul", n.weight(2, 2, 3), v)),
    "Gemm variables": ((2, 3), lambda n, v: n("Gemm", v, n("Neg", v), n.weight(1, 2), alpha=0.5, beta=2.0, transB=1)),
    "Gemm variable C": ((2, 3), lambda n, v: n("Gemm", v, n.weight(3, 3), v, beta=0.5)),
    "Softmax": (ROW, lambda n, v: n("Softmax", n.dense(v, 6, 4))),
    "Softmax axis": (LINE, lambda n, v: n("Softmax", v, axis=1)),
    "Softmax of one": (LINE, lambda n, v: n("Add", v, n("Softmax", v, axis=0))),
    "Softmax opset 11": ((1, 2, 3), lambda n, v: n("Softmax", v), 11),
    "LogSoftmax": (ROW, lambda n, v: n("LogSoftmax", n.dense(v, 6, 4))),
    "LayerNormalization": (ROW, _scaled("LayerNormalization", 6, epsilon=0.1)),
    "LayerNormalization axis": (LINE, lambda n, v: n("LayerNormalization", v, n.weight(2, 6), axis=1)),
    "RMSNormalization": (ROW, lambda n, v: n("RMSNormalization", v, n.weight(6), epsilon=0.1), 23),
    "InstanceNormalization": (IMAGE, _scaled("InstanceNormalization", 2, epsilon=0.1)),
    "GroupNormalization": ((1, 4, 3), _scaled("GroupNormalization", 4, num_groups=2, epsilon=0.1), 21),
    "ReduceL2": (LINE, lambda n, v: n("ReduceL2", v, axes=[1])),
    "ReduceSumSquare": (LINE, lambda n, v: n("ReduceSumSquare", v, axes=[1], keepdims=0)),
    "ReduceLogSumExp": (LINE, lambda n, v: n("ReduceLogSumExp", v, axes=[2])),
    "ReduceLogSumExp of one": (LINE, lambda n, v: n("ReduceLogSumExp", v, axes=[0])),
    "attention": ((1, 3, 4), _attention),
}  # fmt: skip
