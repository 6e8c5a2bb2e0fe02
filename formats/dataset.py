"""Labelled data sets: the digits embedded in scikit-learn, or files that the user has.

Images are float32 raw pixels in [0, 1]; no normalisation is ever applied here.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateur.formats import streams
from secateur.formats.errors import InputError

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

DIGITS = "digits"
_DIGITS_TRAIN = 1400
_CIFAR_RECORD = 1 + 3 * 32 * 32
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm"}
_FORMATS = "expected 'digits', an .npz, IDX or CIFAR-10 binary file or folder, or a folder of class folders"
_KNOWN = {
    "mnist": "download the four .gz files of https://ossci-datasets.s3.amazonaws.com/mnist/ into a folder, "
    "then --data FOLDER",
    "fashion_mnist": "download the four .gz files of https://github.com/zalandoresearch/fashion-mnist "
    "into a folder, then --data FOLDER",
    "cifar10": "download and unpack https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, "
    "then --data cifar-10-batches-bin",
}


@dataclass(frozen=True)
class Dataset:
    """`images` [n, C, H, W] (or [n, F], tabular), float32 in [0, 1]; `labels` [n], int64, below `classes`."""

    name: str
    images: Images
    labels: Labels
    classes: int

    def __len__(self) -> int:
        return len(self.labels)


def load(source: str, split: str = "test", limit: int | None = None) -> Dataset:
    """The `split` ("train" or "test") of the data at `source`, its first `limit` samples in file order.

    * `digits`: scikit-learn's 1,797 images of 8 × 8, pixel/16; 1,400 train and 397 test, a fixed stratified split.
    * `.npz`: `x_train y_train x_test y_test`, or `x y` (one split for both); uint8 (divided by 255) or floats in
      [0, 1]; [n, H, W], [n, H, W, C], [n, C, H, W] or [n, F].
    * IDX (MNIST): a folder of the four files, or an images file with its labels file beside it; `.gz` too.
    * CIFAR-10 binary: the folder of the batches, or one `.bin`.
    * a folder of class folders with pictures of one size, possibly below `train/` and `test/`; classes are
      numbered in the order of their names.

    Raises:
        InputError: no such data (says how to get it), a malformed file, labels that do not fit, no sample.
    """
    if source == DIGITS:
        images, labels, classes = _digits(split)
    else:
        path = Path(source)
        if not path.exists():
            known = _KNOWN.get(source.lower().replace("-", "_"))
            raise InputError(
                f"no data set named so is built in, and no such file: {_FORMATS}", where=source, hint=known
            )
        images, labels, classes = _folder(path, split) if path.is_dir() else _file(path, split)
    if len(images) != len(labels):
        raise InputError(f"{len(images)} images, but {len(labels)} labels", where=source)
    if not len(labels):
        raise InputError(f"the {split} split holds no sample", where=source)
    if labels.min() < 0:
        raise InputError(f"label {labels.min()}: expected 0 or more", where=source)
    name = source if source == DIGITS else Path(source).resolve().name
    return Dataset(name, images[:limit], labels[:limit], classes)


def _digits(split: str) -> tuple[Images, Labels, int]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), train_size=_DIGITS_TRAIN, stratify=labels, random_state=0
    )
    chosen = train if split == "train" else test
    images = (digits.images[chosen] / 16).astype(np.float32)[:, None]
    return images, labels[chosen], 10


def _file(path: Path, split: str) -> tuple[Images, Labels, int]:
    data = streams.read_bytes(str(path))
    if data[:2] == b"PK":
        return _npz(data, str(path), split)
    if data[:3] == b"\x00\x00\x08":
        return _idx_pair(path)
    if path.name.removesuffix(".gz").endswith(".bin"):
        return _cifar([path])
    raise InputError(f"not a data set: {_FORMATS}", where=str(path))


def _folder(path: Path, split: str) -> tuple[Images, Labels, int]:
    batches = sorted(path.glob("data_batch_*.bin" if split == "train" else "test_batch.bin"))
    if batches:
        return _cifar(batches)
    prefixes = ("train",) if split == "train" else ("t10k", "test")
    for prefix in prefixes:
        for images in sorted(path.glob(f"{prefix}-images*")):
            return _idx_pair(images)
    return _pictures(path / split if (path / split).is_dir() else path)


def _npz(data: bytes, name: str, split: str) -> tuple[Images, Labels, int]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            keys = (f"x_{split}", f"y_{split}") if f"x_{split}" in archive else ("x", "y")
            for key in keys:
                if key not in archive:
                    found = ", ".join(sorted(archive.files))
                    raise InputError(
                        f"has no array '{key}' (found: {found})", where=name, hint="name them x and y"
                    )
            images, labels = archive[keys[0]], archive[keys[1]]
            others = [archive[key] for key in ("y_train", "y_test") if key in archive and key != keys[1]]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"damaged .npz: {error}", where=name) from None
    whole = [_integers(array, name) for array in (labels, *others)]
    classes = max((int(array.max()) + 1 for array in whole if array.size), default=0)
    return _layout(_scaled(images, name), name), whole[0], classes


def _integers(labels: NDArray[np.generic], name: str) -> Labels:
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise InputError(
            f"labels are {labels.dtype} of shape {labels.shape}: expected integers [n]", where=name
        )
    return flat.astype(np.int64)


def _scaled(images: NDArray[np.generic], name: str) -> Images:
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"images are {images.dtype}: expected uint8, or floats in [0, 1]", where=name)
    scaled = images.astype(np.float32)
    if scaled.size and not (scaled.min() >= 0 and scaled.max() <= 1):  # also when NaN
        raise InputError(
            f"pixels from {scaled.min():g} to {scaled.max():g}: expected uint8, or floats in [0, 1]",
            where=name,
            hint="store raw pixels; give --mean and --std where the network wants normalised ones",
        )
    return scaled


def _layout(images: Images, name: str) -> Images:
    """[n, F] as it is, [n, H, W] and [n, H, W, C] as [n, C, H, W]."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.ndim in (2, 4):
        return images
    raise InputError(
        f"images have shape {images.shape}: expected [n, H, W], [n, H, W, C] or [n, F]", where=name
    )


