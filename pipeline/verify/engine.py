"""The ladder: attack, CROWN, α-CROWN, branch and bound, each rung on what is still open.

The first rungs treat a group of queries of one network in one batch, and so do the longer attack and the beginning of
the search (`share`), of as many as may be held ready at once; from there on the open ones come in turn, each of which
fills batches of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline.verify.bounding.clause_bounds import clause_bounds
from secateur.pipeline.verify.bounding.crown import Box
from secateur.pipeline.verify.bounding.relaxation import Schedule
from secateur.pipeline.verify.bounding.root import CHUNK_NUMBERS, NodeBounds, bound_nodes, cost
from secateur.pipeline.verify.bounding.specification import SubProblems, check_fits, compares_outputs
from secateur.pipeline.verify.graph.bound_graph import BoundGraph
from secateur.pipeline.verify.graph.lowering import lower, lower_to_logits
from secateur.pipeline.verify.graph.operations import Convolution, Deconvolution
from secateur.pipeline.verify.memory import Budget, scaled
from secateur.pipeline.verify.pgd import Effort, attack, inner_box, inside
from secateur.pipeline.verify.region.embed import embed
from secateur.pipeline.verify.region.fold import fold, fold_and_bound, free_inputs
from secateur.pipeline.verify.region.refine import Allowance
from secateur.pipeline.verify.replay import Replay
from secateur.pipeline.verify.results import Result
from secateur.pipeline.verify.search import strategy
from secateur.pipeline.verify.search.problem import Progress
from secateur.pipeline.verify.search.work import (
    Deadline,
    Left,
    Root,
    Work,
    joint,
    joint_deadline,
    layer_stability,
    parted,
    spent,
    still_open,
)
from secateur.pipeline.verify.store import Store

FEW_INPUTS = 8
"""Up to so many inputs of positive width the input box is split instead of the neurons."""

GROUP = 16
"""How many queries of one network share the batches of the first rungs."""

FIRST = Effort(restarts=2, steps=10)
"""The first attack where bounds are cheap: most queries need no more of either."""

QUICK = Effort(restarts=8, steps=20)
THOROUGH = Effort(restarts=24, steps=60)
ROOT_SCHEDULE = Schedule(10)
OUTPUT_SCHEDULE = Schedule(10)

BURST = 3_000
"""Domains of search before the thorough attack, where a dense network's neurons are split: many are closed by then."""

EARLY = 100
"""The same on a CPU where neurons of a folded convolutional network are split: a quarter to a half of the time that the
attack takes, which most instances of oval21 and of a small network for digits never came to."""

ATTACK_SHARE = 0.05
"""The part of the time left that the thorough attack may take."""

CACHED = 8_000_000
"""Numbers of one batch of an attack on a CPU: four times as many took up to a third longer."""

FOLDED = 256 * 2**20
"""Bytes of folded networks held at once on a CPU for instances that share batches: of 16 with 3,000 neurons left each.
Where more are left, batches are full without."""

DEAREST_SLOPES = 1_000_000_000
"""From this `root.cost` on slopes are optimised for the clauses alone, not for every node of a network as it is."""

FIRST_REFINEMENT, REFINEMENT_GROWTH = 1e10, 3.0
"""Multiplications of the first refinement of the neurons' bounds, and how many times more every later one takes."""

SEARCH_SHARE = 0.3
"""After a refinement, the search of the clauses takes so many multiplications as a share of it, and a burst."""

WORTH_BEGINNING_ANEW = 0.99
"""The search begins anew on refined bounds where unstable neurons' intervals shrank to this, in sum."""


BRANCHING = ("babsr", "fsb")
"""How the neuron to split is chosen: by what its relaxation costs (see `bounding.branching`), or among the costliest
three by trying (filtered smart branching, see `relu_split`)."""


