"""Residual branches are found and can be zeroed; convolutions of blocks become grouped ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from channel_graphs import net
from secateur.formats import onnx_model
from secateur.formats.onnx_model import from_proto, initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import shrink
from secateur.pipeline.prune.blocks import Branch, regroup, residual_branches

RESNET = """
a = Conv(x, w0, b0)
c1 = Conv(a, w1, b1) r1 = Relu(c1) c2 = Conv(r1, w2, b2) first = Add(c2, a) f = Relu(first)
d1 = Conv(f, w3) e1 = BatchNormalization(d1, s, t, m, v) s1 = Conv(f, w4, b4) second = Add(s1, e1)
y = Conv(second, w9)
"""


def resnet() -> onnx.ModelProto:
    square, six = (6, 6, 1, 1), (6,)
    return net(
        RESNET, w0=(6, 3, 1, 1), b0=six, w1=square, b1=six, w2=square, b2=six, w3=square, s=six, t=six, m=six, v=six,
        w4=square, b4=six, w9=(2, 6, 1, 1),
    )  # fmt: skip


def deeper() -> onnx.ModelProto:
    """With a layer more in the second branch."""
    proto = resnet()
    proto.graph.node[6].input[0] = "g"
    proto.graph.node.insert(6, onnx.helper.make_node("Conv", ["f", "w5"], ["g"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((6, 6, 1, 1), np.float32), "w5"))
    return proto


def test_branches_of_a_residual_network():
    proto = resnet()
    assert residual_branches(proto) == (Branch("first", ("w2", "b2"), ("w1", "w2")),)
    proto = deeper()  # in the second block, both sides had one layer
    assert residual_branches(proto)[1] == Branch("second", ("s", "t"), ("w5", "w3"))


@pytest.mark.parametrize("which", [0, 1])
def test_zeroed_branches_disappear(which):
    proto = deeper()
    branch = residual_branches(proto)[which]
    for name in branch.zeros:
        onnx_model.set_initializer(proto, name, np.zeros_like(initializers(proto)[name]))
    small = shrink(from_proto(proto))
    gone = {layer.weight for layer in small.layers if layer.after == 0}
    assert gone == set(branch.weights)
    assert branch.name not in [node.output[0] for node in small.proto.graph.node]


def test_a_branch_that_others_read_is_none():
    proto = resnet()
    proto.graph.node[-1].input[0] = "mixed"
    proto.graph.node.insert(9, onnx.helper.make_node("Mul", ["second", "r1"], ["mixed"]))
    assert residual_branches(proto) == ()


@given(st.sampled_from([(2, 3, 2), (3, 2, 2), (4, 1, 3)]), st.booleans(), st.integers(0, 99), st.booleans())
@settings(max_examples=30, deadline=None)
def test_blocks_become_groups(sizes, bias, seed, mixed):
    groups, into, out = sizes
    random = np.random.default_rng(seed)
    kernels = np.zeros((groups * out, groups * into, 3, 3), np.float32)
    rows, columns = np.arange(groups * out), np.arange(groups * into)
    if mixed:
        random.shuffle(rows)
        random.shuffle(columns)
    for group in range(groups):
        block = np.ix_(rows[group * out : (group + 1) * out], columns[group * into : (group + 1) * into])
        kernels[block] = random.uniform(0.1, 1, (out, into, 3, 3))
    last = ", b" if bias else ""
    proto = net(
        f"a = Conv(x, w0) c = Conv<pads=[1,1,1,1]>(a, w{last}) y = Conv(c, w9)",
        w0=(groups * into, 3, 1, 1), w=(1,), b=(groups * out,), w9=(2, groups * out, 1, 1),
    )  # fmt: skip
    onnx_model.set_initializer(proto, "w", kernels)
    result = onnx.ModelProto.FromString(proto.SerializeToString())
    (found,) = regroup(result)
    assert (found.weight, found.groups) == ("w", groups)
    assert initializers(result)["w"].shape == (groups * out, into, 3, 3)
    assert mixed or [node.op_type for node in result.graph.node] == ["Conv"] * 3
    onnx.checker.check_model(result, full_check=True)
    x = onnxrt.sample_inputs(48, seed=seed, samples=4)
    assert onnxrt.difference(onnxrt.run(proto, x), onnxrt.run(result, x)) < 1e-5
    assert regroup(result) == ()
    small = shrink(from_proto(proto))
    assert initializers(small.proto)["w"].size == initializers(result)["w"].size


def test_uneven_or_dense_kernels_stay():
    kernels = np.ones((4, 4, 1, 1), np.float32)
    proto = net("a = Conv(x, w0) c = Conv(a, w) y = Conv(c, w9)", w0=(4, 3, 1, 1), w=(1,), w9=(2, 4, 1, 1))
    onnx_model.set_initializer(proto, "w", kernels)
    assert regroup(proto) == ()
    kernels = kernels.copy()
    kernels[0, 1:] = kernels[1:, 0] = 0
    onnx_model.set_initializer(proto, "w", kernels)
    assert regroup(proto) == ()
