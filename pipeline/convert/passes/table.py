"""The passes by name: what each does, what it needs to have gone before, and whose work it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import onnx

from secateur.formats.errors import InputError
from secateur.pipeline.convert.passes import (
    affine,
    attributes,
    batch,
    batchnorm,
    broadcasts,
    chain,
    constants,
    convolutions,
    dead,
    fixedbatch,
    flatten,
    float32,
    gemm,
    identity,
    inputs,
    library,
    linear,
    matmul,
    maxpool,
    opset,
    outputs,
    relus,
    reshapes,
    shapes,
    subtract,
    transb,
    transposes,
)

Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]
LOOSE = 0.05
"""What float16 may make of a network's outputs, relative to the largest."""


@dataclass(frozen=True)
class Pass:
    """A rewrite of a model that keeps its function.

    `check` says why it has nothing to do, or None; `rewrite` gives a changed copy. `parameter` is what follows
    `name=`, as help shows it, `value` what it is; `tolerance`, where it is more than rounding, how far results
    may come apart.
    """

    name: str
    summary: str
    needs: str
    origin: str
    check: Callable[[onnx.ModelProto], str | None]
    rewrite: Rewrite
    parameter: str = ""
    value: str = ""
    tolerance: float | None = None

    @property
    def written(self) -> str:
        """As `--passes` takes it."""
        return f"{self.name}={self.value or self.parameter}" if self.parameter else self.name


def _own(
    name: str, module: ModuleType, summary: str, needs: str = "", origin: str = "own", **more: object
) -> Pass:
    made = Pass(name, summary, needs, origin, module.check, module.rewrite)
    return replace(made, **more)  # type: ignore[arg-type]


def _library(name: str, function: Callable[[onnx.ModelProto], onnx.ModelProto | None], origin: str) -> Pass:
    summary = (function.__doc__ or "").rsplit(" (", 1)[0]

    def check(model: onnx.ModelProto) -> str | None:
        return None if function(model) is not None else "nothing of the kind"

    def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
        return function(model) or model

    return Pass(name, summary[0].lower() + summary[1:], "", origin, check, rewrite)


_ROWS = (
    _own("inputs", inputs, "initializers stop being graph inputs"),
    _library("functions", library.functions, "onnx-ir"),
    _own("constants", constants, "constants and what is computed from them become initializers", "inputs"),
    _own("identity", identity, "Identity and Dropout go"),
    _own("dead", dead, "nodes and initializers that no output depends on go"),
    _library("unused", library.unused, "onnx-ir"),
    _own("outputs", outputs, "only the outputs A and B stay", parameter="A+B"),
    _library("duplicates", library.duplicates, "onnx-ir"),
    _library("noops", library.noops, "onnxscript"),
    _own("batch", batch, "a batch fixed to 1 becomes dynamic"),
    _own("batch", fixedbatch, "a dynamic batch is fixed to N", parameter="N"),
    _own("shapes", shapes, "computed shapes that are known become constants", "inputs"),
    _own(
        "flatten", flatten, "a Reshape that flattens all but the batch becomes Flatten", "shapes, constants"
    ),
    _own("reshapes", reshapes, "Reshape, Flatten, Squeeze, Unsqueeze in a row become one", "constants"),
    _own("transposes", transposes, "transposes sink, cancel, and go into weights", "flatten"),
    _own("batchnorm", batchnorm, "BatchNormalization goes into the layer in front"),
    _own("gemm", gemm, "products become Gemm with α = β = 1 and a bias", "constants"),
    _own("transb", transb, "matrices of Gemm are stored [outputs, inputs]", "gemm"),
    _own("matmul", matmul, "Gemm becomes MatMul and Add", "constants"),
    _own("affine", affine, "normalisation and scales go into the next Conv or Gemm", "gemm"),
    _own("chain", chain, "two Gemms in a row become one where that is smaller", "gemm"),
    _own("subtract", subtract, "Sub and Div by a constant become Add and Mul", "constants"),
    _own(
        "convolutions", convolutions, "grouped, dilated Conv and average pools become plain Conv", "constants"
    ),
    _own("attributes", attributes, "what Conv leaves to defaults is written out"),
    _own("maxpool", maxpool, "MaxPool becomes Conv and Relu", "shapes"),
    _own("relus", relus, "LeakyRelu, PRelu, Clip, Abs, Max, Min become Relu and sums", "constants"),
    _own("broadcasts", broadcasts, "what is added or multiplied gets one shape", "batch=1"),
    _own("linear", linear, "other linear operators become Gemm", "batch=1, constants, shapes"),
    _own(
        "float32", float32, "float64 and float16 become float32, with the worst difference", tolerance=LOOSE
    ),
    _own("opset", opset, "another opset, up or down", origin="own, and onnx's converter", parameter="N"),
)

PASSES: dict[str, Pass] = {row.name + "=" * bool(row.parameter): row for row in _ROWS}
"""Every pass, by its name, with `=` behind it where it takes a parameter."""


def named(words: str) -> tuple[Pass, ...]:
    """The passes of a list such as `inputs,constants,opset=13`, in that order.

    Raises:
        InputError: no such pass, or a parameter that is missing, superfluous or no number.
    """
    return tuple(_named(word.strip()) for word in words.split(",") if word.strip())


def _named(word: str) -> Pass:
    name, equals, value = word.partition("=")
    found = PASSES.get(name + equals)
    if found is None:
        other = PASSES.get(name if equals else f"{name}=")
        hint = f"write {other.written}" if other else "secateur convert --list-passes names them"
        raise InputError(f"there is no pass '{word}'", hint=hint)
    if not found.parameter:
        return found
    parameter: int | str = value
    if found.parameter == "N":
        if not value.isdecimal() or int(value) < 1:
            raise InputError(f"'{word}': expected {found.written} with a number N")
        parameter = int(value)
    elif not value:
        raise InputError(f"'{word}': expected {found.written}")
    return replace(
        found,
        value=value,
        check=partial(found.check, **{_ARGUMENT[name]: parameter}),
        rewrite=partial(found.rewrite, **{_ARGUMENT[name]: parameter}),
    )


_ARGUMENT = {"batch": "size", "opset": "target", "outputs": "names"}
