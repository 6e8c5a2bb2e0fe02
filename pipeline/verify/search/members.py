"""Instances of one network whose domains share batches: which domain is whose, who is over, what is left to each.

What the domains are is left to the searches (`joined_boxes`, `joined_cuts`); neurons: see `joined`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.pipeline.verify.bounding.specification import NEVER
from secateur.pipeline.verify.memory import for_domains
from secateur.pipeline.verify.search.joined import Member, first_hits, stacked_rows
from secateur.pipeline.verify.search.problem import Clauses, Problem
from secateur.pipeline.verify.store import Store

Rows = dict[str, Tensor]


@dataclass
class Owned(Clauses):
    """The clauses of several instances, in order.

    `owner` (P,): whose each is; `places`: where the inputs of each are among those of the network that they share.
    """

    owner: Tensor
    places: tuple[Tensor, ...]

    @staticmethod
    def of(each: Sequence[Problem], inputs: Tensor) -> Owned:
        """On a network whose inputs are those at the flat positions `inputs`, where those of each are."""
        rows = [clauses.rows for clauses in each]
        places = tuple(torch.searchsorted(inputs, problem.folded.inputs) for problem in each)
        direct = None
        if any(clauses.direct is not None for clauses in each):
            direct = []
            for clauses, place in zip(each, places, strict=True):
                own = clauses.rows.new_zeros(*clauses.rows.shape[:2], len(inputs))
                direct.append(own if clauses.direct is None else own.index_copy(2, place, clauses.direct))
        counts = torch.tensor([len(clauses.constant) for clauses in each], device=rows[0].device)
        return Owned(
            stacked_rows(rows, 0.0),
            None if direct is None else stacked_rows(direct, 0.0),
            stacked_rows([clauses.constant for clauses in each], NEVER),
            torch.arange(len(each), device=counts.device).repeat_interleave(counts),
            places,
        )

    def hits(self, clause: Tensor, satisfied: Tensor) -> list[int]:
        return first_hits(self.owner[clause], satisfied)


@dataclass
class Together:
    """The search that `members` share, until each has looked at `most` domains, has a witness, or is refuted.

    `store` holds the open domains, whose rows have an "owner"; once they take half of what those of one search may, all
    members go on alone.
    """

    members: Sequence[Member]
    clauses: Owned
    most: int
    expired: Callable[[], bool]
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.room = for_domains()
        self.store = Store(self.room)
        owner, count = self.clauses.owner, len(self.members)
        self.firsts = torch.searchsorted(owner, torch.arange(count + 1, device=owner.device)).tolist()
        self.counts = torch.zeros(count, dtype=torch.long, device=owner.device)
        self.over = torch.zeros(count, dtype=torch.bool, device=owner.device)
        self.undecided = torch.zeros(count, dtype=torch.long, device=owner.device)
        self.leaving: list[Rows] = []

    def suspect(self, x: Tensor, clause: int) -> bool:
        """Ask the member whose clause it is. Never True: the others go on."""
        i = int(self.clauses.owner[clause])
        member = self.members[i]
        if member.outcome != "sat" and member.suspect(x[self.clauses.places[i]], clause - self.firsts[i]):
            member.outcome, self.over[i] = "sat", True
        return False

    def looked_at(self, owner: Tensor, stuck: Tensor) -> None:
        """Count domains that belong to `owner` (B,), and those that can be decided neither way."""
        self.counts.index_add_(0, owner, torch.ones_like(owner))
        self.over |= self.counts >= self.most
        self.undecided.index_add_(0, owner, stuck.long())

    def take(self, batch: int) -> Rows:
        """The next domains, of members that go on, in their order; none when the search is over."""
        picked: list[Rows] = []
        found = 0
        while len(self.store) and found < batch and not self.full and not self.expired():
            rows = self.store.take(batch - found)
            goes_on = ~self.over[rows["owner"]]
            self.leaving.append({name: values[~goes_on] for name, values in rows.items()})
            picked.append({name: values[goes_on] for name, values in rows.items()})
            found += len(picked[-1]["owner"])
        if not found:
            return {}
        rows = {name: torch.cat([each[name] for each in picked]) for name in picked[0]}
        order = torch.argsort(rows["owner"], stable=True)
        return {name: values[order] for name, values in rows.items()}

    @property
    def full(self) -> bool:
        """Whether the open domains take too much memory."""
        if self.room is None:
            return False
        waiting = sum(v.numel() * v.element_size() for rows in self.leaving for v in rows.values())
        return self.store.bytes + waiting > self.room // 2

    def part(self, own: Callable[[int, Rows], Rows]) -> None:
        """Let every member have its own open domains: `own(i, rows)` are those of member i as its search has them."""
        parts = [rows for rows in (*self.leaving, self.store.drain()) if rows]
        rest = {name: torch.cat([rows[name] for rows in parts]) for name in (parts[0] if parts else ())}
        counts, undecided = self.counts.tolist(), self.undecided.tolist()
        for i, member in enumerate(self.members):
            progress = member.progress
            progress.domains += counts[i]
            progress.undecided = progress.undecided or undecided[i] > 0
            if member.outcome == "sat":
                continue
            mine = torch.nonzero(rest["owner"] == i).flatten() if rest else ()
            if len(mine):
                progress.store.put(**own(i, {name: values[mine] for name, values in rest.items()}))
            if not len(progress.store) and not progress.undecided:
                member.outcome = "unsat"
