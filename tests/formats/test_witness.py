"""Witness text: values survive exactly, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.formats import witness
from secateur.formats.errors import InputError

floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats32, min_size=1, max_size=20), st.lists(floats32, max_size=5))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, x: list[float], y: list[float]) -> None:
    path = str(tmp_path_factory.mktemp("witness") / "w.txt")
    witness.write(np.array(x, np.float32), np.array(y, np.float32), path)
    again_x, again_y = witness.read(path)
    assert again_x.astype(np.float32).tobytes() == np.array(x, np.float32).tobytes()
    assert again_y.tolist() == y


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "w.txt"
    witness.write([0.5, -1e-9], [2], str(path))
    assert path.read_text() == "((X_0 0.5)\n(X_1 -1e-09)\n(Y_0 2.0))\n"


def test_result_files_of_vnncomp_are_read(tmp_path: Path) -> None:
    path = tmp_path / "w.txt"
    path.write_text("sat\n((X_1  1e-3)\n(X_0 0.25)\r\n( Y_0  -3 ))")
    x, y = witness.read(str(path))
    assert x.tolist() == [0.25, 0.001] and y.tolist() == [-3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unsat\n", "not a witness"),
        ("((X_0 0.5)", "not a witness"),
        ("((Z_0 0.5))", "expected pairs such as"),
        ("()", "X_0 has no value"),
        ("((Y_0 0.5))", "X_0 has no value"),
        ("((X_0 0.5) (X_2 1))", "X_1 has no value"),
        ("((X_0 0.5) (X_0 1))", "X_0 has two values"),
        ("((X_0 nan))", "X_0 is 'nan': expected a finite number"),
        ("((X_0 half))", "X_0 is 'half'"),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "w.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        witness.read(str(path))
