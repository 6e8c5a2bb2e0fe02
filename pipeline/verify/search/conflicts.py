"""Conflicts of splits, learnt: which sets of signs are refuted, and what follows from that.

A conflict is a set of signs, no input in which satisfies the clause. In a domain that has all signs of a conflict but
one, the last neuron has the opposite sign (unit propagation); two conflicts that disagree about one neuron are one
about the others (resolution). The search never visits the same reason twice, and goes back as far as the reason does:
conflict-driven clause learning (Marques-Silva and Sakallah 1999, "GRASP"), with the activities of Moskewicz et al.
2001 ("Chaff").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secateur.pipeline.verify.lp import Floats

Signs = NDArray[np.int8]

GROWTH = 1.05
"""By how much more every later conflict counts in the activities."""


class Conflicts:
    """The conflicts known, and the domain that the search is in.

    `signs` (U,): the domain's, chosen or implied; `trail`: their neurons, in that order. `activity` (U,): how often,
    and how lately, neurons took part in conflicts. `weight`: what the next conflict adds to it.
    """

    def __init__(self, neurons: int) -> None:
        self.signs: Signs = np.zeros(neurons, np.int8)
        self.activity: Floats = np.zeros(neurons)
        self.weight = 1.0
        self._rows: NDArray[np.float32] = np.zeros((64, neurons), np.float32)
        self._sizes: NDArray[np.float32] = np.zeros(64, np.float32)
        self._count = 0
        self.trail: list[int] = []
        self._starts: list[int] = []
        self._level = np.zeros(neurons, np.int64)
        self._reason = np.zeros(neurons, np.int64)

    def choose(self, neuron: int, sign: int) -> None:
        """Go down: split a neuron that has no sign."""
        self._starts.append(len(self.trail))
        self._assign(neuron, sign, -1)

    def propagate(self) -> Signs | None:
        """Give the neurons the signs that follow; returns a conflict (U,) that the domain runs into, or None."""
        while self._count:
            rows, sizes = self._rows[: self._count], self._sizes[: self._count]
            # How many signs agree, less how many disagree: all but one is reached only with the last one free.
            agreeing = rows @ self.signs.astype(np.float32)
            for broken in np.flatnonzero(agreeing == sizes)[:1]:
                conflict: Signs = rows[broken].astype(np.int8)
                return conflict
            units = np.flatnonzero(agreeing == sizes - 1)
            if not len(units):
                return None
            for unit in units.tolist():
                for neuron in np.flatnonzero((rows[unit] != 0) & (self.signs == 0)).tolist():
                    self._assign(neuron, -int(rows[unit, neuron]), unit)
        return None

    def learn(self, conflict: Signs) -> bool:
        """Learn from a conflict (U,), all of whose signs are the domain's, and go back; False: nothing is left."""
        conflict = conflict.copy()
        members = np.flatnonzero(conflict)
        if not len(members) or self._level[members].max() == 0:
            self._append(np.zeros_like(conflict))  # everywhere
            return False
        self._back(int(self._level[members].max()))
        self.activity[members] += self.weight
        # Resolve with the reasons of implied signs until one sign alone is of the last choice's level.
        for neuron in reversed(self.trail):
            here = (conflict != 0) & (self._level == len(self._starts))
            if here.sum() == 1:
                break
            if here[neuron]:
                reason = self._rows[self._reason[neuron]].astype(np.int8)
                self.activity[reason != 0] += self.weight
                conflict = np.where(conflict != 0, conflict, reason)
                conflict[neuron] = 0
        self.weight *= GROWTH
        if self.weight > 1e100:
            self.activity /= self.weight
            self.weight = 1.0
        conflict[self._level == 0] = 0
        self._append(conflict)
        levels = np.sort(self._level[conflict != 0])
        self._back(int(levels[-2]) if len(levels) > 1 else 0)
        return True

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What was learnt, to go on with `of`: the conflicts (C, U), the activities (U,) and the next one's weight."""
        return {
            "conflicts": self._rows[: self._count].astype(np.int8),
            "activity": self.activity.copy(),
            "weight": np.array(self.weight),
        }

    @staticmethod
    def of(arrays: Mapping[str, NDArray[np.generic]]) -> Conflicts:
        """At the root, with what `arrays` says was learnt."""
        known = arrays["conflicts"]
        conflicts = Conflicts(known.shape[1])
        conflicts.activity[:], conflicts.weight = arrays["activity"], float(arrays["weight"])
        for conflict in known:
            conflicts._append(conflict.astype(np.int8))
        return conflicts

    def __len__(self) -> int:
        return self._count

    def restart(self) -> None:
        """Go back to the root; what was learnt stays."""
        self._back(0)

    def _assign(self, neuron: int, sign: int, reason: int) -> None:
        self.signs[neuron], self._level[neuron], self._reason[neuron] = sign, len(self._starts), reason
        self.trail.append(neuron)

    def _back(self, level: int) -> None:
        """Undo what was chosen and implied after this level."""
        if level < len(self._starts):
            first = self._starts[level]
            self.signs[self.trail[first:]] = 0
            del self.trail[first:], self._starts[level:]

    def _append(self, conflict: Signs) -> None:
        if self._count == len(self._sizes):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._sizes = np.concatenate([self._sizes, np.zeros_like(self._sizes)])
        self._rows[self._count] = conflict
        self._sizes[self._count] = np.count_nonzero(conflict)
        self._count += 1
