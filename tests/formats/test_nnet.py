"""`.nnet`: what is written reads back exactly, and what is malformed is named by its line."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.formats import nnet
from secateur.formats.errors import InputError
from secateur.formats.nnet import Nnet

TEXT = """// two inputs, one hidden layer
2,2,1,3,
2,3,1,
0,
-1,-2,
1,2,
0.5,0,10,
2,4,100,
1,2,
-1,0.5,
0,1e-3,
0,
1,
-1,
1,-2,3,
0.25,
"""


def test_a_file_is_read_layer_by_layer() -> None:
    network = nnet.from_bytes(TEXT.encode(), "net.nnet")
    assert network.sizes == [2, 3, 1]
    assert network.comment == ("two inputs, one hidden layer",)
    assert network.weights[0].tolist() == [[1, 2], [-1, 0.5], [0, 1e-3]]
    assert network.biases[0].tolist() == [0, 1, -1]
    assert network.weights[1].tolist() == [[1, -2, 3]]
    assert (network.minima.tolist(), network.maxima.tolist()) == ([-1, -2], [1, 2])
    assert (network.means.tolist(), network.ranges.tolist()) == ([0.5, 0, 10], [2, 4, 100])


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def networks(draw: st.DrawFn) -> Nnet:
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))

    def array(*shape: int) -> nnet.Array:
        count = int(np.prod(shape))
        return np.array(draw(st.lists(numbers, min_size=count, max_size=count))).reshape(shape)

    weights = tuple(array(after, before) for before, after in pairwise(sizes))
    bounds = np.sort(array(2, sizes[0]), axis=0)
    ranges = np.array(draw(st.lists(st.floats(0.1, 9.0), min_size=sizes[0] + 1, max_size=sizes[0] + 1)))
    biases = tuple(array(size) for size in sizes[1:])
    return Nnet(weights, biases, bounds[0], bounds[1], array(sizes[0] + 1), ranges, ("drawn",))


@given(networks())
def test_what_is_written_reads_back_exactly(network: Nnet) -> None:
    again = nnet.from_bytes(nnet.to_bytes(network), "net.nnet")
    assert again.sizes == network.sizes
    assert again.comment == network.comment
    for name in ("minima", "maxima", "means", "ranges"):
        assert np.array_equal(getattr(again, name), getattr(network, name))
    pairs = zip(again.weights + again.biases, network.weights + network.biases, strict=True)
    assert all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def test_files_are_written_and_read(tmp_path: Path) -> None:
    network = nnet.from_bytes(TEXT.encode(), "net.nnet")
    path = str(tmp_path / "net.nnet.gz")
    nnet.write(network, path)
    assert nnet.to_bytes(nnet.read(path)) == nnet.to_bytes(network)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2,2,1,3,", "2,2,1", r"line 2: expected 4 values"),
        ("2,2,1,3,", "2,2.5,1,3", r"line 2: expected positive whole numbers"),
        ("2,3,1,", "2,3,2,", r"line 3: expected 2 inputs and 1 outputs, found 2 and 2"),
        ("-1,-2,", "-1,x,", r"line 5: expected a number \(the inputs' minima\), found 'x'"),
        ("1,2,\n0.5", "1,-3,\n0.5", r"line 6: input 1 has a minimum above its maximum"),
        ("2,4,100,", "2,0,100,", r"line 8: a range is 0"),
        ("-1,0.5,", "-1,nan,", r"line 10: expected finite numbers \(row 2 of layer 1's weights\)"),
        ("-1,0.5,", "-1,", r"line 10: expected 2 values \(row 2 of layer 1's weights\), found 1"),
        ("0.25,\n", "", r"line 15: the file ends where bias 1 of layer 2 should follow"),
        ("0.25,\n", "0.25,\n7,\n", r"line 17: expected the end"),
        ("// two", "\xff two", r"no UTF-8"),
    ],
)
def test_what_is_malformed_is_named_by_its_line(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=message) as caught:
        nnet.from_bytes(TEXT.replace(old, new, 1).encode("latin-1"), "net.nnet")
    assert str(caught.value).startswith("net.nnet")
