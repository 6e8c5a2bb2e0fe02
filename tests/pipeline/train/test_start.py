"""What training starts from: normalised architectures, rewound models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secateur.formats import dataset, onnx_model
from secateur.formats.dataset import Dataset
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.mask import Mask
from secateur.pipeline import onnxrt
from secateur.pipeline.prune import masks
from secateur.pipeline.train.graph import TrainableGraph
from secateur.pipeline.train.loop import train
from secateur.pipeline.train.settings import Settings
from secateur.pipeline.train.start import rewound, starting_model


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset.load("digits", "train", 200)


def test_pixels_are_normalised_inside_the_graph(digits: Dataset) -> None:
    colours = Dataset("colours", np.repeat(digits.images, 3, axis=1), digits.labels, 10)
    plain = starting_model("digits_cnn", colours, 1)
    model = starting_model("digits_cnn", colours, 1, (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    assert [node.op_type for node in model.graph.node][:3] == ["Sub", "Div", "Conv"]
    shift, scale = (np.array(each, np.float32)[:, None, None] for each in ((0.1, 0.2, 0.3), (0.5, 1.0, 2.0)))
    expected = onnxrt.run(plain, (colours.images - shift) / scale)
    assert onnxrt.difference(expected, onnxrt.run(model, colours.images)) < 1e-5
    graph = TrainableGraph(model)
    assert not {"mean", "std"} & set(graph.parameters)
    after = onnx_model.initializers(train(model, colours, Settings(epochs=1)).model.proto)
    assert np.array_equal(after["mean"].ravel(), np.float32([0.1, 0.2, 0.3]))
    with pytest.raises(InputError, match="2 numbers for the mean: the images have 3 channels"):
        starting_model("digits_cnn", colours, 1, (0.1, 0.2))
    with pytest.raises(InputError, match="standard deviation of 0"):
        starting_model("digits_cnn", colours, 1, None, (0, 1, 1))


def test_a_ticket_is_rewound_and_the_checks_prove_it(digits: Dataset) -> None:
    """Train, prune, rewind to an early epoch: what survives has its early weights, what went is zero."""
    start = starting_model("digits_cnn", digits)
    trained = train(start, digits, Settings(epochs=3), early=1)
    assert trained.early is not None
    assert onnx_model.provenance(trained.early.proto)[-1]["arguments"]["epoch"] == 1
    again = train(start, digits, Settings(epochs=3), early=0)
    assert again.early is not None
    assert weights(again.early) == weights(start) != weights(trained.early)
    keep = {"conv2.weight": np.random.default_rng(0).random((32, 16, 3, 3)) < 0.3}
    mask = Mask(keep, trained.model.sha256, "random", "weight")
    for initial in (start, trained.early):
        ticket = rewound(trained.model, initial, mask)
        assert list(ticket.graph.node) == list(start.graph.node)
        assert "are zero" in masks.held(mask, ticket)
        found = masks.extract(initial, ticket)
        assert "have their initial values" in masks.rewound(found.changed, "ticket")
        assert all(masks.others(initial, ticket, found.mask).values())
    retrained = train(ticket, digits, Settings(epochs=1), mask=mask).model
    assert "are zero" in masks.held(mask, retrained)
    found = masks.extract(start, retrained)
    assert sum(found.changed.values()) > 0
    assert not any(masks.others(start, retrained, found.mask).values())
    with pytest.raises(CheckFailed, match=r"weights that the mask removes are not zero.*conv2\.weight"):
        masks.held(mask, trained.model)


def weights(model: onnx_model.Model) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in onnx_model.initializers(model.proto).items()}


def test_what_cannot_be_rewound_is_refused(digits: Dataset) -> None:
    start = starting_model("digits_cnn", digits)
    with pytest.raises(InputError, match=r"'bn1\.weight' has shape|'conv1\.weight' has shape"):
        rewound(start, starting_model("digits_mlp", digits))
    mask = Mask({"conv1.weight": np.ones(3, bool)}, "", "random", "weight")
    with pytest.raises(InputError, match=r"has no 'conv1\.weight' of shape \[3\]"):
        rewound(start, start, mask)
    with pytest.raises(InputError, match=r"'conv1\.weight', which the mask has with shape \[3\], has shape"):
        masks.held(mask, start)
    with pytest.raises(InputError, match="is not there"):
        masks.held(replace(mask, tensors={"nowhere": np.ones(3, bool)}), start)
    with pytest.raises(InputError, match="the early epoch is 9: expected 0 to 2"):
        train(start, digits, Settings(epochs=2), early=9)
    flat = Dataset("flat", digits.images.reshape(200, 64), digits.labels, 10)
    network = starting_model("digits_mlp", flat)
    with pytest.raises(InputError, match="flips and crops are of images"):
        train(network, flat, Settings(flip=True))
