"""What the sampled profile says of known work."""

from __future__ import annotations

import time

import torch

from secateur.pipeline import profile
from secateur.pipeline.profile import Sampler, kind
from secateur.pipeline.verify.search.problem import RECHECK


def test_operations_have_their_kinds() -> None:
    kinds = {
        "mm": "GEMM",
        "addmm": "GEMM",
        "_sparse_mm": "GEMM",
        "bmm": "GEMM",
        "linear": "GEMM",
        "relu": "elementwise",
    }
    kinds |= {
        "convolution": "convolution",
        "_convolution": "convolution",
        "mkldnn_convolution": "convolution",
    }
    kinds |= {"mul": "elementwise", "add_": "elementwise", "maximum": "elementwise", "mean": "elementwise"}
    kinds |= {
        "copy_": "copies",
        "cat": "copies",
        "clone": "copies",
        "index_put_": "copies",
        "where": "copies",
    }
    assert {name: kind(name) for name in kinds} == kinds


def test_products_are_heard_as_products() -> None:
    sampler = Sampler(lambda: False)
    assert sampler.shares() == {}
    a = torch.randn(400, 400)
    until = time.perf_counter() + 30
    while not sampler.heard and time.perf_counter() < until:
        assert sampler() is False
        with torch.autograd.profiler.record_function(RECHECK):
            a @ a
    sampler.close()
    shares = dict(sampler.shares())
    recheck = shares.pop(RECHECK)
    assert shares["GEMM"] > 0.5
    assert 0.5 < recheck <= 1.01
    assert abs(sum(shares.values()) - 1) < 1e-6 or shares["other"] == 0
    asking = Sampler(lambda: True)
    assert asking() is True
    asking.close()


def test_memory_is_in_bytes() -> None:
    assert 50e6 < profile.peak_bytes("cpu") < 1e12
