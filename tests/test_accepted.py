"""The count of what Marabou reads: the question asked of it, and the records, with a stand-in that refuses Gemm."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from factories import mlp
from secateur.formats import onnx_model, vnnlib
from secateur.pipeline import onnxrt
from secateur.pipeline.convert import targets
from secateur.pipeline.verify import check_witness

ROOT = Path(__file__).resolve().parent.parent

READER = """#!{python}
import sys
network, arguments = open(sys.argv[3], "rb").read(), dict(zip(sys.argv[5::2], sys.argv[6::2]))
if b"Gemm" in network:
    sys.exit("Message: Onnx operation Gemm not known.")
for name in ("--query-dump-file", "--summary-file"):
    if name in arguments:
        open(arguments[name], "w").write("sat 0 0 0")
"""


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "vnncomp_benchmarks"))
    import accepted

    return accepted


def test_the_question_holds_at_its_point_and_not_beside_it(accepted):
    model = onnx_model.from_proto(mlp([4, 8, 3]))
    query = vnnlib.parse(accepted.question(model.proto), "point")
    [region] = query.regions
    assert check_witness(model, query, region.nearest_lower)[0]
    y = onnxrt.run(model, region.nearest_lower[None])[0]
    assert query.holds(region.nearest_lower, y) and not query.holds(region.nearest_lower, y + 0.1)


def test_files_are_counted_before_and_after_and_run_once(accepted, tmp_path, monkeypatch, capsys):
    reader, folder, results = tmp_path / "python", tmp_path / "benchmarks", tmp_path / "r.jsonl"
    reader.write_text(READER.format(python=sys.executable))
    reader.chmod(0o755)
    (folder / "small" / "onnx").mkdir(parents=True)
    onnx_model.write(mlp([4, 8, 3]), str(folder / "small" / "onnx" / "net.onnx"))
    split = targets.Target("inputs,matmul", "it knows no Gemm")
    monkeypatch.setitem(targets.TARGETS, "marabou", split)
    line = ["accepted.py", str(folder), "--results", str(results), "--python", str(reader)]
    monkeypatch.setattr(sys, "argv", line)
    for _ in range(2):
        accepted.main()
        said = capsys.readouterr().out
        assert "1 networks, 1 canonical and equal" in said
        assert "before: 0 accepted" in said and "1 refused: Onnx operation Gemm not known." in said
        assert "after: 1 accepted; at one point: 1 sat" in said
    [record] = [json.loads(text) for text in results.read_text().splitlines()]
    assert record["passes"] == ["matmul"]
