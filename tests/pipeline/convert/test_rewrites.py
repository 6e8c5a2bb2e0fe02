"""Every pass, case by case and on random networks: what it removes is gone, and the function is the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from conversion_graphs import Net, operators
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.onnx_model import initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.convert import conversion, targets
from secateur.pipeline.convert.judge import Judge
from secateur.pipeline.convert.passes import relus
from secateur.pipeline.convert.passes import table as passes
from secateur.pipeline.convert.sources import Source


def rewritten(words: str, proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model after passes that all had something to do, each compared with what went in, the source untouched."""
    before = proto.SerializeToString()
    for step in passes.named(words):
        assert step.check(proto) is None, step.written
        result = step.rewrite(proto)
        onnx.checker.check_model(result, full_check=True)
        onnxrt.compare(proto, result, tolerance=1e-5)
        proto_before, proto = proto, result
        if proto_before.SerializeToString() == before:
            assert proto is not proto_before
    assert step.check(proto) is not None, "a pass leaves nothing to do for itself"
    return proto


def gemm(net: Net, rows: int, columns: int, **attributes: float) -> Net:
    transposed = attributes.get("transB", 0)
    weight = net.number(*((columns, rows) if transposed else (rows, columns)))
    return net.add("Gemm", ".", weight, net.number(columns), **attributes)


