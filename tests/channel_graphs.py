"""Random graphs that mix all the ways channels go: `graphs()` is a Hypothesis strategy of small valid models.

A graph starts from an image [N, 3, 6, 6], applies randomly drawn blocks (each maps [N, C, H, W] to the same
with other C, H, W), may go through attention over the pixels as tokens, and ends in a dense layer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import reject
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from factories import model
from secateur.formats import onnx_model
from secateur.formats.onnx_model import initializers
from secateur.pipeline import onnxrt
from secateur.pipeline.prune.channels import Channels, analyse

Shape = tuple[int, int, int]  # channels, height, width


class Builder:
    """Nodes and constants as they come; every method appends one node and gives its output's name."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def pick(self, *choices: object) -> object:
        return self.draw(st.sampled_from(choices))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def width(self) -> int:
        return self.draw(st.integers(1, 6))

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [f"v{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"{op}{len(self.nodes)}", **attributes))
        return names[0]

    def constant(self, array: np.ndarray | list[int]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(array, np.int64) if isinstance(array, list) else array
        return name

    def weights(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.constant((self.random.normal(size=shape) / np.sqrt(fan)).astype(np.float32))

    def vector(self, *shape: int) -> str:
        return self.constant(self.random.uniform(0.5, 1.5, shape).astype(np.float32))

    # --- layers

    def conv(self, x: str, shape: Shape, width: int, *, kernel: int = 1, groups: int = 1) -> str:
        """A convolution that keeps height and width."""
        bias = [self.weights(width)] if self.flip() else []
        weight = self.weights(width, shape[0] // groups, kernel, kernel)
        pads = [kernel // 2] * 4
        return self.add("Conv", x, weight, *bias, kernel_shape=[kernel] * 2, pads=pads, group=groups)

    def target(self, x: str, entries: list[int]) -> str:
        """A shape for a Reshape: constant, with 0 for the batch (its first entry), or computed from Shape."""
        if self.flip():
            return self.constant(entries)
        shape = self.add("Shape", x)
        batch = self.add("Gather", shape, self.constant([0]), axis=0)
        return self.add("Concat", batch, self.constant(entries[1:]), axis=0)


Block = Callable[[Builder, str, Shape], tuple[str, Shape]]


def dense_convolution(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    width = b.width()
    return b.conv(x, shape, width, kernel=b.pick(1, 3)), (width, *shape[1:])


def shrinking_convolution(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    width = b.width()
    if min(shape[1:]) < 3:
        return b.conv(x, shape, width), (width, *shape[1:])
    bias = [b.weights(width)] if b.flip() else []
    out = b.add("Conv", x, b.weights(width, shape[0], 2, 2), *bias, kernel_shape=[2, 2])
    return out, (width, shape[1] - 1, shape[2] - 1)


def depthwise(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    width = shape[0] * b.pick(1, 2)
    return b.conv(x, shape, width, kernel=3, groups=shape[0]), (width, *shape[1:])


def grouped(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    groups, into, out = b.pick((2, 2, 3), (3, 2, 1), (2, 3, 2), (4, 2, 2))
    y = b.conv(x, shape, groups * into)
    return b.conv(y, (groups * into, *shape[1:]), groups * out, groups=groups), (groups * out, *shape[1:])


def transposed_convolution(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    groups = b.pick(1, shape[0])
    each = b.width() if groups == 1 else b.pick(1, 2)
    bias = [b.weights(groups * each)] if b.flip() else []
    out = b.add("ConvTranspose", x, b.weights(shape[0], each, 1, 1), *bias, kernel_shape=[1, 1], group=groups)
    return out, (groups * each, *shape[1:])


def activation(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    kind = b.pick(
        "Relu", "Sigmoid", "LeakyRelu", "HardSwish", "Elu", "Dropout", "Exp", "Clip", "Gelu", "Cast"
    )
    if kind == "Clip":
        bounds = [b.constant(np.array(v, np.float32)) for v in (0.1, 1.0)]
        return b.add("Clip", x, *bounds), shape
    if kind == "Gelu":  # as exporters write it: a value times a function of itself
        return b.add("Mul", x, b.add("Erf", x)), shape
    if kind == "Cast":
        return b.add("Cast", b.add("Cast", x, to=onnx.TensorProto.DOUBLE), to=onnx.TensorProto.FLOAT), shape
    return b.add(kind, x), shape


def normalisation(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    c = shape[0]
    kind = b.pick("batch", "instance", "prelu", "group", "layer")
    if kind == "batch":
        return b.add("BatchNormalization", x, *(b.vector(c) for _ in range(4))), shape
    if kind == "instance":
        return b.add("InstanceNormalization", x, b.vector(c), b.vector(c)), shape
    if kind == "prelu":
        return b.add("PRelu", x, b.vector(*b.pick((c, 1, 1), (1,)))), shape
    if kind == "group":  # as exporters write GroupNormalization
        groups = next(g for g in (3, 2, 1) if c % g == 0)
        y = b.add("Reshape", x, b.constant([0, groups, -1]))
        ones, zeros = b.constant(np.ones(groups, np.float32)), b.constant(np.zeros(groups, np.float32))
        y = b.add("Reshape", b.add("InstanceNormalization", y, ones, zeros), b.target(x, [0, *shape]))
        return b.add("Add", b.add("Mul", y, b.vector(c, 1, 1)), b.weights(c, 1, 1)), shape
    y = b.add("Transpose", x, perm=[0, 2, 3, 1])
    y = b.add("LayerNormalization", y, b.vector(c), axis=-1)
    return b.add("Transpose", y, perm=[0, 3, 1, 2]), shape


def constant_operand(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    form = b.pick((shape[0], 1, 1), (1, shape[0], 1, 1), (1,), shape, (1, shape[1], shape[2]))
    operands, kind = [x, b.vector(*form)], b.pick("Add", "Sub", "Mul", "Div", "Max")
    swap = kind != "Div" and b.flip()
    return b.add(kind, *(operands[::-1] if swap else operands)), shape


def residual(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    y, after = x, shape
    for _ in range(b.draw(st.integers(0, 2))):
        y, after = b.pick(dense_convolution, depthwise, activation, normalisation)(b, y, after)
    y = b.conv(y, after, shape[0])
    return b.add(b.pick("Add", "Add", "Mul", "Sub", "Min"), x, y), shape


def concatenation(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    y, after = b.pick(dense_convolution, depthwise, activation)(b, x, shape)
    parts = [(x, shape[0]), (y, after[0])]
    if b.flip():
        batch = b.add("Gather", b.add("Shape", x), b.constant([0]), axis=0)
        size = b.add("Concat", batch, b.constant([2, *shape[1:]]), axis=0)
        parts.append((b.add("Expand", b.vector(1, 2, 1, 1), size), 2))
    parts = b.draw(st.permutations(parts))
    return b.add("Concat", *(name for name, _ in parts), axis=1), (sum(n for _, n in parts), *shape[1:])


def parts(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    c = shape[0]
    kind = b.pick("split", "slice", "gather", "pad", "one", "tile")
    if kind == "split" and c > 1:
        first = b.draw(st.integers(1, c - 1))
        a = b.add("Split", x, b.constant([first, c - first]), outputs=2, axis=1)
        rest, after = b.pick(activation, dense_convolution, depthwise)(b, f"{a}_1", (c - first, *shape[1:]))
        return b.add("Concat", rest, a, axis=1), (after[0] + first, *shape[1:])
    if kind == "slice" and c > 1:
        start = b.draw(st.integers(0, c - 1))
        end = b.draw(st.integers(start + 1, c))
        bounds = [b.constant([v]) for v in (start, b.pick(end, end - c) if end < c else 2**31 - 1, 1)]
        return b.add("Slice", x, *bounds), (end - start, *shape[1:])
    if kind == "gather":
        chosen = b.draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=5))
        return b.add("Gather", x, b.constant(chosen), axis=1), (len(chosen), *shape[1:])
    if kind == "pad":
        before, after = b.draw(st.integers(0, 2)), b.draw(st.integers(0, 2))
        fill = [b.constant(np.array(0.5, np.float32))] if b.flip() else []
        y = b.add("Pad", x, b.constant([0, before, 1, 0, 0, after, 0, 0]), *fill)
        return y, (c + before + after, shape[1] + 1, shape[2])
    if kind == "one":
        y = b.add("Gather", x, b.constant(np.array(b.draw(st.integers(0, c - 1)), np.int64)), axis=1)
        return b.add("Add", x, b.add("Unsqueeze", y, b.constant([1]))), shape
    return b.add("Tile", x, b.constant([1, 2, 1, 1])), (2 * c, *shape[1:])


def gate(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    if b.flip():  # squeeze and excitation
        y = b.add("GlobalAveragePool", x) if b.flip() else b.add("ReduceMean", x, axes=[2, 3], keepdims=1)
        hidden = b.width()
        y = b.add("Relu", b.conv(y, (shape[0], 1, 1), hidden))
        return b.add("Mul", x, b.add("Sigmoid", b.conv(y, (hidden, 1, 1), shape[0]))), shape
    return b.add("Mul", b.add("Sigmoid", b.conv(x, shape, 1)), x), shape


def pooling(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    kind = b.pick("MaxPool", "AveragePool", "nearest", "linear", "sizes", "sum")
    if kind == "sum":
        y = b.add("ReduceSum", x, b.constant([1]), keepdims=1)
        return b.add("Concat", x, y, axis=1), (shape[0] + 1, *shape[1:])
    if kind == "nearest" or kind == "linear":
        scales = b.constant(np.array([1, 1, 2, 2], np.float32))
        if max(shape) > 8:
            return x, shape
        return b.add("Resize", x, "", scales, mode=kind), (shape[0], 2 * shape[1], 2 * shape[2])
    if kind == "sizes":
        size = b.add("Slice", b.add("Shape", x), b.constant([0]), b.constant([2]))
        size = b.add("Concat", size, b.constant([3, 3]), axis=0)
        return b.add("Resize", x, "", "", size, mode="nearest"), (shape[0], 3, 3)
    if min(shape[1:]) < 3:
        return x, shape
    y = b.add(kind, x, kernel_shape=[2, 2], strides=[2, 2], pads=b.pick([0, 0, 0, 0], [1, 1, 0, 0]))
    padded = any(b.nodes[-1].attribute[1].ints)
    return y, (shape[0], (shape[1] + padded) // 2, (shape[2] + padded) // 2)


def rearranged(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    c, h, w = shape
    kind = b.pick("shuffle", "last", "computed", "blocks", "unflatten")
    if kind == "shuffle":
        groups = next(g for g in (3, 2, 1) if c % g == 0)
        y = b.add("Reshape", x, b.target(x, [0, groups, c // groups, h, w]))
        if b.flip():
            y = b.add("Relu", y)
        y = b.add("Transpose", y, perm=[0, 2, 1, 3, 4])
        return b.add("Reshape", y, b.target(x, [0, c, h, w])), shape
    if kind == "last":
        width = b.width()
        y = b.add("Transpose", x, perm=[0, 2, 3, 1])
        y = b.add("MatMul", y, b.weights(c, width))
        y = b.add("Add", b.weights(width), y) if b.flip() else y
        return b.add("Transpose", y, perm=[0, 3, 1, 2]), (width, h, w)
    if kind == "blocks":
        y = b.add("DepthToSpace", b.conv(x, shape, 8), blocksize=2, mode=b.pick("DCR", "CRD"))
        return b.add("SpaceToDepth", y, blocksize=2), (8, h, w)
    if kind == "unflatten":
        width = b.width()
        y = b.add("Gemm", b.add("Flatten", x), b.weights(c * h * w, width * 4))
        return b.add("Reshape", y, b.target(x, [0, width, 2, 2])), (width, 2, 2)
    y = b.add("Reshape", x, b.target(x, [0, c, h * w]))
    y = b.add("Relu", y)
    return b.add("Reshape", y, b.target(x, [0, c, h, w])), shape


def attention(b: Builder, x: str, shape: Shape) -> tuple[str, Shape]:
    """Multi-head attention over the pixels, with one layer for queries, keys and values or three."""
    c, h, w = shape
    heads, size, tokens = b.pick(1, 2, 3), b.pick(1, 2), h * w
    width = heads * size
    y = b.add("Transpose", b.add("Reshape", x, b.constant([0, 0, -1])), perm=[0, 2, 1])
    if b.flip():
        qkv = b.add("MatMul", y, b.weights(c, 3 * width))
        qkv = b.add("Add", qkv, b.weights(3 * width)) if b.flip() else qkv
        qkv = b.add("Reshape", qkv, b.target(x, [0, tokens, 3, heads, size]))
        qkv = b.add("Transpose", qkv, perm=[2, 0, 3, 1, 4])
        q, k, v = (b.add("Gather", qkv, b.constant(np.array(i, np.int64)), axis=0) for i in range(3))
    else:
        sides = []
        for _ in range(3):
            side = b.add(
                "Reshape", b.add("MatMul", y, b.weights(c, width)), b.target(x, [0, tokens, heads, size])
            )
            sides.append(b.add("Transpose", side, perm=[0, 2, 1, 3]))
        q, k, v = sides
    if b.flip():  # the scale computed from the features' number, as torch does
        number = b.add("Gather", b.add("Shape", q), b.constant(np.array(3, np.int64)), axis=0)
        q = b.add("Div", q, b.add("Sqrt", b.add("Cast", number, to=onnx.TensorProto.FLOAT)))
    scores = b.add("MatMul", q, b.add("Transpose", k, perm=[0, 1, 3, 2]))
    y = b.add("Transpose", b.add("MatMul", b.add("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    y = b.add("MatMul", b.add("Reshape", y, b.target(x, [0, tokens, width])), b.weights(width, c))
    y = b.add("Reshape", b.add("Transpose", y, perm=[0, 2, 1]), b.target(x, [0, c, h, w]))
    return b.add("Add", x, y), shape


BLOCKS: tuple[Block, ...] = (
    *(dense_convolution, shrinking_convolution, depthwise, grouped, transposed_convolution),
    *(
        activation,
        activation,
        normalisation,
        constant_operand,
        residual,
        residual,
        concatenation,
        parts,
        parts,
    ),
    *(gate, pooling, rearranged, attention),
)


def _head(b: Builder, x: str, shape: Shape) -> str:
    c, h, w = shape
    kind = b.pick("Flatten", "constant", "computed", "mean")
    if kind == "Flatten":
        y, width = b.add("Flatten", x), c * h * w
    elif kind == "mean":
        y, width = b.add("ReduceMean", x, axes=[2, 3], keepdims=0), c
    else:
        target = b.constant([0, -1]) if kind == "constant" else b.target(x, [0, c * h * w])
        y, width = b.add("Reshape", x, target), c * h * w
    return b.add("Gemm", y, b.weights(2, width), b.weights(2), transB=1)


@st.composite
def graphs(draw: st.DrawFn, blocks: int = 6) -> onnx.ModelProto:
    """A model from [N, 3, 6, 6] to [N, 2] of one convolution, up to `blocks` blocks and a dense layer."""
    b = Builder(draw)
    x, shape = dense_convolution(b, "x", (3, 6, 6))
    for _ in range(draw(st.integers(1, blocks))):
        x, shape = b.pick(*BLOCKS)(b, x, shape)
        if shape[0] > 12:
            x, shape = b.conv(x, shape, 4), (4, *shape[1:])
    y = _head(b, x, shape)
    b.nodes[-1].output[0] = "y"
    assert y
    return model(b.nodes, b.constants, ["N", 3, 6, 6], ["N", 2])


def net(body: str, output: str = "N,2,4,4", *, opset: int = 17, **constants: object) -> onnx.ModelProto:
    """A model from x [N, 3, 4, 4] to y; constants are shapes (tuples: random numbers) or whole numbers (lists)."""
    random = np.random.default_rng(0)
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g (float[N,3,4,4] x) => (float[{output}] y) {{ {body} }}"
    )
    for name, given in constants.items():
        array = (
            random.uniform(0.3, 1.0, given).astype(np.float32)
            if isinstance(given, tuple)
            else np.array(given, np.int64)
        )
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def masked(proto: onnx.ModelProto, found: Channels, dropped: dict[str, np.ndarray]) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    arrays = initializers(proto)
    for name, keep in found.masks(dropped).items():
        onnx_model.set_initializer(copy, name, np.where(keep, arrays[name], arrays[name].dtype.type(0)))
    return copy


def check(
    proto: onnx.ModelProto, *, seed: int = 0, share: float = 0.5, view: str = "channels"
) -> tuple[Channels, onnx.ModelProto]:
    """Drop a random share of units; the removed model must be the masked one. Both are returned."""
    found = analyse(proto, view=view)
    random = np.random.default_rng(seed)
    dropped = found.protect({group.name: random.random(group.size) < share for group in found.groups})
    small = found.remove(dropped)
    onnx.checker.check_model(small, full_check=True)
    assert small.graph.output == proto.graph.output
    assert [value.name for value in small.graph.input] == [value.name for value in proto.graph.input]
    x = onnxrt.sample_inputs(onnxrt.count_inputs(proto), seed=seed, samples=6)
    expected = onnxrt.run(masked(proto, found, dropped), x)
    if not np.isfinite(expected).all():
        reject()
    assert onnxrt.difference(expected, onnxrt.run(small, x)) < 2e-5
    return found, small
