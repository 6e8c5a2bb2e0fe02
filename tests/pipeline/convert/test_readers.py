"""Marabou and NeuralSAT read what `convert --for` makes for them: `make test-peers` installs them, or this skips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conversion_graphs import Net

from factories import box_property
from secateur.formats import onnx_model
from secateur.formats.errors import SecateurError
from secateur.pipeline import campaign, dispatch, onnxrt
from secateur.pipeline.convert import conversion
from secateur.pipeline.dispatch import homes
from secateur.pipeline.dispatch.foreign import Limits
from secateur.pipeline.questions import How

pytestmark = pytest.mark.peers


def features() -> onnx.ModelProto:
    """Sums that broadcast, x + x, a Slice, a Concat, a Clip and a Max, between layers."""
    net = Net([1, 6])
    net.add("Sub", ".", net.number(1)).add("Div", ".", net.number(6, low=0.5))
    net.add("MatMul", ".", net.number(6, 5)).add("Add", ".", net.number(1)).add("Relu").add("Add", ".", ".")
    whole = net.value
    net.add("Slice", ".", *(net.constant(np.array([n])) for n in (1, 4, 1)))
    net.add("Clip", ".", *(net.constant(np.array(bound, np.float32)) for bound in (0, 1)))
    net.add("Concat", whole, ".", axis=1).add("Max", ".", net.number(8))
    return net.add("Gemm", ".", net.number(8, 3), alpha=0.5).model()


def images() -> onnx.ModelProto:
    """A padded pool, a grouped Conv, channels in another place, an average."""
    net = Net([1, 2, 6, 6])
    net.add("Sub", ".", net.number(2, 1, 1)).add("Conv", ".", net.number(4, 2, 3, 3), net.number(4)).add(
        "Relu"
    )
    net.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    net.add("Conv", ".", net.number(4, 2, 1, 1), group=2).add("Relu").add("AveragePool", kernel_shape=[1, 2])
    net.add("Transpose", perm=[0, 2, 3, 1]).add("Flatten")
    return net.add("MatMul", ".", net.number(8, 2)).model()


@pytest.mark.parametrize("make", [features, images])
@pytest.mark.parametrize("peer", ["marabou", "neuralsat"])
def test_it_reads_what_is_converted_for_it(peer: str, make, tmp_path: Path) -> None:
    """Around one input, what onnxruntime gives there is possible, and what it does not give is not."""
    tool = dispatch.tool(peer)
    assert tool is not None
    try:
        homes.find(tool)
    except SecateurError as error:
        pytest.skip(str(error))
    source, onnx_file, prop = tmp_path / "source.onnx", tmp_path / "net.onnx", tmp_path / "p.vnnlib"
    onnx_model.write(make(), str(source))
    onnx_model.write(conversion.convert(str(source), target=peer).proto, str(onnx_file))
    model = onnx_model.read(str(source))
    x = onnxrt.sample_inputs(onnxrt.count_inputs(model), seed=0, samples=1)
    y = onnxrt.run(model, x)[0].tolist()
    box = (x[0] - np.float32(1e-4)).tolist(), (x[0] + np.float32(1e-4)).tolist(), len(y)
    for shift, expected in ((-0.01, "sat"), (0.1, "unsat")):
        prop.write_text(box_property(*box, f"(>= Y_0 {y[0] + shift!r})"))
        how = How(verifier=peer, limits=Limits(memory=8 << 30, threads=1))
        record = campaign.verify_files(str(onnx_file), str(prop), how, timeout=60)
        assert record.verdict == expected, record.message
