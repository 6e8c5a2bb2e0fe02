"""Properties converted between dialects, and compiled for verifiers that know one network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from factories import box_property, cnn, mlp
from secateur.formats import vnnlib
from secateur.formats.query import Query
from solvers import TWINS

Invoke = Callable[..., Result]


def test_there_and_back(tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(cnn().SerializeToString())
    text = "; about\n" + box_property([0.0] * 64, [1.0] * 64, 3, "(or (<= Y_0 Y_1) (and (>= Y_2 1e-3)))")
    Path("p.vnnlib").write_text(text)
    assert (
        invoke(
            "property", "convert", "p.vnnlib", "--to", "2.0", "--model", "net.onnx", "-o", "p2.vnnlib"
        ).exit_code
        == 0
    )
    twin = Path("p2.vnnlib").read_text()
    assert "(declare-input X float32 [1, 1, 8, 8])" in twin and "(declare-output Y float32 [1, 3])" in twin
    assert twin.startswith("; about\n")
    for name in ("p.vnnlib", "p2.vnnlib"):
        assert invoke("verify", "net.onnx", name).stdout in ("sat\n", "unsat\n")
    assert invoke("verify", "net.onnx", "p.vnnlib").stdout == invoke("verify", "net.onnx", "p2.vnnlib").stdout
    once = invoke("property", "convert", "p.vnnlib", "--to", "1.0").stdout
    assert invoke("property", "convert", "p2.vnnlib", "--to", "1.0").stdout == once


def test_a_product_for_verifiers_that_know_one_network(
    tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.onnx").write_bytes(mlp([2, 6, 2]).SerializeToString())
    Path("g.onnx").write_bytes(mlp([2, 6, 2], seed=3).SerializeToString())
    Path("far.vnnlib").write_text(TWINS.format("100.0"))
    line = ("property", "product", "far.vnnlib", "-n", "f=f.onnx", "-n", "g=g.onnx")
    made = invoke(*line, "-o", "both.onnx", "--property-out", "both.vnnlib")
    assert "4 inputs of which 2 are free, 4 outputs" in made.stderr
    assert vnnlib.read("both.vnnlib").inputs == 2
    assert invoke("verify", "both.onnx", "both.vnnlib").stdout == "unsat\n"
    refused = invoke("property", "convert", "far.vnnlib", "--to", "1.0")
    assert refused.exit_code == 3
    assert "it is about 2 networks" in refused.stderr


def same(one: Query, other: Query) -> bool:
    """Whether two queries have the same normal form, bit by bit."""
    sides = ("lower", "upper", "nearest_lower", "nearest_upper")
    columns = ("inputs", "outputs", "constant", "strict")
    if (one.inputs, one.outputs, len(one.regions)) != (other.inputs, other.outputs, len(other.regions)):
        return False
    for left, right in zip(one.regions, other.regions, strict=True):
        clauses = [(left.relations, right.relations), *zip(left.clauses, right.clauses, strict=False)]
        if len(left.clauses) != len(right.clauses) or not (
            all(getattr(left, side).tobytes() == getattr(right, side).tobytes() for side in sides)
            and all(np.array_equal(getattr(a, c), getattr(b, c)) for a, b in clauses for c in columns)
        ):
            return False
    return one.formula == other.formula


def there_and_back(files: list[Path]) -> int:
    """How many properties keep their meaning when written in 2.0 and that in 1.0 again; all do."""
    for path in files:
        query = vnnlib.read(str(path))
        twin = vnnlib.parse(vnnlib.to_text(query, version="2.0"), path.name)
        back = vnnlib.parse(vnnlib.to_text(twin), path.name)
        assert same(query, twin) and same(query, back), path
        assert vnnlib.to_text(back) == vnnlib.to_text(query), path
    return len(files)


def test_shared_properties_have_2_0_twins(shared_data: Path) -> None:
    """The smallest tenth of them, and the 2.0 samples."""
    files = sorted(shared_data.glob("benchmarks/*/vnnlib/**/*.vnnlib*"), key=lambda path: path.stat().st_size)
    assert there_and_back(files[: len(files) // 10]) > 30
    assert there_and_back(sorted(shared_data.glob("vnnlib2_samples/*/*.vnnlib"))) == 14


@pytest.mark.slow
def test_all_shared_properties_have_2_0_twins(shared_data: Path) -> None:
    assert there_and_back(sorted(shared_data.glob("benchmarks/*/vnnlib/**/*.vnnlib*"))) == 410
