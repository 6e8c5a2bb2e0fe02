"""`secateur property` on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
