"""Instances of the competition against what is known of them; skipped where the research data is absent."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from secateur.formats import onnx_model, vnnlib
from secateur.pipeline.verify import verify


def decide(shared_data: Path, benchmark: str, place: int, timeout: float) -> tuple[str, str]:
    """The verdict on the instance at `place` of the benchmark's list, and the expected one."""
    folder = shared_data / "benchmarks" / benchmark
    with (folder / "known_results.csv").open(newline="") as lines:
        row = list(csv.DictReader(lines))[place]

    def path(name: str) -> str:
        plain = folder / name
        return str(plain if plain.exists() else plain.with_name(plain.name + ".gz"))

    model, query = onnx_model.read(path(row["onnx"])), vnnlib.read(path(row["vnnlib"]))
    return verify(model, query, timeout=timeout).verdict, row["expected"]


QUICK = [
    *(("test", place) for place in range(5)),
    *(("acasxu", place) for place in (0, 1, 23, 46, 62)),
    *(("mnist_fc", place) for place in (0, 4)),
    *(("safenlp", place) for place in (0, 1, 2, 4)),
    *(("collins_rul_cnn", place) for place in (0, 3)),
    ("cersyve", 0),
    ("tllverifybench", 0),
]


@pytest.mark.data
@pytest.mark.parametrize(("benchmark", "place"), QUICK)
def test_quick_instances(shared_data: Path, benchmark: str, place: int) -> None:
    verdict, expected = decide(shared_data, benchmark, place, 60)
    assert verdict == expected


LONG = [
    *(("acasxu", place) for place in range(81)),
    *(("mnist_fc", place) for place in range(49)),
    *(("oval21", place) for place in range(21)),
    *(("cifar10_resnet", place) for place in range(37)),
    *(("sri_resnet_b", place) for place in range(22)),
    *(("safenlp", place) for place in range(121)),
    *(("sat_relu", place) for place in range(22)),
    *(("tllverifybench", place) for place in range(8)),
    *(("cersyve", place) for place in range(5)),
    *(("collins_rul_cnn", place) for place in range(28)),
    *(("linearizenn", place) for place in range(7)),
]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("benchmark", "place"), LONG)
def test_no_verdict_is_wrong(shared_data: Path, benchmark: str, place: int) -> None:
    verdict, expected = decide(shared_data, benchmark, place, 20)
    assert verdict in (expected, "timeout", "unknown") or expected == "unknown"