def conv(net: Net, into: int, out: int, *kernel: int, group: int = 1, **attributes: object) -> Net:
    weight = net.number(out, into // group, *kernel)
    return net.add("Conv", ".", weight, net.number(out), group=group, **attributes)


def norm(net: Net, channels: int) -> Net:
    names = [
        net.number(channels, low=0.5),
        net.number(channels),
        net.number(channels),
        net.number(channels, low=0.5),
    ]
    return net.add("BatchNormalization", ".", *names)


def half(net: Net) -> str:
    return net.constant(np.array(0.5, np.float32))


CASES: dict[str, tuple[str, Callable[[Net], Net], list[int | str], list[str]]] = {
    "MatMul and Add": (
        "gemm",
        lambda n: n.add("MatMul", ".", n.number(4, 3)).add("Add", n.number(3), "."),
        ["N", 4],
        ["Gemm"],
    ),
    "MatMul and a row": (
        "gemm",
        lambda n: n.add("MatMul", ".", n.number(4, 3)).add("Add", ".", n.number(1, 3)),
        ["N", 4],
        ["Gemm"],
    ),
    "MatMul and a column": (
        "gemm",
        lambda n: n.add("MatMul", ".", n.number(4, 3)).add("Add", ".", n.number(2, 3)),
        [2, 4],
        ["Gemm", "Add"],
    ),
    "MatMul alone": ("gemm", lambda n: n.add("MatMul", ".", n.number(4, 3)), ["N", 4], ["Gemm"]),
    "Gemm with factors": ("gemm", lambda n: gemm(n, 4, 3, alpha=0.5, beta=3.0, transB=1), ["N", 4], ["Gemm"]),
    "Gemm without bias": ("gemm", lambda n: n.add("Gemm", ".", n.number(4, 3)), ["N", 4], ["Gemm"]),
    "Gemm and a number": (
        "gemm",
        lambda n: n.add("Gemm", ".", n.number(4, 3), n.number(1), beta=2.0),
        ["N", 4],
        ["Gemm"],
    ),
    "Gemm as torch has it": ("transb", lambda n: gemm(n, 4, 3), ["N", 4], ["Gemm"]),
    "Gemm split": (
        "matmul",
        lambda n: gemm(n, 4, 3, alpha=0.5, beta=3.0, transB=1),
        ["N", 4],
        ["MatMul", "Add"],
    ),
    "normalised features": (
        "affine",
        lambda n: gemm(n.add("Sub", ".", n.number(4)).add("Div", ".", n.number(4, low=0.1)), 4, 3),
        ["N", 4],
        ["Gemm"],
    ),
    "normalised pixels before Flatten": (
        "affine",
        lambda n: gemm(
            n.add("Sub", ".", n.number(1, 2, 1, 1)).add("Mul", n.number(2, 1, 3), ".").add("Flatten"), 12, 3
        ),
        ["N", 2, 2, 3],
        ["Flatten", "Gemm"],
    ),
    "turned around": (
        "affine",
        lambda n: gemm(n.add("Sub", n.number(4), ".").add("Neg"), 4, 3),
        [1, 4],
        ["Gemm"],
    ),
    "normalised channels": (
        "affine",
        lambda n: conv(
            n.add("Sub", ".", n.number(2, 1, 1)).add("Div", ".", n.number(2, 1, 1, low=0.1)), 2, 3, 2, 2
        ),
        ["N", 2, 4, 4],
        ["Conv"],
    ),
    "normalised groups": (
        "affine",
        lambda n: conv(
            n.add("Add", ".", n.number(4, 1, 1)).add("Mul", ".", n.number(4, 1, 1)), 4, 6, 2, 2, group=2
        ),
        ["N", 4, 4, 4],
        ["Conv"],
    ),
    "a scale before padding": (
        "affine",
        lambda n: conv(n.add("Mul", ".", n.number(2, 1, 1)), 2, 3, 3, 3, pads=[1, 1, 1, 1]),
        ["N", 2, 4, 4],
        ["Conv"],
    ),
    "scaled outputs": (
        "affine",
        lambda n: gemm(n, 4, 3, transB=1).add("Mul", ".", n.number(3)).add("Add", ".", n.number(1)),
        ["N", 4],
        ["Gemm"],
    ),
    "scaled channels": (
        "affine",
        lambda n: conv(n, 2, 3, 3, 3, pads=[1, 1, 1, 1]).add("Mul", n.number(1, 3, 1, 1), ".").add("Neg"),
        ["N", 2, 4, 4],
        ["Conv"],
    ),
    "transposes cancel": (
        "transposes",
        lambda n: n.add("Transpose", perm=[0, 2, 3, 1]).add("Relu").add("Transpose", perm=[0, 3, 1, 2]),
        ["N", 2, 3, 4],
        ["Relu"],
    ),
    "transposes in a row": (
        "transposes",
        lambda n: n.add("Transpose", perm=[0, 2, 3, 1]).add("Transpose", perm=[0, 2, 1, 3]).add("Neg"),
        ["N", 2, 3, 4],
        ["Neg", "Transpose"],
    ),
    "transposes sink past constants": (
        "transposes",
        lambda n: (
            n.add("Transpose", perm=[0, 2, 3, 1])
            .add("Add", ".", n.number(2))
            .add("Transpose", perm=[0, 3, 1, 2])
        ),
        ["N", 2, 3, 4],
        ["Add"],
    ),
    "transposes go into weights": (
        "transposes",
        lambda n: gemm(n.add("Transpose", perm=[0, 2, 3, 1]).add("Tanh").add("Flatten"), 24, 3, transB=1),
        ["N", 2, 3, 4],
        ["Tanh", "Flatten", "Gemm"],
    ),
    "pairs of values": (
        "maxpool",
        lambda n: n.add("MaxPool", kernel_shape=[2, 2]),
        ["N", 2, 4, 4],
        [*["Conv", "Relu"] * 2, "Conv"],
    ),
    "odd windows": (
        "maxpool",
        lambda n: n.add("MaxPool", kernel_shape=[3, 1], strides=[2, 1], dilations=[2, 1]),
        [1, 2, 7, 4],
        [*["Conv", "Relu"] * 2, "Conv"],
    ),
    "padded windows behind Relu": (
        "maxpool",
        lambda n: n.add("Relu").add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        ["N", 2, 5, 5],
        ["Relu", *["Conv", "Relu"] * 4, "Conv"],
    ),
    "pool of pool": (
        "maxpool",
        lambda n: (
            n.add("Relu").add("MaxPool", kernel_shape=[2]).add("MaxPool", kernel_shape=[2], pads=[1, 0])
        ),
        ["N", 2, 6],
        ["Relu", *["Conv", "Relu", "Conv"] * 2],
    ),
    "Abs": ("relus", lambda n: n.add("Abs"), ["N", 4], ["Relu", "Sub", "Relu", "Add"]),
    "LeakyRelu": (
        "relus",
        lambda n: n.add("LeakyRelu", alpha=0.3),
        ["N", 4],
        ["Relu", "Sub", "Relu", "Mul", "Sub"],
    ),
    "PRelu": (
        "relus",
        lambda n: n.add("PRelu", ".", n.number(2, 1)),
        ["N", 2, 3],
        ["Relu", "Sub", "Relu", "Mul", "Sub"],
    ),
    "Clip": (
        "relus",
        lambda n: n.add("Clip", ".", n.constant(np.array(-0.3, np.float32)), half(n)),
        ["N", 4],
        ["Sub", "Relu", "Sub", "Relu", "Sub"],
    ),
    "Clip from 0": (
        "relus",
        lambda n: n.add("Clip", ".", n.constant(np.array(0, np.float32)), half(n)),
        ["N", 4],
        ["Relu", "Sub", "Relu", "Sub"],
    ),
    "Clip to far": (
        "relus",
        lambda n: n.add("Clip", ".", half(n), n.constant(np.array(1e6, np.float32))),
        ["N", 4],
        ["Sub", "Sub", "Relu", "Relu", "Sub", "Add"],
    ),
    "Clip from below": ("relus", lambda n: n.add("Clip", ".", half(n)), ["N", 4], ["Sub", "Relu", "Add"]),
    "Clip from above": ("relus", lambda n: n.add("Clip", ".", "", half(n)), ["N", 4], ["Sub", "Relu", "Sub"]),
    "Clip without bounds": ("relus", lambda n: n.add("Clip"), ["N", 4], ["Identity"]),
    "Max": (
        "relus",
        lambda n: n.add("Max", ".", n.number(4), n.number(1)),
        ["N", 4],
        ["Sub", "Relu", "Add"] * 2,
    ),
    "Min": ("relus", lambda n: n.add("Min", n.number(4), "."), ["N", 4], ["Sub", "Relu", "Sub"]),
    "HardSigmoid": (
        "relus",
        lambda n: n.add("HardSigmoid", alpha=0.4),
        ["N", 4],
        ["Mul", "Add", "Relu", "Sub", "Relu", "Sub"],
    ),
    "Conv without attributes": ("attributes", lambda n: conv(n, 4, 6, 2, 2), ["N", 4, 4, 4], ["Conv"]),
    "Sub and Div": (
        "subtract",
        lambda n: n.add("Sub", ".", n.number(4)).add("Div", ".", n.number(4, low=0.1)),
        ["N", 4],
        ["Add", "Mul"],
    ),
    "Gemms in a row": ("chain", lambda n: gemm(gemm(n, 4, 3, transB=1), 3, 2), ["N", 4], ["Gemm"]),
    "grouped Conv": ("convolutions", lambda n: conv(n, 4, 6, 2, 2, group=2), ["N", 4, 4, 4], ["Conv"]),
    "dilated Conv": (
        "convolutions",
        lambda n: conv(n, 2, 3, 2, 2, dilations=[2, 1]),
        ["N", 2, 5, 4],
        ["Conv"],
    ),
    "Conv that pads itself": (
        "convolutions",
        lambda n: conv(n, 2, 3, 2, 3, auto_pad="SAME_LOWER", strides=[2, 1]),
        ["N", 2, 5, 4],
        ["Conv"],
    ),
    "AveragePool": (
        "convolutions",
        lambda n: n.add(
            "AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 0, 0, 0], count_include_pad=1
        ),
        ["N", 2, 4, 4],
        ["Conv"],
    ),
    "GlobalAveragePool": ("convolutions", lambda n: n.add("GlobalAveragePool"), ["N", 2, 4, 3], ["Conv"]),
    "broadcast constants": (
        "broadcasts",
        lambda n: n.add("Add", ".", n.number(2, 1)).add("Mul", n.number(1), "."),
        ["N", 2, 3],
        ["Add", "Mul"],
    ),
    "Slice": (
        "linear",
        lambda n: n.add(
            "Slice", ".", n.constant(np.array([1])), n.constant(np.array([3])), n.constant(np.array([1]))
        ),
        [1, 4],
        ["Gemm"],
    ),
    "Gather and Neg": (
        "linear",
        lambda n: n.add("Gather", ".", n.constant(np.array([2, 0])), axis=1).add("Neg"),
        [1, 4],
        ["Gemm"] * 2,
    ),
    "Transpose": (
        "linear",
        lambda n: n.add("Transpose", perm=[0, 2, 1]),
        [1, 2, 3],
        ["Reshape", "Gemm", "Reshape"],
    ),
    "MatMul of rank 3": (
        "linear",
        lambda n: n.add("MatMul", ".", n.number(3, 2)),
        [1, 2, 3],
        ["Reshape", "Gemm", "Reshape"],
    ),
    "one-dimensional Conv": ("linear", lambda n: conv(n, 2, 3, 2), [1, 2, 4], ["Reshape", "Gemm", "Reshape"]),
    "x + x": ("linear", lambda n: n.add("Add", ".", "."), [1, 4], ["Gemm"]),
    "BatchNormalization": ("linear", lambda n: norm(n, 4), [1, 4], ["Gemm"]),
    "Pad with 2": (
        "linear",
        lambda n: n.add("Pad", ".", n.constant(np.array([0, 1, 0, 0])), n.constant(np.array(2, np.float32))),
        [1, 4],
        ["Gemm"],
    ),
    "shapes in a row": (
        "reshapes",
        lambda n: n.add("Flatten").add("Unsqueeze", ".", n.constant(np.array([1]))).add("Relu"),
        ["N", 2, 3],
        ["Reshape", "Relu"],
    ),
    "there and back": (
        "reshapes",
        lambda n: n.add("Flatten").add("Reshape", ".", n.constant(np.array([1, 2, 3]))).add("Relu"),
        [1, 2, 3],
        ["Relu"],
    ),
    "nothing done": (
        "noops,identity",
        lambda n: (
            n.add("Add", ".", n.constant(np.array(0, np.float32))).add("Cast", to=1).add("Relu").add("Relu")
        ),
        ["N", 4],
        ["Relu"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_case_of_a_pass(name):
    words, build, shape, expected = CASES[name]
    assert operators(rewritten(words, build(Net(shape)).model())) == expected


def test_concatenated_values_become_a_sum():
    net = Net([1, 4])
    net.add("Relu")
    relu = net.value
    net.add("Concat", "x", relu, net.number(1, 2), axis=1)
    assert operators(rewritten("linear", net.model())) == ["Relu", "Gemm", "Gemm", "Add"]


def test_broadcast_values_are_expanded_and_become_linear():
    net = Net([1, 2, 3])
    net.add("ReduceMean", axes=[2], keepdims=1)
    net.add("Add", "x", ".")
    result = rewritten("broadcasts", net.model())
    assert operators(result) == ["ReduceMean", "Expand", "Add"]
    assert set(operators(rewritten("linear", result))) == {"Reshape", "Gemm", "Add"}


def test_a_shift_before_padding_stays_and_says_why():
    net = Net(["N", 2, 4, 4])
    net.add("Sub", ".", net.number(2, 1, 1)).add("Div", ".", net.number(2, 1, 1, low=0.1))
    proto = conv(net, 2, 3, 3, 3, pads=[1, 1, 1, 1]).model()
    result = passes.PASSES["affine"].rewrite(proto)
    assert operators(result) == ["Sub", "Conv"]
    assert onnxrt.compare(proto, result) < 1e-5
    assert "padding stays 0" in str(passes.PASSES["affine"].check(result))


def test_values_read_twice_and_shared_weights_are_left_alone():
    net = Net(["N", 3])
    weight, bias = net.number(3, 3), net.number(3)
    net.add("Mul", ".", net.number(3)).add("Gemm", ".", weight, bias)
    inner = net.value
    net.add("Gemm", ".", weight, bias).add("Add", ".", inner)
    result = rewritten("affine", net.model())
    assert operators(result) == ["Gemm", "Gemm", "Add"]
    assert len(initializers(result)) == 3  # the second layer's matrix is another one now
    assert passes.PASSES["chain"].check(result) is not None


def test_division_by_zero_stays():
    zero = np.array([1, 0, 2], np.float32)
    net = Net(["N", 3])
    proto = net.add("Div", ".", net.constant(zero)).model()
    assert passes.PASSES["subtract"].check(proto) is not None
    assert passes.PASSES["affine"].check(proto) is not None


def test_padded_pools_of_negative_values_and_read_indices_stay():
    padded = Net(["N", 1, 4]).add("MaxPool", kernel_shape=[2], pads=[1, 0]).model()
    assert "may be negative" in str(passes.PASSES["maxpool"].check(padded))


@pytest.mark.parametrize(("kind", "bound"), [(TensorProto.DOUBLE, 1e-6), (TensorProto.FLOAT16, 5e-2)])
def test_other_floats_become_float32_and_the_difference_is_told(kind, bound):
    dtype = np.float64 if kind == TensorProto.DOUBLE else np.float16
    net = Net(["N", 4])
    net.add("Cast", to=kind).add("MatMul", ".", net.constant(net.random.normal(size=(4, 3)).astype(dtype)))
    proto = net.add("Cast", to=TensorProto.FLOAT).model()
    proto.graph.input[0].type.tensor_type.elem_type = kind
    result = conversion.clean(Source(proto, "", "onnx"), steps=passes.named("float32"))
    assert {array.dtype for array in initializers(result.proto).values()} == {np.dtype(np.float32)}
    assert result.proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert 0 < result.difference < bound
    assert result.notes == [f"float32: the results differ by up to {result.difference:.1e}"]


def test_a_batch_is_fixed_and_sizes_follow():
    proto = gemm(Net(["N", 4]), 4, 3).model()
    result = conversion.clean(Source(proto, "", "onnx"), steps=passes.named("batch=2")).proto
    assert [dim.dim_value for dim in result.graph.input[0].type.tensor_type.shape.dim] == [2, 4]
    assert [dim.dim_value for dim in result.graph.output[0].type.tensor_type.shape.dim] == [2, 3]
    assert "fixed to 2 already" in str(passes.named("batch=1")[0].check(result))


@pytest.mark.parametrize("batch", [3, 500])
def test_a_batch_that_samples_do_not_fill_is_compared_too(batch):
    (step,) = passes.named(f"batch={batch}")
    proto, other = (gemm(Net(["N", 4], seed=seed), 4, 3).model() for seed in (0, 1))
    assert Judge(proto, 0, 1e-5).step(step.rewrite(proto), step) <= 1e-5
    with pytest.raises(CheckFailed, match=f"batch={batch}"):
        Judge(proto, 0, 1e-5).step(step.rewrite(other), step)


def test_outputs_that_are_not_wanted_go():
    proto = gemm(Net(["N", 4]).add("Relu"), 4, 3).model()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", 4]))
    kept = conversion.clean(Source(proto, "", "onnx"), steps=passes.named("outputs=v0")).proto
    assert operators(kept) == ["Relu"] and not kept.graph.initializer
    with pytest.raises(InputError, match="there is no output 'q': expected some of y, v0"):
        conversion.clean(Source(proto, "", "onnx"), steps=passes.named("outputs=q"))


def test_functions_duplicates_and_unread_outputs_go():
    net = Net(["N", 1, 4])
    net.add("MaxPool", kernel_shape=[2])
    net.nodes[-1].output.append("indices")
    one, other = net.constant(np.ones(3, np.float32)), net.constant(np.ones(3, np.float32))
    net.add("Add", ".", one).add("Mul", ".", other)
    proto = net.model()
    assert len(rewritten("unused", proto).graph.node[0].output) == 1
    assert len(rewritten("duplicates", proto).graph.initializer) == 1
    body = onnx.helper.make_node("Relu", ["a"], ["b"])
    opsets = [onnx.helper.make_opsetid("", 17)]
    proto.functions.append(onnx.helper.make_function("own", "Twice", ["a"], ["b"], [body], opsets))
    proto.opset_import.append(onnx.helper.make_opsetid("own", 1))
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Twice", "own"
    del proto.graph.node[0].output[1:], proto.graph.node[0].attribute[:]
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones(4, np.float32), one))
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.ones(4, np.float32), other))
    proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 4
    assert operators(rewritten("functions", proto)) == ["Relu", "Add", "Mul"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("inputs,nonsense", "there is no pass 'nonsense' .*list-passes"),
        ("opset", "there is no pass 'opset' .*opset=N"),
        ("gemm=3", "there is no pass 'gemm=3' .*write gemm"),
        ("batch=x", "expected batch=N with a number N"),
        ("outputs=", "expected outputs=A"),
    ],
)
def test_unknown_passes_and_parameters_are_named(words, message):
    with pytest.raises(InputError, match=message):
        passes.named(words)


