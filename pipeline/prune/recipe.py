"""Recipes: several steps of pruning as one TOML file, and the recipe by which a model was made.

A recipe is a list of steps. Each either prunes by a criterion, with the fields of a `Plan` as its keys, or shrinks:

    [[step]]
    prune = "magnitude"
    sparsity = 0.5
    granularity = "channel"
    ratios = { "conv0*" = 0.2 }

    [[step]]
    shrink = true

Every step is written into the model's provenance, which `of` turns into a recipe again.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import onnx

from secateur.formats import onnx_model, streams
from secateur.formats.errors import InputError
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import masking, masks
from secateur.pipeline.prune.criteria import Samples
from secateur.pipeline.prune.plan import Plan


@dataclass(frozen=True)
class Shrink:
    """The step that removes for real what is zero; `seed` draws the inputs on which the result is compared."""

    seed: int = 0


Step = Plan | Shrink


@dataclass(frozen=True)
class Made:
    """What a recipe made: the model, one mask of all steps (None when some step shrank), and a line a step."""

    model: Model
    mask: Mask | None
    lines: tuple[str, ...]

    @property
    def proto(self) -> onnx.ModelProto:
        return self.model.proto


def run(model: Model, steps: Sequence[Step], *, data: Samples | None = None, device: str = "cpu") -> Made:
    """Do one step after the other.

    Raises:
        SecateurError: as the steps raise; see `prune` and `shrink`.
    """
    lines: list[str] = []
    found: list[Mask] = []
    now = model
    for step in steps:
        if isinstance(step, Shrink):
            from secateur.pipeline.prune import shrinking  # needs scipy, which pruning need not

            real = None if data is None else data.images[: onnxrt.enough(now)]
            shrunk = shrinking.shrink(now, seed=step.seed, real_inputs=real)
            lines.append(shrunk.summary())
            now = onnx_model.from_proto(shrunk.proto, model.name)
        else:
            pruned = masking.prune(now, step, data=data, device=device)
            lines.append(pruned.summary())
            found.append(pruned.mask)
            now = pruned.model
    mask = None
    if len(found) == len(steps):
        mask = found[0] if len(found) == 1 else masks.combine(found, "intersect", force=True)
    return Made(now, mask, tuple(lines))


# --- as text -------------------------------------------------------------------------------------------------


def read(source: str) -> tuple[Step, ...]:
    """The recipe at `source` (a path, or `-`).

    Raises:
        InputError: not TOML, or a step that is none; names the line.
    """
    name = streams.display_name(source)
    try:
        text = streams.read_bytes(source).decode()
    except UnicodeDecodeError:
        raise InputError("not text: expected a recipe in TOML", where=name) from None
    return parse(text, name)


def parse(text: str, name: str) -> tuple[Step, ...]:
    """As `read`, of text in memory."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+), column \d+\)", str(error))
        reason = str(error)[: at.start()].strip() if at else str(error)
        raise InputError(f"not TOML: {reason}", where=f"{name}:{at[1]}" if at else name) from None
    places = _Places(text, name)
    for key in content:
        if key != "step":
            raise InputError(f"unknown key '{key}': expected [[step]]", where=places.of(None, key))
    steps = content.get("step")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise InputError("no steps: expected [[step]] with prune = CRITERION or shrink = true", where=name)
    return tuple(_step(index, step, places) for index, step in enumerate(steps))


