"""The domain store keeps every row exactly once and gives the least first."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.pipeline.verify.store import Store

Bounds = st.lists(st.floats(-1e3, 1e3), max_size=40)


@given(st.lists(st.one_of(Bounds, st.integers(0, 30)), max_size=12))
def test_rows_are_kept_exactly_once(steps: list[list[float] | int]) -> None:
    """A random series of puts (lists) and takes (numbers), against a sorted list."""
    store = Store()
    inside: dict[int, float] = {}
    number = 0
    for step in steps:
        if isinstance(step, list):
            names = torch.arange(number, number + len(step))
            number += len(step)
            bound = torch.tensor(step, dtype=torch.float64)
            store.put(bound=bound, name=names, matrix=names.view(-1, 1, 1).expand(-1, 2, 3).to(torch.int32))
            inside.update(zip(names.tolist(), step, strict=True))
        elif inside:
            taken = store.take(step)
            expected = sorted(inside.values())[:step]
            assert sorted(taken["bound"].tolist()) == expected
            for name, bound, matrix in zip(
                taken["name"].tolist(), taken["bound"].tolist(), taken["matrix"], strict=True
            ):
                assert inside.pop(name) == bound and (matrix == name).all()
        assert len(store) == len(inside)
        assert store.least() == min(inside.values(), default=float("inf"))


def test_growth_keeps_what_is_there() -> None:
    store = Store()
    for first in range(0, 5000, 700):
        store.put(bound=-torch.arange(first, first + 700).double(), row=torch.arange(first, first + 700))
    taken = store.take(10**6)
    assert sorted(taken["row"].tolist()) == list(range(5600)) and len(store) == 0
    assert (taken["bound"] == -taken["row"].double()).all()


def test_a_row_whose_bound_is_nan_is_not_lost() -> None:
    store = Store()
    store.put(bound=torch.tensor([float("nan"), -1.0, 0.0]), row=torch.arange(3))
    rows = [store.take(1)["row"].item() for _ in range(3)]
    assert sorted(rows) == [0, 1, 2] and len(store) == 0


@given(st.integers(4, 100), st.integers(1, 64), st.integers(0, 10**6))
def test_a_limit_is_kept_while_domains_are_split(rows: int, batch: int, seed: int) -> None:
    """A tree of depth 7 in which every domain has two children, searched to its end within a few rows."""
    store = Store(limit=rows * 16)
    generator = torch.Generator().manual_seed(seed)
    store.put(bound=torch.zeros(1, dtype=torch.float64), depth=torch.zeros(1, dtype=torch.int64))
    seen = largest = 0
    while len(store):
        taken = store.take(batch)
        seen += len(taken["depth"])
        depth = taken["depth"].repeat(2) + 1
        depth = depth[depth <= 7]
        store.put(bound=-torch.rand(len(depth), generator=generator).double(), depth=depth)
        largest = max(largest, len(store))
    assert seen == 2**8 - 1
    assert largest <= max(rows, 0.75 * rows + 2) + 7


def test_room_is_not_taken_beyond_the_limit() -> None:
    store = Store(limit=16_000)
    store.put(bound=torch.zeros(2), row=torch.zeros(2, 31))
    assert store.bytes <= 16_000


def test_drained_rows_are_all_there_and_leave_room_for_others() -> None:
    store = Store()
    store.put(bound=torch.tensor([0.0, -1.0]), row=torch.arange(2))
    assert [len(part["row"]) for part in store.batches(1)] == [1, 1]
    assert store.drain()["row"].tolist() == [0, 1]
    assert store.rows() == store.drain() == {} and store.least() == float("inf")
    store.put(bound=torch.zeros(3), other=torch.zeros(3, 2))
    assert store.rows()["other"].shape == (3, 2)
