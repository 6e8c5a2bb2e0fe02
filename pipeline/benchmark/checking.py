"""What is wrong with a benchmark folder: its files, its lists, its networks and properties, and whether it runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from secateur.formats import instances, onnx_model, vnnlib
from secateur.formats.errors import SecateurError
from secateur.formats.instances import Instance
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline import onnxrt, product, queue
from secateur.pipeline.benchmark import layout
from secateur.pipeline.questions import Failure, How, Question, joined

MOST_SECONDS = 6 * 3600.0
MOST_BYTES = 100 * 2**20
"""Of a file: what repositories take."""
_SAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """Something in the folder: `where` (a path in it), and whether it is an error or worth knowing only."""

    where: str
    message: str
    error: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


Step = Callable[[str], None]


def check(directory: str, step: Step = lambda status: None) -> Iterator[Finding]:
    """All findings, in order. `step` is told of each property that was looked at.

    Looks at the README (filled in?), the generator, each dialect's `instances.csv` (files that are missing, not listed,
    or listed twice; seconds), sizes, every network (does onnxruntime load and run it?) and every property (is it of
    the folder's dialect, does it read, does it fit its networks?).

    Raises:
        InputError: there is no such folder.
    """
    folder = layout.existing(directory)
    yield from _papers(folder)
    yield from _sizes(folder)
    places = layout.dialects(folder)
    if not places:
        yield Finding(layout.LISTING, f"missing: expected one here, or in {' and '.join(layout.DIALECTS)}")
    counts = {}
    for dialect, place in places.items():
        try:
            lines = instances.read(str(place / layout.LISTING))
        except SecateurError as error:
            yield _of(error, folder, place / layout.LISTING)
            continue
        counts[dialect or "."] = len(lines)
        yield from _listing(folder, place, lines)
        yield from _contents(folder, place, dialect, lines, step)
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in counts.items())
        yield Finding(layout.LISTING, f"the dialects list different numbers of instances: {each}")


def properties(directory: str) -> int:
    """How many properties `check` will look at; 0 where a list cannot be read."""
    total = 0
    for place in layout.dialects(layout.existing(directory)).values():
        try:
            total += len({_asked(line) for line in instances.read(str(place / layout.LISTING))})
        except SecateurError:
            continue
    return total


def run_some(directory: str, count: int, how: How, *, timeout: float) -> Iterator[tuple[Instance, str]]:
    """`count` instances of each dialect, drawn by `how.seed`, and what the verifier says of each; "error: …" when it
    fails. Each may take its own seconds, or `timeout` where that is less."""
    random = np.random.default_rng(how.seed)
    for place in layout.dialects(layout.existing(directory)).values():
        listing = str(place / layout.LISTING)
        lines = instances.read(listing)
        for number in sorted(random.choice(len(lines), min(count, len(lines)), replace=False).tolist()):
            line = lines[number]
            files = {name: instances.resolve(listing, file) for name, file in _networks(line).items()}
            question = Question(instances.resolve(listing, line.vnnlib), min(timeout, line.timeout))
            [(_, answer)] = queue.decide(joined(files), [question], how)
            yield line, f"error: {answer.error}" if isinstance(answer, Failure) else answer.result.verdict


def _networks(line: Instance) -> dict[str, str]:
    return dict(line.networks) or {"": line.onnx}


def _asked(line: Instance) -> tuple[tuple[tuple[str, str], ...], str]:
    return tuple(_networks(line).items()), line.vnnlib


def _of(error: SecateurError, folder: Path, where: Path, *, is_error: bool = True) -> Finding:
    """An error as a finding; the place it names is told as a path in the folder."""
    place = str(where.relative_to(folder))
    line = re.fullmatch(r".*:(\d+)", error.where or "")
    hint = f" ({error.hint})" if error.hint else ""
    message = " ".join(f"{error.message}{hint}".split())
    return Finding(f"{place}:{line[1]}" if line else place, message, is_error)


def _papers(folder: Path) -> Iterator[Finding]:
    readme = folder / layout.README
    if not readme.is_file():
        yield Finding(layout.README, "missing: where it comes from, and under which licence", error=False)
    else:
        lines = readme.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            if layout.TO_DO in line:
                yield Finding(f"{layout.README}:{number}", f"to be filled in: {line.strip(' |')}")
        text = "\n".join(lines).lower()
        for what, pattern in (("source", "source"), ("licence", "licen[cs]e")):
            if not re.search(pattern, text):
                yield Finding(layout.README, f"says nothing of a {what}")
    if not (folder / layout.PROPERTIES).is_file():
        yield Finding(layout.PROPERTIES, "missing: properties cannot be made anew", error=False)


def _sizes(folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (size := path.stat().st_size) > MOST_BYTES:
            most = f"at most {MOST_BYTES // 2**20} MiB"
            yield Finding(str(path.relative_to(folder)), f"{size / 2**20:.0f} MiB: expected {most} a file")


def _listing(folder: Path, place: Path, lines: Sequence[Instance]) -> Iterator[Finding]:
    """Files against the list, and seconds."""
    listing = str(place / layout.LISTING)
    here = str((place / layout.LISTING).relative_to(folder))
    named = set()
    for line in lines:
        for name in (*_networks(line).values(), line.vnnlib):
            named.add(Path(instances.resolve(listing, name)).resolve())
    for path in sorted(named):
        if not path.is_file():
            yield Finding(here, f"lists {_relative(path, place)}, which is not there")
        elif not path.is_relative_to(place.resolve()):
            yield Finding(here, f"lists {path.name}, which lies outside of the folder")
    for part in layout.PARTS:
        for path in sorted((place / part).rglob("*")):
            if path.is_file() and path.resolve() not in named:
                yield Finding(str(path.relative_to(folder)), f"not listed in {here}")
    for asked, times in Counter(map(_asked, lines)).items():
        if times > 1:
            yield Finding(here, f"lists {asked[1]} with the same network {times} times")
    seconds = sum(line.timeout for line in lines)
    if seconds > MOST_SECONDS:
        yield Finding(
            here, f"timeouts sum to {seconds:.0f} s: expected at most {MOST_SECONDS:.0f} s (6 hours)"
        )


def _relative(path: Path, place: Path) -> str:
    return str(path.relative_to(place.resolve())) if path.is_relative_to(place.resolve()) else path.name


def _contents(
    folder: Path, place: Path, dialect: str, lines: Sequence[Instance], step: Step
) -> Iterator[Finding]:
    """Networks and properties, each once."""
    listing = str(place / layout.LISTING)
    read = lru_cache(maxsize=2)(onnx_model.read)
    bad: set[str] = set()
    seen: set[str] = set()
    asked: dict[tuple[object, str], Instance] = {_asked(line): line for line in lines}
    for line in asked.values():
        files = {name: instances.resolve(listing, file) for name, file in _networks(line).items()}
        for file in files.values():
            if file not in seen and Path(file).is_file():
                seen.add(file)
                try:
                    _try(read(file))
                except SecateurError as error:
                    bad.add(file)
                    yield _of(error, folder, Path(file))
        prop = Path(instances.resolve(listing, line.vnnlib))
        step(line.vnnlib)
        if not prop.is_file() or any(file in bad or not Path(file).is_file() for file in files.values()):
            continue
        try:
            query = vnnlib.read(str(prop))
            yield from _dialect(query, dialect, folder, prop)
            _fits(query, {name: read(file) for name, file in files.items()})
        except SecateurError as error:
            yield _of(error, folder, prop)
            continue
        if not query.regions:
            yield Finding(
                str(prop.relative_to(folder)), "no input satisfies it: it is always unsat", error=False
            )


def _dialect(query: Query, dialect: str, folder: Path, prop: Path) -> Iterator[Finding]:
    if dialect and query.version != dialect:
        yield Finding(str(prop.relative_to(folder)), f"is VNN-LIB {query.version} in the folder {dialect}")


def _try(model: Model) -> None:
    """Run the network once on random inputs.

    Raises:
        UnsupportedError: onnxruntime does not load or run it.
    """
    inputs = onnxrt.count_inputs(model)
    onnxrt.run(model, onnxrt.sample_inputs(inputs, seed=0, samples=_SAMPLES))


def _fits(query: Query, models: dict[str, Model]) -> None:
    """
    Raises:
        InputError: numbers of inputs or outputs differ, or networks are named otherwise.
    """
    if product.plain(query) and "" in models:
        model = models[""]
        vnnlib.fits(query, onnxrt.count_inputs(model), onnxrt.count_outputs(model), query.name)
    else:
        given = {name or query.networks[0].name: model for name, model in models.items()}
        product.models_of(query, given, query.name)
