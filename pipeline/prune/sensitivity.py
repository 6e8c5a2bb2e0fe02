"""How much each layer's pruning costs: accuracy, and unstable neurons, against sparsity, one layer at a time."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.formats.sensitivity import Point, Settings
from secateur.pipeline.prune import allocation, applying, criteria, masking, units
from secateur.pipeline.prune.criteria import Context, Samples
from secateur.pipeline.prune.granularity import Granularity
from secateur.pipeline.prune.plan import Plan
from secateur.pipeline.prune.pool import Pool, Scores
from secateur.pipeline.prune.units import Units
from secateur.pipeline.train.evaluate import evaluate

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Sweep:
    """A sweep that is ready to run: `todo` names the points that are left, layer by layer (None: the whole model)."""

    model: Model
    plan: Plan
    settings: Settings
    data: Dataset
    gathered: Units
    scores: Sequence[Scores]
    device: str
    todo: tuple[tuple[str | None, float], ...]

    def points(self) -> Iterator[Point]:
        """Measure what is left."""
        for layer, sparsity in self.todo:
            yield self._point(layer, sparsity)

    def _point(self, layer: str | None, sparsity: float) -> Point:
        pools = self.gathered.pools
        total, gone, model = sum(pool.size for pool in pools), 0, self.model
        if layer is not None:
            index = next(index for index, pool in enumerate(pools) if pool.name == layer)
            alone = Units([pools[index]], self.gathered.protect)
            chosen = masking.choose(
                replace(self.plan, sparsity=sparsity), alone, [self.scores[index].copy()], lambda share: share
            )
            total, gone = chosen.units, chosen.pruned
            mask = Mask(chosen.masks(), model.sha256, self.plan.criterion, self.plan.granularity)
            model = applying.masked(model, mask)
        accuracy = evaluate(model, self.data).accuracy
        unstable, neurons = self._unstable(model)
        return Point(self.settings, layer, sparsity, total, gone, accuracy, unstable, neurons)

    def _unstable(self, model: Model) -> tuple[float | None, int | None]:
        """The mean number of unstable neurons of an image, of how many."""
        if self.settings.epsilon is None:
            return None, None
        from secateur.pipeline.prune.criteria.behind import relus
        from secateur.pipeline.prune.criteria.stability import preactivations

        context = Context(
            model,
            (),
            data=Samples(self.data.images[: self.settings.bounded]),
            epsilon=self.settings.epsilon,
            device=self.device,
            options={"bounds": self.settings.bounds},
        )
        unstable = neurons = 0
        for bounds in preactivations(context, relus(model.proto)):
            unstable += sum(int(np.count_nonzero((low < 0) & (high > 0))) for low, high in bounds.values())
            neurons += sum(low.size for low, _ in bounds.values())
        images = min(self.settings.bounded, len(self.data))
        return unstable / images, neurons // images


def sweep(
    model: Model,
    plan: Plan,
    data: Dataset,
    *,
    sparsities: Sequence[float] = SPARSITIES,
    finished: Sequence[Point] = (),
    samples: Samples | None = None,
    epsilon: float | None = None,
    bounded: int = 10,
    bounds: str = "crown",
    device: str = "cpu",
) -> Sweep:
    """Make ready to prune each layer alone to each of `sparsities` and to classify `data`; with `epsilon`, also to
    count the unstable neurons within it of the first `bounded` images, by the method `bounds` ("ibp" or "crown").

    `plan` says by what criterion and in which units; its sparsity, scope and steps do not matter. The criterion sees
    the whole model and `samples`, once. Points of `finished` that were measured in the same way are not done again.

    Raises:
        InputError: nothing to prune, data that does not fit, units that layers cannot lose alone.
        UnsupportedError: an operator that the criterion, or with `epsilon` the verifier, does not know.
    """
    if plan.units.fixes_sparsity or plan.units.kind == "layer":
        raise InputError(
            f"granularity {plan.granularity}: a sweep needs layers that can be more or less sparse"
        )
    plan = replace(plan, scope="layer", ratios={}, steps=1, refill=False)
    settings = Settings(
        model.sha256, plan.criterion, plan.granularity, data.name, len(data), plan.seed,
        *((epsilon, min(bounded, len(data)), bounds) if epsilon is not None else ()),
    )  # fmt: skip
    gathered = units.gather(model, plan.units, plan.choice)
    layers = tuple({layer.weight: layer for pool in gathered.pools for layer in pool.layers}.values())
    context = Context(
        model, layers, seed=plan.seed, data=samples, epsilon=plan.epsilon, device=device, options=plan.options
    )
    saliency = criteria.score(plan.criterion, context)
    gathered = replace(gathered, pools=[pool for pool in gathered.pools if pool.scored(saliency)])
    scores = masking.scores_of(plan, gathered.pools, saliency)
    done = {(point.layer, point.sparsity) for point in finished if point.settings == settings}
    wanted = [
        (None, 0.0),
        *((pool.name, sparsity) for pool in gathered.pools for sparsity in sorted(sparsities)),
    ]
    todo = tuple(key for key in wanted if key not in done)
    return Sweep(model, plan, settings, data, gathered, scores, device, todo)


def check_granularity(granularity: str) -> None:
    """
    Raises:
        InputError: no granularity, or one in which layers cannot be more or less sparse, each alone.
    """
    parsed = Granularity.parse(granularity)
    if parsed.fixes_sparsity or parsed.kind == "layer":
        raise InputError(f"granularity {granularity}: a sweep needs layers that can be more or less sparse")


def ratios(model: Model, plan: Plan, points: Sequence[Point], where: str) -> dict[str, float]:
    """Each layer's sparsity, for `Plan.ratios`: so that all lose the same accuracy by what was measured, and the plan's
    sparsity is reached exactly over all.

    Raises:
        InputError: the plan's criterion, units or layers were not measured.
    """
    measured = [
        p
        for p in points
        if (p.settings.criterion, p.settings.granularity) == (plan.criterion, plan.granularity)
    ]
    if not measured:
        found = sorted({f"{p.settings.criterion} on {p.settings.granularity}" for p in points})
        raise InputError(
            f"no sensitivity to {plan.criterion} on {plan.granularity} (found: {', '.join(found) or 'nothing'})",
            where=where,
        )
    if plan.sparsity is None:
        raise InputError("measured ratios share out a sparsity: expected one", hint="-s S")
    pools = units.gather(model, plan.units, plan.choice).pools
    curves = [_curve(pool, measured, where) for pool in pools]
    sizes = [pool.size for pool in pools]
    counts = allocation.exactly(allocation.measured(curves), sizes, round(plan.sparsity * sum(sizes)))
    return {glob.escape(pool.name): count / pool.size for pool, count in zip(pools, counts, strict=True)}


def _curve(pool: Pool, points: Sequence[Point], where: str) -> list[tuple[float, float]]:
    """(sparsity, loss of accuracy) in order; of what was measured twice, the last counts."""
    found = {}
    for point in points:
        if point.layer == pool.name:
            dense = [p.accuracy for p in points if p.settings == point.settings and p.layer is None]
            if dense:
                found[point.sparsity] = dense[-1] - point.accuracy
    if not found:
        raise InputError(f"no sensitivity of layer '{pool.name}'", where=where, hint="sweep it first")
    return sorted(found.items())