def test_a_broken_pass_is_named_and_nothing_comes_of_it(monkeypatch):
    monkeypatch.setattr(relus, "_FAR", 0.0)
    step = passes.PASSES["relus"]
    wrong = lambda write, x, low, high: write.node("Relu", x, last=True)  # noqa: E731
    monkeypatch.setattr(relus, "_between", wrong)
    source = Source(CASES["Clip"][1](Net(["N", 4])).model(), "", "onnx")
    with pytest.raises(CheckFailed, match="the pass 'relus': the rewritten model differs"):
        conversion.clean(source, steps=[step])


LAYERS: list[Callable[[Net], Net]] = [
    lambda n: conv(n, 4, 4, 3, 3, pads=[1, 1, 1, 1]),
    lambda n: conv(n, 4, 4, 1, 1, group=2),
    lambda n: n.add("Relu"),
    lambda n: n.add("LeakyRelu", alpha=0.2),
    lambda n: n.add("Clip", ".", n.constant(np.array(-1, np.float32)), n.constant(np.array(1, np.float32))),
    lambda n: n.add("Abs"),
    lambda n: n.add("Min", ".", n.number(4, 1, 1)),
    lambda n: n.add("Sub", ".", n.number(4, 1, 1)),
    lambda n: n.add("Div", ".", n.number(1, 4, 1, 1, low=0.5)),
    lambda n: n.add("Add", ".", "."),
    lambda n: n.add("Add", ".", "x"),
    lambda n: norm(n, 4),
    lambda n: (
        n.add("Transpose", perm=[0, 2, 3, 1]).add("Mul", ".", n.number(4)).add("Transpose", perm=[0, 3, 1, 2])
    ),
    lambda n: n.add("MaxPool", kernel_shape=[2, 2], strides=[1, 1]).add(
        "Pad", ".", n.constant(np.array([0, 0, 0, 0, 0, 0, 1, 1]))
    ),
    lambda n: n.add("Identity").add("Dropout"),
]
TAILS: list[Callable[[Net], Net]] = [
    lambda n: gemm(n.add("Flatten"), 36, 3, alpha=0.5),
    lambda n: gemm(n.add("Transpose", perm=[0, 2, 3, 1]).add("Flatten"), 36, 3).add("Mul", ".", n.number(3)),
    lambda n: n.add("GlobalAveragePool").add("Flatten").add("MatMul", ".", n.number(4, 3)),
    lambda n: gemm(n.add("Reshape", ".", n.constant(np.array([1, -1]))), 36, 3).add("Add", ".", n.number(1)),
]