class Engine:
    """One network, ready for queries: lowered once, its fast copy and its onnxruntime session kept.

    `memory`: about how many bytes a search may hold (None: as many as there are); see `memory.Budget`. `branching`: one
    of `BRANCHING`, by which neurons are chosen to be split.
    """

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        memory: int | None = None,
        *,
        branching: str = "babsr",
        graph: BoundGraph | None = None,
        replay: Replay | None = None,
    ) -> None:
        started = time.perf_counter()
        self.model = model
        self.device = torch.device(device)
        self.branching, self.filtered = branching, branching == "fsb"
        self.graph: BoundGraph = (graph or lower(model)).to(torch.float64, device)
        self.fast = self.graph.to(torch.float32, device)
        # Convolutions are bounded where they are folded (see `fold.fold_and_bound`), each instance for itself; so is
        # what costs as much.
        self.convolutional = cost(self.graph) > DEAREST_SLOPES or any(
            isinstance(n.operation, Convolution | Deconvolution) for n in self.graph.nodes
        )
        self.numbers = CACHED if self.device.type == "cpu" else Effort.numbers
        self.budget = Budget(memory, self.graph.bytes + self.fast.bytes)
        self.replay = replay or Replay(model)
        self.build_seconds = time.perf_counter() - started

    def verify(self, queries: Sequence[Query], *, timeout: float, seed: int = 0) -> Iterator[Result]:
        """Decide queries, in order; each may use `timeout` seconds.

        Raises:
            InputError: a query is about a network of another size.
        """
        for query in queries:
            self.check_fits(query)
        build = {"build": self.build_seconds / max(1, len(queries))}
        for first in range(0, len(queries), GROUP):
            works = [Work(query, timeout, dict(build)) for query in queries[first : first + GROUP]]
            self.begin(works, seed)
            shared = 0
            for position, work in enumerate(works):
                if position == shared:
                    shared += self.share(works[position:], seed)
                self.finish(work, seed)
                yield work.result()

    def check_fits(self, query: Query) -> None:
        """Raises InputError when the query is about a network of another size."""
        outputs = self.graph.nodes[self.graph.output].size
        check_fits(query, self.graph.input.size, outputs, self.model.name)

    def shaped(self, box: Box) -> Box:
        """Flat boxes (B, n_in) in the shape of the network's input, on the engine's device."""
        shape = (-1, *self.graph.input.shape)
        return Box(*(side.to(self.device).reshape(shape) for side in (box.lower, box.upper)))

    @cached_property
    def cuts_together(self) -> bool:
        """Whether arguments of nonlinear nodes are cut, of several instances in shared batches."""
        return not self.convolutional and strategy.cuts_together(self.graph)

    @cached_property
    def logits(self) -> Engine | None:
        """The engine for queries that only compare outputs, where a Softmax gives these: the same without it."""
        graph = lower_to_logits(self.model)
        if graph is None:
            return None
        return Engine(
            self.model,
            str(self.device),
            self.budget.memory,
            branching=self.branching,
            graph=graph,
            replay=self.replay,
        )

    def engine_for(self, query: Query) -> Engine:
        """This engine, or `logits`."""
        return (self.logits if compares_outputs(query) else None) or self

    def begin(self, works: Sequence[Work], seed: int) -> None:
        """The first rungs for queries that fit and are new, in shared batches: a first attack and, but for
        convolutions, CROWN and α-CROWN of every clause. Those that it decides have a verdict then."""
        works = [work for work in still_open(works) if work.left is None]
        engines = [self.engine_for(work.query) for work in works]
        for engine in {id(engine): engine for engine in engines}.values():
            with engine.budget.kept():
                engine._begin([work for work, own in zip(works, engines, strict=True) if own is engine], seed)

    def _begin(self, works: list[Work], seed: int) -> None:
        seconds = sum(work.timeout - work.seconds for work in works)
        deadline = Deadline(seconds, lambda: any(work.stop() for work in works))
        some_inputs = any(self.few(work.problems.boxes[:1]) for work in works)
        effort = QUICK if self.convolutional or some_inputs else FIRST
        self.attack(works, None, effort, seed, deadline)
        if not self.convolutional:
            self._crown(still_open(works), deadline)

    def share(self, works: Sequence[Work], seed: int) -> int:
        """The next rungs in shared batches, for works that are new: branch and bound on the networks as made
        ready, for some domains each, and the thorough attack.

        How many of the first works it was: one at least, and all whose folded networks may be held at once and gain.
        """
        begun: dict[Engine, list[tuple[Root, Work]]] = {}
        taken = held = largest = 0
        for work in works:
            engine = self.engine_for(work.query)
            if taken and held + largest >= engine._room():
                break
            taken += 1
            ready = engine.graph.foldable or engine.cuts_together
            if work.verdict or work.left is not None or not ready or work.deadline.passed():
                continue
            region = int(work.problems.region[work.open()[0]])
            with engine.budget.kept():
                root = engine._ready(work, region, work.deadline)
            if root is not None:
                begun.setdefault(engine, []).append((root, work))
                own = strategy.held(root)
                held, largest = held + own, max(largest, own)
                if not strategy.shares(root):
                    break
        for engine, mine in begun.items():
            with engine.budget.kept():
                engine._start(mine, seed)
            for root, work in mine:
                work.begun = None if work.left is None else root
        return taken

    def _room(self) -> int:
        """How many bytes of folded networks may be held at once."""
        spare = self.budget.spare
        return FOLDED if spare is None else spare if self.device.type != "cpu" else min(FOLDED, spare)

    def _start(self, begun: Sequence[tuple[Root, Work]], seed: int) -> None:
        """The rungs between the folding of a region of each work and the search of each by itself."""
        regions = [work.left.region for _, work in begun if work.left is not None]
        new = list(begun)
        if self.convolutional:
            # Nothing has been tried on them yet. The ascent of an easy one ends at once; in a batch it would not.
            new = [(root, work) for root, work in begun if root.few or root.inner is None]
            for root, work in new:
                if not root.few:
                    strategy.branch(root, work, self.replay, work.deadline, domains=1)
            new = [(root, work) for root, work in new if work.left is not None and not work.verdict]
        early = self.convolutional and self.device.type == "cpu"
        strategy.branch_together(new, self.graph, self.replay, domains=EARLY if early else BURST)
        most = scaled(self.numbers) // (THOROUGH.restarts * sum(node.size for node in self.graph.nodes))
        works = zip((work for _, work in begun), regions, strict=True)
        for part in parted([(work, region) for work, region in works if not work.verdict], most):
            together = [work for work, _ in part]
            brief = joint_deadline(together, ATTACK_SHARE)
            self.attack(together, [region for _, region in part], THOROUGH, seed + 1, brief)

    def finish(self, work: Work, seed: int) -> None:
        """Search what `begin` has left open, until it is decided or its time is over."""
        engine = self.engine_for(work.query)
        with engine.budget.kept():
            engine._finish(work, seed)

    def _finish(self, work: Work, seed: int) -> None:
        deadline = Deadline(work.timeout - work.seconds, work.stop)
        left = None if work.left is None else work.left.region
        for region in sorted(work.problems.region.unique().tolist(), key=lambda region: region != left):
            if not work.verdict and not deadline.passed() and len(work.open(region)):
                self._search(work, region, deadline, seed)
        if not work.verdict:
            work.verdict = "timeout" if deadline.passed() else "unknown"

    def few(self, box: Box) -> bool:
        """Whether so few inputs of one box vary that it is split rather than neurons."""
        return len(free_inputs(box)) <= FEW_INPUTS

    def attack(
        self,
        works: Sequence[Work],
        regions: Sequence[int] | None,
        effort: Effort,
        seed: int,
        deadline: Deadline,
    ) -> None:
        """Attack the open sub-problems (each of one region) of works without a verdict, all in one batch."""
        if not works:
            return
        with spent("attack", *works):
            problems, _ = joint(works, regions)
            queries = [work.query for work in works]
            effort = replace(effort, numbers=self.numbers)
            found = attack(
                self.fast, problems, queries, self.replay, seed=seed, effort=effort, expired=deadline.passed
            )
        for i, witness in found.items():
            works[i].satisfied(witness)

    def _crown(self, works: list[Work], deadline: Deadline) -> None:
        """CROWN bounds of all nodes on all boxes in one batch, then of every clause, without and with α."""
        if not works:
            return
        with spent("crown", *works):
            problems, _ = joint(works)
            nodes = bound_nodes(self.graph, self.shaped(problems.boxes), "crown", expired=deadline.passed)
            first = 0
            for work in works:
                work.layers = layer_stability(self.graph, nodes[torch.tensor([first], device=self.device)])
                first += len(work.problems.boxes.lower)
        for phase, schedule in (("crown", None), ("alpha", OUTPUT_SCHEDULE)):
            if not still_open(works) or deadline.passed():
                return
            with spent(phase, *still_open(works)):
                problems, where = joint(works)
                bounds, x = self._clauses(problems, nodes, schedule)
                for i, work in enumerate(works):
                    mine = problems.owner == i
                    work.improve(where[mine], bounds[mine])
                    self._suspect(work, where[mine], x[mine])

    def _clauses(
        self, problems: SubProblems, nodes: NodeBounds, schedule: Schedule | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`clause_bounds` of sub-problems, in batches of limited size."""
        numbers = sum(node.size for node in self.graph.nodes) * problems.constant.shape[1]
        results = [
            clause_bounds(self.graph, self.fast, part, nodes[part.region.to(self.device)], schedule)
            for indices in torch.arange(len(problems)).split(max(1, scaled(CHUNK_NUMBERS) // numbers))
            for part in (problems[indices],)
        ]
        return torch.cat([bounds for bounds, _ in results]), torch.cat([x for _, x in results])

    def _suspect(self, work: Work, where: torch.Tensor, x: torch.Tensor) -> None:
        """Replay the minimisers x (P', n_in) of the clauses `where` that may satisfy them."""
        if work.verdict or not len(where):
            return
        problems = work.problems[where]
        x = inside(x, inner_box(problems))
        y = self.graph.forward(x.to(self.device).view(-1, *self.graph.input.shape)).flatten(1).cpu()
        for i in torch.nonzero(problems.values(x, y).amax(1) <= 0).flatten().tolist():
            if work.satisfied(self.replay.check(work.query, x[i].numpy())):
                return

    def _search(self, work: Work, region: int, deadline: Deadline, seed: int) -> None:
        """Tighter bounds on a folded network, a longer attack, and branch and bound, on one region."""
        root, work.begun = work.begun, None
        resumed = root is None and work.left is not None
        if root is None:
            root = self._ready(work, region, deadline)
            if root is None:
                return
            if not resumed:
                self._start([(root, work)], seed)
        refinable = strategy.refinable(root) and not self.convolutional
        if resumed and refinable:  # first what had been begun, or short runs would never end any of it
            self._branch(root, work, deadline)
        while refinable and not work.verdict and work.left is not None and math.isfinite(work.left.effort):
            if deadline.passed():
                return
            root = self._refined(root, work, region, deadline)
            self._branch(root, work, deadline)
        if not work.verdict and work.left is not None:
            strategy.branch(root, work, self.replay, deadline)

    def _ready(self, work: Work, region: int, deadline: Deadline) -> Root | None:
        """The network made ready for the search of a region, which begins or goes on; None where nothing is open."""
        box = self.shaped(work.problems.boxes[torch.tensor([region])])
        few = self.few(box)
        nodes = None if work.left is None else work.left.nodes
        known = None
        if nodes is None and not few and not self.graph.foldable:
            known = self._plain(work, region, box, deadline)
            if work.verdict or not len(work.open(region)):
                return None
        with spent("bounds", work):
            root = self._root(box, nodes, known, few, deadline)
        if region == 0:
            work.layers = layer_stability(self.graph, root.nodes)
        if work.left is None:
            work.left = Left(region, root.nodes, Progress(store=Store(self.budget.half)))
        return root

    def _branch(self, root: Root, work: Work, deadline: Deadline) -> None:
        """Search for as long as the last refinement allows."""
        assert work.left is not None
        limit = SEARCH_SHARE * work.left.effort / strategy.cost(root.folded.graph) + BURST
        domains = int(limit) if math.isfinite(limit) else None
        strategy.branch(root, work, self.replay, deadline, domains=domains)

    def _refined(self, root: Root, work: Work, region: int, deadline: Deadline) -> Root:
        """The network on tighter bounds, on which the search begins anew. Where there is little left to gain, `root`:
        the search goes on, and the effort is infinite from then on."""
        left = work.left
        assert left is not None
        effort = REFINEMENT_GROWTH * left.effort or FIRST_REFINEMENT
        with spent("refine", work):
            folded, nodes = fold_and_bound(
                self.graph,
                root.nodes.box,
                ROOT_SCHEDULE,
                deadline.passed,
                known=root.nodes,
                allowance=Allowance(effort, len(self.graph.relus) - 1),
            )
        if deadline.passed():
            return root
        before, after = (_looseness(self.graph, each) for each in (root.nodes, nodes))
        if after > WORTH_BEGINNING_ANEW * before:
            work.left = replace(left, effort=math.inf)
            return root
        if region == 0:
            work.layers = layer_stability(self.graph, nodes)
        work.left = Left(region, nodes, Progress(store=Store(self.budget.half)), effort)
        return Root(nodes, folded, None, few=False, filtered=self.filtered)

    def _plain(self, work: Work, region: int, box: Box, deadline: Deadline) -> NodeBounds:
        """CROWN bounds of a network that is not folded, and those of a region's clauses, without and with α: slopes
        for all its nodes are dear."""
        with spent("crown", work):
            nodes = bound_nodes(self.graph, box, "crown", expired=deadline.passed)
        for phase, schedule in (("crown", None), ("alpha", OUTPUT_SCHEDULE)):
            where = work.open(region)
            if not work.verdict and len(where):
                with spent(phase, work):
                    problems = work.problems[where]
                    own = replace(problems, region=torch.zeros_like(problems.region))
                    bounds, x = self._clauses(own, nodes, schedule)
                work.improve(where, bounds)
                self._suspect(work, where, x)
        return nodes

    def _root(
        self, box: Box, nodes: NodeBounds | None, known: NodeBounds | None, few: bool, deadline: Deadline
    ) -> Root:
        """The network made ready for a search of `box`: by the bounds `nodes` of an earlier one, where there was one;
        where not, with the help of `known` ones."""
        schedule = None if few else ROOT_SCHEDULE
        if self.graph.foldable:
            if nodes is None:
                folded, nodes = fold_and_bound(self.graph, box, schedule, deadline.passed)
            else:
                folded = fold(self.graph, nodes)
            return Root(nodes, folded, None, few, self.filtered)
        if nodes is None and known is not None and cost(self.graph) > DEAREST_SLOPES:
            nodes = known
        if nodes is None:
            method = "crown" if few else "alpha-crown"
            nodes = bound_nodes(
                self.graph,
                box,
                method,
                search=self.fast,
                schedule=schedule,
                known=None if known is None else {p: known.values[p] for p in self.graph.bounded},
                expired=deadline.passed,
            )
        folded, inner = embed(self.graph, nodes)
        return Root(nodes, folded, inner, few)


def _looseness(graph: BoundGraph, nodes: NodeBounds) -> float:
    """The widths of the intervals of all unstable neurons, in sum."""
    sides = nodes.preactivations(graph).values()
    return sum(float((high - low)[(low < 0) & (high > 0)].sum()) for low, high in sides)
