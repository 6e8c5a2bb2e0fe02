"""Properties converted between dialects, and compiled for verifiers that know one network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from factories import box_property, cnn, mlp
from secateur.formats import instances, vnnlib
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


def test_shared_properties_have_2_0_twins(shared_data: Path) -> None:
    """Every tenth property of every shared benchmark, there and back: the same text."""
    seen = 0
    for listing in sorted(shared_data.glob("benchmarks/*/instances.csv")):
        names = sorted({line.vnnlib for line in instances.read(str(listing))})
        for name in names[::10]:
            query = vnnlib.read(instances.resolve(str(listing), name))
            twin = vnnlib.parse(vnnlib.to_text(query, version="2.0"), name)
            assert vnnlib.to_text(twin) == vnnlib.to_text(query), name
            seen += 1
    assert seen > 30
