"""Every rule by hand: what goes together behind each operator, and why channels stay where they stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from channel_graphs import check, net
from secateur.pipeline.prune.channels import analyse

FIRST = "a = Conv(x, w0) "
LAST = " y = Conv(z, w9)"
ENDS = {"w0": (6, 3, 1, 1), "w9": (2, 6, 1, 1)}

TOGETHER = {  # body, output, constants, and the sizes of the groups (first layers in order)
    "add": ("b = Conv(x, w1) z = Add(a, b)", {"w1": (6, 3, 1, 1)}, {"a": 6}),
    "chain of sums": ("b = Conv(a, w1) c = Sum(a, b, a) z = Max(c, a)", {"w1": (6, 6, 1, 1)}, {"a": 6}),
    "concat": (
        "b = Conv(x, w1) z = Concat<axis=1>(b, a)",
        {"w0": (4, 3, 1, 1), "w1": (2, 3, 1, 1)},
        {"a": 4, "b": 2},
    ),
    "split": (
        "b, c = Split<axis=1>(a, n) d = Conv(c, w1) z = Concat<axis=1>(b, d)",
        {"n": [2, 4], "w1": (4, 4, 1, 1)},
        {"a": 6, "d": 4},
    ),
    "split in halves": ("b, c = Split<axis=1>(a) z = Add(b, c)", {"w9": (2, 3, 1, 1)}, {"a": 3}),
    "slice": ("z = Slice(a, s, e, s)", {"s": [1], "e": [-1], "w9": (2, 4, 1, 1)}, {"a": 6}),
    "gather": ("z = Gather<axis=1>(a, i)", {"i": [5, 0, 0, -2], "w9": (2, 4, 1, 1)}, {"a": 6}),
    "pad": ("z = Pad(a, p)", {"p": [0, 1, 0, 0, 0, 2, 0, 0], "w9": (2, 9, 1, 1)}, {"a": 6}),
    "shortcut of zeros": (
        "b = Pad(a, p) c = Conv(x, w1) z = Add(b, c)",
        {"p": [0, 1, 0, 0, 0, 2, 0, 0], "w1": (9, 3, 1, 1), "w9": (2, 9, 1, 1)},
        {"a": 6, "c": 3},
    ),
    "depthwise": (
        "z = Conv<group=6>(a, w1, b1)",
        {"w1": (12, 1, 1, 1), "b1": (12,), "w9": (2, 12, 1, 1)},
        {"a": 6},
    ),
    "many groups": ("z = Conv<group=3>(a, w1)", {"w1": (6, 2, 1, 1)}, {"a": 2, "z": 2}),
    "constant of a computed shape": (
        "h = Shape<start=0, end=1>(x) n = Concat<axis=0>(h, i) c = ConstantOfShape(n) e = Add(c, v) "
        "p = Transpose<perm=[0,3,1,2]>(e) z = Add(a, p)",
        {"i": [4, 4, 6], "v": (6,)},
        {"a": 6},
    ),
    "few groups": ("z = Conv<group=2>(a, w1)", {"w1": (4, 3, 1, 1), "w9": (2, 4, 1, 1)}, {"a": 3, "z": 2}),
    "transposed": ("z = ConvTranspose(a, w1, b1)", {"w1": (6, 6, 1, 1), "b1": (6,)}, {"a": 6, "z": 6}),
    "transposed depthwise": (
        "z = ConvTranspose<group=6>(a, w1)",
        {"w1": (6, 2, 1, 1), "w9": (2, 12, 1, 1)},
        {"a": 6},
    ),
    "transposed few groups": ("z = ConvTranspose<group=2>(a, w1)", {"w1": (6, 3, 1, 1)}, {"a": 3, "z": 3}),
    "instance norm": ("z = InstanceNormalization(a, s, t)", {"s": (6,), "t": (6,)}, {"a": 6}),
    "prelu": ("z = PRelu(a, s)", {"s": (6, 1, 1)}, {"a": 6}),
    "layer norm beside": ("z = LayerNormalization(a, s)", {"s": (4,)}, {"a": 6}),
    "softmax beside": ("z = Softmax<axis=-1>(a)", {}, {"a": 6}),
    "gate": (
        "b = GlobalAveragePool(a) c = Conv(b, w1) d = Sigmoid(c) z = Mul(a, d)",
        {"w1": (6, 6, 1, 1)},
        {"a": 6},
    ),
    "one map for all": ("b = Conv(a, w1) z = Mul(a, b)", {"w1": (1, 6, 1, 1)}, {"a": 6}),
    "sum over channels": (
        "b = ReduceSum<keepdims=1>(a, i) z = Conv(b, w1)",
        {"i": [1], "w1": (6, 1, 1, 1)},
        {"a": 6, "z": 6},
    ),
    "sum over normalised channels": (
        "b = BatchNormalization(a, s, t, m, v) c = ReduceSum<keepdims=1>(b, i) z = Conv(c, w1)",
        {"s": (6,), "t": (6,), "m": (6,), "v": (6,), "i": [1], "w1": (6, 1, 1, 1)},
        {"a": 6, "z": 6},
    ),
    "mean over pixels": ("z = ReduceMean<axes=[2,3], keepdims=1>(a)", {"out": 1}, {"a": 6}),
    "resize": ('z = Resize<mode="nearest">(a, , , n)', {"n": [1, 6, 2, 2], "out": 2}, {"a": 6}),
    "tile": ("z = Tile(a, r)", {"r": [1, 2, 1, 1], "w9": (2, 12, 1, 1)}, {"a": 6}),
    "shuffle": (
        "b = Reshape(a, s) c = Transpose<perm=[0,2,1,3,4]>(b) z = Reshape(c, t)",
        {"s": [0, 2, 3, 4, 4], "t": [0, 6, 4, 4]},
        {"a": 6},
    ),
    "split by a reshape": (
        "b = Reshape(a, s) c = Relu(b) z = Reshape(c, t)",
        {"s": [0, 2, 3, 4, 4], "t": [0, 6, 4, 4]},
        {"a": 3},
    ),
    "group norm": (
        "b = Reshape(a, s) c = InstanceNormalization(b, o, u) z = Reshape(c, t)",
        {"s": [0, 3, -1], "t": [-1, 6, 4, 4], "o": (3,), "u": (3,)},
        {"a": 3},
    ),
    "channels last": (
        "b = Transpose<perm=[0,2,3,1]>(a) c = MatMul(b, w1) z = Transpose<perm=[0,3,1,2]>(c)",
        {"w1": (6, 6)},
        {"a": 6, "c": 6},
    ),
    "matrix on the left": ("b = Flatten<axis=2>(a) z = Conv(a, w1)", {"w1": (6, 6, 1, 1)}, {"a": 6, "z": 6}),
    "depth to space": (
        "b = DepthToSpace<blocksize=2>(a) z = SpaceToDepth<blocksize=2>(b)",
        {"w0": (8, 3, 1, 1), "w9": (2, 8, 1, 1)},
        {"a": 2},
    ),
    "through double precision": ("b = Cast<to=11>(a) z = Cast<to=1>(b)", {}, {"a": 6}),
    "by its own function": ("b = Erf(a) z = Mul(a, b)", {}, {"a": 6}),
    "where": ("b = Relu(a) c = Less(a, b) z = Where(c, a, b)", {}, {"a": 6}),
    "einsum over channels": (
        'b = Conv(x, w1) c = Einsum<equation="nchw, nchw -> nhw">(a, b) z = Unsqueeze(c, j)',
        {"w1": (6, 3, 1, 1), "j": [1], "w9": (2, 1, 1, 1)},
        {"a": 6},
    ),
    "einsum of outer products": (
        'b = Conv(x, w1) c = Einsum<equation="nchw,ndhw->ncdhw">(a, b) z = ReduceMean<axes=[2], keepdims=0>(c)',
        {"w1": (3, 3, 1, 1)},
        {"a": 6},
    ),
    "einsum that sums one side": (
        'b = Conv(x, w1) z = Einsum<equation="nchw,ndhw->nchw">(a, b)',
        {"w1": (3, 3, 1, 1)},
        {"a": 6},
    ),
    "weight used twice": ("b = Conv(x, w0) z = Add(a, b)", {}, {"a": 6}),
}

PINNED = {  # the same, and the reason for the first layer
    "graph input": (
        "b = Conv(x, w1) c = Concat<axis=1>(x, x) z = Add(a, c)",
        {"w1": (6, 3, 1, 1)},
        "joins values that cannot shrink at Add",
    ),
    "no rule": ("z = LRN<size=3>(a)", {}, "no rule for LRN"),
    "einsum of a constant": (
        'z = Einsum<equation="nchw,cd->ndhw">(a, c)',
        {"c": (6, 6)},
        "a constant operand of Einsum",
    ),
    "einsum with an ellipsis": (
        'z = Einsum<equation="...,...->...">(a, a)',
        {},
        "no rule for the equation of Einsum",
    ),
    "gather n-d": (
        "b = Transpose<perm=[1,0,2,3]>(a) c = GatherND(b, i) z = Unsqueeze(c, j)",
        {"i": [2], "j": [1], "w9": (2, 1, 1, 1)},
        "no rule for GatherND",
    ),
    "unfolded bias": (
        "b = Neg(c) z = Add(a, b)",
        {"c": (1, 6, 1, 1)},
        "joins values computed from constants alone (`secateur convert` folds them) at Add",
    ),
    "softmax": ("z = Softmax<axis=1>(a)", {}, "normalised over by Softmax"),
    "layer norm": (
        "b = Transpose<perm=[0,2,3,1]>(a) c = LayerNormalization(b, s) z = Transpose<perm=[0,3,1,2]>(c)",
        {"s": (6,)},
        "normalised over by LayerNormalization",
    ),
    "mean over channels": (
        "b = ReduceMean<axes=[1], keepdims=1>(a) z = Conv(b, w1)",
        {"w1": (6, 1, 1, 1)},
        "reduced over by ReduceMean",
    ),
    "not zero in a sum": (
        "b = Exp(a) c = ReduceSum<keepdims=1>(b, i) z = Conv(c, w1)",
        {"i": [1], "w1": (6, 1, 1, 1)},
        "not zero when masked at ReduceSum",
    ),
    "divisor": ("b = Exp(a) c = Abs(a) z = Div(b, c)", {}, "divide by zero when masked"),
    "logarithm": ("b = Abs(a) z = Log(b)", {}, "not finite when masked by Log"),
    "every second": (
        "z = Slice(a, s, e, i, t)",
        {"s": [0], "e": [6], "i": [1], "t": [2], "w9": (2, 3, 1, 1)},
        "picked in steps by Slice",
    ),
    "computed weight": (
        "b = GlobalAveragePool(a) c = ReduceMean<axes=[0], keepdims=1>(b) d = Reshape(c, s) z = Conv(a, d)",
        {"s": [1, 6, 1, 1], "w9": (2, 1, 1, 1)},
        "the weight is computed at Conv",
    ),
    "one channel": ("z = Relu(a)", {"w0": (1, 3, 1, 1), "w9": (2, 1, 1, 1)}, "there is only one"),
    "tied over two axes": (
        "b = Conv(a, w0) z = Relu(b)",
        {"w0": (3, 3, 1, 1), "w9": (2, 3, 1, 1)},
        "shared initializer 'w0'",
    ),
    "mixed along another axis": ("z = MatMul(a, w1)", {"w1": (4, 4)}, None),
    "two axes into one": (
        "b = MatMul(a, w1) c = Flatten(b) d = Gemm(c, w2) z = Reshape(d, s)",
        {"w1": (4, 4), "w2": (96, 6), "s": [0, 6, 1, 1], "out": 1},
        "merged with another axis of channels by Flatten",
    ),
}


def proto_of(body: str, constants: dict[str, object]) -> onnx.ModelProto:
    given = {**ENDS, **constants}
    size = given.pop("out", 4)
    return net(FIRST + body + LAST, f"N,2,{size},{size}", **given)


@pytest.mark.parametrize("case", TOGETHER)
def test_what_goes_together(case):
    body, constants, sizes = TOGETHER[case]
    proto = proto_of(body, constants)
    for seed in range(3):
        found, _ = check(proto, seed=seed)
    assert {group.name: group.size for group in found.groups} == sizes


@pytest.mark.parametrize("case", PINNED)
def test_why_channels_stay(case):
    body, constants, reason = PINNED[case]
    found, _ = check(proto_of(body, constants))
    reasons = dict(found.pinned)
    if reason is None:
        assert "a" not in reasons
    else:
        assert reason in reasons["a"]


def test_a_layer_of_constants_is_named():
    """As swin_v2 computes its position bias: both operands of the layer are constant."""
    found, _ = check(proto_of("b = MatMul(c, w1) z = Add(a, b)", {"c": (6, 4, 4), "w1": (4, 4)}))
    assert dict(found.pinned)["b"] == "they are computed from constants alone (`secateur convert` folds them)"


ATTENTION = """
a = Conv(x, w0) b = Reshape(a, s) t = Transpose<perm=[0,2,1]>(b)
q0 = MatMul(t, wq) k0 = MatMul(t, wk) v0 = MatMul(t, wv)
q1 = Reshape(q0, r) q = Transpose<perm=[0,2,1,3]>(q1)
k1 = Reshape(k0, r) k = Transpose<perm=[0,2,3,1]>(k1)
v1 = Reshape(v0, r) v = Transpose<perm=[0,2,1,3]>(v1)
p0 = MatMul(q, k) p = Softmax<axis=-1>(p0) o0 = MatMul(p, v) o1 = Transpose<perm=[0,2,1,3]>(o0)
o2 = Reshape(o1, u) o = MatMul(o2, wo) y = ReduceMean<axes=[1], keepdims=0>(o)
"""


BY_EINSUM = (
    ATTENTION[: ATTENTION.index("q1")]
    + """
