"""Trains the families anew: `python generate_networks.py SEED`; the networks lie in `2.0/onnx`.

A family is a dense network and what pruning makes of it; each pruned network is trained on. The same seed gives the
same bytes on the same machine.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from families import FAMILIES, VARIANTS, Family, Variant, data_of
from secateur.formats import onnx_model
from secateur.formats.dataset import Dataset
from secateur.formats.mask import Mask
from secateur.formats.onnx_model import Model
from secateur.pipeline import compute, prune
from secateur.pipeline.convert import conversion
from secateur.pipeline.convert.sources import Source
from secateur.pipeline.train.evaluate import evaluate
from secateur.pipeline.train.loop import train
from secateur.pipeline.train.settings import Settings
from secateur.pipeline.train.start import starting_model

SAMPLES = 128
"""Training images on which criteria look at activations or bounds."""


@dataclass(frozen=True)
class Made:
    """One family's data and dense network, on which its variants are made."""

    family: Family
    data: Dataset
    dense: Model
    seed: int

    def variant(self, variant: Variant) -> Model:
        """The dense network pruned, trained on, and without what was removed, where whole channels were."""
        samples = prune.Samples(self.data.images[:SAMPLES], self.data.labels[:SAMPLES])
        pruned = prune.prune(
            self.dense,
            variant.criterion,
            sparsity=variant.sparsity,
            granularity=variant.granularity,
            data=samples,
            epsilon=float(self.family.radius),
            seed=self.seed,
        )
        model = onnx_model.from_proto(pruned.proto, variant.name)
        model = trained(model, self.data, self.family, self.family.epochs // 2, self.seed, pruned.mask)
        if variant.granularity != "channel":
            return model
        return onnx_model.from_proto(prune.shrink(model, seed=self.seed).proto, variant.name)


def trained(
    model: Model, data: Dataset, family: Family, epochs: int, seed: int, mask: Mask | None = None
) -> Model:
    settings = Settings(
        epochs=epochs, objective="adversarial", epsilon=float(family.radius), attack_steps=2, seed=seed
    )
    return train(model, data, settings, mask=mask).model


def main() -> None:
    seed = int(sys.argv[1])
    folder = Path(__file__).resolve().parent / "2.0" / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        data, test = data_of(family, "train"), data_of(family, "test")
        start = starting_model(family.architecture, data, seed)
        made = Made(family, data, trained(start, data, family, family.epochs, seed), seed)
        for name, model in [("dense", made.dense), *((one.name, made.variant(one)) for one in VARIANTS)]:
            clean = conversion.clean(Source(model.proto, model.sha256, "onnx"))
            onnx_model.write(clean.proto, str(folder / f"{family.name}_{name}.onnx.gz"))
            accuracy = evaluate(onnx_model.from_proto(clean.proto, name), test).accuracy
            print(f"{family.name} {name}: {100 * accuracy:.1f} % of test images", file=sys.stderr)


if __name__ == "__main__":
    with compute.threads(1):
        main()
