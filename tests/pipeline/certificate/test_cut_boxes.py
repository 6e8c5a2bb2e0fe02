"""Proofs that cut the input box: they pass their check, and what is changed in them does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certificates import network, prove_within, threshold
from nets import mlp
from properties import instance
from secateur.formats import vnnlib
from secateur.formats.certificate import Certificate, RegionProof
from secateur.formats.errors import CheckFailed
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline.certificate import check, checker
from secateur.pipeline.certificate.boxes import narrowed
from secateur.pipeline.certificate.folding import fold
from secateur.pipeline.certificate.leaves import root_bounds
from secateur.pipeline.certificate.reading import read
from secateur.pipeline.verify.proving import prove


@pytest.fixture(autouse=True, scope="module")
def boxes() -> Iterator[None]:
    """Boxes are cut however few the neurons are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prove, "FEW_NEURONS", 0)
        yield


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3]))
@settings(max_examples=15)
def test_what_is_proved_is_checked(seed: int, margin: float) -> None:
    model = network(seed)
    if read(model).sizes[0] > 8:
        return
    query = threshold(model, margin)
    certificate, work = prove_within(model, query)
    assert work.verdict in ("sat", "unsat")
    if certificate is not None:
        assert check(model, query, certificate, "c").margin > 0


@pytest.mark.parametrize("seed", range(24))
def test_verdicts_are_those_of_enumeration(seed: int) -> None:
    case = instance(seed)
    query = vnnlib.parse(case.text, "p")
    certificate, work = prove_within(case.model, query)
    assert work.verdict == ("sat" if case.least < 0 else "unsat")
    if certificate is not None:
        assert check(case.model, query, certificate, "c").margin > 0


@pytest.fixture(scope="module")
def case(boxes: None) -> tuple[Model, Query, Certificate]:
    for seed in range(50):
        model = mlp(seed, 3, (10, 8), 2)
        query = threshold(model, 0.05)
        certificate, _ = prove_within(model, query)
        proof = None if certificate is None else certificate.regions[0]
        if certificate is not None and proof is not None and len(proof.axis) > 8:
            return model, query, certificate
    raise AssertionError("none of these networks has its box cut")


