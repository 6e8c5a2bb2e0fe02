"""Channel groups: a model without some units is the model with those units masked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_graphs import check, graphs
from factories import cnn, mlp
from secateur.formats.errors import InputError
from secateur.pipeline.prune.channels import analyse


def test_groups_of_a_cnn():
    found, _ = check(cnn(channels=6))
    first, second = found.groups
    assert (first.name, first.size, first.layers, first.kind) == ("conv0", 6, ("conv0.weight",), "channel")
    roles = {member.tensor: (member.axis, member.role) for member in first.members}
    assert roles == {
        "conv0.weight": (0, "weight"),
        "conv0.bias": (0, "parameter"),
        "bn0.scale": (0, "parameter"),
        "bn0.bias": (0, "parameter"),
        "bn0.mean": (0, "fixed"),
        "bn0.var": (0, "fixed"),
        "conv1.weight": (1, "reader"),
    }
    columns = next(member for member in second.members if member.tensor == "fc.weight")
    assert np.array_equal(columns.units, np.repeat(np.arange(12), 4))
    assert columns.positions(1).tolist() == [4, 5, 6, 7]
    assert found.pinned == (("fc", "they are network outputs"),)


def test_units_are_given_by_group_and_none_may_be_emptied():
    found = analyse(mlp([3, 4, 5, 2]))
    everything = {"gemm0": np.ones(4, bool)}
    with pytest.raises(InputError, match="left without channels"):
        found.masks(everything)
    kept = found.protect(everything, {"gemm0": np.array([1.0, 7.0, 2.0, 7.0])})
    assert kept["gemm0"].tolist() == [True, True, True, False]
    with pytest.raises(InputError, match="no group of channels 'gemm2': expected one of gemm0, gemm1"):
        found.remove({"gemm2": np.ones(2, bool)})
    with pytest.raises(InputError, match="has 4 units"):
        found.remove({"gemm0": np.ones(3, bool)})


@given(graphs(), st.sampled_from(["channels", "heads"]), st.integers(0, 9), st.sampled_from([0.2, 0.5, 0.9]))
@settings(max_examples=150, deadline=None)
def test_any_units_of_any_graph_can_be_removed(proto, view, seed, share):
    found, _ = check(proto, seed=seed, share=share, view=view)
    for group in found.groups:
        for member in group.members:
            there = np.flatnonzero(member.units >= 0)
            back = [member.positions(unit) for unit in range(group.size)]
            assert np.array_equal(np.sort(np.concatenate(back)), there)
            assert all((member.units[positions] == unit).all() for unit, positions in enumerate(back))
