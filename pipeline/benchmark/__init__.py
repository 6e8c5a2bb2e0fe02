"""Benchmark folders in the layout of the Verification of Neural Networks Competition: begun, generated, checked.

    DIR/README.md                           what it is, where it comes from, under which licence
    DIR/generate_properties.py SEED         writes the rest anew
    DIR/generate_networks.py SEED           optional: writes the networks that it starts from
    DIR/1.0/{onnx,vnnlib,instances.csv}     in VNN-LIB 1.0
    DIR/2.0/{onnx,vnnlib,instances.csv}     in VNN-LIB 2.0

Folders with a single dialect have `onnx`, `vnnlib` and `instances.csv` at their top.
"""

from secateur.pipeline.benchmark.checking import Finding, check, run_some
from secateur.pipeline.benchmark.generation import generate
from secateur.pipeline.benchmark.skeleton import new

__all__ = ["Finding", "check", "generate", "new", "run_some"]
