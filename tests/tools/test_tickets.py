"""`secateur tickets` on the command line: a small run, resumed, with another method; what stands above a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result

from secateur.formats import measurements

SMALL = (
    *("--arch", "digits_mlp", "--train-images", "100", "--epochs", "1", "--sparsities", "0.75"),
    *("--images", "1", "--timeout", "5"),
)


def test_a_run_and_what_is_added_to_it(invoke: Callable[..., Result], tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[str, list[dict[str, Any]]]:
        result = invoke("tickets", *arguments, "-o", tmp_path / "run")
        assert result.exit_code == 0, result.output
        assert result.stdout == ""
        return result.stderr, measurements.read(str(tmp_path / "run" / "records.jsonl"))

    said, records = run("imp", *SMALL)
    assert "2 networks" in said and "seed 0" in said
    assert [(one["method"], one["round"], one["target"]) for one in records] == [
        ("dense", 0, 0.0),
        ("imp", 1, 0.75),
    ]
    assert {one["objective"] for one in records} == {"adversarial"}
    said, more = run("imp", "random", "--seeds", "0,4", *SMALL)
    assert "6 networks" in said and len(more) == 6
    assert [one for one in more if (one["seed"], one["method"]) in ((0, "dense"), (0, "imp"))] == records
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(word in page for word in ("<svg", "imp", "random", "digits_mlp"))
    ticket = tmp_path / "run" / "seed-4" / "imp" / "round-01" / "ticket.onnx"
    proof = invoke("mask", "stats", ticket, "--init", tmp_path / "run" / "seed-4" / "initial.onnx")
    assert proof.exit_code == 0 and "initial values" in proof.output


def test_the_command_line_stands_above_the_recipe(invoke: Callable[..., Result], tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'methods = ["random"]\nnetwork = "digits_mlp"\ntrain_images = 100\nseeds = [5]\n[training]\nepochs = 1\n'
        '[pruning]\nrounds = 1\n[evaluation]\nimages = 1\nmeasures = ["accuracy"]\n'
    )
    result = invoke("tickets", "--recipe", recipe, "--seeds", "2", "--share", "0.25", "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    records = measurements.read(str(tmp_path / "run" / "records.jsonl"))
    assert [(one["seed"], one["objective"], one["target"]) for one in records] == [
        (2, "standard", 0.0),
        (2, "standard", 0.25),
    ]
    assert "pgd_accuracy" not in records[0]


def test_methods_are_listed(invoke: Callable[..., Result]) -> None:
    listed = invoke("tickets", "--list").stdout
    assert "imp+nrs" in listed and "2206.07311" in listed
