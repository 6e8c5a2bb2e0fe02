"""What each verifier wants a network to look like, as the passes that bring it there.

What is said of Marabou was found by giving it single operators and comparing what it makes of them at one
point; what is said of NeuralSAT, vibecheck and pyNeVer is in their sources. nnenum, α,β-CROWN and MATLAB were not run.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from secateur.formats.errors import InputError

_CLEAN = "inputs,functions,constants,identity,dead"
_SHAPES = "shapes,constants,shapes,constants,shapes,constants,flatten,constants,identity,dead"
_STATIC = f"batch=1,{_SHAPES}"
_DYNAMIC = f"batch,{_SHAPES}"
_LAST = "reshapes,attributes,dead,unused"
_LAYERS = "noops,batchnorm,gemm,affine,transposes,affine"


@dataclass(frozen=True)
class Target:
    """The passes for one verifier, the facts that chose them, and the operators that it reads, where they are known."""

    passes: str
    because: str
    reads: frozenset[str] = frozenset()

    def unread(self, model: onnx.ModelProto) -> list[str]:
        """The model's operators that the verifier does not read, as far as that is known."""
        found = {node.op_type for node in model.graph.node}
        return sorted(found - self.reads) if self.reads else []


TARGETS: dict[str, Target] = {
    "marabou": Target(
        f"{_CLEAN},{_STATIC},float32,opset=13,{_LAYERS},convolutions,maxpool,relus,affine,broadcasts,linear,reshapes,"
        "gemm,chain,reshapes,dead,unused",
        "maraboupy 2.0.0 reads Gemm with a bias, MatMul, Add, Sub, plain Conv, BatchNormalization, Relu, LeakyRelu, "
        "Sigmoid, Tanh, MaxPool, Flatten, Reshape and nothing else; it misreads broadcast sums, x + x, Transpose, "
        "padded MaxPool, one-dimensional Conv and products of rank 3",
        frozenset(
            [
                "Add",
                "BatchNormalization",
                "Conv",
                "Flatten",
                "Gemm",
                "LeakyRelu",
                "MatMul",
                "MaxPool",
                "Relu",
                "Reshape",
                "Sigmoid",
                "Squeeze",
                "Sub",
                "Tanh",
                "Unsqueeze",
            ]
        ),
    ),
    "nnenum": Target(
        f"{_CLEAN},{_STATIC},float32,opset=13,{_LAYERS},convolutions,maxpool,relus,affine,subtract,{_LAST}",
        "nnenum splits at Relu and runs what lies between in onnxruntime as linear: every other nonlinearity must go",
    ),
    "neuralsat": Target(
        f"{_CLEAN},{_STATIC},float32,opset=13,{_LAYERS},maxpool,{_LAST}",
        "NeuralSAT's onnx2pytorch checks its model with a batch of two, knows opsets to 13 best, Gemm as a layer, "
        "and wants kernel_shape written out; its auto_LiRPA bounds no MaxPool whose stride is not its kernel's size",
    ),
    "abcrown": Target(
        f"{_CLEAN},{_DYNAMIC},float32,opset=13,{_LAYERS},maxpool,{_LAST}",
        "α,β-CROWN's onnx2pytorch batches sub-problems: a batch dimension that is free, Gemm, Flatten; its "
        "auto_LiRPA bounds no MaxPool whose stride is not its kernel's size",
    ),
    "vibecheck": Target(
        f"{_CLEAN},{_STATIC},float32,{_LAYERS},convolutions,{_LAST}",
        "vibecheck 1.1.0 ignores α and β of Gemm; it knows most operators",
    ),
    "pynever": Target(
        f"{_CLEAN},{_STATIC},float32,opset=13,{_LAYERS},convolutions,maxpool,relus,affine,chain,transb,{_LAST}",
        "pyNeVer takes chains of Gemm, Conv, Relu, pools, Flatten: no arithmetic between layers; 1.3.2 takes a Gemm "
        "without transB for one with it",
        frozenset(
            [
                "AveragePool",
                "BatchNormalization",
                "Celu",
                "Conv",
                "Dropout",
                "Elu",
                "Flatten",
                "Gemm",
                "LRN",
                "LeakyRelu",
                "MaxPool",
                "Relu",
                "Reshape",
                "Sigmoid",
                "Softmax",
                "Tanh",
                "Transpose",
                "Unsqueeze",
            ]
        ),
    ),
    "matlab": Target(
        f"{_CLEAN},{_DYNAMIC},float32,opset=13,{_LAYERS},{_LAST}",
        "MATLAB's importNetworkFromONNX makes layers of Gemm, Conv, pools and activations up to opset 14 or so, custom "
        "ones of the rest; a leading batch dimension",
    ),
}


def target(verifier: str) -> Target:
    """What is known of a verifier.

    Raises:
        InputError: nothing is.
    """
    if verifier not in TARGETS:
        raise InputError(f"no passes are known for '{verifier}': expected one of {', '.join(TARGETS)}")
    return TARGETS[verifier]
