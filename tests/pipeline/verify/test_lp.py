"""Linear programs: nothing but results, whatever version of HiGHS."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_is_printed() -> None:
    """Standard output belongs to the verdict."""
    code = """
import numpy as np
from secateur.pipeline.verify import lp
row, one = np.ones((1, 1)), np.ones(1)
for whole in (None, np.array([True])):
    assert lp.solve(one, row, -one, one, -one, one, integer=whole).objective == -1
program = lp.Incremental(one, row, -one, one, -one, one)
program.bound_row(0, 2.0, 3.0)
assert program.solve().status == "infeasible"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
