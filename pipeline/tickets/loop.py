"""The loop: train, then round by round prune, rewind (or not), train again and measure; by method and by seed.

Each stage (pruning, training, measuring a round) writes whole files and is done once for the same inputs, whose hashes
`stages.json` remembers; training that is stopped goes on from its last epoch. So a run that is killed at any moment
and started again ends with the same models, masks and records, but for seconds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from secateur.formats import dataset, mask, measurements, onnx_model, streams
from secateur.formats.dataset import Dataset
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline import prune
from secateur.pipeline.measures.bench import Bench
from secateur.pipeline.prune import calibration, layers, patterns
from secateur.pipeline.study.stages import Stages
from secateur.pipeline.tickets import folder
from secateur.pipeline.tickets.methods import Pruning
from secateur.pipeline.tickets.recipe import Recipe
from secateur.pipeline.train.loop import Epoch, train
from secateur.pipeline.train.settings import Settings
from secateur.pipeline.train.start import starting_model

Progress = Callable[[str], None]
Record = dict[str, Any]
"""Of one network: where it stands, how it came about and what was measured; columns as in `formats.measurements`.
`model` and `mask` are paths below the run's folder; `sparsity` counts weights of the layers that may be pruned."""

DENSE_ROUND, EARLY = 0, "early.onnx"


def run(
    directory: str, recipe: Recipe, *, device: str = "cpu", progress: Progress | None = None
) -> list[Record]:
    """Do (what is left of) `recipe` in `directory`; the records in order of seed, method and round.

    `progress` is told after every epoch, image and other measure how things stand, `steps` times.

    Raises:
        InputError: data, network and recipe do not fit; the folder is of another recipe, or in use.
    """
    with folder.opened(directory, recipe) as place:
        data = dataset.load(recipe.data, "train", recipe.train_images)
        bench = recipe.evaluation.bench(dataset.load(recipe.data, "test"), recipe.epsilon, device)
        records: list[Record] = []

        def found(record: Record, new: bool) -> None:
            records.append(record)
            if new:
                measurements.write(records, str(place / folder.RECORDS))

        for seed in recipe.seeds:
            _Seed(place, recipe, seed, data, bench, device, progress or (lambda status: None), found).run()
        measurements.write(records, str(place / folder.RECORDS))
        return records


def steps(directory: str, recipe: Recipe) -> int:
    """How many times `run` will call its `progress`: for what is not finished yet."""
    total = 0
    before = folder.recipe_of(directory)
    otherwise = before is not None and before.evaluation != recipe.evaluation
    for seed in recipe.seeds:
        finished = Stages(Path(directory) / f"seed-{seed}").finished
        for name, number in _outline(recipe):
            where = folder.place(name, number)
            if f"{where}/train" not in finished:
                total += recipe.settings(seed, again=number > 0).epochs
            if name in _measured(recipe) and (otherwise or f"{where}/measure" not in finished):
                total += recipe.evaluation.steps
    return total


def _outline(recipe: Recipe) -> list[tuple[str, int]]:
    """All networks of one seed: name and round."""
    found = [(folder.dense(one), DENSE_ROUND) for one in _regularisers(recipe)]
    for name in _with_sources(recipe):
        found += [(name, number) for number in range(1, len(recipe.of(name).course) + 1)]
    return found


def _regularisers(recipe: Recipe) -> list[Any]:
    """Of the dense networks: without any first."""
    return list(dict.fromkeys(["", *(recipe.of(name).regulariser for name in _with_sources(recipe))]))


def _with_sources(recipe: Recipe) -> list[str]:
    """The methods, each after the one whose networks it looks at."""
    found: dict[str, None] = {}
    for name in recipe.methods:
        other = recipe.of(name).scored
        found |= {one: None for one in (other, name) if one not in ("trained", "start")}
    return list(found)


def _measured(recipe: Recipe) -> set[str]:
    return {*recipe.methods, *(folder.dense(one) for one in _regularisers(recipe))}


