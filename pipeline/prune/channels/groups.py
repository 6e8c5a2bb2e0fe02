"""Classes of united ids as groups of channels: what may be masked and removed, for those who score and choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from secateur.formats.errors import InputError
from secateur.formats.onnx_model import Model, in_parts
from secateur.pipeline.prune import layers as prunable
from secateur.pipeline.prune.channels.call import FOLDABLE, View
from secateur.pipeline.prune.channels.edit import Edit
from secateur.pipeline.prune.channels.follow import Flow, follow
from secateur.pipeline.prune.channels.ledger import Indices, Role
from secateur.pipeline.prune.channels.network import Network
from secateur.pipeline.prune.channels.rules import RULES

Keep = NDArray[np.bool_]
Dropped = Mapping[str, Keep]


@dataclass(frozen=True)
class Member:
    """An initializer's axis that runs over a group's units.

    `units[p]` is the unit of position p, −1 where the position belongs to another group (or to none). Roles: `weight`,
    a layer's output axis; `parameter`, a bias, a normalisation's scale or shift, a slope, a constant operand;
    `reader`, a layer's input axis; `fixed`, what goes along when units are removed, but is not zeroed when they are
    masked (a variance, a divisor, a constant that others share).
    """

    tensor: str
    axis: int
    units: Indices
    role: Role

    def positions(self, unit: int) -> Indices:
        """The positions of a unit along the axis."""
        return np.flatnonzero(self.units == unit)


@dataclass(frozen=True)
class Group:
    """Units (channels, or heads) that have their first layer in common; each comes and goes with all its members.

    `name` is the first layer's, `layers` are the weights (initializer names) whose outputs the units are, in
    graph order. A unit need not have positions in every member (parts of a channel axis may go different ways).
    """

    name: str
    size: int
    members: tuple[Member, ...]
    layers: tuple[str, ...]
    kind: Literal["channel", "head"]


@dataclass(frozen=True)
class Channels:
    """The groups whose units can be removed, and for all other layers the reason why theirs cannot.

    Units to drop are given by group name, as an array of `size` booleans each (True: drop); groups left out
    lose nothing.
    """

    groups: tuple[Group, ...]
    pinned: tuple[tuple[str, str], ...]
    flow: Flow = field(repr=False, compare=False)
    numbers: Mapping[str, Indices] = field(repr=False, compare=False)  # a group's units -> classes

    def protect(self, dropped: Dropped, scores: Mapping[str, NDArray[np.float64]] | None = None) -> Dropped:
        """`dropped` without the units that must stay for no axis of any value to become empty: of each axis
        that would, the one with the highest score (without scores, and of equals, the last)."""
        alive = self._alive(dropped)
        result = {name: np.array(drop, bool) for name, drop in dropped.items()}
        where = {
            int(number): (name, unit)
            for name, numbers in self.numbers.items()
            for unit, number in enumerate(numbers)
        }
        for axis in axes(self.flow):
            if not alive[axis].any():
                candidates = [where[int(number)] for number in axis if int(number) in where]
                name, unit = max(candidates, key=lambda c: (scores[c[0]][c[1]] if scores else 0.0, c[1]))
                result[name][unit] = False
                alive[self.numbers[name][unit]] = True
        return result

    def masks(self, dropped: Dropped) -> dict[str, Keep]:
        """For each initializer that is touched, False where dropped units' weights, parameters and readers lie.

        The masked model is the same function as that which `remove` makes, whatever lies between.

        Raises:
            InputError: an unknown group, a wrong number of units, or an axis that would become empty.
        """
        self._check(dropped)
        shapes = {name: tuple(tensor.dims) for name, tensor in self.flow.network.tensors.items()}
        found: dict[str, Keep] = {}
        for group in self.groups:
            drop = np.append(dropped.get(group.name, np.zeros(group.size, bool)), False)
            for member in group.members:
                if member.role == "fixed" or not drop.any():
                    continue
                keep = found.setdefault(member.tensor, np.ones(shapes[member.tensor], bool))
                at = [1] * keep.ndim
                at[member.axis] = -1
                keep &= ~drop[member.units].reshape(at)
        return found

    def remove(self, dropped: Dropped) -> onnx.ModelProto:
        """A copy of the model without the dropped units, whatever their values.

        Raises:
            InputError: an unknown group, a wrong number of units, or an axis that would become empty.
        """
        self._check(dropped)
        return Edit(self.flow, self._alive(dropped)).run()

    def _alive(self, dropped: Dropped) -> Keep:
        alive = np.ones(int(self.flow.classes.max(initial=-1)) + 1, bool)
        for name, drop in dropped.items():
            alive[self.numbers[name][np.asarray(drop, bool)]] = False
        return alive

    def _check(self, dropped: Dropped) -> None:
        sizes = {group.name: group.size for group in self.groups}
        for name, drop in dropped.items():
            if name not in sizes:
                raise InputError(
                    f"no group of channels '{name}': expected one of {', '.join(sizes) or 'none'}"
                )
            if np.shape(drop) != (sizes[name],):
                raise InputError(f"group '{name}' has {sizes[name]} units, not {np.shape(drop)}")
        alive = self._alive(dropped)
        for axis in axes(self.flow):
            if not alive[axis].any():
                raise InputError(
                    "a value would be left without channels", hint="keep one unit (Channels.protect)"
                )


def analyse(model: Model | onnx.ModelProto, *, view: View = "channels") -> Channels:
    """Find the groups of channels of a model.

    `view` says what becomes of an axis that attention splits into heads and features: with `channels` the features can
    go (the j-th of every head together), with `heads` whole heads. All other channels are the same in both.

    Raises:
        UnsupportedError: quantised or sparse weights, or a model that onnxruntime does not run.
    """
    found = prunable.find(in_parts(model)[0])
    return gather(follow(Network(model), RULES, view), found)


def gather(flow: Flow, found: list[prunable.Layer]) -> Channels:
    """The groups of the layers `found` in a graph that has been followed."""
    names = {layer.weight: layer.name for layer in reversed(found)}
    order = {layer.weight: number for number, layer in reversed(list(enumerate(found)))}
    first = _first_layers(flow, order)
    heads = {number for ids in flow.ledger.heads for number in flow.classes[ids].ravel().tolist()}
    groups: list[Group] = []
    numbers: dict[str, Indices] = {}
    reasons: dict[int, str] = {}
    taken: set[str] = set()
    for weight, classes in first.items():
        if len(classes) == 1:
            reasons[int(classes[0])] = "there is only one"
            continue
        for kind in ("channel", "head"):
            chosen = np.array([c for c in classes.tolist() if (c in heads) == (kind == "head")], np.intp)
            if not len(chosen):
                continue
            name = _unique(names[weight], taken)
            members = _members(flow, chosen)
            weights = sorted({m.tensor for m in members if m.role == "weight"}, key=order.__getitem__)
            groups.append(Group(name, len(chosen), members, tuple(weights), kind))
            numbers[name] = chosen
    return Channels(tuple(groups), _pinned(flow, found, names, groups, reasons), flow, numbers)


def axes(flow: Flow) -> list[Indices]:
    """For each axis of each value that can shrink, the classes on it (without repetitions)."""
    found: dict[bytes, Indices] = {}
    for value in flow.values.values():
        for spread in value:
            classes = np.unique(flow.classes[spread.ids])
            found.setdefault(classes.tobytes(), classes)
    return list(found.values())


def _first_layers(flow: Flow, order: Mapping[str, int]) -> dict[str, Indices]:
    """For each layer's weight (in graph order) the removable classes that it is the first to make, in the order of
    their positions there."""
    owner: dict[int, str] = {}
    for slot in flow.ledger.slots:
        if slot.role != "weight" or slot.tensor is None or slot.tensor not in order:
            continue
        for number in dict.fromkeys(flow.classes[slot.ids].tolist()):
            if number not in flow.pinned and number not in owner:
                owner[number] = slot.tensor
    found: dict[str, list[int]] = {weight: [] for weight in sorted(order, key=order.__getitem__)}
    for number, weight in owner.items():
        found[weight].append(number)
    return {weight: np.array(numbers, np.intp) for weight, numbers in found.items() if numbers}


def _members(flow: Flow, classes: Indices) -> tuple[Member, ...]:
    unit = np.full(int(flow.classes.max(initial=-1)) + 1, -1, np.intp)
    unit[classes] = np.arange(len(classes))
    found: dict[tuple[str, int, Role], Member] = {}
    for slot in flow.ledger.slots:
        if slot.tensor is None or slot.axis < 0:
            continue
        units = unit[flow.classes[slot.ids]]
        key = (slot.tensor, slot.axis, slot.role)
        if (units >= 0).any() and key not in found:
            found[key] = Member(slot.tensor, slot.axis, units, slot.role)
    return tuple(found.values())


def _pinned(
    flow: Flow,
    found: list[prunable.Layer],
    names: Mapping[str, str],
    groups: list[Group],
    reasons: Mapping[int, str],
) -> tuple[tuple[str, str], ...]:
    """The layers none of whose outputs are in a group, each with a reason."""
    offered = {weight for group in groups for weight in group.layers}
    why: dict[str, str] = {}
    for slot in flow.ledger.slots:
        if slot.role == "weight" and slot.tensor is not None and slot.tensor not in offered:
            for number in flow.classes[slot.ids].tolist():
                reason = flow.pinned.get(number) or reasons.get(number)
                if reason is not None:
                    why.setdefault(slot.tensor, reason)
    result = []
    for layer in found:
        if layer.weight in offered:
            continue
        reason = why.get(layer.weight, f"the weight of {layer.name} is no plain matrix")
        if layer.node.output[0] in flow.network.foldable:
            reason = f"they are {FOLDABLE}"
        result.append((layer.name, reason))
    return tuple(result)


def _unique(wish: str, taken: set[str]) -> str:
    name, number = wish, 2
    while name in taken:
        name, number = f"{wish}#{number}", number + 1
    taken.add(name)
    return name
