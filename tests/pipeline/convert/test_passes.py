"""Each pass does its cases, says why it does not apply, and keeps the function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from factories import cnn, mlp, model
from secateur.formats import onnx_model
from secateur.formats.errors import CheckFailed, UnsupportedError
from secateur.formats.onnx_model import initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.convert import conversion, sources
from secateur.pipeline.convert.passes import (
    batch,
    batchnorm,
    constants,
    dead,
    flatten,
    identity,
    inputs,
    opset,
    shapes,
)
from secateur.pipeline.convert.passes import table as passes


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def changed(step: object, proto: onnx.ModelProto) -> onnx.ModelProto:
    """The pass applied, its source untouched, the result valid, equal, and with nothing left for the pass."""
    before = proto.SerializeToString()
    assert step.check(proto) is None
    result = step.rewrite(proto)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    onnxrt.compare(proto, result, tolerance=1e-5)
    assert step.check(result) is not None
    return result


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def test_constants_become_initializers_and_fold():
    nodes = [
        constant("a", np.eye(3, dtype=np.float32)),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["a", "two"], ["w"]),
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    result = changed(constants, model(nodes, {}, ["N", 3], ["N", 3]))
    assert operators(result) == ["MatMul"]
    assert np.array_equal(initializers(result)["t"], 2 * np.eye(3))


def test_chance_and_quantised_weights_are_not_folded():
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "scale"], ["w"]),
        helper.make_node("RandomNormal", [], ["noise"], shape=[1]),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Mul", ["noise", "zero"], ["nothing"]),
        helper.make_node("Add", ["m", "nothing"], ["y"]),
    ]
    parameters = {
        "w8": np.ones((3, 2), np.int8),
        "scale": np.array(0.5, np.float32),
        "zero": np.zeros(1, np.float32),
    }
    assert constants.check(model(nodes, parameters, ["N", 3], ["N", 2])) == "no constant sub-graph"


def test_a_constant_graph_output_is_kept():
    nodes = [constant("a", np.ones((1, 2), np.float32)), helper.make_node("Neg", ["a"], ["y"])]
    proto = model(nodes, {}, ["N", 2], [1, 2])
    result = constants.rewrite(proto)
    assert operators(result) == []
    assert initializers(result)["y"].tolist() == [[-1, -1]]


def test_dead_nodes_and_initializers_go():
    proto = mlp([3, 4, 2])
    proto.graph.node.append(helper.make_node("Relu", ["relu0"], ["unread"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    result = changed(dead, proto)
    assert operators(result) == ["Gemm", "Relu", "Gemm"]
    assert "unused" not in initializers(result)


def test_initializers_leave_the_inputs():
    proto = mlp([3, 4, 2])
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    result = changed(inputs, proto)
    assert [value.name for value in result.graph.input] == ["x"]
    assert result.ir_version >= 4


def test_identity_and_dropout_go_and_names_of_outputs_stay():
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Relu", ["i"], ["r"]),
        helper.make_node("Dropout", ["r"], ["d"]),
        helper.make_node("Neg", ["r"], ["n"]),
        helper.make_node("Add", ["d", "n"], ["s"]),
        helper.make_node("Identity", ["s"], ["y"]),
    ]
    result = changed(identity, model(nodes, {}, ["N", 3], ["N", 3]))
    assert operators(result) == ["Relu", "Neg", "Add"]
    assert result.graph.output[0].name == "y"


def test_identity_between_input_and_output_and_training_dropout_stay():
    through = model([helper.make_node("Identity", ["x"], ["y"])], {}, ["N", 3], ["N", 3])
    assert identity.check(through) is not None
    nodes = [helper.make_node("Dropout", ["x", "", "train"], ["d"]), helper.make_node("Relu", ["d"], ["y"])]
    assert identity.check(model(nodes, {"train": np.array(True)}, ["N", 3], ["N", 3])) is not None


def test_batchnorm_folds_into_convolution():
    result = changed(batchnorm, cnn(seed=3))
    assert operators(result) == ["Conv", "Relu", "Conv", "Relu", "Flatten", "Gemm"]


@pytest.mark.parametrize("kind", ["ConvTranspose", "Gemm", "Gemm without bias"])
def test_batchnorm_folds_into_other_layers(kind):
    random = np.random.default_rng(0)
    norm = {name: random.uniform(0.5, 2, 4).astype(np.float32) for name in ("s", "t", "m", "v")}
    if kind == "ConvTranspose":
        weight, shape, out = random.normal(size=(2, 4, 2, 2)), ["N", 2, 3, 3], ["N", 4, 4, 4]
        layer = helper.make_node("ConvTranspose", ["x", "w"], ["h"], "up")
    else:
        weight, shape, out = random.normal(size=(5, 4)), ["N", 5], ["N", 4]
        names = ["x", "w"] if kind.endswith("bias") else ["x", "w", "b"]
        layer = helper.make_node("Gemm", names, ["h"], "fc", alpha=0.5, beta=2.0)
    parameters = norm | {"w": weight.astype(np.float32)}
    if kind == "Gemm":
        parameters["b"] = random.normal(size=4).astype(np.float32)
    node = helper.make_node("BatchNormalization", ["h", "s", "t", "m", "v"], ["y"], epsilon=1e-3)
    assert operators(changed(batchnorm, model([layer, node], parameters, shape, out))) == [layer.op_type]


def test_batchnorm_whose_layer_is_read_twice_stays():
    proto = cnn()
    proto.graph.output.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, ["N", 4, 4, 4]))
    assert batchnorm.check(proto) is not None


def reshaped(target: list[int], lead: int | str = 1) -> onnx.ModelProto:
    nodes = [helper.make_node("Reshape", ["x", "t"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    parameters = {"t": np.array(target, np.int64), "w": np.ones((12, 2), np.float32)}
    return model(nodes, parameters, [lead, 3, 2, 2], [lead, 2])


@pytest.mark.parametrize("target", [[1, -1], [1, 12], [-1, 12], [0, -1]])
def test_a_fixed_batch_becomes_dynamic(target):
    result = changed(batch, reshaped(target))
    x = onnxrt.sample_inputs(12, seed=0, samples=5)
    assert np.allclose(onnxrt.run_together(result, x), onnxrt.run(reshaped(target), x), atol=1e-5)


def test_a_batch_that_cannot_be_dynamic_is_named():
    mixing = helper.make_node("ReduceMean", ["x"], ["y"], axes=[0, 1], keepdims=1)
    assert batch.check(model([mixing], {}, [1, 3], [1, 1])) == "a node inside fixes the batch"
    vector = model([helper.make_node("Relu", ["x"], ["y"])], {}, [3], [3])
    assert "rank 1" in str(batch.check(vector))
    assert batch.check(mlp([3, 2])) == "the batch is dynamic already"
    with pytest.raises(UnsupportedError, match="rank 1"):
        batch.rewrite(vector)


def test_known_shapes_become_constants_also_with_a_dynamic_batch():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["c"]),
        helper.make_node("Concat", ["first", "c"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    parameters = {"one": np.array([1]), "first": np.array([-1])}
    result = changed(shapes, model(nodes, parameters, ["N", 3], ["N", 3]))
    assert initializers(result)["c"].tolist() == [3]
    assert operators(dead.rewrite(constants.rewrite(result))) == ["Reshape"]


def test_flattening_reshapes_are_named():
    assert operators(changed(flatten, reshaped([-1, 12], "N"))) == ["Flatten", "MatMul"]
    assert operators(changed(flatten, reshaped([1, -1]))) == ["Flatten", "MatMul"]
    assert flatten.check(model([helper.make_node("Relu", ["x"], ["y"])], {}, [3], [3])) is not None


@pytest.mark.parametrize("target", [9, 13, 18, 21])
def test_other_opsets_up_and_down(target):
    proto = cnn()
    proto.metadata_props.add(key="author", value="me")
    assert opset.check(proto, 17) == "it is opset 17 already"
    result = opset.rewrite(proto, target)
    assert opset.current(result) == target
    assert result.metadata_props[0].value == "me"
    onnxrt.compare(proto, result, tolerance=1e-5)


def test_an_opset_without_an_operator_is_refused():
    with pytest.raises(UnsupportedError, match="cannot be converted to 8"):
        opset.rewrite(model([helper.make_node("Erf", ["x"], ["y"])], {}, ["N", 3], ["N", 3], opset=18), 8)
    with pytest.raises(UnsupportedError, match="expected 7 to"):
        opset.rewrite(mlp([3, 2]), 1000)


def test_softmax_keeps_its_axis_below_13():
    """There all axes from the one that it names are one."""
    nodes = [helper.make_node("Softmax", ["x"], ["s"], axis=1), helper.make_node("Relu", ["s"], ["y"])]
    proto = model(nodes, {}, ["N", 3, 4], ["N", 3, 4], opset=14)
    result = conversion.clean(sources.Source(proto, "", "onnx"), to_opset=11)
    assert operators(result.proto) == ["Transpose", "Softmax", "Transpose", "Relu"]
    assert result.difference < 1e-6


def test_a_changed_meaning_is_caught_by_the_comparison():
    """Softmax means another axis before opset 13, and no checker sees it."""
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    proto = model(nodes, {}, ["N", 3, 4], ["N", 3, 4], opset=14)

    def declare(old: onnx.ModelProto) -> onnx.ModelProto:
        new = onnx.ModelProto.FromString(old.SerializeToString())
        new.opset_import[0].version = 11
        return new

    step = replace(passes.PASSES["identity"], check=lambda model: None, rewrite=declare)
    with pytest.raises(CheckFailed, match=r"pass 'identity'.* differs from the original"):
        conversion.clean(sources.Source(proto, "", "onnx"), steps=[step])


def test_clean_runs_the_passes_and_says_what_they_did():
    result = conversion.clean(sources.Source(reshaped([1, 12]), "", "onnx"), to_opset=13)
    assert operators(result.proto) == ["Flatten", "MatMul"]
    done = {name for name, outcome in result.passes.items() if outcome == "done"}
    assert done == {"batch", "flatten", "dead", "opset"}
    assert result.difference < 1e-6
    assert result.notes == []


def test_batchnorm_is_folded_on_request_only():
    source = sources.Source(cnn(), "", "onnx")
    assert "BatchNormalization" in operators(conversion.clean(source).proto)
    assert "BatchNormalization" not in operators(conversion.clean(source, fold_batchnorm=True).proto)


@pytest.mark.data
def test_every_shared_network_keeps_its_function_and_most_get_a_dynamic_batch(shared_data):
    """Cleaned, compared (by `convert` itself) and valid. ACAS Xu is 45 times the same graph: one stands for all."""
    outcomes: dict[str, str] = {}
    for path in sorted(shared_data.glob("**/*.onnx*")):
        if "ACASXU" in path.name and "1_1" not in path.name:
            continue
        result = conversion.convert(str(path))
        onnx.checker.check_model(result.proto, full_check=True)
        assert onnx_model.provenance(result.proto)[-1]["command"] == "convert"
        outcomes[path.name] = result.passes["batch"]
    left = {name: reason for name, reason in outcomes.items() if reason != "done"}
    assert {name for name, reason in left.items() if "already" not in reason} == {
        "test_nano.onnx",
        "test_small.onnx",
        "test_tiny.onnx",
    }