q1 = Reshape(q0, r) k1 = Reshape(k0, r) v1 = Reshape(v0, r)
p0 = Einsum<equation="nqhd,nkhd->nhqk">(q1, k1) p = Softmax<axis=-1>(p0)
o1 = Einsum<equation="nhqk,nkhd->nqhd">(p, v1)
"""
    + ATTENTION[ATTENTION.index("o2") :]
)


@pytest.mark.parametrize("form", [ATTENTION, BY_EINSUM], ids=["matmul", "einsum"])
@pytest.mark.parametrize(
    ("view", "sizes"), [("channels", {"a": 6, "q0": 2, "v0": 2}), ("heads", {"a": 6, "q0": 3})]
)
def test_attention_in_both_views(view, sizes, form):
    proto = net(
        form, "N,2", w0=(6, 3, 1, 1), s=[0, 6, 16], wq=(6, 6), wk=(6, 6), wv=(6, 6), wo=(6, 2),
        r=[0, 16, 3, 2], u=[0, 16, 6],
    )  # fmt: skip
    found, _ = check(proto, view=view)
    assert {group.name: group.size for group in found.groups} == sizes
    kinds = {group.name: group.kind for group in found.groups}
    assert kinds["q0"] == ("head" if view == "heads" else "channel")
    last = next(group for group in found.groups if group.name in ("q0", "v0") and "wv" in group.layers)
    units = next(member.units for member in last.members if member.tensor == "wo")
    assert units.tolist() == ([0, 0, 1, 1, 2, 2] if view == "heads" else [0, 1] * 3)


@pytest.mark.parametrize(("view", "size"), [("channels", 2), ("heads", 3)])
def test_a_bias_of_each_head_goes_with_its_head(view, size):
    """Relative positions: their bias [1, heads, tokens, tokens] has no features, and does not hold those back."""
    proto = net(
        ATTENTION.replace("p = Softmax<axis=-1>(p0)", "p1 = Add(p0, h) p = Softmax<axis=-1>(p1)"), "N,2",
        w0=(6, 3, 1, 1), s=[0, 6, 16], wq=(6, 6), wk=(6, 6), wv=(6, 6), wo=(6, 2), r=[0, 16, 3, 2], u=[0, 16, 6],
        h=(1, 3, 16, 16),
    )  # fmt: skip
    found, _ = check(proto, view=view)
    sizes = {group.name: group.size for group in found.groups}
    assert sizes == {"a": 6, "q0": size, **({"v0": size} if view == "channels" else {})}
    small = found.remove({"q0": np.arange(size) == 0})
    bias = next(tensor for tensor in small.graph.initializer if tensor.name == "h")
    assert bias.dims[1] == (2 if view == "heads" else 3)


def test_what_an_if_reads_stays():
    proto = net(
        """a = Conv(x, w0) c = Identity(flag)
        z = If(c) <then_branch = t () => (float r) { r = Relu(a) }, else_branch = e () => (float s) { s = Abs(a) }>
        y = Conv(z, w9)""",
        flag=1,
        **ENDS,
    )
    flag = next(tensor for tensor in proto.graph.initializer if tensor.name == "flag")
    flag.CopyFrom(numpy_helper.from_array(np.array(True), "flag"))
    assert dict(analyse(proto).pinned)["a"] == "read inside If 'z'"


def test_shared_parameters_are_copied_when_their_layers_differ():
    proto = net(
        "a = Conv(x, w0) b = BatchNormalization(a, s, t, t, s) c = Conv(b, w1) z = BatchNormalization(c, s, t, t, s)"
        + LAST,
        s=(6,), t=(6,), w1=(6, 6, 1, 1), **ENDS,
    )  # fmt: skip
    found, small = check(proto)
    roles = {member.role for group in found.groups for member in group.members if member.tensor in "st"}
    assert roles == {"fixed"}
    assert len(small.graph.initializer) > len(proto.graph.initializer)


def test_constants_behind_views_are_cut():
    proto = net(
        "a = Conv(x, w0) v = Identity(s) u = Unsqueeze(v, i) b = Add(a, u) p = Transpose<perm=[1,0,2,3]>(w1) "
        "z = Conv(b, p)" + LAST,
        s=(6,), i=[0, 2, 3], w1=(6, 5, 1, 1), **{**ENDS, "w9": (2, 5, 1, 1)},
    )  # fmt: skip
    found, _ = check(proto)
    members = {member.tensor: member.axis for group in found.groups for member in group.members}
    assert (members["s"], members["w1"]) == (0, 1)
    assert [group.layers for group in found.groups] == [("w0",), ("w1",)]


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_numbers_in_attributes_of_older_opsets(opset):
    if opset < 10:
        cut = "b = Slice<axes=[1], starts=[1], ends=[5]>(a) "
    else:
        cut = "b = Slice(a, s, e, s) "
    if opset < 13:
        parts, squeezed = (
            "c, d = Split<axis=1, split=[1, 3]>(b) ",
            "u = Unsqueeze<axes=[1]>(f) v = Squeeze<axes=[1]>(u) ",
        )
    else:
        parts, squeezed = "c, d = Split<axis=1>(b, n) ", "u = Unsqueeze(f, s) v = Squeeze(u, s) "
    pad = "f = Pad<pads=[0,1,0,0,0,0,0,0]>(d) " if opset < 11 else "f = Pad(d, p) "
    proto = net(
        FIRST + cut + parts + pad + squeezed + "z = Concat<axis=1>(c, v)" + LAST,
        opset=opset, s=[1], e=[5], n=[1, 3], p=[0, 1, 0, 0, 0, 0, 0, 0], **{**ENDS, "w9": (2, 5, 1, 1)},
    )  # fmt: skip
    found, _ = check(proto, seed=4)
    assert {group.name: group.size for group in found.groups} == {"a": 6}


def test_group_normalization_loses_whole_groups():
    body = FIRST + "z = GroupNormalization<num_groups=3>(a, s, t)" + LAST
    found, _ = check(net(body, opset=21, s=(6,), t=(6,), **ENDS), seed=1)
    assert {group.name: group.size for group in found.groups} == {"a": 3}
    left = found.remove({"a": np.array([True, False, False])})
    assert left.graph.node[1].attribute[0].i == 2


def test_squeezing_without_axes_holds_channels():
    proto = net(
        FIRST + "b = GlobalAveragePool(a) c = Squeeze(b) z = Reshape(c, s)" + LAST,
        "1,2,1,1",
        s=[1, 6, 1, 1],
        **ENDS,
    )
    assert "squeezed without axes by Squeeze" in dict(analyse(proto).pinned)["a"]


def test_sizes_computed_from_channels_keep_their_value():
    """Attention's scale, and the middle of a split, as TorchScript writes them."""
    proto = net(
        """a = Conv(x, w0) h = Shape(a) n = Gather<axis=0>(h, one) f = Cast<to=1>(n) r = Sqrt(f) b = Div(a, r)
        m0 = Div(n, two) m = Unsqueeze(m0, zero) c = Slice(b, zero, m, i) d = Slice(b, m, big, i)
        z = Concat<axis=1>(d, c)""" + LAST,
        one=1, two=2, zero=[0], i=[1], big=[2**62], **ENDS,
    )  # fmt: skip
    found, small = check(proto, seed=1)
    assert {group.name: group.size for group in found.groups} == {"a": 6}
    assert "Sqrt" not in [node.op_type for node in small.graph.node]


def test_half_precision():
    proto = net(FIRST + "b = BatchNormalization(a, s, s, s, s) z = Relu(b)" + LAST, s=(6,), **ENDS)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    found = analyse(proto)
    small = found.remove({"a": np.arange(6) < 3})
    onnx.checker.check_model(small, full_check=True)
    assert {tuple(tensor.dims) for tensor in small.graph.initializer} == {(3, 3, 1, 1), (2, 3, 1, 1), (3,)}
