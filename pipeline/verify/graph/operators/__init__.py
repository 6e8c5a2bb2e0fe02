"""Which ONNX operators the engine understands: one row an operator, its lowering rule and what kind it is.

A rule takes a `Call` and returns the node's outputs. To add an operator, write its rule in the file of its kind and
add its row here. `secateur verifiers operators` prints this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from secateur.pipeline.verify.graph import curves, steps
from secateur.pipeline.verify.graph.call import Rule
from secateur.pipeline.verify.graph.operators import (
    arithmetic,
    convolution,
    linear,
    moves,
    normalisation,
    piecewise,
    reductions,
    resize,
    shapes,
    smooth,
)


@dataclass(frozen=True)
class Operator:
    """A row: the rule, the kind of function, and what is special about it, for people."""

    rule: Rule
    kind: str
    note: str = ""


AFFINE, PIECEWISE, SMOOTH, STEP = "affine", "piecewise linear", "smooth", "step"
PRODUCT, COMPOSED, CONSTANT = "product", "composed", "constant"
KINDS = {
    AFFINE: "bounded exactly",
    PIECEWISE: "a sum of ReLUs",
    SMOOTH: "a curve between two lines",
    STEP: "a function with jumps between two lines",
    PRODUCT: "affine with a constant, McCormick's planes with two variables",
    COMPOSED: "made of functions, sums and products",
    CONSTANT: "evaluated where all inputs are constant",
}

RULES: dict[str, Operator] = {
    "Abs": Operator(piecewise.absolute, PIECEWISE),
    "Add": Operator(arithmetic.add, AFFINE),
    "And": Operator(shapes.constants_only, CONSTANT),
    "Atan": Operator(smooth.function(curves.Atan()), SMOOTH),
    "AveragePool": Operator(reductions.average_pool, AFFINE, "1-D and 2-D"),
    "BatchNormalization": Operator(normalisation.batch_normalization, AFFINE, "in inference"),
    "Cast": Operator(shapes.cast, AFFINE, "between float32 and float64"),
    "CastLike": Operator(shapes.cast_like, AFFINE, "between float32 and float64"),
    "Ceil": Operator(smooth.ceil, STEP),
    "Celu": Operator(smooth.celu, SMOOTH),
    "Clip": Operator(piecewise.clip, PIECEWISE, "constant limits"),
    "Concat": Operator(moves.concat, AFFINE, "variables and constants"),
    "Constant": Operator(shapes.constants_only, CONSTANT),
    "ConstantOfShape": Operator(shapes.constants_only, CONSTANT),
    "Conv": Operator(convolution.conv, AFFINE, "1-D and 2-D, constant weights"),
    "ConvTranspose": Operator(convolution.conv_transpose, AFFINE, "1-D and 2-D, constant weights"),
    "Cos": Operator(smooth.function(curves.Cos()), SMOOTH),
    "CumSum": Operator(reductions.cumulative_sum, AFFINE),
    "DepthToSpace": Operator(moves.moved, AFFINE),
    "Div": Operator(arithmetic.div, PRODUCT, "by a variable: times its reciprocal"),
    "Dropout": Operator(shapes.dropout, AFFINE, "in inference"),
    "Elu": Operator(smooth.elu, SMOOTH),
    "Equal": Operator(shapes.constants_only, CONSTANT),
    "Erf": Operator(smooth.function(curves.Erf()), SMOOTH),
    "Exp": Operator(smooth.function(curves.Exp()), SMOOTH),
    "Expand": Operator(shapes.expand, AFFINE),
    "Flatten": Operator(shapes.flatten, AFFINE),
    "Floor": Operator(smooth.function(steps.Floor()), STEP),
    "Gather": Operator(moves.gather, AFFINE, "constant indices"),
    "GatherElements": Operator(moves.moved, AFFINE, "constant indices"),
    "GatherND": Operator(moves.moved, AFFINE, "constant indices"),
    "Gelu": Operator(smooth.gelu, SMOOTH, "the tanh approximation is composed"),
    "Gemm": Operator(linear.gemm, PRODUCT),
    "GlobalAveragePool": Operator(reductions.global_average_pool, AFFINE),
    "GlobalMaxPool": Operator(piecewise.global_max_pool, PIECEWISE),
    "Greater": Operator(shapes.constants_only, CONSTANT),
    "GreaterOrEqual": Operator(shapes.constants_only, CONSTANT),
    "GroupNormalization": Operator(normalisation.group_normalization, COMPOSED),
    "HardSigmoid": Operator(piecewise.hard_sigmoid, PIECEWISE),
    "HardSwish": Operator(smooth.function(curves.HardSwish()), SMOOTH),
    "Identity": Operator(shapes.identity, AFFINE),
    "InstanceNormalization": Operator(normalisation.instance_normalization, COMPOSED),
    "LayerNormalization": Operator(normalisation.layer_normalization, COMPOSED, "first output"),
    "LeakyRelu": Operator(piecewise.leaky_relu, PIECEWISE),
    "Less": Operator(shapes.constants_only, CONSTANT),
    "LessOrEqual": Operator(shapes.constants_only, CONSTANT),
    "Log": Operator(smooth.function(curves.Log()), SMOOTH, "of positive numbers"),
    "LogSoftmax": Operator(normalisation.log_softmax, COMPOSED),
    "MatMul": Operator(linear.matmul, PRODUCT),
    "Max": Operator(piecewise.maximum, PIECEWISE),
    "MaxPool": Operator(piecewise.max_pool, PIECEWISE, "1-D and 2-D, first output"),
    "Mean": Operator(arithmetic.mean, AFFINE),
    "Min": Operator(piecewise.minimum, PIECEWISE),
    "Mish": Operator(smooth.mish, COMPOSED),
    "Mul": Operator(arithmetic.mul, PRODUCT),
    "Neg": Operator(arithmetic.neg, AFFINE),
    "Not": Operator(shapes.constants_only, CONSTANT),
    "Or": Operator(shapes.constants_only, CONSTANT),
    "PRelu": Operator(piecewise.prelu, PIECEWISE, "constant slopes"),
    "Pad": Operator(moves.pad, AFFINE),
    "Pow": Operator(arithmetic.raised, SMOOTH, "one constant power, or a positive constant base"),
    "RMSNormalization": Operator(normalisation.rms_normalization, COMPOSED),
    "Range": Operator(shapes.constants_only, CONSTANT),
    "Reciprocal": Operator(smooth.function(curves.Reciprocal()), SMOOTH, "of numbers on one side of 0"),
    "ReduceL1": Operator(reductions.reduce_l1, PIECEWISE),
    "ReduceL2": Operator(reductions.reduce_l2, COMPOSED),
    "ReduceLogSumExp": Operator(normalisation.reduce_log_sum_exp, COMPOSED),
    "ReduceMax": Operator(piecewise.reduce_max, PIECEWISE),
    "ReduceMean": Operator(reductions.reduce_mean, AFFINE),
    "ReduceMin": Operator(piecewise.reduce_min, PIECEWISE),
    "ReduceSum": Operator(reductions.reduce_sum, AFFINE),
    "ReduceSumSquare": Operator(reductions.reduce_sum_square, COMPOSED),
    "Relu": Operator(piecewise.relu, PIECEWISE),
    "Reshape": Operator(shapes.reshape, AFFINE),
    "Resize": Operator(resize.resize, AFFINE, "nearest, linear, cubic; constant scales or sizes"),
    "Round": Operator(smooth.function(steps.Round()), STEP),
    "Selu": Operator(smooth.selu, SMOOTH),
    "Shape": Operator(shapes.shape, CONSTANT, "of a variable, too"),
    "Sigmoid": Operator(smooth.function(curves.Sigmoid()), SMOOTH),
    "Sign": Operator(smooth.function(steps.Sign()), STEP),
    "Sin": Operator(smooth.function(curves.Sin()), SMOOTH),
    "Size": Operator(shapes.size, CONSTANT, "of a variable, too"),
    "Slice": Operator(moves.slice_, AFFINE),
    "Softmax": Operator(normalisation.softmax, COMPOSED),
    "Softplus": Operator(smooth.function(curves.Softplus()), SMOOTH),
    "Softsign": Operator(smooth.function(curves.Softsign()), SMOOTH),
    "SpaceToDepth": Operator(moves.moved, AFFINE),
    "Split": Operator(moves.split, AFFINE),
    "Sqrt": Operator(smooth.function(curves.Sqrt()), SMOOTH, "of numbers that are not negative"),
    "Squeeze": Operator(shapes.squeeze, AFFINE),
    "Sub": Operator(arithmetic.sub, AFFINE),
    "Sum": Operator(arithmetic.total, AFFINE),
    "Swish": Operator(smooth.swish, SMOOTH),
    "Tanh": Operator(smooth.function(curves.Tanh()), SMOOTH),
    "Tile": Operator(moves.moved, AFFINE),
    "Transpose": Operator(shapes.transpose, AFFINE),
    "Trilu": Operator(moves.moved, AFFINE),
    "Unsqueeze": Operator(shapes.unsqueeze, AFFINE),
    "Upsample": Operator(resize.resize, AFFINE, "nearest, linear; constant scales"),
    "Where": Operator(moves.where, AFFINE, "constant condition"),
}
