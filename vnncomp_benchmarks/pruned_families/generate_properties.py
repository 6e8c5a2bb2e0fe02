"""Writes this benchmark's properties anew: `python generate_properties.py SEED`, from the networks in `2.0/onnx`.

Test images are drawn by the seed, among those that the dense network gets right. Each family asks
* `robust`: is each network that is right about the image robust around it?
* `twins … right`: wherever the dense network is right by a margin, is the pruned one right?
* `twins … within`: do the two differ by less than δ? (of the first image)

The same seed gives the same bytes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from families import FAMILIES, VARIANTS, Family, data_of
from secateur.formats import onnx_model
from secateur.formats.dataset import Dataset
from secateur.formats.onnx_model import Model
from secateur.pipeline import properties
from secateur.pipeline.properties import Property, RightToo, Within
from secateur.pipeline.train.evaluate import predictions

TIMEOUT = 60  # seconds an instance
MARGIN = "1/2"
DELTA = 4


def asked(family: Family, networks: Path, data: Dataset, seed: int) -> Iterator[Property]:
    """The properties of one family."""

    def model(name: str) -> Model:
        return onnx_model.read(str(networks / f"{family.name}_{name}.onnx.gz"))

    dense = model("dense")
    right = np.flatnonzero(predictions(dense, data) == data.labels)
    chosen = sorted(np.random.default_rng(seed).choice(right, family.images, replace=False).tolist())
    balls = properties.around(dense, data, chosen, family.radius)
    pruned = {variant.name: model(variant.name) for variant in VARIANTS}
    for network in (dense, *pruned.values()):
        for one in properties.robust(network, data, chosen, family.radius).properties:
            yield replace(one, name=f"{family.name}_{one.name}")
    for name, network in pruned.items():
        near = properties.twins(dense, network, balls.boxes[:1], Within(DELTA))
        for one in (*properties.twins(dense, network, balls, RightToo(MARGIN)).properties, *near.properties):
            yield replace(one, name=f"{family.name}_{name}_{one.name}")


def main() -> None:
    here, seed = Path(__file__).resolve().parent, int(sys.argv[1])
    found: list[Property] = []
    for family in FAMILIES:
        found += asked(family, here / "2.0" / "onnx", data_of(family, "test"), seed)
    shutil.rmtree(here / "1.0", ignore_errors=True)  # products that are no longer asked about
    properties.write(found, str(here), timeout=TIMEOUT, version="both", compress=True)


if __name__ == "__main__":
    main()
