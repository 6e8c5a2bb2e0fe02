"""Robustness properties: the box is the ball, clipped, normalised and rounded outward; the condition is the class."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import mlp
from secateur.formats import dataset, instances, onnx_model, vnnlib
from secateur.formats.dataset import Dataset
from secateur.formats.errors import InputError
from secateur.pipeline import onnxrt, properties

NET = onnx_model.from_proto(mlp([12, 8, 3], seed=1), "net.onnx")


def images(seed: int = 0, count: int = 20) -> Dataset:
    """3 channels of 2 × 2 pixels, labelled by the network, but the first image wrongly."""
    x = np.random.default_rng(seed).integers(0, 256, (count, 3, 2, 2)).astype(np.float32) / np.float32(255)
    labels = onnxrt.run(NET, x).argmax(axis=1).astype(np.int64)
    labels[0] = (labels[0] + 1) % 3
    return Dataset("some.npz", x, labels, 3)


def test_names_labels_and_left_out_images() -> None:
    data = images()
    found = properties.robust(NET, data, range(4), 0.02)
    assert found.misclassified == (0,) and found.images == 4
    assert [one.name for one in found.properties] == [f"robust_idx{i}_eps0.02" for i in (1, 2, 3)]
    assert [one.label for one in found.properties] == data.labels[1:4].tolist()
    everything = properties.robust(NET, data, [0, 3, 0], "2/255", only_correct=False)
    assert [one.name for one in everything.properties] == ["robust_idx0_eps2_255", "robust_idx3_eps2_255"]


def test_the_condition_is_misclassification() -> None:
    data = images()
    [whole] = properties.robust(NET, data, [1], 0.02).properties
    targeted = properties.robust(NET, data, [1], 0.02, targeted=True).properties
    label = int(data.labels[1])
    assert [one.target for one in targeted] == [c for c in range(3) if c != label]
    assert [one.name for one in targeted] == [f"robust_idx1_eps0.02_to{one.target}" for one in targeted]
    x = data.images[1].ravel()
    for y in np.random.default_rng(0).normal(size=(50, 3)):
        wrong = {c for c in range(3) if c != label and y[c] >= y[label]}
        assert whole.query.holds(x, y) == bool(wrong)
        for one in targeted:
            assert one.query.holds(x, y) == (one.target in wrong)
    assert len(whole.query.regions) == 1 and len(whole.query.regions[0].clauses) == 2


@given(
    st.integers(0, 2**32 - 1),
    st.fractions(0, 1, max_denominator=1000),
    st.lists(st.fractions(-1, 1, max_denominator=1000), min_size=3, max_size=3),
    st.lists(st.fractions(Fraction(1, 1000), 3, max_denominator=1000), min_size=3, max_size=3),
    st.booleans(),
)
def test_boxes_hold_the_clipped_ball(
    seed: int, epsilon: Fraction, mean: list[Fraction], std: list[Fraction], normalised: bool
) -> None:
    data = images(seed, count=1)
    mean, std = (mean, std) if normalised else ([], [])
    [one] = properties.robust(NET, data, [0], epsilon, only_correct=False, mean=mean, std=std).properties
    [region] = one.query.regions
    for index, pixel in enumerate(data.images[0].ravel().tolist()):
        lower, upper = max(Fraction(pixel) - epsilon, 0), min(Fraction(pixel) + epsilon, 1)
        if normalised:
            lower, upper = ((side - mean[index // 4]) / std[index // 4] for side in (lower, upper))
        below, above = np.float32(region.lower[index]), np.float32(region.upper[index])
        assert float(below) == region.lower[index] and float(above) == region.upper[index]  # exact in float32
        assert Fraction(float(below)) <= lower < Fraction(float(np.nextafter(below, np.float32(np.inf))))
        assert Fraction(float(np.nextafter(above, np.float32(-np.inf)))) < upper <= Fraction(float(above))


def test_floats_mean_the_decimals_they_print() -> None:
    assert properties.exact(0.02) == properties.exact("0.02") == Fraction(1, 50)
    assert properties.exact("8/255") == Fraction(8, 255)


def test_correctness_is_judged_on_normalised_inputs() -> None:
    data = images()
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    inputs = (data.images - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    given = onnxrt.run(NET, inputs.astype(np.float32)).argmax(axis=1)
    found = properties.robust(NET, data, range(20), 0.02, mean=mean, std=std)
    assert found.misclassified == tuple(np.flatnonzero(given != data.labels).tolist())
    assert 0 < len(found.misclassified) < 20


def test_the_folder_stands_alone(tmp_path: Path) -> None:
    found = properties.robust(NET, images(), range(4), "2/255", targeted=True)
    [listing] = properties.write(found.properties, str(tmp_path / "new" / "folder"), timeout=30)
    listed = instances.read(listing)
    assert len(listed) == 6 and {one.timeout for one in listed} == {30}
    for instance, one in zip(listed, found.properties, strict=True):
        model = onnx_model.read(instances.resolve(listing, instance.onnx))
        assert model.sha256 == NET.sha256
        query = vnnlib.read(instances.resolve(listing, instance.vnnlib), inputs=12, outputs=3)
        assert query.formula == one.query.formula and query.sha256 == one.query.sha256
        assert str(tmp_path) not in one.text
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    properties.write(found.properties, str(tmp_path / "new" / "folder"), timeout=30)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize(
    ("indices", "epsilon", "options", "message"),
    [
        ([20], 0.1, {}, r"some.npz: there is no image 20: expected 0 to 19"),
        ([], 0.1, {}, "no images"),
        ([1], -0.1, {}, "epsilon is -0.1: expected 0 or more"),
        ([1], "large", {}, "'large' is not a number"),
        ([1], "1/0", {}, "'1/0' is not a number"),
        ([1], float("inf"), {}, "'inf' is not a number"),
        ([1], 0.1, {"mean": (0.5, 0.5)}, "2 numbers for mean: expected 1 or 3"),
        ([1], 0.1, {"std": (0,)}, "a std that is not positive"),
    ],
)
def test_refusals(indices: list[int], epsilon: float, options: dict[str, tuple[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        properties.robust(NET, images(), indices, epsilon, **options)  # type: ignore[arg-type]


def test_misfits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="12 inputs, the images of digits have 64"):
        properties.robust(NET, dataset.load("digits"), [0], 0.1)
    one_output = onnx_model.from_proto(mlp([12, 4, 1]))
    data = Dataset("d", images().images, np.zeros(20, np.int64), 1)
    with pytest.raises(InputError, match="the network has 1 output"):
        properties.robust(one_output, data, [1], 0.1)
    with pytest.raises(InputError, match="no image was left"):
        properties.write(properties.robust(NET, images(), [0], 0.1).properties, str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written"):
        properties.write(properties.robust(NET, images(), [1], 0.1).properties, str(tmp_path / "file"))
