"""Accuracy, its spread and its calibration, against computations image by image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.pipeline.measures import accuracy


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 6))
def test_calibration_error_is_that_of_bins_filled_one_by_one(seed: int, images: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(classes, 0.4), images)
    labels = random.integers(0, classes, images)
    expected = 0.0
    for bin_ in range(15):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(shares, labels, strict=True)
            if bin_ / 15 < row.max() <= (bin_ + 1) / 15
        ]
        if inside:
            confidence = sum(top for top, _ in inside) / len(inside)
            right = sum(hit for _, hit in inside) / len(inside)
            expected += len(inside) / images * abs(right - confidence)
    assert accuracy.calibration_error(shares, labels) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_known_cases() -> None:
    labels = np.array([0, 1, 0, 1])
    sure = np.array([[1.0, 0.0]] * 4)
    assert accuracy.calibration_error(sure, labels) == 0.5, "always sure, right half the time"
    assert accuracy.calibration_error(np.eye(2)[labels], labels) == 0.0
    fair = np.full((4, 2), 0.5)
    assert accuracy.calibration_error(fair, labels) == 0.0, "the first of equals is right half the time"


def test_a_bin_holds_its_upper_end_and_not_its_lower() -> None:
    """15 bins: 1 and 0.95 share the last one; 0.6 is the upper end of the ninth, 0.62 in the tenth."""
    top = np.array([[1.0, 0.0], [0.95, 0.05]])
    assert accuracy.calibration_error(top, np.array([1, 0])) == pytest.approx(abs((0 - 1) + (1 - 0.95)) / 2)
    apart = np.array([[0.6, 0.4], [0.62, 0.38]])
    assert accuracy.calibration_error(apart, np.array([1, 0])) == pytest.approx((0.6 + 0.38) / 2)


def test_probabilities_are_the_softmax_unless_the_network_ends_in_one() -> None:
    outputs = np.array([[0.0, math.log(3.0)], [1000.0, 0.0]])
    found = accuracy.probabilities(outputs, ends_in_softmax=False)
    assert found == pytest.approx(np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert accuracy.probabilities(found, ends_in_softmax=True) is found


def test_shares_of_classes_and_their_spread() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    right = np.array([True, False, False, False, True, True, False])
    shares = accuracy.per_class(right, labels, 4)
    assert shares == [0.25, 1.0, None, 0.0]
    spread = accuracy.spread(shares)
    assert spread["min"] == 0.0 and spread["max"] == 1.0
    mean = 1.25 / 3
    assert spread["std"] == pytest.approx(
        math.sqrt(sum((share - mean) ** 2 for share in (0.25, 1.0, 0.0)) / 3)
    )