def test_checked_in_batches_of_any_size(
    case: tuple[Model, Query, Certificate], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check(*case, "c")
    monkeypatch.setattr(checker, "BATCH", 2)
    monkeypatch.setattr(checker, "LEAF_NUMBERS", 1)
    again = check(*case, "c")
    assert again.leaves == found.leaves and again.margin == pytest.approx(found.margin, rel=1e-9)


def test_every_leaf_is_needed(case: tuple[Model, Query, Certificate]) -> None:
    model, query, certificate = case
    (proof,) = certificate.regions
    assert proof is not None
    for leaf in range(len(proof.box)):
        keep = np.delete(np.arange(len(proof.box)), leaf)
        rows = {name: getattr(proof, name)[keep] for name in ("box", "clause", "alpha", "weights")}
        fewer = replace(proof, **rows, first=np.zeros(len(keep) + 1, np.int64))
        with pytest.raises(CheckFailed, match=rf"region 0: clause 0: box {proof.box[leaf]}: no leaf"):
            check(model, query, replace(certificate, regions=(fewer,)), "c")


def at(values: np.ndarray, place: int, value: float) -> np.ndarray:
    result = values.copy()
    result[place] = value
    return result


@pytest.mark.parametrize(
    ("mutate", "says"),
    [
        (lambda p: {"cut": at(p.cut, 0, 7.0)}, "a box is cut outside itself"),
        (lambda p: {"cut": at(p.cut, 0, np.nan)}, "a box is cut outside itself"),
        (lambda p: {"cut": at(p.cut, 0, 0.99)}, r"leaf|outside"),
        (lambda p: {"axis": at(p.axis, 0, 3)}, "box 0 is not in two parts"),
        (lambda p: {"axis": at(p.axis, 0, -1)}, "box 1 is no part of a box"),
        (lambda p: {"axis": at(p.axis, len(p.axis) - 1, 0)}, "is not in two parts"),
        (lambda p: {"parent": at(p.parent, 2, 1)}, "box"),
        (lambda p: {"parent": at(p.parent, 1, 5)}, "box 1 is no part of a box before it"),
        (lambda p: {"parent": at(p.parent, 1, -1)}, "box 1 is no part of a box before it"),
        (lambda p: {"box": at(p.box, 0, 0)}, "leaf"),
        (lambda p: {"box": p.box[::-1]}, "leaf"),
        (lambda p: {"weights": p.weights * 0}, "expected a positive bound"),
    ],
)
def test_mutations_are_rejected(
    case: tuple[Model, Query, Certificate],
    mutate: Callable[[RegionProof], dict[str, np.ndarray]],
    says: str,
) -> None:
    model, query, certificate = case
    (proof,) = certificate.regions
    assert proof is not None
    with pytest.raises(CheckFailed, match=says):
        check(model, query, replace(certificate, regions=(replace(proof, **mutate(proof)),)), "c")


def test_a_boxs_bounds_do_not_depend_on_its_batch() -> None:
    """Or what was found at the making of a proof would not be found at its checking."""
    random = np.random.default_rng(0)
    folded, _ = fold(read(mlp(1, 3, (12, 10, 8), 2)), np.full(3, -1.0), np.full(3, 1.0))
    corner = random.uniform(-1, 0.5, size=(40, 3))
    lower, upper = corner, corner + random.uniform(0.01, 0.5, size=(40, 3))
    whole = [tuple(np.repeat(side, 40, 0) for side in pair) for pair in root_bounds(folded)]
    together = narrowed(folded, lower, upper, whole)  # type: ignore[arg-type]
    for i in range(40):
        alone = narrowed(folded, lower[i : i + 1], upper[i : i + 1], root_bounds(folded))
        for (low, high), (least, most) in zip(together, alone, strict=True):
            np.testing.assert_allclose(low[i], least[0], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(high[i], most[0], rtol=1e-9, atol=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_no_certificate_of_what_is_satisfiable(seed: int) -> None:
    """Random trees of boxes, each leaf refuted with random slopes and weights: some leaf's bound is not positive."""
    random = np.random.default_rng(seed)
    model = mlp(seed, 3, (6, 5), 2)
    query = threshold(model, -0.1)
    (region,) = query.regions
    _, columns = fold(read(model), region.lower, region.upper)
    tree, boxes = prove.Tree(), [(region.lower, region.upper)]
    for _ in range(int(random.integers(0, 8))):
        leaf = int(random.choice(np.flatnonzero(np.array(tree.axis) < 0)))
        low, high = boxes[leaf]
        axis = int(random.integers(3))
        cut = float(random.uniform(low[axis], high[axis]))
        tree.split(np.array([leaf]), np.array([axis]), np.array([cut]))
        boxes += [(low, at(high, axis, cut)), (at(low, axis, cut), high)]
    leaves = np.flatnonzero(np.array(tree.axis) < 0)
    proof = RegionProof(
        columns=columns,
        slopes={},
        parent=np.array(tree.parent),
        axis=np.array(tree.axis),
        cut=np.array(tree.cut),
        box=leaves,
        clause=np.zeros(len(leaves), np.int64),
        alpha=random.integers(0, 65536, size=(len(leaves), sum(map(len, columns)))).astype(np.uint16),
        weights=random.exponential(size=(len(leaves), 1)).astype(np.float32),
        first=np.zeros(len(leaves) + 1, np.int64),
        neuron=np.zeros(0, np.int64),
        sign=np.zeros(0, np.int8),
        beta=np.zeros(0, np.float32),
    )
    with pytest.raises(CheckFailed, match="expected a positive bound"):
        check(model, query, Certificate(model.sha256, query.sha256, (proof,)), "c")
