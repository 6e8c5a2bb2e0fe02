"""The three floors: tools stand on pipeline, pipeline on formats; no circle; no torch among the formats."""

from __future__ import annotations

import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

FLOORS = ["secateur.tools", "secateur.pipeline", "secateur.formats"]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*FLOORS, include_external_packages=True, cache_dir=None)


def floor(module: str) -> int | None:
    return next((i for i, name in enumerate(FLOORS) if module == name or module.startswith(f"{name}.")), None)


def test_no_module_imports_upward(graph: grimp.ImportGraph) -> None:
    assert {floor(module) for module in graph.modules} >= {0, 1, 2}
    upward = [
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if (above := floor(imported)) is not None and (here := floor(importer)) is not None and above < here
    ]
    assert upward == []


def test_no_circle(graph: grimp.ImportGraph) -> None:
    imports = {
        module: {
            other for other in graph.find_modules_directly_imported_by(module) if floor(other) is not None
        }
        for module in graph.modules
        if floor(module) is not None
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail("import circle: " + " <- ".join(error.args[1]))


def test_formats_never_reach_torch(graph: grimp.ImportGraph) -> None:
    heavy = {"torch", "torchvision", "onnx2torch"} & graph.modules
    assert "torch" in heavy, "nothing imports torch any more: this test looks at the wrong graph"
    reached = [
        chain
        for name in sorted(heavy)
        if (chain := graph.find_shortest_chain("secateur.formats", name, True))
    ]
    assert reached == []


def test_every_package_is_in_the_wheel() -> None:
    root = Path(__file__).resolve().parent.parent
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(("secateur", *path.parent.relative_to(root).parts))
        for floor in ("tools", "pipeline", "formats")
        for path in (root / floor).rglob("*.py")
    }
    assert set(listed) == found
