"""Which ONNX operators the engine understands: one row an operator, name → lowering rule.

A rule takes a `Call` and returns the node's outputs. To add an operator, write its rule in the file of its kind and
add its row here.
"""

from __future__ import annotations

from secateur.pipeline.verify.call import Rule
from secateur.pipeline.verify.operators import arithmetic, linear, pooling, shapes

RULES: dict[str, Rule] = {
    "Add": arithmetic.add,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": linear.batch_normalization,
    "Cast": shapes.cast,
    "Concat": shapes.concat,
    "Conv": linear.conv,
    "ConvTranspose": linear.conv_transpose,
    "Div": arithmetic.div,
    "Dropout": shapes.dropout,
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "Gemm": linear.gemm,
    "GlobalAveragePool": pooling.global_average_pool,
    "Identity": shapes.identity,
    "MatMul": linear.matmul,
    "Mul": arithmetic.mul,
    "Neg": arithmetic.neg,
    "Pad": shapes.pad,
    "ReduceMean": pooling.reduce_mean,
    "ReduceSum": pooling.reduce_sum,
    "Relu": arithmetic.relu,
    "Reshape": shapes.reshape,
    "Shape": shapes.shape,
    "Slice": shapes.slice_,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Sub": arithmetic.sub,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
}
