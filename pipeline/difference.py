"""Where two networks of the same inputs and outputs disagree most: a search, and a bound over a property's input box.

The judge is onnxruntime, on the files as they are. In the input regions of a property points are drawn, and the
worst of them climb: signed steps along the gradient of the largest difference of outputs (as in projected
gradient descent, Madry et al. 2018), by the engine's own graph of `difference_network`; where the engine does
not know an operator, along random directions. Bounds come from that graph, too: for all inputs of the box, by
linear bound propagation.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from secateur.formats import onnx_model, streams, witness
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.onnx_model import Model
from secateur.formats.query import NO_BOUNDS, And, Atom, Network, Query
from secateur.pipeline import onnxrt, product
from secateur.pipeline.convert.passes import library

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A value that both networks compute under one name: its largest difference, absolute and relative to the largest
    absolute value."""

    name: str
    operator: str
    difference: float
    relative: float


@dataclass(frozen=True)
class Difference:
    """The worst disagreement found: at the input `x` [n], outputs `a` and `b` [m] differ most in `output`.

    `worst` is absolute, `relative` to the first network's largest output there (at least 1). `flips` counts the
    points, of `samples` drawn, at which the largest output is another one (None with a single output).
    """

    x: Floats
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    worst: float
    relative: float
    output: int
    samples: int
    flips: int | None
    layers: tuple[Layer, ...]
    climbed: str

    @property
    def flipped(self) -> bool:
        """Whether the largest output is another one at the worst input."""
        return len(self.a) > 1 and int(self.a.argmax()) != int(self.b.argmax())

    def lines(self, tolerance: float, *, all_layers: bool = False) -> list[str]:
        """What people read: the difference, the outputs, and where it begins."""
        i = self.output
        shown = [
            f"worst difference {self.worst:.6g} ({self.relative:.3g} of the largest output), output {i}: "
            f"{self.a[i]:.9g} and {self.b[i]:.9g}; {self.samples} points"
            + (f", the worst climbing {self.climbed}" if self.climbed else "")
        ]
        if self.flips is not None:
            there = "another" if self.flipped else "the same"
            shown.append(
                f"{self.flips} of {self.samples} points change class; {there} class at the worst input"
            )
        apart = [layer for layer in self.layers if all_layers or layer.relative > tolerance]
        for layer in apart if all_layers else apart[:1]:
            where = (
                f"{layer.operator} '{layer.name}' differs by {layer.difference:.3g} ({layer.relative:.3g})"
            )
            shown.append(where if all_layers else f"first apart: {where}")
        return shown

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, without the input."""
        return {
            "worst": self.worst,
            "relative": self.relative,
            "output": self.output,
            "a": self.a.tolist(),
            "b": self.b.tolist(),
            "flipped": self.flipped,
            "samples": self.samples,
            "flips": self.flips,
            "climbed": self.climbed,
            "layers": [vars(layer) for layer in self.layers],
        }


@dataclass(frozen=True)
class Effort:
    """Points drawn, points that climb, and steps that they take."""

    samples: int = 256
    climbers: int = 16
    steps: int = 40


def worst(
    a: Model,
    b: Model,
    *,
    query: Query | None = None,
    data: NDArray[np.floating] | None = None,
    effort: Effort | None = None,
    seed: int = 0,
) -> Difference:
    """The input at which `a` and `b` differ most: in the input regions of `query`, among `data` [N, ...], or among
    random ones.

    Raises:
        InputError: other numbers of inputs or outputs; a query or data that do not fit.
        UnsupportedError: onnxruntime cannot run a network.
    """
    effort = effort or Effort()
    inputs = _fitting(a, b)
    first, second = onnxrt.Runner(a), onnxrt.Runner(b)
    random = np.random.default_rng(seed)
    climbed = ""
    if data is not None:
        x = np.asarray(data, np.float32).reshape(len(data), -1)
        if x.shape[1] != inputs:
            raise InputError(f"the data's samples have {x.shape[1]} elements, the networks {inputs} inputs")
    elif query is not None:
        if query.inputs != inputs:
            raise InputError(
                f"the property has {query.inputs} inputs, the networks {inputs}", where=query.name
            )
        low, high = _boxes(query)
        x, boxes = _drawn(low, high, effort.samples, random)
    else:
        x = onnxrt.sample_inputs(inputs, seed=seed, samples=effort.samples)
    ya, yb = _run(first, x), _run(second, x)
    scores = np.abs(ya - yb).max(axis=1)
    flips = int((ya.argmax(1) != yb.argmax(1)).sum()) if ya.shape[1] > 1 else None
    drawn = len(x)
    if query is not None and effort.steps:
        chosen = np.argsort(-scores, kind="stable")[: effort.climbers]
        gradient, climbed = _direction(a, b, random)
        top = _climb(x[chosen], low[boxes[chosen]], high[boxes[chosen]], gradient, effort.steps)
        x = np.concatenate([x, top])
        scores = np.concatenate([scores, np.abs(_run(first, top) - _run(second, top)).max(axis=1)])
    place = int(scores.argmax())
    ya, yb = _run(first, x[place : place + 1])[0], _run(second, x[place : place + 1])[0]
    each = np.abs(ya - yb)
    scale = max(1.0, float(np.abs(ya).max(initial=0)))
    return Difference(
        x[place],
        ya,
        yb,
        float(each.max()),
        float(each.max()) / scale,
        int(each.argmax()),
        drawn,
        flips,
        layers(a, b, x[place]),
        climbed,
    )


def write(found: Difference, destination: str) -> None:
    """The worst input to a file: `.npz` with `x`, `a` and `b`, else a witness in the text of VNN-COMP, of the first
    network."""
    if destination.endswith(".npz"):
        stream = io.BytesIO()
        np.savez(stream, x=found.x, a=found.a, b=found.b)
        streams.write_bytes(destination, stream.getvalue())
    else:
        witness.write(found.x.tolist(), found.a.tolist(), destination)


def layers(a: Model, b: Model, x: Floats) -> tuple[Layer, ...]:
    """The values of one name and size that nodes of both networks compute, in `a`'s order, compared at `x` [n]."""
    mine, theirs = _values(a, x), _values(b, x)
    found = []
    for node in a.graph.node:
        for name in node.output:
            if name in mine and name in theirs and mine[name].size == theirs[name].size:
                left, right = mine[name].reshape(-1), theirs[name].reshape(-1)
                largest = max(1.0, float(np.abs(left).max(initial=0)))
                apart = float(np.abs(left - right).max(initial=0))
                found.append(Layer(name, node.op_type, apart, apart / largest))
    return tuple(found)


