"""A query about several networks (or several inputs, outputs, hidden values) as one network and a plain property.

The product network has one flat input and one flat output. Inputs that the query ties together by equality (the same
image for a dense and a pruned network, say) are one input of the product: what they differ in is then bounded as a
difference, not between two boxes. For the same reason an input that is nowhere below another one (x_a ≤ x_b) becomes
that one plus a step. Verifiers that know only VNN-LIB 1.0 can take the result.

    X [1, n] ── Gather ── Reshape ── f ── Reshape ──┐
            └── Gather ── Reshape ── g ── Reshape ──┴─ Concat ── Y [1, m]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from secateur.formats import onnx_model
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.onnx_model import Model
from secateur.formats.query import NO_BOUNDS, And, Network, Query
from secateur.formats.vnnlib_joint import equal_inputs, ordered_inputs, renamed, simplified, stepped
from secateur.formats.vnnlib_normalise import regions
from secateur.pipeline import onnxrt
from secateur.pipeline.product.graph import Layout, build, input_type

_TOLERANCE = 1e-5
_SAMPLES = 8


@dataclass(frozen=True)
class Product:
    """The product network, the query over it, and how its inputs stand for those of the original query."""

    model: Model
    query: Query
    layout: Layout

    def expand(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        """The original query's inputs [n_in] of the product's inputs [n]."""
        return self.layout.expand(x, np.float64)


def compile(query: Query, models: Sequence[Model]) -> Product:
    """One network and a property over it that mean the same as `query` over `models` (one a network, in order).

    The networks' values in the product are compared with the networks' own in onnxruntime.

    Raises:
        UnsupportedError: inputs that are not all of one floating-point type, a hidden value that no model has.
        CheckFailed: the product computes something else.
    """
    places = equal_inputs(query.formula, query.inputs)
    count = int(places.max(initial=-1)) + 1
    formula = renamed(query.formula, places)
    known = regions(NO_BOUNDS, [formula], count, query.outputs, query.name)
    steps = ordered_inputs(formula) if known else {}
    if steps:
        lower, upper = (np.stack([getattr(r, side) for r in known]) for side in ("lower", "upper"))
        formula = stepped(formula, steps, lower.min(axis=0), upper.max(axis=0))
        known = regions(NO_BOUNDS, [formula], count, query.outputs, query.name)
    kind = input_type(query, models)
    bases = np.array([steps.get(place, place) for place in places.tolist()], np.intp)
    layout = Layout(places, bases, count, helper.tensor_dtype_to_np_dtype(kind).type)
    proto = build(query, models, layout, kind)
    model = onnx_model.from_proto(
        proto, "product of " + ", ".join(network.name for network in query.networks)
    )
    _compare(query, models, model, layout)
    short = simplified(formula)
    flat = replace(
        query,
        version="1.0",
        networks=(Network.flat(count, query.outputs),),
        bounds=NO_BOUNDS,
        others=short.parts if isinstance(short, And) else (short,),
        regions=known,
    )
    return Product(model, flat, layout)


def check(
    query: Query, models: Sequence[Model], x: NDArray[np.floating]
) -> tuple[bool, NDArray[np.floating]]:
    """Whether inputs `x` (flat, of all networks) satisfy `query`, and the outputs that onnxruntime gives for them.

    Every network runs by itself, as its file stores it.
    """
    x = np.asarray(x, np.float64).reshape(-1)
    outputs, first = [], 0
    for network, model in zip(query.networks, models, strict=True):
        shown = model if not network.hidden else _with_outputs(model, [h.onnx_name for h in network.hidden])
        outputs.append(onnxrt.run(shown, x[None, first : first + network.inputs])[0])
        first += network.inputs
    y = np.concatenate(outputs)
    finite = bool(np.isfinite(x).all() and np.isfinite(y).all())
    return finite and query.holds(x.tolist(), y.tolist()), y


def _with_outputs(model: Model, names: Sequence[str]) -> onnx.ModelProto:
    """The model with values inside it as further outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    for name in names:
        copy.graph.output.add(name=name)
    return onnx.shape_inference.infer_shapes(copy)


def _compare(query: Query, models: Sequence[Model], product: Model, layout: Layout) -> None:
    """Hold the product against its networks on random inputs.

    Raises:
        CheckFailed: they differ by more than `_TOLERANCE` of the largest output.
    """
    x = onnxrt.sample_inputs(layout.count, seed=0, samples=_SAMPLES)
    whole = layout.expand(x, layout.dtype)
    found = np.asarray(onnxrt.run(product, x), np.float64)
    if found.shape[1] != query.outputs:
        raise InputError(
            f"the networks have {found.shape[1]} outputs and hidden values, the property declares {query.outputs}",
            where=query.name or None,
        )
    first = column = 0
    for network, model in zip(query.networks, models, strict=True):
        theirs = whole[:, first : first + network.inputs]
        first += network.inputs
        expected = np.asarray(onnxrt.run(model, theirs), np.float64)
        mine = found[:, column : column + expected.shape[1]]
        column += network.outputs
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        worst = float(np.abs(mine - expected).max(initial=0)) / scale
        if not worst <= _TOLERANCE:
            raise CheckFailed(
                f"the product differs from the network '{network.name}' by {worst:.3g}: expected at most {_TOLERANCE:g}"
            )
