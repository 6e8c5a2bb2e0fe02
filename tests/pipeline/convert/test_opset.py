"""Down to older opsets: every adapter, compared in onnxruntime with what it came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cases
from factories import mlp, model
from secateur.formats import onnx_parts
from secateur.formats.errors import UnsupportedError
from secateur.pipeline import onnxrt
from secateur.pipeline.convert.passes import downward, opset

Constants = dict[str, Any]


def net(
    operator: str,
    version: int,
    constants: Constants | None = None,
    inputs: tuple[str, ...] = ("x",),
    outputs: int = 1,
    **attributes: object,
) -> onnx.ModelProto:
    """x [1, 4, 6, 6] -> Relu -> the operator -> y."""
    names = [f"part{i}" for i in range(outputs)]
    nodes = [
        helper.make_node("Identity", ["x"], ["value"]),
        helper.make_node(operator, ["value", *inputs[1:]], names, "probed", **attributes),
        helper.make_node("Concat", list(reversed(names)), ["joined"], axis=min(outputs - 1, 1)),
        helper.make_node("Cast", ["joined"], ["y"], to=TensorProto.FLOAT),
    ]
    tensors = {name: np.asarray(value) for name, value in (constants or {}).items()}
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", version)],
        ir_version=10,
    )
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    kind = inferred.graph.output[0].type.tensor_type
    if not kind.HasField("shape"):
        for size in onnxrt.value_shapes(proto)["y"]:
            kind.shape.dim.add().dim_value = size
    onnx.checker.check_model(inferred)
    return inferred


F, INT = np.float32, np.int64
CASES = {
    **{
        f"{name}-18": net(name, 18, {"axes": np.array([1, -1], INT)}, ("x", "axes"), keepdims=1)
        for name in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd",
                     "ReduceLogSum")
    },
    "ReduceMean-18 all": net("ReduceMean", 18, keepdims=1),
    "ReduceMax-20 none": net("ReduceMax", 20, noop_with_empty_axes=1),
    "Split-18": net("Split", 18, outputs=3, axis=1, num_outputs=3),
    "Split-18 sizes": net("Split", 18, {"sizes": np.array([1, 3], INT)}, ("x", "sizes"), 2, axis=1),
    "Pad-18": net(
        "Pad", 18, {"pads": np.array([1, 0, 2, 1], INT), "v": F(0.5), "axes": np.array([3, -2], INT)},
        ("x", "pads", "v", "axes"),
    ),
    "Pad-21": net("Pad", 21, {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], INT)}, ("x", "pads"), mode="reflect"),
    "Resize-19": net(
        "Resize", 19, {"scales": np.array([2, 1.5], F)}, ("x", "", "scales"), axes=[2, 3], mode="nearest",
        coordinate_transformation_mode="asymmetric", antialias=0,
    ),
    "Resize-18 sizes": net(
        "Resize", 18, {"sizes": np.array([9], INT)}, ("x", "", "", "sizes"), axes=[3], mode="linear",
        keep_aspect_ratio_policy="stretch",
    ),
    "AveragePool-22": net("AveragePool", 22, kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 1]),
    "LpPool-18": net("LpPool", 18, kernel_shape=[2, 2], dilations=[1, 1], p=2),
    "MaxPool-22": net("MaxPool", 22, kernel_shape=[2, 2], dilations=[2, 2]),
    "Cast-24": net("Cast", 24, to=TensorProto.FLOAT, saturate=1, round_mode="up"),
    "Flatten-21": net("Flatten", 21, axis=2),
    "Conv-22": net("Conv", 22, {"w": np.arange(72, dtype=F).reshape(2, 4, 3, 3) / 50}, ("x", "w"), pads=[1, 1, 1, 1]),
    "Reshape-21": net("Reshape", 21, {"shape": np.array([1, -1], INT)}, ("x", "shape"), allowzero=1),
    "Reshape-14 as ever": net("Reshape", 14, {"shape": np.array([0, -1], INT)}, ("x", "shape"), allowzero=0),
    "Gelu-20": net("Gelu", 20),
    "Gelu-20 tanh": net("Gelu", 20, approximate="tanh"),
    "Mish-22": net("Mish", 22),
    "Swish-24": net("Swish", 24, alpha=1.7),
    "HardSwish-22": net("HardSwish", 22),
    "LayerNormalization-17": net(
        "LayerNormalization", 17, {"s": np.linspace(1, 2, 36, dtype=F).reshape(6, 6), "b": np.ones((6, 6), F)},
        ("x", "s", "b"), axis=2, epsilon=1e-2,
    ),
    "RMSNormalization-23": net("RMSNormalization", 23, {"s": np.linspace(1, 2, 6, dtype=F)}, ("x", "s")),
    "GroupNormalization-21": net(
        "GroupNormalization", 21, {"s": np.array([1, 2, 3, 4], F), "b": np.array([0, 1, 0, 2], F)}, ("x", "s", "b"),
        num_groups=2, epsilon=1e-3,
    ),
    "ArgMax-13": net("ArgMax", 13, axis=-2, select_last_index=0),
    "ArgMin-13": net("ArgMin", 13, axis=1, keepdims=0),
    "GreaterOrEqual-16": net("GreaterOrEqual", 16, {"half": F(0.5)}, ("x", "half")),
    "LessOrEqual-16": net("LessOrEqual", 16, {"half": F(0.5)}, ("x", "half")),
    "LogSoftmax-13": net("LogSoftmax", 13, axis=2),
    "Shape-15": net("Shape", 15, start=1, end=3),
    "Resize-18 antialias": net(
        "Resize", 18, {"s": np.array([0.5, 0.5], F)}, ("x", "", "s"), mode="linear", antialias=1, axes=[2, 3],
    ),
    "Resize-19 symmetric": net(
        "Resize", 19, {"s": np.array([1, 1, 1.3, 0.8], F)}, ("x", "", "s"), mode="linear",
        coordinate_transformation_mode="half_pixel_symmetric",
    ),
    "Resize-13 first axis": net(
        "Resize", 13, {"s": np.array([1, 2, 1, 1], F)}, ("x", "", "s"), mode="nearest",
        coordinate_transformation_mode="half_pixel",
    ),
    "Relu-14": net("Relu", 22),
    "Squeeze-21": net("Squeeze", 21, {"axes": np.array([0], INT)}, ("x", "axes")),
}  # fmt: skip


DOWN = [
    (name, target) for name in CASES for target in (10, 13, 17, 20) if opset.current(CASES[name]) > target
]


@pytest.mark.parametrize(("name", "target"), DOWN)
def test_older_opsets_compute_the_same(name, target):
    proto = CASES[name]
    result = opset.rewrite(proto, target)
    assert opset.current(result) == target
    onnx.checker.check_model(result, full_check=True)
    onnxrt.compare(proto, result, tolerance=1e-5)


def test_every_adapter_has_a_case():
    known = cases.operators() | {node.op_type for proto in CASES.values() for node in proto.graph.node}
    assert {operator for operator, _ in downward.ADAPTERS} - known == set()


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (net("AveragePool", 22, kernel_shape=[2, 2], dilations=[2, 2]), "dilation"),
        (
            net(
                "Resize",
                18,
                {"s": np.array([3, 3], INT)},
                ("x", "", "", "s"),
                axes=[2, 3],
                keep_aspect_ratio_policy="not_larger",
            ),
            "keep_aspect_ratio_policy",
        ),
        (
            net("Pad", 19, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], INT)}, ("x", "p"), mode="wrap"),
            "mode 'wrap'",
        ),
    ],
)
def test_what_has_no_older_form_is_refused_by_name(proto, reason):
    with pytest.raises(UnsupportedError, match=f"'probed': {reason} has no form in opset 17"):
        opset.rewrite(proto, 17)


NOT_IN = {
    11: ("CumSum", "DepthToSpace CRD", "GatherElements", "GatherND", "Round", "Where"),
    10: ("Slice", "ceil", "dilated"),
    9: ("Trilu",),
    8: ("Erf", "Expand", "Gelu", "Max ", "Min ", "Sign"),
}
"""Parts of cases' names that have no form before an opset."""