def bound(
    a: Model, b: Model, query: Query, *, method: str = "crown", device: str = "cpu"
) -> NDArray[np.float64]:
    """For each output, a number that the difference of the networks exceeds nowhere in the input regions of `query`, in
    real arithmetic on the stored weights: the engine's bounds, with its rounding margins, of `difference_network`.

    Raises:
        InputError: sizes do not fit.
        UnsupportedError: an operator that the engine does not know.
    """
    from secateur.pipeline import verify

    _fitting(a, b)
    found = verify.bounds(difference_network(a, b), query, method, device=device)
    sides = [np.maximum(np.abs(region.lower), np.abs(region.upper)) for region in found.regions]
    return np.asarray(np.max(sides, axis=0) if sides else np.zeros(query.outputs), np.float64)


def difference_network(a: Model, b: Model) -> Model:
    """The network x ↦ a(x) − b(x), flat [1, n] → [1, m]: their product, with a matrix that subtracts.

    Layers that both begin with are computed once, so that bounds of the difference begin where it does.
    """
    inputs, outputs = onnxrt.count_inputs(a), onnxrt.count_outputs(a)
    one = Fraction(1)
    atoms = []
    for i in range(inputs):  # both read the same input; a box, since a query has one
        atoms += [
            Atom({i: one, inputs + i: -one}, {}, Fraction(0)),
            Atom({i: -one, inputs + i: one}, {}, Fraction(0)),
        ]
        atoms += [Atom({i: one}, {}, -one), Atom({i: -one}, {}, Fraction(0))]
    networks = tuple(Network.flat(inputs, outputs, name) for name in ("a", "b"))
    same = Query(networks, NO_BOUNDS, (And(tuple(atoms)),), ())
    proto = product.compile(same, [a, b]).model.proto
    kind = (
        np.float64
        if proto.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
        else np.float32
    )
    one_each = np.eye(outputs)
    subtract = np.concatenate([one_each, -one_each]).astype(kind)
    proto.graph.initializer.append(numpy_helper.from_array(subtract, "subtract"))
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["Y", "subtract"], ["D"], "difference"))
    proto.graph.output[0].name = "D"
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = outputs
    shared = library.duplicates(proto)
    if shared is not None:
        onnxrt.compare(proto, shared)
    return onnx_model.from_proto(shared or proto, f"{a.name} minus {b.name}")


