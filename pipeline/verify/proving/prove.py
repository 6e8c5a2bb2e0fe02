"""The ladder of a verdict with a proof: attack, α-CROWN of all neurons, branch and bound; the checker judges leaves.

What a certificate cannot hold is left out: neurons' bounds by branch and bound of their own or from half-spaces,
conflicts learnt by linear programs, batches shared with other instances. So a proof takes longer than a verdict alone;
what needs these to be decided stays open here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from secateur.formats.certificate import Certificate, RegionProof
from secateur.formats.query import Region
from secateur.pipeline.certificate.folding import Choice, Columns, Slopes, fold
from secateur.pipeline.certificate.lines import Folded as Checkable
from secateur.pipeline.certificate.lines import Layer
from secateur.pipeline.certificate.network import Network
from secateur.pipeline.verify.engine import ATTACK_SHARE, BURST, QUICK, ROOT_SCHEDULE, THOROUGH, Engine
from secateur.pipeline.verify.pgd import inner_box, inside
from secateur.pipeline.verify.proving import boxes
from secateur.pipeline.verify.proving.boxes import Tree
from secateur.pipeline.verify.proving.recorded import Recorded, Recorder
from secateur.pipeline.verify.proving.region import optimised, searchable
from secateur.pipeline.verify.search import relu_split
from secateur.pipeline.verify.search.problem import Progress
from secateur.pipeline.verify.search.strategy import (
    FEW_NEURONS,
    FIRST_SCHEDULE,
    NEURON_SCHEDULE,
    batch_of,
    specification,
)
from secateur.pipeline.verify.search.work import CLOSED, Deadline, Work, spent
from secateur.pipeline.verify.store import Store


def prove(engine: Engine, network: Network, work: Work, seed: int) -> Certificate | None:
    """Decide `work`; the certificate of an "unsat", None with any other verdict.

    `network` is the checker's reading of the engine's model.
    """
    deadline = Deadline(work.timeout - work.seconds, work.stop)
    proofs: list[RegionProof | None] = []
    with engine.budget.kept():
        if not work.verdict:
            engine.attack([work], None, QUICK, seed, deadline)
        for number, region in enumerate(work.query.regions):
            if not region.clauses:
                proofs.append(None)
                continue
            if work.verdict in ("", "unsat") and not deadline.passed():
                proofs.append(_region(engine, network, work, number, region, deadline, seed))
    if not work.verdict:
        work.verdict = "timeout" if deadline.passed() else "unknown"
    if work.verdict != "unsat":
        return None
    return Certificate(engine.model.sha256, work.query.sha256, tuple(proofs))


def _region(
    engine: Engine, network: Network, work: Work, number: int, region: Region, deadline: Deadline, seed: int
) -> RegionProof | None:
    """Search one region; its proof where it is refuted."""
    with spent("bounds", work):
        slopes: dict[int, Slopes] = {}
        choose = _remembered(optimised(ROOT_SCHEDULE, engine.device, deadline.passed), slopes)
        folded, columns = fold(network, region.lower, region.upper, choose)
        recorder = Recorder(region, folded, columns, slopes)
        search = searchable(folded, engine.device)
    where = work.open(number)
    problems = work.problems[where]
    problem = Recorded(*specification(problems, search), search, filtered=engine.filtered, recorder=recorder)
    inner, progress = inner_box(problems)[0], Progress(store=Store(engine.budget.half))

    def suspect(x: Tensor, clause: int) -> bool:
        return work.satisfied(engine.replay.check(work.query, inside(x.cpu().double(), inner).numpy()))

    tree, room = Tree(), engine.budget.half

    def expired() -> bool:
        return deadline.passed() or (room is not None and recorder.bytes > room)

    def over_neurons(ended: Callable[[], bool]) -> str:
        return relu_split.solve(
            problem,
            first=FIRST_SCHEDULE,
            schedule=NEURON_SCHEDULE,
            batch=batch_of(problem.layout.total),
            expired=ended,
            suspect=suspect,
            progress=progress,
        )

    def over_boxes(ended: Callable[[], bool]) -> str:
        return boxes.solve(problem, tree, expired=ended, suspect=suspect, progress=progress)

    few = engine.few(search.box) and problem.layout.total > FEW_NEURONS
    split, outcome = (over_boxes if few else over_neurons), "unknown"
    if not few:
        with spent("branch", work):
            outcome = split(lambda: progress.domains >= BURST or expired())
    if outcome == "unknown" and (few or progress.open):
        brief = deadline.within(ATTACK_SHARE * deadline.left)
        engine.attack([work], [number], THOROUGH, seed + 1, brief)
        if not work.verdict:
            with spent("branch", work):
                outcome = split(expired)
    work.domains += progress.domains
    if outcome != "unsat":
        if room is not None and recorder.bytes > room:
            work.message = "the proof takes more memory than there is for it"
        if not work.verdict:
            work.improve(where, torch.full((len(where),), min(progress.bound, 0.0), dtype=torch.float64))
        return None
    work.improve(where, torch.full((len(where),), CLOSED, dtype=torch.float64))
    return recorder.proof(np.array(tree.parent), np.array(tree.axis), np.array(tree.cut))


def _remembered(choose: Choice, slopes: dict[int, Slopes]) -> Choice:
    """The same choice, whose slopes are kept by their ReLU's number."""

    def chosen(folded: Checkable, layer: Layer, columns: Columns) -> Slopes | None:
        own = choose(folded, layer, columns)
        if own is not None:
            slopes[len(columns)] = own
        return own

    return chosen
