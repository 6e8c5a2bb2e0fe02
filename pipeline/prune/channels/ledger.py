"""What rules write down while channels are followed: ids, which of them go together, which cannot go, what goes along.

Every position along a live axis of a value has an *id*. Ids that must be removed together are united; the classes
of this relation are what can be masked or removed. A *pinned* id stays, with everything united with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Indices = NDArray[np.intp]
Floats = NDArray[np.float64]
Role = Literal["weight", "parameter", "reader", "fixed"]


@dataclass(frozen=True)
class Spread:
    """How ids lie in a value: position p along `axes` (ascending; nearly always one axis) has id `ids[p]`.

    `now[p]` is the position's constant, NaN where it depends on the input; `masked[p]` is its constant once all that
    makes it is zeroed. Both hold along all other axes. All three arrays have the shape of the axes.
    """

    axes: tuple[int, ...]
    ids: Indices
    now: Floats
    masked: Floats

    def arranged(self, axes: tuple[int, ...], change: Callable[[NDArray[Any]], NDArray[Any]]) -> Spread:
        """All three arrays rearranged by `change`, on `axes`."""
        return Spread(axes, change(self.ids), change(self.now), change(self.masked))

    def moved(self, axes: tuple[int, ...]) -> Spread:
        """The same ids on other axes, brought into ascending order."""
        order = sorted(range(len(axes)), key=axes.__getitem__)
        return self.arranged(tuple(axes[i] for i in order), lambda array: array.transpose(order))

    def mapped(self, function: Callable[[Floats], Floats]) -> Spread:
        """The same ids behind a function of each element."""
        with np.errstate(all="ignore"):
            return Spread(self.axes, self.ids, function(self.now), function(self.masked))

    def dropped(self, axis: int) -> Spread:
        """Without one of several axes, along which the ids are the same; constants stay where they are, too."""
        along = self.axes.index(axis)

        def constant(values: Floats) -> Floats:
            first = values.take([0], along)
            return np.where((values == first).all(axis=along), first.squeeze(along), np.nan)

        axes = tuple(other for other in self.axes if other != axis)
        return Spread(
            axes, self.ids.take([0], along).squeeze(along), constant(self.now), constant(self.masked)
        )

    def taken(self, positions: Indices, axis: int) -> Spread:
        """The sub-array of `positions` along `axis` (one of `axes`)."""
        along = self.axes.index(axis)
        return self.arranged(self.axes, lambda array: array.take(positions, along))


Value = tuple[Spread, ...]
"""The live axes of a value: spreads on disjoint axes. Axes in none of them cannot shrink."""


@dataclass(frozen=True)
class Slot:
    """An axis of a constant input of a node that runs over ids. `tensor` and `axis` name the initializer behind it
    (None and −1: there is none); `view_axis` is the axis of the input itself."""

    place: int
    index: int
    view_axis: int
    tensor: str | None
    axis: int
    ids: Indices
    role: Role


@dataclass(frozen=True)
class Reading:
    """A node that mixes ids, with the constants that arrive there now.

    `slot` is the input axis of its weight (None: it sums them, and reads each unless its constant is zero).
    `ids` and `now` have the shape [groups, channels a group] for a grouped convolution, else [channels].
    """

    place: int
    slot: Slot | None
    ids: Indices
    now: Floats


class Repairs(Protocol):
    """What the repair of a node may ask and do when ids have gone (see `edit.Edit`)."""

    def keep(self, ids: Indices) -> NDArray[np.bool_]: ...
    def along(self, spread: Spread, axis: int) -> NDArray[np.bool_]: ...
    def sizes(self, shape: tuple[int, ...], value: Value) -> tuple[int, ...]: ...
    def changed(self, name: str) -> bool: ...
    def write(
        self, node: onnx.NodeProto, index: int, array: NDArray[np.generic], wish: str | None = None
    ) -> None: ...
    def unused(self, wish: str) -> str: ...
    def insert(self, node: onnx.NodeProto, place: int) -> None: ...
    def discard(self, place: int) -> None: ...
    def drop_attribute(self, node: onnx.NodeProto, name: str) -> None: ...


Fix = Callable[[Repairs, onnx.NodeProto], None]


@dataclass
class Ledger:
    """The notes of one pass; see the module's docstring."""

    count: int = 0
    pins: list[tuple[Indices, str]] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    fixes: list[tuple[int, Fix]] = field(default_factory=list)
    grids: list[Indices] = field(default_factory=list)
    heads: list[Indices] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    _edges: list[tuple[Indices, Indices]] = field(default_factory=list)
    _classes: Indices | None = None

    def fresh(self, *shape: int) -> Indices:
        """New ids."""
        size = int(np.prod(shape))
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def unite(self, a: Indices, b: Indices) -> None:
        """Ids that go together, position by position (the arrays broadcast)."""
        first, second = np.broadcast_arrays(a, b)
        self._edges.append((first.ravel(), second.ravel()))
        self._classes = None

    def unite_along(self, ids: Indices, axis: int) -> Indices:
        """Unite the ids along an axis; those of its first position."""
        first = ids.take([0], axis)
        if ids.shape[axis] > 1:
            self.unite(first, ids)
        return first.squeeze(axis)

    def pin(self, ids: Indices, reason: str) -> None:
        if ids.size:
            self.pins.append((ids.ravel(), reason))

    def fix(self, place: int, fix: Fix) -> None:
        """Have the node at `place` repaired when ids have gone."""
        self.fixes.append((place, fix))

    def classes(self) -> Indices:
        """The class of every id, [count]; equal numbers go together."""
        if self._classes is None or len(self._classes) != self.count:
            none = np.zeros(0, np.intp)
            first = np.concatenate([none, *(a for a, _ in self._edges)])
            second = np.concatenate([none, *(b for _, b in self._edges)])
            graph = coo_array((np.ones(len(first), bool), (first, second)), (self.count, self.count))
            self._classes = connected_components(graph, directed=False)[1].astype(np.intp)
            self._edges = [(first, second)]
        return self._classes

    def settle(self) -> Indices:
        """Make every grid rectangular (its classes differ along one axis only), and give the final classes.

        A Reshape that splits an axis leaves open which factor the ids live on until something behind it decides. Where
        nothing has, it is the last.
        """
        changed = True
        while changed:
            changed = False
            for grid in self.grids:
                found = self.classes()[grid]
                varying = [axis for axis in range(grid.ndim) if (found != found.take([0], axis)).any()]
                if len(varying) > 1:
                    for axis in varying[:-1]:
                        self.unite_along(grid, axis)
                    changed = True
        return self.classes()
