"""The main job from end to end on the digits: train, prune, retrain, shrink, attack, verify, report.

Everything lies in one folder as standard files: `models/*.onnx`, `masks/*.safetensors`, `vnnlib/*.vnnlib`,
`instances.csv`, `results.jsonl` (verdicts), `models.jsonl` (accuracy and sizes), `witnesses/`, `report.html`.
Stopped and called again it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from secateur.formats import dataset, instances, mask, measure, onnx_model, streams, vnnlib
from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.formats.instances import Instance
from secateur.formats.measure import ModelRecord
from secateur.formats.onnx_model import Model
from secateur.pipeline import campaign, compute, properties, prune, verify
from secateur.pipeline.convert import conversion
from secateur.pipeline.convert.sources import Source
from secateur.pipeline.properties import PropertySet
from secateur.pipeline.questions import How
from secateur.pipeline.study.report import report
from secateur.pipeline.study.stages import Stages
from secateur.pipeline.study.summary import DENSE, Summary, summarise
from secateur.pipeline.train.evaluate import evaluate
from secateur.pipeline.train.loop import Epoch, train
from secateur.pipeline.train.settings import Settings as Training
from secateur.pipeline.train.start import starting_model

Progress = Callable[[str], None]

_LISTED_TIMEOUT = 60.0  # seconds an instance in instances.csv, for whoever verifies the folder on


@dataclass(frozen=True)
class Settings:
    """What the demo does. `epsilon` is the radius of the properties and of the adversarial training, on raw pixels;
    `images` test images get a property for each model that is right about them; `timeout` is seconds an instance."""

    architecture: str = "digits_cnn"
    sparsities: tuple[float, ...] = (0.5, 0.8, 0.9)
    channel_sparsities: tuple[float, ...] = (0.5,)
    epsilon: float = 1 / 16  # one grey level of the digits
    images: int = 20
    epochs: int = 15
    retraining: int = 10
    training_images: int | None = None
    timeout: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """One summary a model, and where the page lies."""

    summaries: tuple[Summary, ...]
    report: Path


@dataclass(frozen=True)
class _Variant:
    granularity: str
    sparsity: float

    @property
    def name(self) -> str:
        return f"{self.granularity}s-{100 * self.sparsity:g}"

    @property
    def method(self) -> str:
        return f"magnitude, {self.granularity}s"


def steps(settings: Settings) -> int:
    """How many times `run` calls its `progress`."""
    variants = len(_variants(settings))
    return settings.epochs + variants * settings.retraining + 2 * (1 + variants) * settings.images


def run(directory: str, settings: Settings | None = None, *, progress: Progress | None = None) -> Outcome:
    """Do (what is left of) the demo in `directory`, made when missing.

    `progress` is told after every training epoch, attacked image and verified instance how things stand.

    Raises:
        InputError: the folder cannot be written.
    """
    with compute.threads(1):  # as fast as several on networks this small, and far faster on a busy machine
        return _run(directory, settings or Settings(), progress or (lambda status: None))


def _run(directory: str, settings: Settings, step: Progress) -> Outcome:
    folder = Path(directory)
    try:
        for part in ("models", "masks", "vnnlib"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror or error}", where=directory) from None
    stages = Stages(folder)
    dense = _train_dense(folder, stages, settings, step)
    models = {DENSE: dense}
    for variant in _variants(settings):
        models[variant.name] = _prune(folder, stages, settings, variant, dense, step)
    asked = _write_properties(folder, settings, models)
    _measure(folder, stages, settings, models, asked, step)
    plan = campaign.plan(
        str(folder / "instances.csv"),
        str(folder / "results.jsonl"),
        timeout=settings.timeout,
        labels={"epsilon": settings.epsilon},
    )
    for _ in range(len(models) * settings.images - len(plan.pending)):
        step("verified")
    records = plan.finished
    how = How(seed=settings.seed)
    results, witnesses = str(folder / "results.jsonl"), str(folder / "witnesses")
    for record in campaign.run(plan.pending, results, how, witness_dir=witnesses):
        records.append(record)
        step(f"verifying {Path(record.model).stem}: {record.verdict}")
    measured = measure.read(str(folder / "models.jsonl"))
    page = folder / "report.html"
    title = f"Pruning {settings.architecture}: what can be proved at ε = {settings.epsilon:g}"
    streams.write_bytes(str(page), report(records, measured, title).encode())
    return Outcome(tuple(summarise(records, measured)), page)


def _variants(settings: Settings) -> list[_Variant]:
    return [
        *(_Variant("weight", sparsity) for sparsity in settings.sparsities),
        *(_Variant("channel", sparsity) for sparsity in settings.channel_sparsities),
    ]


def _training(settings: Settings, epochs: int) -> Training:
    return Training(epochs=epochs, objective="adversarial", epsilon=settings.epsilon, seed=settings.seed)


def _train_dense(folder: Path, stages: Stages, settings: Settings, step: Progress) -> Model:
    path = f"models/{DENSE}.onnx"
    training = _training(settings, settings.epochs)

    def work() -> None:
        data = _training_data(settings)
        start = starting_model(settings.architecture, data, settings.seed)
        result = train(start, data, training, progress=_epochs(step, "training the dense model"))
        onnx_model.write(
            conversion.clean(Source(result.model.proto, result.model.sha256, "onnx")).proto,
            str(folder / path),
        )

    key = [settings.architecture, settings.training_images, asdict(training)]
    if not stages.make("train", key, [path], work):
        for _ in range(settings.epochs):
            step("the dense model is there")
    return onnx_model.read(str(folder / path))


def _prune(
    folder: Path, stages: Stages, settings: Settings, variant: _Variant, dense: Model, step: Progress
) -> Model:
    """Prune the dense model, retrain the survivors; whole channels are then removed from the graph."""
    path, mask_path = f"models/{variant.name}.onnx", f"masks/{variant.name}.safetensors"
    training = _training(settings, settings.retraining)

    def work() -> None:
        pruned = prune.prune(
            dense, "magnitude", sparsity=variant.sparsity, granularity=variant.granularity, seed=settings.seed
        )
        model = onnx_model.from_proto(pruned.proto, variant.name)
        result = train(
            model,
            _training_data(settings),
            training,
            mask=pruned.mask,
            progress=_epochs(step, f"retraining {variant.name}"),
        )
        proto = result.model.proto
        if variant.granularity == "channel":
            proto = prune.shrink(result.model, seed=settings.seed).proto
        mask.write(pruned.mask, str(folder / mask_path))
        onnx_model.write(proto, str(folder / path))

    key = [dense.sha256, asdict(variant), settings.training_images, asdict(training)]
    if not stages.make(variant.name, key, [path, mask_path], work):
        for _ in range(settings.retraining):
            step(f"{variant.name} is there")
    return onnx_model.read(str(folder / path))


def _write_properties(folder: Path, settings: Settings, models: dict[str, Model]) -> dict[str, PropertySet]:
    """One property a test image (the same for all models), and an instance for each model that is right about it."""
    data = dataset.load(dataset.DIGITS, "test")
    chosen = range(min(settings.images, len(data)))
    asked = {name: properties.robust(model, data, chosen, settings.epsilon) for name, model in models.items()}
    for one in {prop.name: prop for found in asked.values() for prop in found.properties}.values():
        vnnlib.write(one.text, str(folder / "vnnlib" / f"{one.name}.vnnlib"))
    lines = [
        Instance(f"models/{name}.onnx", f"vnnlib/{prop.name}.vnnlib", _LISTED_TIMEOUT)
        for name, found in asked.items()
        for prop in found.properties
    ]
    instances.write(lines, str(folder / "instances.csv"))
    return asked


def _measure(
    folder: Path,
    stages: Stages,
    settings: Settings,
    models: dict[str, Model],
    asked: dict[str, PropertySet],
    step: Progress,
) -> None:
    """Accuracy on all test images, and on the chosen ones under attack."""
    labels = {
        DENSE: (DENSE, 0.0),
        **{variant.name: (variant.method, variant.sparsity) for variant in _variants(settings)},
    }

    def work() -> None:
        test = dataset.load(dataset.DIGITS, "test")
        records = []
        for name, model in models.items():
            withstood = 0
            for prop in asked[name].properties:
                found = verify.attack(
                    model, prop.query, seed=settings.seed, timeout=settings.timeout, restarts=10, steps=40
                )
                withstood += found is None
                step(f"attacking {name}")
            for _ in asked[name].misclassified:
                step(f"attacking {name}")
            method, sparsity = labels[name]
            images = asked[name].images
            metrics = {"property_images": images, "attacked": withstood / images}
            place: dict[str, str | float | int] = {
                "method": method,
                "sparsity": sparsity,
                "epsilon": settings.epsilon,
            }
            records.append(measured(name, model, test, metrics, place))
        measure.write(records, str(folder / "models.jsonl"))

    hashes = {name: model.sha256 for name, model in models.items()}
    key = [hashes, settings.images, settings.epsilon, settings.seed]
    if not stages.make("measure", key, ["models.jsonl"], work):
        for _ in range(len(models) * settings.images):
            step("the attacks are done")


def measured(
    name: str,
    model: Model,
    data: Dataset,
    metrics: dict[str, float] | None = None,
    labels: dict[str, str | float | int] | None = None,
) -> ModelRecord:
    """The record of a model: its sizes, its accuracy on `data`, and what `metrics` adds."""
    arrays = [array for array in onnx_model.initializers(model.proto).values() if array.dtype.kind == "f"]
    result = evaluate(model, data)
    return ModelRecord(
        model=name,
        model_sha256=model.sha256,
        parameters=sum(array.size for array in arrays),
        zeros=sum(int(np.count_nonzero(array == 0)) for array in arrays),
        metrics={"accuracy": result.accuracy, "images": result.images, **(metrics or {})},
        labels=labels or {},
    )


def _training_data(settings: Settings) -> Dataset:
    return dataset.load(dataset.DIGITS, "train", settings.training_images)


def _epochs(step: Progress, what: str) -> Callable[[Epoch], None]:
    return lambda epoch: step(f"{what}: epoch {epoch.epoch}, held out {epoch.validation:.1%} under attack")
