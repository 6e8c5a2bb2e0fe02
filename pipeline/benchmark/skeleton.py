"""A new benchmark folder: a generator that works, and a README that says what is to be filled in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.formats import onnx_model, streams
from secateur.formats.errors import InputError
from secateur.pipeline.benchmark.layout import PROPERTIES, README, TO_DO

_README = f"""# {{name}}

{TO_DO}: what the networks do, and what the properties say about them.

| | |
|---|---|
| Source | {TO_DO}: who made networks and properties, from which data |
| Licence | {TO_DO}: under which terms others may use them |

`python generate_properties.py SEED` writes `1.0/` and `2.0/` anew from `networks/`: each holds `onnx/`, `vnnlib/` and
`instances.csv` (a network, a property and seconds a line). The same seed gives the same bytes.
"""

_GENERATOR = '''"""Writes this benchmark anew from `networks/`, in both dialects: `generate_properties.py SEED`."""

import sys
from pathlib import Path

import numpy as np

from secateur.formats import dataset, onnx_model
from secateur.pipeline import properties

IMAGES = 10
EPSILON = "1/16"
TIMEOUT = 60  # seconds an instance; all together at most 6 hours


def main() -> None:
    here = Path(__file__).resolve().parent
    random = np.random.default_rng(int(sys.argv[1]))
    networks = [onnx_model.read(str(path)) for path in sorted((here / "networks").glob("*.onnx*"))]
    data = dataset.load("digits")
    chosen = sorted(random.choice(len(data), IMAGES, replace=False).tolist())
    found = [one for net in networks for one in properties.robust(net, data, chosen, EPSILON).properties]
    properties.write(found, str(here), timeout=TIMEOUT, version="both", compress=True)


if __name__ == "__main__":
    main()
'''


def new(directory: str, networks: Sequence[str] = ()) -> list[str]:
    """Begin a benchmark in `directory`, which must be new or empty; `networks` are copied to `DIR/networks`.

    Returns the files that were written.

    Raises:
        InputError: the folder holds something, or cannot be written; a file that is no network.
    """
    folder = Path(directory)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("it is there already: expected a new or empty folder", where=directory)
    models = [onnx_model.read(network) for network in networks]
    names = [Path(network).name for network in networks]
    if len(set(names)) < len(names):
        raise InputError("two networks of the same file name", hint="rename one")
    try:
        (folder / "networks").mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror or error}", where=directory) from None
    for name, model in zip(names, models, strict=True):
        onnx_model.write(model, str(folder / "networks" / name))
    texts = {README: _README.format(name=folder.resolve().name), PROPERTIES: _GENERATOR}
    for name, text in texts.items():
        streams.write_bytes(str(folder / name), text.encode())
    return [*texts, *(f"networks/{name}" for name in names)]
