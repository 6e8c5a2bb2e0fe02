"""Networks of Keras, of scikit-learn, and `.nnet` files."""

from __future__ import annotations

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from conversion_zoo.case import Case
from secateur.formats import nnet
from secateur.formats.nnet import Nnet
from secateur.pipeline.convert.sources import Options
from secateur.pipeline.onnxrt import Array

TRUSTED = Options(trust_pickle=True)


def cases(folder: Path | None) -> Iterator[Case]:
    """All of them; `.nnet` files of `folder`, too, when there is one. Packages that are missing are left out."""
    with contextlib.suppress(ImportError):
        yield from _keras()
    with contextlib.suppress(ImportError):
        yield from _scikit()
    yield from _nnet(folder)


def _keras() -> Iterator[Case]:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    lively = {"gamma_initializer": "glorot_uniform", "moving_mean_initializer": "ones"}
    x = keras.Input((16, 16, 3))
    branch = layers.BatchNormalization(**lively)(layers.Conv2D(8, 3, padding="same")(x))
    both = layers.Add()([layers.ReLU()(branch), layers.Conv2D(8, 1)(x)])
    networks = {
        "keras mlp": keras.Sequential(
            [keras.Input((20,)), layers.Dense(16, "relu"), layers.Dense(16, "tanh"), layers.Dense(5)]
        ),
        "keras lenet": keras.Sequential(
            [
                *(keras.Input((28, 28, 1)), layers.Conv2D(6, 5, padding="same", activation="relu")),
                *(layers.AveragePooling2D(2), layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D()),
                *(
                    layers.Flatten(),
                    layers.Dropout(0.5),
                    layers.Dense(84, "relu"),
                    layers.Dense(10, "softmax"),
                ),
            ]
        ),
        "keras resnet": keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(both))),
        "keras mobilenet": keras.Sequential(
            [
                *(keras.Input((16, 16, 3)), layers.DepthwiseConv2D(3, strides=2, padding="same")),
                *(layers.BatchNormalization(**lively), layers.ReLU(6.0), layers.ZeroPadding2D(1)),
                *(layers.SeparableConv2D(8, 3), layers.LeakyReLU(), layers.UpSampling2D(2)),
                *(layers.Conv2DTranspose(4, 3, strides=2), layers.GlobalMaxPooling2D(), layers.Dense(10)),
            ]
        ),
    }
    for name, model in networks.items():
        for suffix in (".keras", ".h5"):
            function = partial(_predicted, model)
            yield Case(
                name, f"Keras {suffix}", f"keras {keras.__version__}", None, suffix, model.save, function
            )


def _predicted(model: Any, rows: Array) -> Array:
    shape = model.inputs[0].shape[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(model.predict(rows.reshape(-1, *shape), verbose=0)).reshape(len(rows), -1)


def _scikit() -> Iterator[Case]:
    from skops import io as skops

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    settings: dict[str, Any] = {"hidden_layer_sizes": (20, 12), "max_iter": 5, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few steps do not converge
        networks = {
            "sklearn classifier": make_pipeline(StandardScaler(), MLPClassifier(**settings)).fit(
                images, labels
            ),
            "sklearn binary": MLPClassifier(activation="tanh", **settings).fit(images, labels > 4),
            "sklearn regressor": MLPRegressor(activation="logistic", **settings).fit(images, labels),
            "sklearn regressor of two": MLPRegressor(**settings).fit(images, np.stack([labels, -labels], 1)),
        }
    for name, model in networks.items():
        writers: dict[str, tuple[str, Callable[[Path], object]]] = {
            "pickle": (".pkl", partial(_pickled, model)),
            "joblib": (".joblib", partial(joblib.dump, model)),
            "skops": (".skops", partial(skops.dump, model)),
        }
        for exporter, (suffix, write) in writers.items():
            yield Case(name, "scikit-learn", exporter, None, suffix, write, partial(_decided, model), TRUSTED)


def _pickled(model: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(model))


def _decided(model: Any, rows: Array) -> Array:
    predict = getattr(model, "predict_proba", None) or model.predict
    return np.asarray(predict(rows)).reshape(len(rows), -1)


def _nnet(folder: Path | None) -> Iterator[Case]:
    random = np.random.default_rng(0)
    sizes = [5, 50, 50, 50, 5]
    drawn = Nnet(
        tuple(random.normal(size=(after, before)) / np.sqrt(before) for before, after in pairwise(sizes)),
        tuple(random.normal(size=size) for size in sizes[1:]),
        np.array([0.0, -3.1, -3.1, 100.0, 0.0]),
        np.array([60760.0, 3.1, 3.1, 1200.0, 1200.0]),
        np.array([19791.0, 0.0, 0.0, 650.0, 600.0, 7.5]),
        np.array([60261.0, 6.28, 6.28, 1100.0, 1200.0, 373.9]),
    )
    networks = {"drawn": drawn}
    for path in sorted(folder.glob("*.nnet*")) if folder else ():
        networks[path.name] = nnet.read(str(path))
    for name, network in networks.items():
        for normalise in (False, True):
            exporter = "normalisation folded in" if normalise else "as it is"
            scale = network.maxima if normalise else 1.0
            yield Case(
                *(name, ".nnet", exporter, None, ".nnet", partial(_written, network)),
                partial(_evaluated, network, normalise),
                Options(nnet_normalise=normalise),
                scale,
            )


def _written(network: Nnet, path: Path) -> None:
    nnet.write(network, str(path))


def _evaluated(network: Nnet, normalise: bool, rows: Array) -> Array:
    """By the definition of the format, in float64."""
    x = rows.astype(np.float64)
    if normalise:
        x = (x - network.means[:-1]) / network.ranges[:-1]
    for weight, bias in zip(network.weights, network.biases, strict=True):
        last = x @ weight.T + bias
        x = np.maximum(last, 0)
    return last * network.ranges[-1] + network.means[-1] if normalise else last
