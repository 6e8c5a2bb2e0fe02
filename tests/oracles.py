"""Judges that share no code with the engine: exact evaluation of networks and properties, and enumeration.

Networks are evaluated node by node in numpy, in exact fractions or in float64; properties from their text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.optimize import linprog

from secateur.formats.onnx_model import Model

Array = NDArray[np.generic]
Floats = NDArray[np.float64]


def exact(model: Model, x: Sequence[Fraction | float]) -> list[Fraction]:
    """The network's outputs at x in real arithmetic (weights as stored)."""
    start = np.array([Fraction(v) for v in x], dtype=object)
    result = evaluate(model, start, Fraction, lambda z: np.maximum(z, Fraction(0)))
    return [Fraction(v) for v in result.reshape(-1).tolist()]


def evaluate(
    model: Model, x: Array, number: Callable[[float], object], relu: Callable[[Array], Array]
) -> Array:
    """The output at x (flat) with every weight converted by `number`, and `relu` in place of ReLU."""
    dtype = object if number is Fraction else np.float64

    def converted(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        flat = [number(float(v)) for v in array.reshape(-1)]
        return np.array(flat, dtype=dtype).reshape(array.shape)

    values: dict[str, Array] = {t.name: converted(numpy_helper.to_array(t)) for t in model.graph.initializer}
    shape = [max(1, d.dim_value) for d in model.inputs[0].type.tensor_type.shape.dim]
    values[model.inputs[0].name] = x.reshape(shape)
    for node in model.graph.node:
        arguments = [values[name] for name in node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        values[node.output[0]] = _apply(node.op_type, arguments, attributes, number, relu)
    return values[model.graph.output[0].name]


def _apply(
    operator: str,
    a: list[Array],
    attributes: dict[str, object],
    number: Callable[[float], object],
    relu: Callable[[Array], Array],
) -> Array:
    if operator == "Gemm":
        left = a[0].T if attributes.get("transA") else a[0]
        right = a[1].T if attributes.get("transB") else a[1]
        assert not {"alpha", "beta"} & set(attributes)
        return left @ right + (a[2] if len(a) > 2 else number(0.0))  # type: ignore[operator]
    simple: dict[str, Callable[[], Array]] = {
        "MatMul": lambda: a[0] @ a[1],
        "Add": lambda: a[0] + a[1],
        "Sub": lambda: a[0] - a[1],
        "Mul": lambda: a[0] * a[1],
        "Div": lambda: a[0] / a[1],
        "Neg": lambda: -a[0],
        "Relu": lambda: relu(a[0]),
        "Identity": lambda: a[0],
        "Concat": lambda: np.concatenate(a, axis=int(attributes["axis"])),  # type: ignore[call-overload]
        "Reshape": lambda: a[0].reshape([int(n) for n in a[1]]),
        "Flatten": lambda: a[0].reshape(a[0].shape[0], prod(a[0].shape[1:])),
    }
    return simple[operator]()


def satisfied(text: str, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """Whether VNN-LIB 1.0 text holds at x and y, read and evaluated term by term."""
    lines = "\n".join(line.split(";")[0] for line in text.splitlines())
    tokens = lines.replace("(", " ( ").replace(")", " ) ").split()

    def term(position: int) -> tuple[object, int]:
        if tokens[position] != "(":
            return tokens[position], position + 1
        items, position = [], position + 1
        while tokens[position] != ")":
            item, position = term(position)
            items.append(item)
        return items, position + 1

    def value(item: object) -> Fraction:
        if isinstance(item, str):
            kind, _, index = item.partition("_")
            return {"X": x, "Y": y}[kind][int(index)] if index else Fraction(item)
        assert isinstance(item, list)
        head, *rest = item
        numbers = [value(part) for part in rest]
        if head == "-":
            return numbers[0] - sum(numbers[1:]) if len(numbers) > 1 else -numbers[0]
        return sum(numbers, Fraction(0)) if head == "+" else prod(numbers, start=Fraction(1))

    def holds(item: object) -> bool:
        assert isinstance(item, list)
        head, *rest = item
        if head in ("and", "or"):
            return (all if head == "and" else any)(holds(part) for part in rest)
        left, right = (value(part) for part in rest)
        return {"<=": left <= right, ">=": left >= right, "<": left < right, ">": left > right}[str(head)]

    position, conditions = 0, []
    while position < len(tokens):
        item, position = term(position)
        assert isinstance(item, list)
        if item[0] == "assert":
            conditions.append(item[1])
    return all(holds(condition) for condition in conditions)


@dataclass(frozen=True)
class Piece:
    """A part of the box on which the network is affine: matrix @ x <= limit, y = slope @ x + offset."""

    matrix: Floats
    limit: Floats
    slope: Floats
    offset: Floats


def pieces(model: Model, lower: Floats, upper: Floats) -> Iterator[Piece]:
    """All activation patterns that occur in the box, by depth-first search with one linear program a choice."""
    size = len(lower)
    corners = np.vstack([np.zeros(size), np.eye(size)])

    class Next(Exception):
        """The first neuron without a choice: its value at the corners."""

    def run(choices: list[bool]) -> Floats:
        """The output at the corners, with ReLUs replaced by the choices; stops at the first neuron without one."""
        place = 0
        pending = iter(choices)

        def relu(z: Array) -> Array:
            nonlocal place
            flat = z.reshape(len(corners), -1).copy()
            for column in range(flat.shape[1]):
                choice = next(pending, None)
                if choice is None:
                    raise Next(flat[:, column])
                flat[:, column] *= choice
            return flat.reshape(z.shape)

        return _together(model, corners, relu)

    stack: list[tuple[list[bool], Floats, Floats]] = [([], np.zeros((0, size)), np.zeros(0))]
    while stack:
        choices, matrix, limit = stack.pop()
        try:
            at = run(choices)
        except Next as stop:
            z = np.asarray(stop.args[0], dtype=np.float64)
            slope, offset = z[1:] - z[0], z[0]
            low = offset + np.minimum(slope * lower, slope * upper).sum()
            high = offset + np.maximum(slope * lower, slope * upper).sum()
            for active, possible in ((True, high >= 0), (False, low <= 0)):
                if not possible:
                    continue
                sign = -1.0 if active else 1.0
                rows, ends = np.vstack([matrix, sign * slope]), np.append(limit, -sign * offset)
                sure = low >= 0 if active else high <= 0
                if sure or minimise(np.zeros(size), rows, ends, lower, upper) is not None:
                    stack.append(([*choices, active], rows, ends))
            continue
        yield Piece(matrix, limit, (at[1:] - at[0]).T, at[0])


def _together(model: Model, points: Floats, relu: Callable[[Array], Array]) -> Floats:
    """The outputs (n, outputs) at points (n, inputs) of a network whose nodes all act on rows."""
    shape = [max(1, d.dim_value) for d in model.inputs[0].type.tensor_type.shape.dim]
    assert shape[0] == 1 and len(shape) == 2
    values: dict[str, Array] = {
        t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer
    }
    values[model.inputs[0].name] = points
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        values[node.output[0]] = _apply(
            node.op_type, [values[name] for name in node.input], attributes, float, relu
        )
    return np.asarray(values[model.graph.output[0].name], dtype=np.float64)


def minimise(objective: Floats, matrix: Floats, limit: Floats, lower: Floats, upper: Floats) -> float | None:
    """The least value of a linear program; None when it is infeasible."""
    result = linprog(objective, matrix, limit, bounds=list(zip(lower, upper, strict=True)), method="highs")
    assert result.status in (0, 2), result.message
    return float(result.fun) if result.status == 0 else None