@settings(max_examples=15, deadline=None)
@given(
    layers=st.lists(st.sampled_from(range(len(LAYERS))), max_size=5),
    tail=st.sampled_from(range(len(TAILS))),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_network_keeps_its_function_whatever_passes_run(layers, tail, seed, data):
    net = Net([1, 4, 3, 3], seed)
    for layer in layers:
        LAYERS[layer](net)
    proto = TAILS[tail](net).model()
    plain = [row for row in passes.PASSES.values() if not row.parameter]
    chosen = data.draw(st.lists(st.sampled_from(plain), max_size=6, unique_by=lambda row: row.name))
    result = conversion.clean(Source(proto, "", "onnx"), steps=chosen)
    assert onnxrt.compare(proto, result.proto) <= 1e-4


@settings(max_examples=6, deadline=None)
@given(
    layers=st.lists(st.sampled_from(range(len(LAYERS))), max_size=5),
    tail=st.sampled_from(range(len(TAILS))),
    target=st.sampled_from(sorted(targets.TARGETS)),
)
def test_what_a_verifier_needs_keeps_the_function_and_its_vocabulary(layers, tail, target):
    net = Net([1, 4, 3, 3])
    for layer in layers:
        LAYERS[layer](net)
    proto = TAILS[tail](net).model()
    result = conversion.clean(
        Source(proto, "", "onnx"), steps=passes.named(targets.target(target).passes)
    ).proto
    assert onnxrt.compare(proto, result) <= 1e-4
    if target == "marabou":
        assert targets.TARGETS[target].unread(result) == []
        assert not {"MaxPool", "BatchNormalization", "LeakyRelu"} & set(operators(result))
    if target == "nnenum":
        assert not {"Clip", "Abs", "Min", "LeakyRelu", "MaxPool", "Dropout", "Div"} & set(operators(result))
    assert all(len(node.input) == 3 for node in result.graph.node if node.op_type == "Gemm")