def _idx_pair(path: Path) -> tuple[Images, Labels, int]:
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == path:
        raise InputError(
            "an IDX file of images has 'images' in its name: its labels are not found", where=str(path)
        )
    images = _idx(path)
    labels = _idx(beside)
    if images.ndim < 2 or labels.ndim != 1:
        raise InputError(
            f"images {images.shape} and labels {labels.shape}: expected [n, H, W] and [n]", where=str(path)
        )
    classes = int(labels.max()) + 1 if labels.size else 0
    return _layout(_scaled(images, str(path)), str(path)), labels.astype(np.int64), classes


def _idx(path: Path) -> NDArray[np.uint8]:
    """An IDX array of unsigned bytes (http://yann.lecun.com/exdb/mnist, "THE IDX FILE FORMAT")."""
    data = streams.read_bytes(str(path))
    rank = data[3] if len(data) > 3 else 0
    header = 4 + 4 * rank
    if data[:3] != b"\x00\x00\x08" or len(data) < header:
        raise InputError("not an IDX file of unsigned bytes", where=str(path))
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", rank, 4))
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise InputError(f"IDX file of {len(data)} bytes: its header promises {expected}", where=str(path))
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _cifar(paths: list[Path]) -> tuple[Images, Labels, int]:
    """CIFAR-10 binary batches (https://www.cs.toronto.edu/~kriz/cifar.html): label, then 3 × 32 × 32 bytes."""
    records = []
    for path in paths:
        data = np.frombuffer(streams.read_bytes(str(path)), np.uint8)
        if data.size % _CIFAR_RECORD:
            raise InputError(
                f"CIFAR-10 binary file of {data.size} bytes: expected a multiple of {_CIFAR_RECORD}",
                where=str(path),
            )
        records.append(data.reshape(-1, _CIFAR_RECORD))
    together = np.concatenate(records)
    labels = together[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise InputError(f"label {labels.max()}: expected 0 to 9", where=str(paths[0]))
    images = together[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255)
    return images, labels, 10


def _pictures(path: Path) -> tuple[Images, Labels, int]:
    from PIL import Image, UnidentifiedImageError

    classes = sorted(entry for entry in path.iterdir() if entry.is_dir())
    images: list[NDArray[np.uint8]] = []
    labels = []
    for label, folder in enumerate(classes):
        for file in sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in _PICTURES):
            try:
                with Image.open(file) as picture:
                    pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise InputError(f"not a picture: {error}", where=str(file)) from None
            if images and images[0].shape != pixels.shape:
                raise InputError(
                    f"picture of shape {pixels.shape}: the first has {images[0].shape}",
                    where=str(file),
                    hint="bring all pictures to one size and mode",
                )
            images.append(pixels)
            labels.append(label)
    if not images:
        raise InputError(f"no data in this folder: {_FORMATS}", where=str(path))
    stacked = np.stack(images)
    stacked = stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)
    return (
        stacked.astype(np.float32) / np.float32(255),
        np.array(labels, dtype=np.int64),
        len(classes),
    )
