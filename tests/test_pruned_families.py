"""The benchmark of pruned families: its properties are made anew from its networks, and are the committed ones."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from secateur.formats import dataset, instances, onnx_model, streams
from secateur.pipeline import benchmark, properties

FOLDER = Path(__file__).resolve().parent.parent / "vnncomp_benchmarks" / "pruned_families"
SEED = 0
"""With which the committed properties were made."""


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import generate_properties

    return generate_properties


@pytest.mark.slow
def test_the_folder_is_sound() -> None:
    assert list(benchmark.check(str(FOLDER))) == []


def test_the_digits_properties_are_made_anew(generator: ModuleType, tmp_path: Path) -> None:
    """The same text, and the same product networks, bit by bit."""
    family = generator.FAMILIES[0]
    data = dataset.load(dataset.DIGITS, "test")
    found = list(generator.asked(family, FOLDER / "2.0" / "onnx", data, SEED))
    total, found = len(found), found[::6]
    listings = properties.write(found, str(tmp_path), timeout=generator.TIMEOUT, version="both")
    for listing, dialect in zip(listings, ("1.0", "2.0"), strict=True):
        committed = FOLDER / dialect / "instances.csv"
        lines = instances.read(listing)
        ours = [line for line in instances.read(str(committed)) if "digits_mlp" in line.vnnlib]
        assert len(ours) == total and lines == ours[::6]
        for name in {
            name for line in lines for name in (line.vnnlib, line.onnx, *dict(line.networks).values())
        }:
            here, there = instances.resolve(listing, name), instances.resolve(str(committed), name)
            assert streams.read_bytes(here) == streams.read_bytes(there), name


def test_pruned_networks_are_pruned_as_their_names_say(generator: ModuleType) -> None:
    for family in generator.FAMILIES:
        dense = onnx_model.read(str(FOLDER / "2.0" / "onnx" / f"{family.name}_dense.onnx.gz"))
        full = sum(array.size for array in onnx_model.initializers(dense.proto).values() if array.ndim > 1)
        for variant in generator.VARIANTS:
            model = onnx_model.read(str(FOLDER / "2.0" / "onnx" / f"{family.name}_{variant.name}.onnx.gz"))
            weights = [array for array in onnx_model.initializers(model.proto).values() if array.ndim > 1]
            kept = sum(int((array != 0).sum()) for array in weights)
            if variant.granularity == "weight":
                assert kept / full == pytest.approx(1 - variant.sparsity, abs=0.01), (
                    family.name,
                    variant.name,
                )
            else:
                assert sum(array.size for array in weights) < 0.8 * full, (family.name, variant.name)
