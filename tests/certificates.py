"""Certificates of small random networks for tests. `from certificates import proved` (tests/ is on pytest's path)."""

from __future__ import annotations

import numpy as np

from factories import box_property
from nets import convolutional, ending_in_relu, mlp, residual, starting_with_relu, without_relu
from secateur.formats import vnnlib
from secateur.formats.certificate import Certificate
from secateur.formats.onnx_model import Model
from secateur.formats.query import Floats, Query
from secateur.pipeline.certificate.reading import read
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.proving.prove import prove
from secateur.pipeline.verify.search.work import Work


def network(seed: int) -> Model:
    """One of seven kinds; the first five have hidden neurons that are split."""
    kinds = (
        lambda: mlp(seed, 3, (8, 6), 2),
        lambda: residual(seed, 3, 6, 2),
        lambda: mlp(seed, 2, (5, 4, 4), 3),
        lambda: convolutional(seed),
        lambda: starting_with_relu(seed, 2),
        lambda: ending_in_relu(seed, 3),
        lambda: without_relu(seed, 3),
    )
    return kinds[seed % len(kinds)]()


def samples(model: Model, count: int = 4000, seed: int = 0) -> tuple[Floats, Floats]:
    """Inputs in [-1, 1] and the outputs there."""
    own = read(model)
    x = np.random.default_rng(seed).uniform(-1, 1, (count, own.sizes[0]))
    return x, own.forward(x)


def threshold(model: Model, margin: float) -> Query:
    """Y_0 ≥ the largest value sampled on [-1, 1] and `margin` (a share of what it varies by)."""
    _, y = samples(model)
    inputs, limit = read(model).sizes[0], float(y[:, 0].max() + margin * (np.ptp(y[:, 0]) + 0.1))
    text = box_property([-1.0] * inputs, [1.0] * inputs, y.shape[1], f"(>= Y_0 {limit!r})")
    return vnnlib.parse(text, "p")


def prove_within(model: Model, query: Query, seconds: float = 20) -> tuple[Certificate | None, Work]:
    work = Work(query, seconds)
    return prove(Engine(model), read(model), work, 0), work


def proved(model: Model, query: Query) -> Certificate:
    certificate, work = prove_within(model, query)
    assert certificate is not None, work.verdict
    return certificate
