"""Shrinking: the smaller graph is the same function, and what can go goes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from channel_graphs import graphs, masked
from factories import cnn, mlp, model
from secateur.formats import onnx_model
from secateur.formats.errors import CheckFailed, UnsupportedError
from secateur.formats.onnx_model import from_proto, initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import prune, shrink
from secateur.pipeline.prune.channels import analyse
from secateur.pipeline.prune.shrinking import parameters

CONV = {"kernel_shape": [3, 3]}


def same_function(a: onnx.ModelProto, b: onnx.ModelProto, seed: int = 9) -> bool:
    x = onnxrt.sample_inputs(onnxrt.count_inputs(a), seed=seed, samples=16)
    first, second = onnxrt.run(a, x), onnxrt.run(b, x)
    return np.allclose(first, second, rtol=1e-4, atol=1e-4 * max(1, np.abs(first).max()))


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """A random chain of layers on [N, 2, 6, 6]: convolutions with what may stand between, then dense layers."""
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    value, channels, side = "x", 2, 6

    def normal(name: str, *shape: int, scale: float = 0.5) -> str:
        constants[name] = (random.normal(size=shape) * scale).astype(np.float32)
        return name

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(
            helper.make_node(op, [value, *inputs], [f"v{len(nodes)}"], f"n{len(nodes)}", **attributes)
        )
        return nodes[-1].output[0]

    def activation(current: str) -> str:
        kind = draw(st.sampled_from(["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Identity", "Dropout"]))
        return add(kind)

    for i in range(draw(st.integers(0, 2))):
        width = draw(st.integers(1, 5))
        pads = draw(st.sampled_from([0, 1]))
        bias = [normal(f"cb{i}", width)] if draw(st.booleans()) else []
        if draw(st.booleans()):
            value = add("Conv", normal(f"cw{i}", width, channels, 3, 3), *bias, pads=[pads] * 4, **CONV)
            side += 2 * pads - 2
        else:
            value = add("ConvTranspose", normal(f"cw{i}", channels, width, 2, 2), *bias, kernel_shape=[2, 2])
            side += 1
        channels = width
        if draw(st.booleans()):
            names = [normal(f"{p}{i}", channels) for p in ("scale", "shift", "mean", "var")]
            constants[f"var{i}"] = np.abs(constants[f"var{i}"]) + np.float32(0.1)
            value = add("BatchNormalization", *names)
        value = activation(value)
        pool = draw(st.sampled_from([None, "MaxPool", "AveragePool"]))
        if pool:
            value = add(pool, kernel_shape=[2, 2], pads=[0, 0, 1, 1])
    if draw(st.booleans()):
        value, side = add("GlobalAveragePool"), 1
    width = channels * side * side
    shape = draw(st.sampled_from([None, [-1, width], [0, -1]]))
    if shape is None:
        value = add("Flatten")
    else:
        constants["shape"] = np.array(shape, np.int64)
        value = add("Reshape", "shape")
    for i in range(draw(st.integers(1, 3))):
        following = draw(st.integers(1, 6))
        if draw(st.booleans()):
            transposed = draw(st.booleans())
            weight = normal(f"w{i}", *((following, width) if transposed else (width, following)))
            bias = [normal(f"b{i}", following)] if draw(st.booleans()) else []
            value = add(
                "Gemm", weight, *bias, transB=int(transposed), alpha=draw(st.sampled_from([1.0, 0.5]))
            )
        else:
            value = add("MatMul", normal(f"w{i}", width, following))
            if draw(st.booleans()):
                value = add(draw(st.sampled_from(["Add", "Sub", "Mul"])), normal(f"b{i}", following))
        width = following
        value = activation(value)
    nodes[-1].output[0] = "y"
    return model(nodes, constants, ["N", 2, 6, 6], ["N", width])


@given(chains(), st.sampled_from(["weight", "channel"]), st.sampled_from([0.3, 0.7, 0.95]))
@settings(max_examples=80, deadline=None)
def test_shrinking_a_masked_chain_keeps_its_function(proto, granularity, sparsity):
    assume(granularity == "weight" or analyse(proto).groups)
    pruned = prune(from_proto(proto), "random", sparsity=sparsity, granularity=granularity)
    small = shrink(from_proto(pruned.proto))
    onnx.checker.check_model(small.proto, full_check=True)
    assert same_function(pruned.proto, small.proto)
    assert small.parameters_after <= small.parameters_before
    again = shrink(from_proto(small.proto))
    assert again.parameters_after == small.parameters_after, "not a fixed point"


@given(graphs(), st.sampled_from(["channels", "heads"]), st.integers(0, 9), st.sampled_from([0.3, 0.9]))
@settings(max_examples=60, deadline=None)
def test_shrinking_a_masked_graph_removes_all_that_is_masked(proto, view, seed, share):
    found = analyse(proto, view=view)
    random = np.random.default_rng(seed)
    dropped = found.protect({group.name: random.random(group.size) < share for group in found.groups})
    zeroed = masked(proto, found, dropped)
    assume(np.isfinite(onnxrt.run(zeroed, onnxrt.sample_inputs(108, seed=0, samples=64))).all())
    small = shrink(from_proto(zeroed))
    onnx.checker.check_model(small.proto, full_check=True)
    assert same_function(zeroed, small.proto)
    assert small.parameters_after <= parameters(found.remove(dropped))


@given(graphs(), st.sampled_from([0.5, 0.9]))
@settings(max_examples=60, deadline=None)
def test_shrinking_a_sparse_graph_keeps_its_function(proto, sparsity):
    pruned = prune(from_proto(proto), "random", sparsity=sparsity)
    assume(np.isfinite(onnxrt.run(pruned.proto, onnxrt.sample_inputs(108, seed=0, samples=64))).all())
    small = shrink(from_proto(pruned.proto))
    onnx.checker.check_model(small.proto, full_check=True)
    assert same_function(pruned.proto, small.proto)


def test_every_masked_channel_of_a_cnn_goes():
    pruned = prune(
        from_proto(cnn(channels=6)), "magnitude", sparsity=0.5, granularity="channel", scope="layer"
    )
    small = shrink(from_proto(pruned.proto))
    assert [(layer.before, layer.after) for layer in small.layers] == [(6, 3), (12, 6), (3, 3)]
    shapes = {name: array.shape for name, array in initializers(small.proto).items()}
    assert shapes["conv0.weight"] == (3, 1, 3, 3)
    assert shapes["bn0.var"] == (3,)
    assert shapes["conv1.weight"] == (6, 3, 3, 3)
    assert shapes["fc.weight"] == (3, 6 * 4)
    assert small.layers[-1].kept_because == "they are network outputs"
    assert same_function(pruned.proto, small.proto)


def test_names_opset_metadata_and_dynamic_batch_are_kept():
    dense = cnn(channels=6)
    dense.metadata_props.add(key="author", value="me")
    pruned = prune(from_proto(dense), "magnitude", sparsity=0.5, granularity="channel")
    small = shrink(from_proto(pruned.proto)).proto
    assert [n.name for n in small.graph.node] == [n.name for n in dense.graph.node]
    assert [t.name for t in small.graph.initializer] == [t.name for t in dense.graph.initializer]
    assert small.opset_import == dense.opset_import
    assert small.graph.input == dense.graph.input
    assert small.graph.output == dense.graph.output
    assert small.metadata_props[0].value == "me"
    assert [step["command"] for step in onnx_model.provenance(small)] == ["prune", "shrink"]


def zero(proto: onnx.ModelProto, name: str, index: object) -> None:
    array = initializers(proto)[name].copy()
    array[index] = 0
    onnx_model.set_initializer(proto, name, array)


def test_neurons_that_nobody_reads_go_and_take_others_along():
    proto = mlp([3, 4, 5, 2])
    zero(proto, "fc2.weight", (slice(None), [1, 3]))  # nobody reads 1 and 3 of the second layer
    zero(proto, "fc1.weight", (np.array([0, 2, 4])[:, None], 0))  # then nobody reads 0 of the first
    small = shrink(from_proto(proto))
    assert [layer.after for layer in small.layers] == [3, 3, 2]
    assert same_function(proto, small.proto)


def test_a_constant_neuron_is_folded_into_the_next_bias():
    proto = mlp([3, 4, 2])
    zero(proto, "fc0.weight", 2)
    bias = initializers(proto)["fc0.bias"].copy()
    bias[2] = 1.5
    onnx_model.set_initializer(proto, "fc0.bias", bias)
    small = shrink(from_proto(proto))
    assert small.layers[0].after == 3
    before, after = initializers(proto), initializers(small.proto)
    expected = before["fc1.bias"] + np.float64(1.5) * before["fc1.weight"][:, 2].astype(np.float64)
    assert np.array_equal(after["fc1.bias"], expected.astype(np.float32))
    assert same_function(proto, small.proto)


@pytest.mark.parametrize(("pads", "after"), [(0, 2), (1, 3)])
def test_a_constant_channel_is_folded_through_an_unpadded_convolution_only(pads, after):
    random = np.random.default_rng(0)
    constants = {
        "w0": random.normal(size=(3, 1, 3, 3)).astype(np.float32),
        "b0": np.array([1, 2, 3], np.float32),
        "w1": random.normal(size=(2, 3, 3, 3)).astype(np.float32),
    }
    constants["w0"][1] = 0
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c"], **CONV),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"], "last", pads=[pads] * 4, **CONV),
    ]
    side = 4 + 2 * pads
    proto = model(nodes, constants, ["N", 1, 8, 8], ["N", 2, side, side])
    small = shrink(from_proto(proto))
    assert small.layers[0].after == after
    assert same_function(proto, small.proto)
    assert ("last.bias" in initializers(small.proto)) == (pads == 0)


def test_a_layer_keeps_one_channel():
    proto = mlp([3, 4, 2])
    zero(proto, "fc0.weight", slice(None))
    zero(proto, "fc0.bias", slice(None))
    small = shrink(from_proto(proto))
    assert small.layers[0].after == 1
    assert same_function(proto, small.proto)


def residual(width: int = 4) -> onnx.ModelProto:
    """x w0 + (x w0) w1, read by w2."""
    random = np.random.default_rng(0)
    constants = {
        "w0": random.normal(size=(3, width)).astype(np.float32),
        "w1": random.normal(size=(width, width)).astype(np.float32),
        "w2": random.normal(size=(width, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("MatMul", ["a", "w1"], ["b"], "second"),
        helper.make_node("Add", ["a", "b"], ["s"], "sum"),
        helper.make_node("MatMul", ["s", "w2"], ["y"], "last"),
    ]
    return model(nodes, constants, ["N", 3], ["N", 2])


def test_residual_channels_go_when_all_that_add_up_are_zero():
    proto = residual()
    zero(proto, "w0", (slice(None), 1))
    assert [layer.after for layer in shrink(from_proto(proto)).layers] == [4, 4, 2]
    zero(proto, "w1", (slice(None), 1))
    small = shrink(from_proto(proto))
    assert [layer.after for layer in small.layers] == [3, 3, 2]
    assert same_function(proto, small.proto)


def test_a_branch_without_effect_goes_with_its_addition():
    proto = residual()
    zero(proto, "w1", slice(None))
    small = shrink(from_proto(proto))
    assert [node.op_type for node in small.proto.graph.node] == ["MatMul", "MatMul"]
    assert [layer.after for layer in small.layers] == [4, 0, 2]
    assert same_function(proto, small.proto)


def test_shared_initializers_are_left_alone():
    constants = {"w": np.eye(3, dtype=np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    proto = model(nodes, constants, ["N", 3], ["N", 3])
    zero(proto, "w", (slice(None), 1))
    small = shrink(from_proto(proto))
    assert small.layers[0].kept_because == "shared initializer 'w'"
    assert initializers(small.proto)["w"].shape == (3, 3)


def test_a_computed_flatten_is_understood():
    """x.view(x.size(0), -1), as the older torch exporter writes it."""
    dense = cnn(channels=6)
    flatten = next(node for node in dense.graph.node if node.op_type == "Flatten")
    at = list(dense.graph.node).index(flatten)
    constants = {
        "zero": np.array(0, np.int64),
        "rest": np.array([-1], np.int64),
        "axes": np.array([0], np.int64),
    }
    dense.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    chain = [
        helper.make_node("Shape", ["r1"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["r1", "target"], ["f"]),
    ]
    nodes = [*dense.graph.node[:at], *chain, *dense.graph.node[at + 1 :]]
    del dense.graph.node[:]
    dense.graph.node.extend(nodes)
    pruned = prune(from_proto(dense), "magnitude", sparsity=0.5, granularity="channel", scope="layer")
    small = shrink(from_proto(pruned.proto))
    assert [layer.after for layer in small.layers] == [3, 6, 3]
    assert same_function(pruned.proto, small.proto)


def test_initializers_that_are_also_inputs_are_shrunk():
    proto = mlp([3, 4, 2])
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    zero(proto, "fc1.weight", (slice(None), 0))
    small = shrink(from_proto(proto))
    assert small.layers[0].after == 3
    assert [value.name for value in small.proto.graph.input] == ["x"]


def test_a_difference_beyond_the_tolerance_is_an_error():
    proto = mlp([3, 4, 2])
    zero(proto, "fc0.weight", 2)  # a constant is folded: rounding differs somewhere
    with pytest.raises(CheckFailed, match="differs from the original"):
        shrink(from_proto(proto), tolerance=-1.0)


def test_quantised_models_are_refused():
    proto = model(
        [
            helper.make_node("DequantizeLinear", ["w8", "scale"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        {"w8": np.ones((3, 2), np.int8), "scale": np.array(0.5, np.float32)},
        ["N", 3],
        ["N", 2],
    )
    with pytest.raises(UnsupportedError, match="quantised"):
        shrink(from_proto(proto))


@pytest.mark.data
def test_shared_networks_shrink(shared_data):
    """Half the channels of real networks: what is masked and not pinned goes, and the function stays."""
    wanted = {
        "mnist_fc/onnx/mnist-net_256x4.onnx": 400906 / 2,
        "oval21/onnx/cifar_deep_kw.onnx": 54902 / 3,
        "cgan/onnx/cGAN_imgSz32_nCh_1.onnx": 529538 / 2,
        "acasxu/onnx/ACASXU_run2a_1_1_batch_2000.onnx": 13310 / 3,
        "collins_rul_cnn/onnx/NN_rul_full_window_20.onnx": 62446 / 2,
        "cifar10_resnet/onnx/resnet_4b.onnx": 123734 * 0.6,
        "vit/onnx/pgd_2_3_16.onnx": 76188,
    }
    for path, limit in wanted.items():
        dense = onnx_model.read(str(shared_data / "benchmarks" / path))
        pruned = prune(dense, "magnitude", sparsity=0.5, granularity="channel")
        small = shrink(from_proto(pruned.proto))
        assert small.parameters_after < limit, path
        assert same_function(pruned.proto, small.proto), path