class _Places:
    """Where keys stand: TOML's own reader does not tell."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._lines: dict[tuple[int | None, str], int] = {}
        step: int | None = None
        for number, line in enumerate(text.splitlines(), 1):
            if re.match(r"\s*\[\[\s*step\s*\]\]", line):
                step = 0 if step is None else step + 1
                self._lines[(step, "")] = number
            elif found := re.match(r"\s*\[?\[?\s*(?:step\.)?[\"']?([\w-]+)", line):
                self._lines.setdefault((step, found[1]), number)

    def of(self, step: int | None, key: str = "") -> str:
        line = self._lines.get((step, key)) or self._lines.get((step, ""))
        return f"{self._name}:{line}" if line else self._name


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sparsity": (_number, "a number"),
    "granularity": (_text, "text"),
    "scope": (_text, "text"),
    "ratios": (lambda v: isinstance(v, dict) and all(map(_number, v.values())), "a table of numbers"),
    "include": (lambda v: isinstance(v, list) and all(map(_text, v)), "a list of patterns"),
    "exclude": (lambda v: isinstance(v, list) and all(map(_text, v)), "a list of patterns"),
    "steps": (_whole, "a whole number"),
    "schedule": (_text, "text"),
    "refill": (lambda v: isinstance(v, bool), "true or false"),
    "reduction": (_text, "text"),
    "normaliser": (_text, "text"),
    "options": (
        lambda v: isinstance(v, dict) and all(_text(x) or _number(x) for x in v.values()),
        "a table of numbers or text",
    ),
    "epsilon": (_number, "a number"),
    "seed": (_whole, "a whole number"),
}
"""What each key of a step that prunes may hold."""


def _step(index: int, step: Mapping[str, Any], places: _Places) -> Step:
    if ("prune" in step) == ("shrink" in step):
        raise InputError(
            "expected either prune = CRITERION or shrink = true in a step", where=places.of(index)
        )
    kind, fits, expected = (
        ("prune", _text, "a criterion's name") if "prune" in step else ("shrink", lambda v: v is True, "true")
    )
    if not fits(step[kind]):
        raise InputError(f"{kind} = {step[kind]!r}: expected {expected}", where=places.of(index, kind))
    known = _VALUES if kind == "prune" else {"seed": _VALUES["seed"]}
    settings = {}
    for key, value in step.items():
        if key == kind:
            continue
        if key not in known:
            names = ", ".join(known)
            raise InputError(
                f"unknown key '{key}': a step that {kind}s takes {names}", where=places.of(index, key)
            )
        valid, expected = known[key]
        if not valid(value):
            raise InputError(f"{key} = {value!r}: expected {expected}", where=places.of(index, key))
        settings[key] = value
    return Shrink(**settings) if kind == "shrink" else _plan(step["prune"], settings, index, places)


def _plan(criterion: str, settings: dict[str, Any], index: int, places: _Places) -> Plan:
    for key in ("include", "exclude"):
        settings[key] = tuple(settings.get(key, ()))
    if "options" in settings:
        settings["options"] = {key: str(value) for key, value in settings["options"].items()}
    try:
        return Plan(criterion, **settings)
    except InputError as error:
        named = next((key for key in settings if key.rstrip("s") in error.message), "")
        named = "prune" if "criterion" in error.message else named
        raise InputError(error.message, where=places.of(index, named), hint=error.hint) from None


def text(steps: Sequence[Step]) -> str:
    """The recipe in TOML: `parse` gives the same steps."""
    return "\n".join("\n".join(_toml(step)) + "\n" for step in steps)


def _toml(step: Step) -> Iterator[str]:
    yield "[[step]]"
    if isinstance(step, Shrink):
        yield "shrink = true"
        values: dict[str, object] = {"seed": step.seed}
    else:
        values = step.to_dict()
        yield f"prune = {_value(values.pop('criterion'))}"
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs = ", ".join(f"{_value(k)} = {_value(v)}" for k, v in value.items())
            yield f"{key} = {{ {pairs} }}"
        elif value is not None:
            yield f"{key} = {_value(value)}"


def _value(value: object) -> str:
    """Text, numbers, booleans and lists of them are written as in JSON, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def of(model: Model) -> str:
    """The recipe that the model's provenance tells, in TOML; what it cannot redo (training, …) as comments.

    Raises:
        InputError: the model has no history.
    """
    history = onnx_model.provenance(model.proto)
    if not history:
        raise InputError("no history: expected a model that secateur made", where=model.name)
    known = {entry.name for entry in fields(Plan)}
    parts = []
    for entry in history:
        command, arguments = entry.get("command"), entry.get("arguments")
        if command == "prune" and isinstance(arguments, dict) and "criterion" in arguments:
            settings = {key: value for key, value in arguments.items() if key in known}
            for key in ("include", "exclude"):
                settings[key] = tuple(settings.get(key, ()))
            parts.append(text([Plan(**settings)]))
        elif command == "shrink":
            parts.append(text([Shrink(arguments.get("seed", 0) if isinstance(arguments, dict) else 0)]))
        else:
            parts.append(f"# {command} {json.dumps(arguments, sort_keys=True)}\n")
    return "\n".join(parts)