@dataclass
class _Seed:
    """One seed's part of the loop."""

    folder: Path
    recipe: Recipe
    seed: int
    data: Dataset
    bench: Bench
    device: str
    step: Progress
    found: Callable[[Record, bool], None]

    def __post_init__(self) -> None:
        self.home = self.folder / f"seed-{self.seed}"
        self.home.mkdir(exist_ok=True)
        self.stages = Stages(self.home)
        self.dense_records: dict[str, Record] = {}
        self.data_sha256 = hashlib.sha256(self.data.images.tobytes() + self.data.labels.tobytes()).hexdigest()
        self.start = self._start()

    def run(self) -> None:
        dense: dict[str, tuple[Model, Model]] = {}
        for one in _regularisers(self.recipe):  # the plain one first, which attacks are transferred from
            dense[one] = self._dense(one)
            self.dense = dense[""][0]
        done: dict[str, list[Model]] = {}
        for name in _with_sources(self.recipe):
            done[name] = self._method(name, *dense[self.recipe.of(name).regulariser], done)

    def _start(self) -> Model:
        path = self.home / "initial.onnx"

        def work() -> None:
            model = starting_model(
                self.recipe.network, self.data, self.seed, self.recipe.mean, self.recipe.std
            )
            onnx_model.write(model, str(path))

        network = Path(self.recipe.network)
        named = _sha256(network) if network.is_file() else network.name
        key = [named, self.recipe.mean, self.recipe.std, self.data.images.shape[1:], self.data.classes]
        self.stages.make("initial", key, ["initial.onnx"], work)
        return onnx_model.read(str(path))

    def _dense(self, regulariser: Any) -> tuple[Model, Model]:
        """The dense network, and what its survivors are rewound to."""
        name = folder.dense(regulariser)
        (self.home / name).mkdir(parents=True, exist_ok=True)
        settings = self.recipe.settings(self.seed, regulariser, device=self.device)
        model = self._train(name, self.start, None, settings, early=self.recipe.rewind_to)
        made = {"regulariser": regulariser, "granularity": "", "target": 0.0, "sparsity": 0.0}
        made |= {"ticket_sha256": self.start.sha256}
        record, new = self._measure(name, DENSE_ROUND, model, settings, made)
        if not regulariser:
            self.found(record, new)
        self.dense_records[regulariser] = record
        return model, onnx_model.read(str(self.home / name / EARLY)) if self.recipe.rewind_to else self.start

    def _method(self, name: str, dense: Model, early: Model, done: dict[str, list[Model]]) -> list[Model]:
        """All rounds of a method: the trained networks."""
        pruning = self.recipe.of(name)
        settings = self.recipe.settings(self.seed, pruning.regulariser, again=True, device=self.device)
        models: list[Model] = []
        keep: Mask | None = None
        wanted = name in self.recipe.methods
        if wanted and pruning.regulariser:  # the dense network that its rounds began with
            self.found({**self.dense_records[pruning.regulariser], "method": name}, False)
        for number in range(1, len(pruning.course) + 1):
            place = folder.place(name, number)
            (self.home / place).mkdir(parents=True, exist_ok=True)
            scored = self._scored(pruning, number, dense, models, done)
            origin = early if pruning.then == "rewind" else scored
            ticket, held = self._prune(place, pruning, number, scored, origin, keep)
            model = self._train(place, ticket, held, settings)
            if wanted:
                made = {
                    "regulariser": pruning.regulariser,
                    "granularity": pruning.granularity,
                    "target": pruning.course[number - 1],
                    "sparsity": _sparsity(self.start, held, pruning),
                    "mask": f"{self.home.name}/{place}/mask.safetensors",
                    "mask_sha256": _sha256(self.home / place / "mask.safetensors"),
                    "ticket_sha256": ticket.sha256,
                    "scored_sha256": scored.sha256,
                }
                self.found(*self._measure(name, number, model, settings, made))
            models.append(model)
            if pruning.scored in ("trained", "start") and not pruning.one_shot:
                keep = held
        return models

    def _scored(
        self,
        pruning: Pruning,
        number: int,
        dense: Model,
        models: Sequence[Model],
        done: dict[str, list[Model]],
    ) -> Model:
        if pruning.scored == "start":
            return self.start
        if pruning.scored != "trained":
            return done[pruning.scored][number - 1]
        return dense if pruning.one_shot or not models else models[-1]

    def _prune(
        self, place: str, pruning: Pruning, number: int, scored: Model, origin: Model, keep: Mask | None
    ) -> tuple[Model, Mask]:
        """The ticket of a round, the survivors of `origin`, and its mask, which is one of that network."""
        plan = pruning.plan(number, epsilon=self.recipe.epsilon, seed=self.seed)
        ticket, held = self.home / place / "ticket.onnx", self.home / place / "mask.safetensors"

        def work() -> None:
            samples = calibration.draw(self.data, pruning.samples, self.seed) if plan.row.needs else None
            found = prune.prune(scored, plan, keep=keep, data=samples, device=self.device).mask
            extra = {**found.extra, "scored_sha256": scored.sha256}
            made = replace(found, model_sha256=origin.sha256, extra=extra)
            mask.write(made, str(held))
            onnx_model.write(prune.apply(origin, made), str(ticket))

        before = None if keep is None else hashlib.sha256(mask.to_bytes(keep)).hexdigest()
        key = [scored.sha256, origin.sha256, before, plan.to_dict(), pruning.samples, self.data_sha256]
        files = [f"{place}/{path.name}" for path in (ticket, held)]
        self.stages.make(f"{place}/prune", key, files, work)
        return onnx_model.read(str(ticket)), mask.read(str(held))

    def _train(
        self, place: str, start: Model, held: Mask | None, settings: Settings, early: int = 0
    ) -> Model:
        files = [f"{place}/model.onnx", f"{place}/training.json", *([f"{place}/{EARLY}"] if early else [])]
        sha = None if held is None else hashlib.sha256(mask.to_bytes(held)).hexdigest()
        key = [start.sha256, sha, asdict(settings), early, self.data_sha256]

        def work() -> None:
            state = self.home / place / "checkpoint"
            result = train(
                start,
                self.data,
                settings,
                mask=held,
                checkpoint=str(state),
                early=early or None,
                progress=told,
            )
            onnx_model.write(result.model, str(self.home / files[0]))
            if result.early is not None:
                onnx_model.write(result.early, str(self.home / files[2]))
            chosen = result.history[result.best_epoch - 1].to_dict() if result.best_epoch else {}
            how = {
                "epochs": settings.epochs,
                "best_epoch": result.best_epoch,
                "validation": chosen.get("validation"),
                "training_seconds": sum(epoch.seconds for epoch in result.history),
            }
            streams.write_bytes(str(self.home / files[1]), json.dumps(how, sort_keys=True).encode())

        def told(epoch: Epoch) -> None:
            self.step(f"seed {self.seed}, {place}: epoch {epoch.epoch} of {epoch.epochs}")

        self.stages.make(f"{place}/train", key, files, work)
        shutil.rmtree(self.home / place / "checkpoint", ignore_errors=True)
        return replace(onnx_model.read(str(self.home / files[0])), name=place)

    def _measure(
        self, name: str, number: int, model: Model, settings: Settings, made: Record
    ) -> tuple[Record, bool]:
        """The record of a network, and whether it is new."""
        place = folder.place(name, number)
        path = self.home / place / "record.json"

        dense = model if name == folder.dense("") else self.dense

        def work() -> None:
            record = {
                **self.bench.measure(
                    model, dense=dense, step=lambda status: self.step(f"seed {self.seed}: {status}")
                ),
                "method": name,
                "objective": settings.objective,
                "network": Path(self.recipe.network).name,
                "seed": self.seed,
                "round": number,
                "model": f"{self.home.name}/{place}/model.onnx",
                **made,
                **json.loads((self.home / place / "training.json").read_text()),
            }
            measurements.write([record], str(path))

        key = [self.bench.fingerprint(model, dense), made]
        new = self.stages.make(f"{place}/measure", key, [f"{place}/record.json"], work)
        return measurements.read(str(path))[0], new


def _sparsity(model: Model, held: Mask, pruning: Pruning) -> float:
    """The share of weights that the mask removes, of the layers that the method may prune."""
    choice = patterns.Choice(pruning.include, pruning.exclude)
    sizes = {
        layer.weight: int(np.prod(onnx_model.initializers(model.proto)[layer.weight].shape))
        for layer in layers.find(model.proto, model.name)
        if choice.takes([layer.name, layer.weight])
    }
    gone = sum(int(np.count_nonzero(~held.tensors[name])) for name in sizes if name in held.tensors)
    return gone / sum(sizes.values())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
