"""Data sets: the embedded digits, and every file format written by hand and read back."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.formats import dataset
from secateur.formats.errors import InputError

RANDOM = np.random.default_rng(0)


def idx(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_digits() -> None:
    train, test = dataset.load("digits", "train"), dataset.load("digits", "test")
    assert train.images.shape == (1400, 1, 8, 8) and test.images.shape == (397, 1, 8, 8)
    assert train.images.dtype == np.float32 and train.labels.dtype == np.int64 and train.classes == 10
    assert set(np.unique(test.images)) == {np.float32(k / 16) for k in range(17)}
    assert np.bincount(test.labels).min() >= 39  # stratified
    everything = np.concatenate([train.images, test.images]).reshape(1797, -1).astype(np.float64)
    from sklearn.datasets import load_digits

    assert np.array_equal(
        everything[np.lexsort(everything.T)], (load_digits().data / 16)[np.lexsort(load_digits().data.T)]
    )
    first = dataset.load("digits", limit=5)
    assert len(first) == 5 and np.array_equal(first.images, test.images[:5])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6, 5, 4), (6, 1, 5, 4)), ((6, 5, 4, 3), (6, 3, 5, 4)), ((6, 3, 5, 4), (6, 3, 5, 4)), ((6, 7), (6, 7))],
)
def test_npz(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    pixels = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2], np.uint8)
    path = str(tmp_path / "d.npz")
    np.savez(path, x_train=pixels[:4], y_train=labels[:4], x_test=pixels, y_test=labels[:, None] % 2)
    test = dataset.load(path)
    assert test.images.shape == expected and test.classes == 3 and test.name == "d.npz"
    layout = pixels.transpose(0, 3, 1, 2) if shape[-1] == 3 else pixels
    assert np.array_equal(test.images.ravel(), layout.ravel().astype(np.float32) / np.float32(255))
    assert test.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert len(dataset.load(path, "train")) == 4
    np.savez(path, x=pixels.astype(np.float64) / 255, y=labels)
    assert dataset.load(path, "train").images.shape == expected


def test_idx(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    labels = np.array([2, 0, 1], np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(pixels[:2]))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(labels[:2]))
    test = dataset.load(str(tmp_path))
    assert test.images.shape == (3, 1, 4, 5) and test.labels.tolist() == [2, 0, 1] and test.classes == 3
    assert np.array_equal(test.images[:, 0], pixels.astype(np.float32) / np.float32(255))
    assert len(dataset.load(str(tmp_path), "train")) == 2
    assert len(dataset.load(str(tmp_path / "train-images.idx3-ubyte"))) == 2


def test_cifar(tmp_path: Path) -> None:
    records = RANDOM.integers(0, 256, (4, 3073), dtype=np.uint8)
    records[:, 0] = [3, 9, 0, 1]
    (tmp_path / "data_batch_1.bin").write_bytes(records[:2].tobytes())
    (tmp_path / "data_batch_2.bin").write_bytes(records[2:3].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records[3:].tobytes())
    train = dataset.load(str(tmp_path), "train")
    assert train.images.shape == (3, 3, 32, 32) and train.labels.tolist() == [3, 9, 0] and train.classes == 10
    assert train.images[0, 0, 0, 1] == np.float32(records[0, 2]) / np.float32(255)
    assert dataset.load(str(tmp_path / "test_batch.bin")).labels.tolist() == [1]


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    pixels = RANDOM.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    for name, image in zip(("b/1.png", "a/2.png"), pixels, strict=True):
        path = tmp_path / "test" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    found = dataset.load(str(tmp_path))
    assert found.images.shape == (2, 3, 4, 5) and found.labels.tolist() == [0, 1] and found.classes == 2
    assert np.array_equal(found.images[1], pixels[0].transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    Image.fromarray(pixels[0, :3]).save(tmp_path / "test" / "a" / "3.png")
    with pytest.raises(InputError, match="bring all pictures to one size"):
        dataset.load(str(tmp_path))
    (tmp_path / "test" / "a" / "3.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"3.png: not a picture"):
        dataset.load(str(tmp_path))


def test_unknown_names_say_how_to_get_them() -> None:
    with pytest.raises(InputError, match=r"mnist: no data set named so .*ossci-datasets"):
        dataset.load("mnist")
    with pytest.raises(InputError, match=r"imagenet: no data set named so"):
        dataset.load("imagenet")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((1, 2)), "y": np.zeros(1, int)}, r"has no array 'x' \(found: images, y\)"),
        ({"x": np.full((1, 2), 255.0), "y": np.zeros(1, int)}, r"pixels from 255 to 255: expected uint8"),
        ({"x": np.full((1, 2), np.nan), "y": np.zeros(1, int)}, r"pixels from nan to nan"),
        ({"x": np.zeros((1, 2), int), "y": np.zeros(1, int)}, r"images are int64"),
        ({"x": np.zeros((1, 2)), "y": np.zeros(1)}, r"labels are float64"),
        ({"x": np.zeros((1, 2)), "y": np.zeros((1, 3), int)}, r"labels are int64 of shape \(1, 3\)"),
        ({"x": np.zeros((1, 2)), "y": np.zeros(2, int)}, r"1 images, but 2 labels"),
        ({"x": np.zeros((1, 2)), "y": np.array([-1])}, r"label -1: expected 0 or more"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, r"the test split holds no sample"),
        ({"x": np.zeros(1), "y": np.zeros(1, int)}, r"images have shape \(1,\)"),
        ({"x": np.array([None]), "y": np.zeros(1, int)}, r"damaged .npz"),
    ],
)
def test_npz_refusals(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=message):
        dataset.load(str(tmp_path / "d.npz"))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("d.npz", b"PK\x03\x04 and no more", "damaged .npz"),
        ("d.txt", b"1,2,3", "not a data set: expected"),
        ("a-images", b"\x00\x00\x08\x03" + struct.pack(">3I", 2, 2, 2) + b"1234", "header promises 24"),
        ("pictures", b"\x00\x00\x08\x03" + struct.pack(">3I", 0, 2, 2), "a-labels|labels are not found"),
        ("d.bin", b"\x00" * 3000, "expected a multiple of 3073"),
        ("d.bin", b"\x0a" * 3073, "label 10: expected 0 to 9"),
    ],
)
def test_file_refusals(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        dataset.load(str(tmp_path / name))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data in this folder"):
        dataset.load(str(tmp_path))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape"),
    [("mnist", (10000, 1, 28, 28)), ("fashion_mnist", (10000, 1, 28, 28)), ("cifar10", (1000, 3, 32, 32))],
)
def test_shared_data_sets(shared_data: Path, name: str, shape: tuple[int, ...]) -> None:
    found = dataset.load(str(shared_data / "datasets" / f"{name}.npz"))
    assert found.images.shape == shape and found.classes == 10 and found.images.max() == 1
