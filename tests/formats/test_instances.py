"""`instances.csv`: one and several networks, round trip, refusals with the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.formats import instances
from secateur.formats.errors import InputError
from secateur.formats.instances import Instance

names = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1).filter(
    lambda name: not name.startswith(("[", "\ufeff")) and name == name.strip()
)
timeouts = st.integers(1, 10**6).map(lambda n: n / 8)
single = st.builds(Instance, names, names, timeouts)
several = st.builds(
    lambda pairs, vnnlib, timeout: Instance(pairs[0][1], vnnlib, timeout, tuple(pairs)),
    st.lists(st.tuples(names, names), min_size=1, max_size=3),
    names,
    timeouts,
)


@given(st.lists(st.one_of(single, several), min_size=1, max_size=5))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, listed: list[Instance]) -> None:
    path = str(tmp_path_factory.mktemp("csv") / "instances.csv")
    instances.write(listed, path)
    assert instances.read(path) == listed


def test_what_vnncomp_writes(tmp_path: Path) -> None:
    path = tmp_path / "instances.csv"
    path.write_bytes(
        b"onnx/a.onnx,vnnlib/p.vnnlib,116\r\n\r\n"
        b"\"[('f','onnx/a.onnx'), ('g','onnx/b.onnx')]\",vnnlib/q.vnnlib,20.5\r\n"
    )
    assert instances.read(str(path)) == [
        Instance("onnx/a.onnx", "vnnlib/p.vnnlib", 116),
        Instance("onnx/a.onnx", "vnnlib/q.vnnlib", 20.5, (("f", "onnx/a.onnx"), ("g", "onnx/b.onnx"))),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n", "lists no instance"),
        ("", "empty"),
        (
            "a.onnx,p.vnnlib,1\na.onnx,p.vnnlib\n",
            r"csv:2: expected 3 fields \(onnx,vnnlib,timeout\), found 2",
        ),
        ("a.onnx,p.vnnlib,soon\n", r"csv:1: expected a timeout in seconds, found 'soon'"),
        ("a.onnx,p.vnnlib,-1\n", r"csv:1: expected a timeout in seconds, found '-1'"),
        ("a.onnx,,1\n", r"csv:1: a model and a property must be named"),
        ("\"[('f',)]\",p.vnnlib,1\n", r"csv:1: expected \[\('name','file.onnx'\),…\]"),
        ('"[f]",p.vnnlib,1\n', r"csv:1: expected \[\('name'"),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "instances.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        instances.read(str(path))


def test_resolve_finds_compressed_files(tmp_path: Path) -> None:
    listing = str(tmp_path / "instances.csv")
    (tmp_path / "a.onnx").touch()
    (tmp_path / "p.vnnlib.gz").touch()
    assert instances.resolve(listing, "a.onnx") == str(tmp_path / "a.onnx")
    assert instances.resolve(listing, "p.vnnlib") == str(tmp_path / "p.vnnlib.gz")
    assert instances.resolve(listing, "missing") == str(tmp_path / "missing")


@pytest.mark.data
def test_shared_lists(shared_data: Path) -> None:
    for path in sorted((shared_data / "benchmarks").glob("*/instances.csv")):
        for instance in instances.read(str(path)):
            assert Path(instances.resolve(str(path), instance.vnnlib)).exists()
