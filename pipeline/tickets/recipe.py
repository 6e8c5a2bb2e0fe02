"""Recipes of the loop: what is trained, pruned, trained again and measured, as one value and as one TOML file.

data = "mnist.npz"                   # as `secateur train --data`
network = "conv_small"               # an architecture's name, or an ONNX file
methods = ["imp", "imp+nrs"]         # `secateur tickets --list`, or names of criteria
seeds = [0, 1, 2]
epsilon = 0.1                        # ℓ∞ radius on raw pixels: of training, of criteria, of what is proved

[training]                           # any setting of `secateur train`
objective = "adversarial"
epochs = 20

[retraining]                         # what is otherwise once pruned
epochs = 10

[regularisers]                       # weights in the loss, for methods that have them
nrs = 0.01

[pruning]                            # of all methods: the fields of `Pruning`
rounds = 5

[method.slimming]                    # of one method, over what [pruning] says; `criterion` makes a new one
share = 0.2

[evaluation]                         # the fields of `measures.Settings`
images = 100
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from secateur.formats import dataset, streams
from secateur.formats.errors import InputError
from secateur.pipeline.prune import criteria
from secateur.pipeline.tickets import methods, tables
from secateur.pipeline.tickets.evaluation import Evaluation
from secateur.pipeline.tickets.methods import Pruning
from secateur.pipeline.tickets.training import Regulariser, Weights, settings_of
from secateur.pipeline.train.settings import Settings as Training

FREE = ("methods", "seeds", "evaluation")
"""What may change between two runs in one folder: methods' and seeds' files stand beside each other, and another
evaluation measures the same networks again."""


@dataclass(frozen=True)
class Recipe:
    """See the module. `train_images`: the first so many images of the training split; None: all. `mean` and `std`, a
    number a channel: what a named architecture normalises pixels by, inside the graph. `rewind_to`: the epoch of the
    dense training whose weights survivors are rewound to (Frankle et al. 2020, 1912.05671), 0 before the first.

    `training`, `retraining`, `pruning` and `method` are what differs from the defaults.
    """

    methods: tuple[str, ...]
    data: str = dataset.DIGITS
    network: str = "digits_cnn"
    seeds: tuple[int, ...] = (0,)
    epsilon: float = 0.05
    train_images: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    rewind_to: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)
    retraining: Mapping[str, Any] = field(default_factory=dict)
    regularisers: Weights = field(default_factory=Weights)
    pruning: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a value that is none.
        """
        if not self.methods:
            raise InputError("no methods: expected at least one", hint="secateur tickets --list")
        for what, values in (("methods", self.methods), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise InputError(f"{what} = {list(values)}: one of them stands there twice")
        if not self.seeds or min(self.seeds) < 0:
            raise InputError(f"seeds = {list(self.seeds)}: expected whole numbers of 0 or more")
        if not 0 < self.epsilon <= 1:
            raise InputError(
                f"epsilon = {self.epsilon:g}: expected a radius on raw pixels, above 0 and at most 1"
            )
        if self.train_images is not None and self.train_images < 1:
            raise InputError(f"train_images = {self.train_images}: expected 1 or more")
        if not 0 <= self.rewind_to <= self.settings(0).epochs:
            raise InputError(f"rewind_to = {self.rewind_to}: expected an epoch of the training, or 0")
        for name in self.methods:
            if "/" in name or name.startswith("dense"):
                raise InputError(f"method '{name}': a name without '/' that does not begin with 'dense'")
            other = self.of(name).scored
            if other not in ("trained", "start") and self.of(other).scored not in ("trained", "start"):
                raise InputError(f"method '{name}' looks at '{other}', which looks at another method itself")
            if other not in ("trained", "start") and len(self.of(other).course) < len(self.of(name).course):
                raise InputError(f"method '{name}' has more rounds than '{other}', which it looks at")
        self.settings(0)

    def of(self, name: str) -> Pruning:
        """How the method `name` prunes: its row, then [pruning], then [method.NAME].

        Raises:
            InputError: no such method, or settings that do not go together.
        """
        own = dict(self.method.get(name, {}))
        row = {} if "criterion" in own else dict(methods.find(name).settings)
        merged: dict[str, Any] = row | dict(self.pruning) | own
        try:
            known = {option.name for option in criteria.find(merged["criterion"]).options}
            if self.settings(0).objective != "standard" and "loss" in known:
                merged["options"] = {"loss": "robust"} | dict(merged.get("options", {}))
            return Pruning(**merged)
        except InputError as error:
            raise InputError(f"method '{name}': {error.message}", hint=error.hint) from None

    def settings(
        self, seed: int, regulariser: Regulariser = "", *, again: bool = False, device: str = "cpu"
    ) -> Training:
        """How to train; `again`: once pruned.

        Raises:
            InputError: a value that is none.
        """
        values = {**self.training, **(self.retraining if again else {}), "device": device}
        return settings_of(values, self.epsilon, seed, self.regularisers, regulariser)


# --- as text -------------------------------------------------------------------------------------------------


def read(source: str) -> dict[str, Any]:
    """The recipe at `source` (a path, or `-`) as plain values, for `made`.

    Raises:
        InputError: not TOML, an unknown key, a value of the wrong type; names the line.
    """
    name = streams.display_name(source)
    try:
        text = streams.read_bytes(source).decode()
    except UnicodeDecodeError:
        raise InputError("not text: expected a recipe in TOML", where=name) from None
    return parse(text, name)


def parse(text: str, name: str) -> dict[str, Any]:
    """As `read`, of text in memory."""
    document = tables.Document(text, name)
    content = dict(document.content)
    kinds = {
        "training": Training,
        "retraining": Training,
        "pruning": Pruning,
        "regularisers": Weights,
        "evaluation": Evaluation,
    }
    found: dict[str, Any] = {}
    for table, kind in kinds.items():
        if table in content:
            without = {"pruning": ("criterion", "granularity"), "evaluation": ()}.get(
                table, ("seed", "device")
            )
            found[table] = tables.settings(document, table, content.pop(table), kind, without=without)
    own = content.pop("method", {})
    if not isinstance(own, dict):
        raise InputError(
            f"method = {own!r}: expected tables [method.NAME]", where=document.where("", "method")
        )
    found["method"] = {
        one: tables.settings(document, f"method.{one}", values, Pruning) for one, values in own.items()
    }
    return tables.settings(document, "", content, Recipe, without=(*kinds, "method")) | found


def quick() -> dict[str, Any]:
    """The recipe that comes with Secateur, as `read` reads it."""
    return parse((files(__package__) / "quick.toml").read_text(encoding="utf-8"), "quick.toml")


def made(values: Mapping[str, Any], where: str | None = None) -> Recipe:
    """The recipe of values as `read` gives them; `where` names their file for messages.

    Raises:
        InputError: values that are none, or do not go together.
    """
    whole: dict[str, Any] = {"methods": ()} | dict(values)
    try:
        for name, kind in (("regularisers", Weights), ("evaluation", Evaluation)):
            if name in values:
                whole[name] = kind(**values[name])
        return Recipe(**whole)
    except InputError as error:
        raise InputError(error.message, where=error.where or where, hint=error.hint) from None


def text(recipe: Recipe) -> str:
    """The recipe in TOML, the data and the network without their folders: what is done does not depend on where."""
    values = asdict(recipe)
    own = values.pop("method")
    inner = {name: values.pop(name) for name in list(values) if isinstance(values[name], dict)}
    values["data"], values["network"] = Path(recipe.data).name, Path(recipe.network).name
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if value is not None]
    for name, table in [*inner.items(), *((f'method."{one}"', table) for one, table in own.items())]:
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_value(key)} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def changes(before: Recipe, after: Recipe) -> list[str]:
    """The names of the settings, as in the file, that differ, but for those in `FREE`."""
    old, new = (_by_name(recipe) for recipe in (before, after))
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _by_name(recipe: Recipe) -> dict[str, object]:
    """The settings by dotted name, as the text has them."""
    found: dict[str, object] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                walk(f"{prefix}.{key}" if prefix else key, one)
        else:
            found[prefix] = value

    content = tables.Document(text(recipe), "recipe").content
    walk("", {name: value for name, value in content.items() if name not in FREE})
    return found
