"""`secateur property` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from factories import mlp
from secateur.formats import dataset, instances, onnx_model, vnnlib
from secateur.pipeline.train.evaluate import predictions

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("net") / "net.onnx")
    onnx_model.write(mlp([64, 16, 10], seed=4, scale=3), path)
    return path


def test_robust(invoke: Invoke, net: str, tmp_path: Path) -> None:
    data = dataset.load("digits")
    right = predictions(onnx_model.read(net), data) == data.labels
    chosen = [index for index in range(60) if right[index]]
    assert 0 < len(chosen) < 60
    result = invoke("property", "robust", net, "--count", 60, "--epsilon", "0.02", "-o", tmp_path / "out")
    assert result.exit_code == 0 and result.stdout == ""
    assert "left out, misclassified: image " in result.stderr
    assert f"{len(chosen)} properties of {len(chosen)} images" in result.stderr
    listed = instances.read(str(tmp_path / "out" / "instances.csv"))
    assert [one.vnnlib for one in listed] == [f"vnnlib/robust_idx{index}_eps0.02.vnnlib" for index in chosen]
    assert {one.onnx for one in listed} == {"onnx/net.onnx"}
    query = vnnlib.read(str(tmp_path / "out" / listed[0].vnnlib), inputs=64, outputs=10)
    assert query.comments[0] == (
        f"digits, image {chosen[0]}, class {data.labels[chosen[0]]}: epsilon 0.02 on raw pixels in [0, 1]"
    )
    assert query.regions[0].lower.min() == 0 and query.regions[0].upper.max() == 1


def test_robust_from_a_stream_targeted_normalised(invoke: Invoke, net: str, tmp_path: Path) -> None:
    arguments = [
        "--index",
        5,
        "--epsilon",
        "2/255",
        "--targeted",
        "--all-images",
        "--mean",
        "0.5",
        "--std",
        "0.25",
    ]
    outputs = []
    for name, source in (("a", "-"), ("b", net)):
        result = invoke(
            "property", "robust", source, *arguments, "--timeout", 7, "-o", tmp_path / name,
            stdin=Path(net).read_bytes() if source == "-" else None,
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        outputs.append({p.name: p.read_bytes() for p in sorted((tmp_path / name / "vnnlib").iterdir())})
    assert len(outputs[0]) == 9 and outputs[0] == outputs[1]
    [model] = (tmp_path / "a" / "onnx").iterdir()
    assert model.name == "model.onnx" and model.read_bytes() == Path(net).read_bytes()
    assert {one.timeout for one in instances.read(str(tmp_path / "a" / "instances.csv"))} == {7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epsilon", "0.1"], "give either --index or --count"),
        (["--index", "1", "--count", "2", "--epsilon", "0.1"], "give either --index or --count"),
        (["--index", "397", "--epsilon", "0.1"], "digits: there is no image 397: expected 0 to 396"),
        (["--count", "3", "--start", "400", "--epsilon", "0.1"], "digits: no images"),
        (["--count", "3", "--epsilon", "tiny"], "'tiny' is not a number"),
        (["--count", "3", "--epsilon", "0.1", "--std", "0.1,0.2"], "2 numbers for std: expected 1 or 1"),
        (["--count", "3", "--epsilon", "0.1", "--data", "mnist"], "mnist: no data set named so"),
    ],
)
def test_refusals_leave_nothing_behind(
    invoke: Invoke, net: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = invoke("property", "robust", net, *arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


KINDS = {
    "robust": "robust {0} --index 5 --epsilon-map {map}",
    "patch": "patch {0} --index 5 --size 2 --at 3,3",
    "brightness": "brightness {0} --index 5 --shift 0.01 --epsilon 1/255",
    "range": "range {0} --box 0,1 --upper 1000 --output-number 3",
    "monotone": "monotone {0} --box {box} --input 20 --output-number 3 --tolerance 100",
    "fair": "fair {0} --index 5 --epsilon 0.001 --input 2 --within 100",
    "twins": "twins {0} {1} --index 5 --epsilon 0.001 --right 100",
    "equivalent": "equivalent {0} {1} --box 0,1 --same-class 0.1",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_both_dialects(invoke: Invoke, net: str, tmp_path: Path, kind: str) -> None:
    """Written twice: the same bytes; and 'secateur run' takes both folders."""
    onnx_model.write(mlp([64, 16, 10], seed=5), str(tmp_path / "other.onnx"))
    np.save(tmp_path / "map.npy", np.full((8, 8), 0.001, np.float32))
    np.savez(tmp_path / "box.npz", lower=np.zeros(64), upper=np.ones(64))
    files = {"map": tmp_path / "map.npy", "box": tmp_path / "box.npz"}
    words = KINDS[kind].format(net, tmp_path / "other.onnx", **files).split()
    written = []
    for name in ("a", "b"):
        options = ["--format", "both", "--gzip", "--timeout", 20, "-o", tmp_path / name]
        images = ["--all-images"] if "--index" in words else []
        result = invoke("property", *words, *images, *options)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.startswith("1 properties") and result.stdout == ""
        written.append(
            {
                p.relative_to(tmp_path / name): p.read_bytes()
                for p in (tmp_path / name).rglob("*.*")
                if p.is_file()
            }
        )
    assert written[0] == written[1]
    said = []
    for dialect in ("1.0", "2.0"):
        listing = tmp_path / "a" / dialect / "instances.csv"
        done = invoke("run", listing, "--results", tmp_path / f"{dialect}.jsonl")
        assert done.exit_code == 0, done.stderr
        said.append(json.loads((tmp_path / f"{dialect}.jsonl").read_text())["verdict"])
    assert said[0] == said[1] and said[0] in ("sat", "unsat")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("range {0} --upper 1", "give --epsilon (or --epsilon-map, or --box instead of images)"),
        ("range {0} --upper 1 --box 0,1 --index 3", "give either --box or images with --epsilon"),
        ("range {0} --upper 1 --box 1,0", "input 0 would lie between 1 and 0: an empty box"),
        ("range {0} --upper 1 --box nowhere.npz", "nowhere.npz: no such file"),
        ("range {0} --upper 1 --box {0}", "not an .npy or .npz file"),
        ("robust {0} --index 1", "give either --epsilon or --epsilon-map"),
        ("robust {0} --index 1 --epsilon 1 --epsilon-map x", "give either --epsilon or --epsilon-map"),
        ("patch {0} --index 1 --size 2 --at 3", "--at '3': expected such as 3,4 (row, column)"),
        (
            "patch {0} --index 1 --size 2 --at 7,7",
            "a patch of 2 × 2 at 7,7 does not lie in an image of 8 × 8",
        ),
        ("fair {0} --box 0,1 --input 64", "there is no input 64: expected 0 to 63"),
        ("equivalent {0} {0} --box 0,1 --within 1 --same-class 1", "give one of --right, --within and"),
    ],
)
def test_refusals_of_the_kinds(invoke: Invoke, net: str, tmp_path: Path, words: str, message: str) -> None:
    result = invoke("property", *words.format(net).split(), "-o", tmp_path / "out")
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1, (
        result.stderr
    )
    assert not (tmp_path / "out").exists()
