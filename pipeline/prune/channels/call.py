"""What a rule sees of a node, and how it says what becomes of channels there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.pipeline.onnxgraph import attribute, label
from secateur.pipeline.prune.channels.ledger import (
    Floats,
    Indices,
    Ledger,
    Role,
    Slot,
    Spread,
    Value,
)
from secateur.pipeline.prune.channels.network import Array, Network, Shape
from secateur.pipeline.prune.views import Constant

FOLDABLE = "computed from constants alone (`secateur convert` folds them)"

View = Literal["channels", "heads"]
Combine = Callable[..., Floats]


@dataclass(frozen=True)
class Operand:
    """A value as an elementwise operator sees it: its shape filled up with ones to the result's rank, its spreads
    on the result's axes, its value where it is the same number everywhere (else NaN), and whether it is computed from
    constants alone."""

    shape: Shape
    spreads: Value
    uniform: float = np.nan
    foldable: bool = False


@dataclass(frozen=True)
class Taint:
    """Of a static value: which elements are sizes of live axes, and the ids there."""

    elements: NDArray[np.bool_]
    ids: tuple[Indices, ...]


@dataclass(frozen=True)
class Call:
    """A node with what a rule may ask of it, and where it may write things down."""

    node: onnx.NodeProto
    place: int
    network: Network
    ledger: Ledger
    values: dict[str, Value]
    taints: dict[str, Taint]
    view: View

    def attribute(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)

    def given(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def array(self, index: int) -> Array | None:
        """The input's value where it is constant."""
        return self.network.array(self.node.input[index]) if self.given(index) else None

    def value(self, index: int) -> Value:
        """The input's live axes; none for a constant."""
        return self.values.get(self.node.input[index], ()) if self.given(index) else ()

    def shape(self, index: int) -> Shape:
        return self.network.shapes[self.node.input[index]]

    @property
    def result(self) -> Shape:
        """The shape of the first output."""
        return self.network.shapes[self.node.output[0]]

    # --- spreads

    def at(self, value: Value, axis: int) -> Spread | None:
        """The spread that lives on `axis`, brought to live on this axis alone."""
        found = next((spread for spread in value if axis in spread.axes), None)
        if found is None:
            return None
        for other in found.axes:
            if other != axis:
                found = self.drop(found, other)
        return found

    def drop(self, spread: Spread, axis: int) -> Spread:
        """The spread without one of its several axes, along which the ids are united."""
        self.ledger.unite_along(spread.ids, spread.axes.index(axis))
        return spread.dropped(axis)

    def forbid(self, spread: Spread, axis: int, reason: str) -> Spread:
        """The axis cannot shrink: the ids live on the spread's other axes, or are pinned."""
        if axis not in spread.axes:
            return spread
        if len(spread.axes) > 1:
            return self.drop(spread, axis)
        self.pin(spread, reason)
        return spread

    def without(self, value: Value, axes: Iterable[int], reason: str) -> Value:
        """As `forbid`, of all spreads and several axes."""
        spreads = []
        for spread in value:
            for axis in axes:
                spread = self.forbid(spread, axis, reason)
            spreads.append(spread)
        return tuple(spreads)

    def fit(self, value: Value, shape: Shape) -> Value:
        """The spreads that are as long as the axes they are on; the others (pooled over, padded, …) end here."""
        fitting = []
        for spread in value:
            if spread.ids.shape == tuple(shape[axis] for axis in spread.axes):
                fitting.append(spread)
            else:
                self.pin(spread, "changed in length by")
        return tuple(fitting)

    def pin(self, what: Spread | Value, reason: str) -> None:
        for spread in (what,) if isinstance(what, Spread) else what:
            self.ledger.pin(spread.ids, f"{reason} {label(self.node)}")

    def refuse(self, reason: str) -> list[Value]:
        """Pin all that comes in; the results are not live."""
        for index in range(len(self.node.input)):
            self.pin(self.value(index), reason)
        return []

    # --- constants

    def slot(self, index: int, axis: int, ids: Indices, role: Role) -> Slot:
        """Note that the constant input's `axis` runs over `ids`. What cannot be zeroed by itself (it is shared, or
        computed) has the role `fixed` whatever is asked, but layers' weights: they are united where they are shared."""
        constant = self.network.constants.get(self.node.input[index], Constant(None, ()))
        tensor = constant.tensor
        behind = constant.axes[axis] if tensor is not None else -1
        if behind < 0 or (role == "parameter" and tensor is not None and self.network.shared(tensor)):
            if role in ("weight", "reader"):
                self.ledger.pin(ids, f"the weight is no initializer at {label(self.node)}")
            role = "fixed"
        slot = Slot(self.place, index, axis, tensor, behind, ids, role)
        self.ledger.slots.append(slot)
        return slot

    def vector(self, index: int, axis: int, size: int) -> Floats:
        """The constant input as one number a position along `axis`; NaN where it varies along other axes too."""
        array = self.array(index)
        if array is None:
            return np.full(size, np.nan)
        if array.size == 1:
            return np.full(size, float(array.reshape(())))
        if axis < 0 or array.size != array.shape[axis]:
            return np.full(size, np.nan)
        return array.reshape(-1).astype(np.float64)

    def produce(self, index: int, role: Role = "parameter") -> Value:
        """A constant as a value: fresh ids on each of its axes with several positions."""
        array = self.array(index)
        if array is None:
            return self.value(index)
        spreads = []
        for axis, size in enumerate(array.shape):
            if size > 1:
                ids = self.ledger.fresh(size)
                now = self.vector(index, axis, size)
                zeroed = self.slot(index, axis, ids, role).role == "parameter"
                spreads.append(Spread((axis,), ids, now, np.zeros(size) if zeroed else now))
        return tuple(spreads)

    def operand(self, index: int, rank: int, role: Role = "parameter") -> Operand:
        """The input as `join` wants it, in a result of `rank` axes."""
        shape, array = self.shape(index), self.array(index)
        shift = rank - len(shape)
        spreads = self.produce(index, role)
        moved = tuple(s.moved(tuple(axis + shift for axis in s.axes)) for s in spreads)
        uniform = np.nan
        if array is not None and array.size and array.dtype.kind in "fiub":
            first = float(array.flat[0])
            uniform = first if array.size == 1 or bool((array == array.flat[0]).all()) else np.nan
        foldable = self.node.input[index] in self.network.foldable
        return Operand((1,) * shift + shape, moved, uniform, foldable)

    # --- elementwise operators

    def join(self, operands: Sequence[Operand], shape: Shape, combine: Combine) -> Value:
        """The result of an operator that works position by position, with broadcasting: ids that meet are united.

        `combine` maps the operands' constants (arrays that broadcast) to the result's.
        """
        operands = [self._unbroadcast(operand, shape) for operand in operands]
        sets: list[set[int]] = []
        for operand in operands:
            for spread in operand.spreads:
                new = set(spread.axes)
                for old in [s for s in sets if s & new]:
                    new |= old
                    sets.remove(old)
                sets.append(new)
        return tuple(
            spread for axes in sets for spread in self._joined(tuple(sorted(axes)), operands, shape, combine)
        )

    def _unbroadcast(self, operand: Operand, shape: Shape) -> Operand:
        """An axis of one position that is repeated in the result cannot be live there."""
        spreads = []
        for spread in operand.spreads:
            stretched = [axis for axis in spread.axes if operand.shape[axis] != shape[axis]]
            for axis in stretched:
                spread = self.forbid(spread, axis, "repeated by broadcasting at")
            if not set(stretched) & set(spread.axes):
                spreads.append(spread)
        return replace(operand, spreads=tuple(spreads))

    def _joined(
        self, axes: tuple[int, ...], operands: Sequence[Operand], shape: Shape, combine: Combine
    ) -> Value:
        grid = tuple(shape[axis] for axis in axes)
        parts: list[Indices] = []
        now: list[Floats] = []
        masked: list[Floats] = []
        stuck: dict[int, str] = {}
        for operand in operands:
            inside = [spread for spread in operand.spreads if set(spread.axes) <= set(axes)]
            covered = {axis for spread in inside for axis in spread.axes}
            reason = (
                f"joins values {FOLDABLE} at" if operand.foldable else "joins values that cannot shrink at"
            )
            stuck |= {axis: reason for axis in axes if axis not in covered and operand.shape[axis] != 1}
            for spread in inside:
                at = [size if axis in spread.axes else 1 for axis, size in zip(axes, grid, strict=True)]
                parts.append(np.broadcast_to(spread.ids.reshape(at), grid))
            if len(inside) == 1:
                now.append(np.broadcast_to(inside[0].now.reshape(at), grid))
                masked.append(np.broadcast_to(inside[0].masked.reshape(at), grid))
            else:
                alone = np.nan if inside else operand.uniform
                now.append(np.full(grid, alone))
                masked.append(np.full(grid, alone))
        for part in parts[1:]:
            self.ledger.unite(parts[0], part)
        with np.errstate(all="ignore"):
            spread = Spread(axes, parts[0], combine(*now), combine(*masked))
        for axis in sorted(stuck):
            spread = self.forbid(spread, axis, stuck[axis])
        return () if stuck.keys() & set(spread.axes) else (spread,)


Rule = Callable[[Call], list[Value]]
"""From a node to the live axes of its outputs (those left out have none)."""