def _fitting(a: Model, b: Model) -> int:
    """The inputs of both networks."""
    for what, count in (("inputs", onnxrt.count_inputs), ("outputs", onnxrt.count_outputs)):
        mine, theirs = count(a), count(b)
        if mine != theirs:
            raise InputError(f"{a.name} has {mine} {what}, {b.name} {theirs}: expected as many")
    return onnxrt.count_inputs(a)


def _boxes(query: Query) -> tuple[Floats, Floats]:
    """Ends [regions, n] of the query's boxes that float32 numbers inside have."""
    if not query.regions:
        raise InputError("the property's input region is empty", where=query.name or None)
    ends = []
    for name, direction in (("lower", np.inf), ("upper", -np.inf)):
        exact = np.stack([getattr(region, name) for region in query.regions])
        near = exact.astype(np.float32)
        outside = near < exact if direction > 0 else near > exact
        ends.append(np.where(outside, np.nextafter(near, np.float32(direction)), near))
    return np.minimum(ends[0], ends[1]), ends[1]


def _drawn(
    low: Floats, high: Floats, samples: int, random: np.random.Generator
) -> tuple[Floats, NDArray[np.intp]]:
    """Points [N, n] of the boxes, in turn, and the box of each: centres, then uniform ones and corners."""
    boxes = np.arange(max(samples, len(low))) % len(low)
    share = random.random((len(boxes), low.shape[1]), np.float32)
    corners = random.random(len(boxes)) < 0.25
    share[corners] = share[corners].round()
    share[: len(low)] = 0.5
    return _inside(low[boxes] + share * (high - low)[boxes], low[boxes], high[boxes]), boxes


def _inside(x: Floats, low: Floats, high: Floats) -> Floats:
    return np.maximum(np.minimum(x, high), low).astype(np.float32)


def _direction(a: Model, b: Model, random: np.random.Generator) -> tuple[Callable[[Floats], Floats], str]:
    """What gives at points [N, n] the direction in which the largest difference grows, and how it does that."""
    try:
        import torch

        from secateur.pipeline.verify.engine import Engine

        graph = Engine(difference_network(a, b)).fast
    except UnsupportedError as error:
        return (lambda x: random.choice(np.array([-1, 1], np.float32), x.shape)), f"at random: {error}"

    def gradient(x: Floats) -> Floats:
        points = torch.from_numpy(x).requires_grad_(True)
        value = graph.forward(points.view(-1, *graph.input.shape)).flatten(1).abs().amax(1)
        (slope,) = torch.autograd.grad(value.sum(), points)
        return np.asarray(slope.numpy(), np.float32)

    return gradient, "by gradients"


def _climb(x: Floats, low: Floats, high: Floats, direction: Callable[[Floats], Floats], steps: int) -> Floats:
    """Every point [N, n] that the climbers come through, steps shrinking from a quarter of the box."""
    passed = []
    for step in range(steps):
        size = np.float32(0.25 * (1 - step / steps) + 0.005)
        x = _inside(x + size * (high - low) * np.sign(direction(x)), low, high)
        passed.append(x)
    return np.concatenate(passed)


def _run(runner: onnxrt.Runner, x: Floats) -> NDArray[np.float64]:
    return np.asarray(runner(x), np.float64)


def _values(model: Model, x: Floats) -> dict[str, NDArray[np.float64]]:
    """The numbers that nodes make of the input `x` [n], by name."""
    found = onnxrt.values(model, x).items()
    return {name: value.astype(np.float64) for name, value in found if value.dtype.kind == "f"}
