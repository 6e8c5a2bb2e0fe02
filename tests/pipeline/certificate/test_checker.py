"""Certificates of what the engine proves pass their check; none of anything else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certificates import network, prove_within, proved, samples, threshold
from factories import box_property
from nets import mlp
from properties import instance
from secateur.formats import certificate as certificate_format
from secateur.formats import vnnlib
from secateur.formats.certificate import Certificate, RegionProof
from secateur.formats.errors import CheckFailed, InputError, SecateurError
from secateur.formats.onnx_model import Model
from secateur.formats.query import Query
from secateur.pipeline.certificate import Checked, check
from secateur.pipeline.certificate.folding import fold
from secateur.pipeline.certificate.reading import read
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.proving.prove import prove
from secateur.pipeline.verify.search.work import Work


@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.3, 2.0]))
@settings(max_examples=25)
def test_what_is_proved_is_checked(seed: int, margin: float) -> None:
    model = network(seed)
    query = threshold(model, margin)
    certificate, work = prove_within(model, query)
    assert (certificate is not None) == (work.verdict == "unsat")
    if certificate is not None:
        found = check(model, query, certificate, "c")
        assert (found.regions, found.clauses) == (1, 1) and found.leaves >= 1 and found.margin > 0


@pytest.mark.parametrize("seed", range(36))
def test_verdicts_are_those_of_enumeration(seed: int) -> None:
    """Properties of several regions, clauses, rows and relations, whose least violation is known."""
    case = instance(seed)
    query = vnnlib.parse(case.text, "p")
    certificate, work = prove_within(case.model, query)
    assert work.verdict == ("sat" if case.least < 0 else "unsat")
    if certificate is not None:
        assert check(case.model, query, certificate, "c").margin > 0


def split(seed: int = 0) -> tuple[Model, Query, Certificate]:
    """A certificate of several leaves."""
    for other in range(seed, seed + 50):
        model = mlp(other, 4, (10, 8), 2)
        query = threshold(model, 0.02)
        certificate, _ = prove_within(model, query)
        if (
            certificate is not None
            and certificate.regions[0] is not None
            and len(certificate.regions[0].box) > 3
        ):
            return model, query, certificate
    raise AssertionError("no network of these is split")


@pytest.fixture(scope="module")
def case() -> tuple[Model, Query, Certificate]:
    return split()


def changed(certificate: Certificate, **fields: object) -> Certificate:
    proof = certificate.regions[0]
    assert proof is not None
    return replace(certificate, regions=(replace(proof, **fields), *certificate.regions[1:]))  # type: ignore[arg-type]


def without(proof: RegionProof, leaf: int) -> dict[str, object]:
    keep = np.delete(np.arange(len(proof.box)), leaf)
    counts = np.diff(proof.first)[keep]
    splits = np.concatenate([np.arange(proof.first[i], proof.first[i + 1]) for i in keep])
    rows = {name: getattr(proof, name)[keep] for name in ("box", "clause", "alpha", "weights")}
    parts = {name: getattr(proof, name)[splits] for name in ("neuron", "sign", "beta")}
    return {**rows, **parts, "first": np.concatenate([[0], np.cumsum(counts)])}


def test_every_leaf_is_needed(case: tuple[Model, Query, Certificate]) -> None:
    model, query, certificate = case
    assert certificate.regions[0] is not None
    for leaf in range(len(certificate.regions[0].box)):
        smaller = changed(certificate, **without(certificate.regions[0], leaf))
        with pytest.raises(
            CheckFailed, match=r"region 0: clause 0: no leaf covers the signs of the neurons [+-]"
        ):
            check(model, query, smaller, "c")


def test_every_sign_matters(case: tuple[Model, Query, Certificate]) -> None:
    model, query, certificate = case
    proof = certificate.regions[0]
    assert proof is not None
    for i in range(len(proof.sign)):
        flipped = proof.sign.copy()
        flipped[i] *= -1
        with pytest.raises(CheckFailed, match=r"region 0: clause 0: (leaf|no leaf covers)"):
            check(model, query, changed(certificate, sign=flipped), "c")


def negative(array: np.ndarray) -> np.ndarray:
    result = array.copy()
    result.flat[0] = -1
    return result


@pytest.mark.parametrize(
    ("mutate", "says"),
    [
        (lambda p: {"beta": negative(p.beta)}, "region 0: 'beta'"),
        (lambda p: {"beta": np.where(p.beta >= 0, np.nan, p.beta)}, "region 0: 'beta'"),
        (lambda p: {"weights": negative(p.weights)}, "region 0: 'weights'"),
        (lambda p: {"weights": p.weights * np.inf}, "region 0: 'weights'"),
        (lambda p: {"weights": p.weights * 0}, "clause 0: leaf 0: expected a positive bound, found -"),
        (lambda p: {"beta": p.beta + 1e6}, "clause 0: leaf"),
        (lambda p: {"sign": p.sign * 0}, "region 0: 'sign'"),
        (lambda p: {"neuron": p.neuron + 10_000}, "region 0: 'neuron'"),
        (lambda p: {"clause": p.clause + 1}, "region 0: 'clause'"),
        (lambda p: {"box": p.box + 1}, "region 0: 'box'"),
        (lambda p: {"axis": p.axis * 0}, "box 0 is not in two parts"),
        (lambda p: {"columns": tuple(c[::-1] for c in p.columns)}, "region 0: 'columns'"),
        (lambda p: {"columns": tuple(c + 100 for c in p.columns)}, "region 0: 'columns'"),
        (lambda p: {"columns": p.columns[:1]}, "region 0: 'columns'"),
        (lambda p: {"slopes": {k: (n[::-1], v) for k, (n, v) in p.slopes.items()}}, "region 0: 'bounded'"),
    ],
)
def test_mutations_are_rejected(
    case: tuple[Model, Query, Certificate],
    mutate: Callable[[RegionProof], dict[str, object]],
    says: str,
) -> None:
    model, query, certificate = case
    assert check(model, query, certificate, "c").leaves > 3
    assert certificate.regions[0] is not None
    with pytest.raises(CheckFailed, match=says):
        check(model, query, changed(certificate, **mutate(certificate.regions[0])), "c")


def test_of_another_model_or_property(case: tuple[Model, Query, Certificate]) -> None:
    model, query, certificate = case
    other, sat = mlp(99, 4, (10, 8), 2), threshold(model, -0.05)
    with pytest.raises(CheckFailed, match="of another model"):
        check(other, query, certificate, "c")
    with pytest.raises(CheckFailed, match="of another property"):
        check(model, sat, certificate, "c")
    # Whoever writes the hashes of the other into it gets no further.
    with pytest.raises(SecateurError, match=r"leaf|columns"):
        check(other, query, replace(certificate, model_sha256=other.sha256), "c")
    with pytest.raises(CheckFailed, match="leaf"):
        check(model, sat, replace(certificate, property_sha256=sat.sha256), "c")
    with pytest.raises(CheckFailed, match="about 0 regions, the property has 1"):
        check(model, query, replace(certificate, regions=()), "c")
    with pytest.raises(CheckFailed, match="region 0: there is no proof"):
        check(model, query, replace(certificate, regions=(None,)), "c")


def test_another_regions_proof() -> None:
    """Of two regions of one property, one of which needs its own proof."""
    model = mlp(3, 3, (8, 6), 2)
    _, y = samples(model)
    limit = float(y[:, 0].max()) + 0.02
    half = " ".join(f"(>= X_{i} -1.0) (<= X_{i} 1.0)" for i in (1, 2))
    cases = [f"(and (>= X_0 {a}) (<= X_0 {b}) {half} (>= Y_0 {limit}))" for a, b in ((-1.0, 0.0), (0.0, 1.0))]
    declared = "".join(f"(declare-const {n} Real)" for n in ("X_0", "X_1", "X_2", "Y_0", "Y_1"))
    query = vnnlib.parse(f"{declared}(assert (or {' '.join(cases)}))", "p")
    certificate = proved(model, query)
    first, second = certificate.regions
    assert check(model, query, certificate, "c").regions == 2
    swapped = 0
    for regions in ((second, first), (first, first), (second, second)):
        try:
            check(model, query, replace(certificate, regions=regions), "c")
        except CheckFailed:
            swapped += 1
    assert swapped > 0


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_no_certificate_of_what_is_satisfiable(seed: int) -> None:
    """Random leaves that cover everything, with any slopes, duals and weights: some leaf's bound is not positive."""
    random = np.random.default_rng(seed)
    model = network(seed)
    query = threshold(model, -0.1)
    (region,) = query.regions
    _, columns = fold(read(model), region.lower, region.upper)
    width = sum(map(len, columns))
    tree = [np.zeros(width, np.int8)]
    for _ in range(int(random.integers(0, 10))):
        leaf = tree.pop(int(random.integers(len(tree))))
        free = np.flatnonzero(leaf == 0)
        neuron = random.choice(free) if len(free) else None
        for sign in (1, -1) if neuron is not None else (0,):
            part = leaf.copy()
            if neuron is not None:
                part[neuron] = sign
            tree.append(part)
    signs = np.array(tree)
    leaf, neuron = np.nonzero(signs)
    proof = RegionProof(
        columns=columns,
        slopes={},
        parent=np.array([-1]),
        axis=np.array([-1]),
        cut=np.zeros(1),
        box=np.zeros(len(signs), np.int64),
        clause=np.zeros(len(signs), np.int64),
        alpha=random.integers(0, 65536, size=signs.shape).astype(np.uint16),
        weights=random.exponential(size=(len(signs), 1)).astype(np.float32),
        first=np.concatenate([[0], np.cumsum((signs != 0).sum(1))]),
        neuron=neuron,
        sign=signs[leaf, neuron],
        beta=random.exponential(size=len(leaf)).astype(np.float32),
    )
    with pytest.raises(CheckFailed, match="expected a positive bound"):
        check(model, query, Certificate(model.sha256, query.sha256, (proof,)), "c")


