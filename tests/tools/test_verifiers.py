"""`secateur verifiers operators` says what the engine's table says, and what the engine then does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

import factories
from secateur.formats import onnx_model
from secateur.pipeline.verify.graph.operators import KINDS, RULES


def test_json_holds_every_operator(invoke: Callable[..., Result]) -> None:
    result = invoke("verifiers", "operators", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [row["name"] for row in found["operators"]] == sorted(RULES)
    assert {row["kind"] for row in found["operators"]} == set(found["kinds"]) == set(KINDS)


def test_people_read_it_on_standard_error(invoke: Callable[..., Result]) -> None:
    result = invoke("verifiers", "operators")
    assert (result.exit_code, result.stdout) == (0, "")
    lines = result.stderr.splitlines()
    assert any(line.split()[:3] == ["MaxPool", "piecewise", "linear"] for line in lines)
    assert any(line.startswith("Sigmoid ") and line.endswith("smooth") for line in lines)
    assert max(map(len, lines)) <= 110


def test_what_is_not_listed_is_named_with_its_node(invoke: Callable[..., Result], tmp_path: Path) -> None:
    from onnx import helper

    assert "Det" not in RULES
    node = helper.make_node("Det", ["x"], ["y"], "volume")
    path, prop = tmp_path / "net.onnx", tmp_path / "p.vnnlib"
    onnx_model.write(onnx_model.from_proto(factories.model([node], {}, [1, 2, 2], [1])), str(path))
    prop.write_text(factories.box_property([0.0] * 4, [1.0] * 4, 1, "(<= Y_0 0.0)"))
    result = invoke("verify", str(path), str(prop))
    assert result.exit_code == 3
    assert "operator Det of node 'volume'" in result.stderr
