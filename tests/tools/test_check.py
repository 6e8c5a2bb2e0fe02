"""`secateur check witness` on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from factories import box_property, mlp
from secateur.formats import onnx_model, witness
from secateur.pipeline import onnxrt

Invoke = Callable[..., Result]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """A network, a property that its output at (0.5, 0.5) satisfies, and that witness."""
    net, prop, file = (str(tmp_path / name) for name in ("net.onnx", "p.vnnlib", "w.txt"))
    model = onnx_model.from_proto(mlp([2, 5, 2], seed=0))
    y = onnxrt.run(model, np.full((1, 2), 0.5, np.float32))[0]
    onnx_model.write(model, net)
    Path(prop).write_text(box_property([0, 0], [1, 1], 2, f"(>= Y_{y.argmax()} Y_{y.argmin()})"))
    witness.write([0.5, 0.5], [0, 0], file)
    return net, prop, file


def test_holds(invoke: Invoke, files: tuple[str, str, str]) -> None:
    result = invoke("check", "witness", *files)
    assert result.exit_code == 0 and result.stdout == ""
    assert result.stderr.startswith("the witness holds: Y_0 = ")
    piped = invoke("check", "witness", "-", *files[1:], stdin=Path(files[0]).read_bytes())
    assert piped.exit_code == 0 and piped.stderr == result.stderr


def test_does_not_hold(invoke: Invoke, files: tuple[str, str, str]) -> None:
    witness.write([0.5, 1.25], [0, 0], files[2])
    result = invoke("check", "witness", *files)
    assert result.exit_code == 1
    assert "w.txt: the witness does not hold: (<= X_1 1.0) at X_1 = 1.25 (off by 0.25)" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("((X_0 1))", "the witness has 1 inputs, the property 2"),
        ("sat\n", "not a witness: expected ((X_0 value)"),
        ("", "empty"),
    ],
)
def test_bad_witness_files(invoke: Invoke, files: tuple[str, str, str], text: str, message: str) -> None:
    Path(files[2]).write_text(text)
    result = invoke("check", "witness", *files)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_property_of_another_network(invoke: Invoke, files: tuple[str, str, str]) -> None:
    Path(files[1]).write_text(box_property([0], [1], 2, "(>= Y_0 Y_1)"))
    result = invoke("check", "witness", *files)
    assert result.exit_code == 2 and "declares 1 inputs, the network has 2" in result.stderr