def test_written_and_read_it_is_the_same(case: tuple[Model, Query, Certificate], tmp_path: Path) -> None:
    model, query, certificate = case
    path = str(tmp_path / "c.npz")
    certificate_format.write(certificate, path)
    assert Path(path).read_bytes() == certificate_format.to_bytes(certificate)
    again: Checked = check(model, query, certificate_format.read(path), path)
    assert again == check(model, query, certificate, "c")


def test_damaged_files_are_bad_input(case: tuple[Model, Query, Certificate], tmp_path: Path) -> None:
    data = certificate_format.to_bytes(case[2])
    path = tmp_path / "c.npz"
    for length in (1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="damaged"):
            certificate_format.read(str(path))


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("0/alpha", lambda a: a / 1000.0, "'alpha' has another type"),  # so no slope is beyond [0, 1]
        ("0/alpha", lambda a: a[:, 1:], "do not fit"),
        ("0/first", lambda a: a[::-1], "do not fit"),
        ("0/counts", lambda a: a - a, "do not fit"),
        ("0/box", lambda a: a[1:], "do not fit"),
        ("0/slopes/1", lambda a: a.astype(np.float64) * 2, "slopes for ReLU 1"),
        ("header", lambda a: a[:10], "is no certificate"),
    ],
)
def test_arrays_of_another_form_are_bad_input(
    case: tuple[Model, Query, Certificate],
    tmp_path: Path,
    name: str,
    array: Callable[[np.ndarray], np.ndarray],
    says: str,
) -> None:
    path = tmp_path / "c.npz"
    certificate_format.write(case[2], str(path))
    with np.load(path) as file:
        arrays = {each: file[each] for each in file.files}
    arrays[name] = array(arrays[name])
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=says):
        certificate_format.read(str(path))


def test_a_property_without_regions_needs_nothing() -> None:
    model = mlp(0, 2, (3,), 1)
    query = vnnlib.parse(box_property([2.0] * 2, [1.0] * 2, 1, "(>= Y_0 0.0)"), "p")
    assert check(model, query, proved(model, query), "c").leaves == 0


def test_a_proof_has_no_more_memory_than_there_is(case: tuple[Model, Query, Certificate]) -> None:
    model, query, _ = case
    work = Work(query, 20)
    assert prove(Engine(model, memory=1), read(model), work, 0) is None
    assert work.verdict == "unknown" and "memory" in work.message


def test_signs_that_contradict_each_other_where_nothing_depends_on_them() -> None:
    """A dead layer behind the split neurons: the clause's row is a constant, and only dual variables close the leaf."""
    case = instance(5235)
    certificate, work = prove_within(case.model, vnnlib.parse(case.text, "p"))
    assert case.least > 0 and work.verdict == "unsat" and certificate is not None
