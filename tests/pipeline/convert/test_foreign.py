"""Keras, scikit-learn and .nnet networks become ONNX that computes what their own packages compute."""

from __future__ import annotations

import pickle
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from factories import cnn
from secateur.formats import nnet, onnx_model
from secateur.formats.errors import InputError, UnsupportedError
from secateur.formats.nnet import Nnet
from secateur.pipeline import onnxrt
from secateur.pipeline.convert import convert
from secateur.pipeline.convert.sources import Options

TRUSTED = Options(trust_pickle=True)


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


# --- .nnet --------------------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> Nnet:
    random = np.random.default_rng(3)
    sizes = [4, 7, 6, 3]
    return Nnet(
        tuple(random.normal(size=(after, before)) for before, after in pairwise(sizes)),
        tuple(random.normal(size=size) for size in sizes[1:]),
        np.array([0.0, -3.0, 100.0, -1.0]),
        np.array([60000.0, 3.0, 1200.0, 1.0]),
        np.array([20000.0, 0.0, 650.0, 0.5, 7.5]),
        np.array([60000.0, 6.0, 1100.0, 2.0, 370.0]),
    )


def by_hand(network: Nnet, x: np.ndarray) -> np.ndarray:
    """One input, neuron by neuron."""
    values = list(x)
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        values = [
            sum(w * v for w, v in zip(row, values, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        if layer < len(network.weights) - 1:
            values = [max(value, 0.0) for value in values]
    return np.array(values)


@pytest.mark.parametrize("normalise", [False, True])
def test_nnet_with_and_without_its_normalisation(network: Nnet, normalise: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.nnet"
    nnet.write(network, str(path))
    result = convert(str(path), options=Options(nnet_normalise=normalise))
    assert operators(result.proto) == ["Gemm", "Relu", "Gemm", "Relu", "Gemm"]
    assert ("physical units" in result.notes[0]) == normalise
    physical = np.random.default_rng(0).uniform(network.minima, network.maxima, (20, 4))
    normal = (physical - network.means[:-1]) / network.ranges[:-1]
    expected = np.stack([by_hand(network, row) for row in normal])
    if normalise:
        expected = expected * network.ranges[-1] + network.means[-1]
    found = onnxrt.run(result.proto, (physical if normalise else normal).astype(np.float32))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_malformed_nnet_is_named_by_line(network: Nnet, tmp_path: Path) -> None:
    path = tmp_path / "net.nnet"
    lines = nnet.to_bytes(network).decode().splitlines()
    path.write_text("\n".join([*lines[:9], "1,2,"]))
    with pytest.raises(InputError, match=r"net\.nnet, line 10: expected 4 values"):
        convert(str(path))


# --- scikit-learn -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.random((90, 5), np.float32) * np.array([1, 10, 1, 1, 0.1], np.float32)
    return x, (x[:, 0] * 3).astype(int)


def fitted(kind: str, x: np.ndarray, y: np.ndarray) -> Any:
    settings: dict[str, Any] = {"hidden_layer_sizes": (6, 4), "max_iter": 3, "random_state": 0}
    if kind == "three classes":
        return make_pipeline(StandardScaler(), MLPClassifier(**settings)).fit(x, y)
    if kind == "two classes":
        return MLPClassifier(activation="tanh", **settings).fit(x, np.where(y > 1, "high", "low"))
    if kind == "one value":
        return MLPRegressor(activation="logistic", **settings).fit(x, y)
    return MLPRegressor(**settings).fit(x, np.stack([y, -y], 1))


KINDS = ["three classes", "two classes", "one value", "two values"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learn_models_have_one_float_output(
    kind: str, table: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    model, path = fitted(kind, *table), tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(model))
    with pytest.raises(InputError, match="--trust-pickle"):
        convert(str(path))
    result = convert(str(path), options=TRUSTED)
    expected = model.predict_proba(table[0]) if "class" in kind else model.predict(table[0]).reshape(90, -1)
    assert np.allclose(onnxrt.run_together(result.proto, table[0]), expected, atol=1e-5)
    (output,) = result.proto.graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [entry.domain for entry in result.proto.opset_import] == [""]
    assert {"ArgMax", "ZipMap", "Cast", "Scaler", "Reshape"}.isdisjoint(operators(result.proto))
    if kind == "two classes":
        assert result.notes == ["the outputs are the probabilities of the classes high, low"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_joblib_and_skops_say_the_same(table: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io")
    model = fitted("three classes", *table)
    joblib.dump(model, tmp_path / "model.joblib")
    joblib.dump(model, tmp_path / "packed.joblib", compress=True)
    skops.dump(model, tmp_path / "model.skops")
    first = convert(str(tmp_path / "model.joblib"), options=TRUSTED).proto.graph
    assert convert(str(tmp_path / "packed.joblib"), options=TRUSTED).proto.graph == first
    assert convert(str(tmp_path / "model.skops")).proto.graph == first


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_other_estimators_are_refused_by_name(table: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(LogisticRegression().fit(*table)))
    with pytest.raises(UnsupportedError, match="found LogisticRegression"):
        convert(str(path), options=TRUSTED)
    path.write_bytes(pickle.dumps(MLPClassifier()))
    with pytest.raises(InputError, match="not fitted"):
        convert(str(path), options=TRUSTED)


# --- Keras --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        return pytest.importorskip("keras", reason="needs the extra 'keras'")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_models_keep_their_layout(keras: Any, suffix: str, tmp_path: Path) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 5, 2)),
            layers.Conv2D(3, 3, padding="same", activation="relu"),
            layers.BatchNormalization(moving_mean_initializer="ones", gamma_initializer="glorot_uniform"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(4),
        ]
    )
    path = tmp_path / f"model{suffix}"
    model.save(path)
    result = convert(str(path))
    assert onnxrt.input_shape(result.proto) == (1, 6, 5, 2)
    assert result.notes == ["inputs stay as in Keras: [batch, height, width, channels]"]
    x = onnxrt.sample_inputs(60, seed=1, samples=5)
    assert np.allclose(
        onnxrt.run(result.proto, x), model.predict(x.reshape(5, 6, 5, 2), verbose=0), atol=1e-5
    )
    assert "Cast" not in operators(result.proto)
    assert result.difference < 1e-5


def test_keras_sizes_left_open_must_be_said(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    model = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(2, 2), layers.GlobalMaxPooling1D()])
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(InputError, match="--input-shape"):
        convert(str(path))
    result = convert(str(path), options=Options(input_shape=(7, 3)))
    assert onnxrt.input_shape(result.proto) == (1, 7, 3)


def test_damaged_keras_files_give_one_line(keras: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="Keras cannot load it"):
        convert(str(path))


@pytest.mark.parametrize(
    ("module", "name", "data", "hint"),
    [
        ("keras", "net.h5", b"\x89HDF\r\n\x1a\n", r"pip install 'secateur\[keras\]'"),
        ("skl2onnx", "net.pkl", pickle.dumps(MLPClassifier()), r"pip install 'secateur\[sklearn-onnx\]'"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    module: str, name: str, data: bytes, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=hint) as caught:
        convert(str(path), options=TRUSTED)
    assert "\n" not in str(caught.value)


# --- ONNX in other types ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("opset", [None, 12])
def test_onnx_in_other_float_types(dtype: type[np.floating[Any]], opset: int | None, tmp_path: Path) -> None:
    """onnxruntime has no Conv in float64: it is read as float32, and compared with onnx's own implementation."""
    proto = cnn(seed=3)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(dtype), tensor.name)
        )
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = kind
    path = tmp_path / "net.onnx"
    onnx_model.write(proto, str(path))
    result = convert(str(path), to_opset=opset)
    found = result.proto.graph.input[0].type.tensor_type.elem_type
    assert found == (onnx.TensorProto.FLOAT if dtype is np.float64 else kind)
    assert [note.startswith("read as float32") for note in result.notes] == [True] * (dtype is np.float64)
    assert result.difference < (1e-5 if dtype is np.float64 else 1e-4)
    x = onnxrt.sample_inputs(onnxrt.count_inputs(proto), seed=1, samples=5)
    assert onnxrt.difference(onnxrt.run(cnn(seed=3), x), onnxrt.run(result.proto, x)) < (
        1e-5 if dtype is np.float64 else 1e-2
    )