@pytest.mark.parametrize("name", cases.CASES)
def test_what_the_engine_knows_goes_down_and_up(name):
    proto = cases.case(name).proto
    new = opset.rewrite(proto, 20) if opset.current(proto) < 20 else proto
    middle = opset.rewrite(new, 13)
    onnxrt.compare(proto, middle, tolerance=1e-5, samples=8)
    newest = opset.rewrite(middle, 23)
    onnxrt.compare(proto, newest, tolerance=1e-5, samples=8)
    if any(part in name for parts in NOT_IN.values() for part in parts):
        return
    old = opset.rewrite(new, 7)
    onnxrt.compare(proto, old, tolerance=1e-5, samples=8)
    for target in (13, 22):
        onnxrt.compare(proto, opset.rewrite(old, target), tolerance=1e-5, samples=8)


def test_upsampling_keeps_its_samples_on_the_way_up():
    for mode in ("nearest", "linear"):
        proto = net("Upsample", 9, {"s": np.array([1, 1, 2, 1.5], F)}, ("x", "s"), mode=mode)
        for target in (11, 13, 20):
            onnxrt.compare(proto, opset.rewrite(proto, target), tolerance=1e-5)


def test_large_weights_pass_by_the_converter(monkeypatch):
    proto = mlp([60, 40, 30, 2])
    expected = [opset.rewrite(proto, target) for target in (11, 20)]
    monkeypatch.setattr(onnx_parts, "LARGE", 0)
    assert onnx_parts.apart(proto)[1]
    assert [opset.rewrite(proto, target) for target in (11, 20)] == expected


@pytest.mark.parametrize("rest", [-1, 0])
def test_a_target_of_sizes_has_no_zero(rest):
    """Keras flattens so, with `allowzero`."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"], "probed", allowzero=1),
    ]
    parameters = {"first": np.array([0]), "rest": np.array([rest])}
    proto = model(nodes, parameters, ["N", 2, 3], ["N", None], opset=17)
    if rest == 0:
        with pytest.raises(UnsupportedError, match="allowzero=1 has no form"):
            opset.rewrite(proto, 13)
    else:
        onnxrt.compare(proto, opset.rewrite(proto, 13))


def test_new_operators_without_an_adapter_are_refused():
    proto = net("CenterCropPad", 18, {"size": np.array([2, 2], INT)}, ("x", "size"), axes=[2, 3])
    with pytest.raises(UnsupportedError, match="opset 18 cannot be converted to 17"):
        opset.rewrite(proto, 17)


def test_half_precision_stays_half():
    nodes = [
        helper.make_node("Gelu", ["x"], ["g"]),
        helper.make_node("Cast", ["g"], ["y"], to=TensorProto.FLOAT),
    ]
    proto = model(nodes, {}, ["N", 3], ["N", 3], input_type=TensorProto.FLOAT16, opset=20)
    onnxrt.compare(proto, opset.rewrite(proto, 17), tolerance=5e-3)


def test_names_and_initializers_stay():
    proto = mlp([3, 4, 2])
    proto.opset_import[0].version = 21
    result = opset.rewrite(proto, 13)
    assert [node.name for node in result.graph.node] == [node.name for node in proto.graph.node]
    assert result.graph.initializer == proto.graph.initializer
