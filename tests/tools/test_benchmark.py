"""Benchmark folders: begun, generated, checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from factories import box_property, mlp
from secateur.formats import instances, onnx_model
from secateur.pipeline import benchmark

Invoke = Callable[..., Result]

PLAIN = """import sys
from pathlib import Path
Path("vnnlib").mkdir()
for name in ("a", "b"):
    Path(f"vnnlib/{name}.vnnlib").write_text(Path("text").read_text())
Path("instances.csv").write_text("onnx/net.onnx,vnnlib/a.vnnlib,5\\nonnx/net.onnx,vnnlib/b.vnnlib,%s\\n" % sys.argv[1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A benchmark of one dialect with a generator in the competition's style; nothing is wrong with it."""
    place = tmp_path / "bench"
    (place / "onnx").mkdir(parents=True)
    onnx_model.write(mlp([2, 3, 1]), str(place / "onnx" / "net.onnx"))
    (place / "text").write_text(box_property([0.0] * 2, [1.0] * 2, 1, "(>= Y_0 -100.0)"))
    (place / "README.md").write_text("Source: here. Licence: BSD-3-Clause.\n")
    (place / "generate_properties.py").write_text(PLAIN)
    benchmark.generate(str(place), 7)
    return place


def found(folder: Path) -> list[str]:
    return [f"{'error' if one.error else 'note'}: {one}" for one in benchmark.check(str(folder))]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_from_nothing_to_a_benchmark_that_runs(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx_model.write(mlp([64, 12, 10], seed=4, scale=3), "net.onnx")
    assert invoke("benchmark", "new", "mine", "--network", "net.onnx").exit_code == 0
    script = Path("mine/generate_properties.py")
    script.write_text(script.read_text().replace("IMAGES = 10", "IMAGES = 40"))  # few of which it gets right
    made = invoke("benchmark", "generate", "mine", 3)
    assert made.exit_code == 0, made.stderr
    assert "mine/1.0/instances.csv" in made.stderr and "mine/2.0/instances.csv" in made.stderr
    checked = invoke("benchmark", "check", "mine", "--run", 1, "--timeout", 20)
    assert checked.exit_code == 1
    lines = checked.stdout.splitlines()
    assert [line for line in lines if line.startswith("error")] == [
        "error: README.md:3: to be filled in: TODO: what the networks do, and what the properties say about them.",
        "error: README.md:7: to be filled in: Source | TODO: who made networks and properties, from which data",
        "error: README.md:8: to be filled in: Licence | TODO: under which terms others may use them",
    ]
    assert len([line for line in lines if line.endswith(("says sat", "says unsat"))]) == 2
    readme = Path("mine/README.md")
    readme.write_text(readme.read_text().replace("TODO", "Done"))
    assert invoke("benchmark", "check", "mine").exit_code == 0
    before = contents(Path("mine"))
    assert invoke("benchmark", "generate", "mine", 4).exit_code == 0
    assert contents(Path("mine")).keys() != before.keys()  # other images, and none of the old ones
    assert invoke("benchmark", "check", "mine").exit_code == 0


def test_a_sound_folder(invoke: Invoke, folder: Path) -> None:
    before = contents(folder)
    assert invoke("benchmark", "generate", folder, 7, "--twice").exit_code == 0
    assert contents(folder) == before
    assert found(folder) == []
    assert [line.timeout for line in instances.read(str(folder / "instances.csv"))] == [5, 7]


def test_what_check_finds(folder: Path) -> None:
    listing = folder / "instances.csv"
    lines = listing.read_text()
    listing.write_text(lines + "onnx/net.onnx,vnnlib/a.vnnlib,21600\nonnx/none.onnx,vnnlib/b.vnnlib,5\n")
    (folder / "vnnlib" / "extra.vnnlib").touch()
    (folder / "vnnlib" / "b.vnnlib").write_text(box_property([0.0] * 3, [1.0] * 3, 1, "(>= Y_0 0)"))
    (folder / "README.md").write_text("TODO\n")
    (folder / "generate_properties.py").unlink()
    assert found(folder) == [
        "error: README.md:1: to be filled in: TODO",
        "error: README.md: says nothing of a source",
        "error: README.md: says nothing of a licence",
        "note: generate_properties.py: missing: properties cannot be made anew",
        "error: instances.csv: lists onnx/none.onnx, which is not there",
        "error: vnnlib/extra.vnnlib: not listed in instances.csv",
        "error: instances.csv: lists vnnlib/a.vnnlib with the same network 2 times",
        "error: instances.csv: timeouts sum to 21617 s: expected at most 21600 s (6 hours)",
        "error: vnnlib/b.vnnlib: the property declares 3 inputs, the network has 2 "
        "(take the property that was made for this network)",
    ]


def test_networks_and_properties_that_do_not_read(folder: Path) -> None:
    (folder / "vnnlib" / "a.vnnlib").write_text("(declare-const X_0 Real)\n(assert (<= X_0 X_1))\n")
    (folder / "vnnlib" / "b.vnnlib").write_text(box_property([1.0] * 2, [0.0] * 2, 1, "(>= Y_0 0)"))
    [error, note] = found(folder)
    assert error.startswith("error: vnnlib/a.vnnlib:2: ") and "X_1" in error
    assert note == "note: vnnlib/b.vnnlib: no input satisfies it: it is always unsat"
    (folder / "onnx" / "net.onnx").write_bytes(b"nothing")
    [only] = found(folder)
    assert only.startswith("error: onnx/net.onnx: not an ONNX model")
    (folder / "instances.csv").write_text("a,b\n")
    [first, *_] = found(folder)
    assert first == "error: instances.csv:1: expected 3 fields (onnx,vnnlib,timeout), found 2"
    (folder / "instances.csv").unlink()
    assert "error: instances.csv: missing: expected one here, or in 1.0 and 2.0" in found(folder)


def test_dialects_are_compared(folder: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for name in ("README.md", "generate_properties.py"):
        shutil.copy(folder / name, both)
    for name in ("1.0", "2.0"):
        shutil.copytree(folder / "onnx", both / name / "onnx")
        shutil.copytree(folder / "vnnlib", both / name / "vnnlib")
        shutil.copy(folder / "instances.csv", both / name)
    (both / "2.0" / "vnnlib" / "b.vnnlib").unlink()
    (both / "2.0" / "instances.csv").write_text("onnx/net.onnx,vnnlib/a.vnnlib,5\n")
    assert found(both) == [
        "error: 2.0/vnnlib/a.vnnlib: is VNN-LIB 1.0 in the folder 2.0",
        "error: instances.csv: the dialects list different numbers of instances: 1.0 has 2, 2.0 has 1",
    ]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import sys; sys.exit('out of luck')", "ended with exit code 1: out of luck"),
        ("pass", "wrote no instances.csv"),
        (
            "import os; open('instances.csv', 'w').write('a,b,1'); open('noise', 'wb').write(os.urandom(8))",
            "generated twice with the same seed, 1 files differ, such as noise",
        ),
    ],
)
def test_a_generator_that_fails_changes_nothing(invoke: Invoke, folder: Path, script: str, says: str) -> None:
    (folder / "generate_properties.py").write_text(script)
    before = contents(folder)
    result = invoke("benchmark", "generate", folder, 0, "--twice")
    assert result.exit_code == 1 and says in result.stderr and "Traceback" not in result.stderr
    assert contents(folder) == before and [p.name for p in folder.parent.iterdir()] == ["bench"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("check nowhere", "nowhere: no such folder: expected a benchmark"),
        ("generate {0} 0 --networks", "no generate_networks.py"),
        ("new {0}", "it is there already: expected a new or empty folder"),
        ("new fresh --network {0}/text", "not an ONNX model"),
    ],
)
def test_refusals(
    invoke: Invoke, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("benchmark", *words.format(folder).split())
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bench"]


def test_shared_benchmarks_are_sound(shared_data: Path) -> None:
    for name in ("test", "safenlp"):
        assert [one for one in benchmark.check(str(shared_data / "benchmarks" / name)) if one.error] == []
