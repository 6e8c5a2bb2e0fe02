"""Certificates of shared instances."""

from __future__ import annotations

from pathlib import Path

import pytest

from certificates import prove_within
from secateur.formats import onnx_model, vnnlib
from secateur.pipeline.certificate import check


@pytest.mark.data
@pytest.mark.parametrize(
    ("network", "prop"),
    [
        ("mnist_fc/onnx/mnist-net_256x2.onnx", "mnist_fc/vnnlib/prop_4_0.03.vnnlib"),
        ("acasxu/onnx/ACASXU_run2a_1_1_batch_2000.onnx", "acasxu/vnnlib/prop_3.vnnlib"),
        (
            "oval21/onnx/cifar_base_kw.onnx",
            "oval21/vnnlib/cifar_base_kw-img8095-eps0.010457516339869282.vnnlib",
        ),
    ],
)
def test_shared_instances_are_proved_and_checked(shared_data: Path, network: str, prop: str) -> None:
    folder = shared_data / "benchmarks"
    model, query = onnx_model.read(str(folder / network)), vnnlib.read(str(folder / prop))
    certificate, work = prove_within(model, query, 60)
    assert certificate is not None, work.verdict
    assert check(model, query, certificate, "c").margin > 0
