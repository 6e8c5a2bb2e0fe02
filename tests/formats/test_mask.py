"""Masks: round trip, same mask same bytes, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from secateur.formats import mask
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.mask import Mask

masks = st.builds(
    Mask,
    st.dictionaries(
        st.text(st.characters(blacklist_categories=("Cs",)), min_size=1).filter(
            lambda name: name != "__metadata__"
        ),
        st_numpy.arrays(np.bool_, st_numpy.array_shapes(max_dims=4, max_side=4)),
        max_size=4,
    ),
    st.text(),
    st.text(),
    st.sampled_from(("weight", "channel")),
    st.dictionaries(st.text(), st.text(), max_size=3),
)


@given(masks)
def test_round_trip(original: Mask) -> None:
    data = mask.to_bytes(original)
    again = mask.from_bytes(data, "m")
    assert set(again.tensors) == set(original.tensors)
    for name, tensor in original.tensors.items():
        assert again.tensors[name].dtype == np.bool_
        assert np.array_equal(again.tensors[name], tensor)
    assert (again.model_sha256, again.criterion, again.granularity, again.extra) == (
        original.model_sha256,
        original.criterion,
        original.granularity,
        original.extra,
    )
    shuffled = Mask(
        dict(reversed(original.tensors.items())),
        original.model_sha256,
        original.criterion,
        original.granularity,
        dict(reversed(original.extra.items())),
    )
    assert mask.to_bytes(shuffled) == data == mask.to_bytes(again)


def test_sparsity() -> None:
    tensors = {"a": np.array([True, False, False, False]), "b": np.ones((2, 6), np.bool_)}
    one = Mask(tensors, "", "magnitude", "weight")
    assert one.sparsity == 3 / 16
    assert one.sparsity_by_tensor == {"a": 0.75, "b": 0.0}
    assert Mask({}, "", "magnitude", "weight").sparsity == 0.0


def test_files(tmp_path: Path) -> None:
    one = Mask({"w": np.array([[True, False]])}, "ab", "random", "weight", {"seed": "0"})
    path = str(tmp_path / "m.safetensors.gz")
    mask.write(one, path)
    assert mask.read(path).sparsity == 0.5


def header(**entries: object) -> dict[str, str]:
    base: dict[str, object] = {"version": 1, "model_sha256": "", "criterion": "", "granularity": ""}
    return {mask.METADATA_KEY: json.dumps({**base, **entries})}


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"PK\x03\x04", InputError, "m: not a mask"),
        (b"\xff" * 64, InputError, "m: not a mask"),
        (safetensors.numpy.save({"w": np.ones(2, bool)}), InputError, "header has no 'secateur.mask'"),
        (
            safetensors.numpy.save({"w": np.ones(2)}, header()),
            InputError,
            "tensor 'w' is float64, expected bool",
        ),
        (safetensors.numpy.save({}, header(version=2)), UnsupportedError, "version 2: expected 1"),
        (safetensors.numpy.save({}, header(criterion=None)), InputError, "has no 'criterion'"),
        (
            safetensors.numpy.save({}, header(extra=[1])),
            InputError,
            "'extra' of 'secateur.mask' is no object",
        ),
        (safetensors.numpy.save({}, {mask.METADATA_KEY: "{"}), InputError, "is not JSON"),
        (safetensors.numpy.save({}, {mask.METADATA_KEY: "[]"}), InputError, "is malformed"),
    ],
)
def test_refusals(data: bytes, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        mask.from_bytes(data, "m")


@given(st.binary(max_size=64), st.integers(0, 200))
def test_damaged_files_are_refused(noise: bytes, cut: int) -> None:
    whole = mask.to_bytes(Mask({"w": np.ones(100, np.bool_)}, "ab", "random", "weight"))
    for data in (noise, whole[: len(whole) - 1 - cut]):
        with pytest.raises(InputError):
            mask.from_bytes(data, "m")
