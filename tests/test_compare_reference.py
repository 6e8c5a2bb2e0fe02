"""`vnncomp_benchmarks/compare_reference.py` on a table of three rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from factories import box_property
from nets import mlp
from secateur.formats import onnx_model

SCRIPT = Path(__file__).parents[1] / "vnncomp_benchmarks" / "compare_reference.py"


def test_a_table_is_compared(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    (folder / "vnnlib").mkdir(parents=True)
    onnx_model.write(mlp(0, 2, (4,), 1), str(folder / "net.onnx"))
    for name, limit in (("low", -1000.0), ("high", 1000.0)):
        text = box_property([-1.0] * 2, [1.0] * 2, 1, f"(>= Y_0 {limit})")
        (folder / "vnnlib" / f"{name}.vnnlib").write_text(text)
    table = tmp_path / "table.csv"
    table.write_text(
        "# another verifier\n"
        "benchmark,onnx,vnnlib,result,tool_s,whole_process_cpu_s,domains,peak_rss_mb\n"
        "small,net.onnx,vnnlib/low.vnnlib,sat,0.1,4.0,0,500\n"
        "small,net.onnx,vnnlib/high.vnnlib,timeout,100.0,104.0,9000,500\n"
        "small,net.onnx,vnnlib/absent.vnnlib,unsat,2.0,6.0,10,500\n"
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, table, tmp_path, "--timeout", "20"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2 rows; files of 1 more are not here" in done.stdout
    assert "geometric mean of 1 rows" in done.stdout
    assert "decided here alone: 1 \n  small net high" in done.stdout
    assert "verdicts that differ: 0" in done.stdout
