"""The table of criteria: what is found, refused and checked, whatever the criterion."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest

from factories import mlp
from secateur.formats.errors import CheckFailed, InputError
from secateur.formats.onnx_model import from_proto
from secateur.pipeline.prune import criteria, layers
from secateur.pipeline.prune.criteria import CRITERIA, Context, Criterion, Option, Samples


def context(**changes) -> Context:
    model = from_proto(mlp([4, 5, 2], seed=1), "net.onnx")
    return Context(model, tuple(layers.find(model.proto)), **changes)


def ones(context: Context) -> criteria.Saliency:
    arrays = context.arrays()
    return {layer.weight: np.ones(arrays[layer.weight].shape) for layer in context.layers}


PLUGIN = Criterion(ones, "weight", "all alike", "—")


@pytest.fixture
def plugins(monkeypatch):
    """Entry points as packages would register them."""

    def register(**objects: str) -> None:
        entries = metadata.EntryPoints(
            metadata.EntryPoint(name, value, criteria.ENTRY_POINTS) for name, value in objects.items()
        )
        monkeypatch.setattr(
            "secateur.pipeline.prune.criteria.metadata.entry_points", lambda **keys: entries.select(**keys)
        )

    return register


def test_every_row_says_where_it_comes_from():
    for name, row in CRITERIA.items():
        assert row.summary and row.source, name
        assert row.score.__doc__, name
        assert row.reduction in criteria.REDUCTIONS and row.normaliser in criteria.NORMALISERS, name
        assert all(option.summary for option in row.options), name


def test_other_packages_criteria_are_found_by_entry_point(plugins, monkeypatch):
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda entry: PLUGIN)
    plugins(alike="package:alike", magnitude="package:other")
    assert criteria.names() == [*CRITERIA, "alike"]
    assert criteria.find("alike") is PLUGIN
    assert criteria.find("magnitude") is CRITERIA["magnitude"]  # the table's cannot be overridden
    assert all((values == 1).all() for values in criteria.score("alike", context()).values())


def test_entry_points_that_do_not_load_are_one_line(plugins):
    plugins(gone="no_such_package:row", wrong="math:pi")
    with pytest.raises(
        InputError, match=r"criterion 'gone' .*cannot be loaded: ModuleNotFoundError"
    ) as error:
        criteria.find("gone")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"'wrong' .*expected a Criterion, found float"):
        criteria.find("wrong")
    with pytest.raises(InputError, match=r"unknown criterion 'magic': expected one of random, .*gone, wrong"):
        criteria.find("magic")


def test_options_are_declared_and_checked(monkeypatch):
    seen = {}

    def score(context: Context) -> criteria.Saliency:
        seen.update(context.options)
        return ones(context)

    options = (
        Option("steps", 5, "how many", minimum=1),
        Option("rate", 0.5, "how fast"),
        Option("loss", "plain", "which", choices=("plain", "robust")),
    )
    monkeypatch.setitem(CRITERIA, "probe", Criterion(score, "weight", "—", "—", options=options))
    criteria.score("probe", context(options={"steps": "7", "loss": "robust"}))
    assert seen == {"steps": 7, "rate": 0.5, "loss": "robust"}
    for given, message in (
        ({"epochs": "3"}, "has no option 'epochs': its options are steps, rate, loss"),
        ({"steps": "0"}, "option steps=0 of 'probe': expected a whole number of at least 1"),
        ({"steps": "2.5"}, "expected a whole number"),
        ({"rate": "nan"}, "expected a number of at least 0"),
        ({"loss": "best"}, "expected one of plain, robust"),
    ):
        with pytest.raises(InputError, match=message):
            criteria.score("probe", context(options=given))
    with pytest.raises(InputError, match="criterion 'magnitude' has no option 'steps': it has none"):
        criteria.score("magnitude", context(options={"steps": "7"}))


def test_what_is_missing_is_named(monkeypatch):
    row = Criterion(ones, "weight", "—", "—", needs=frozenset({"data", "bounds"}))
    monkeypatch.setitem(CRITERIA, "probe", row)
    with pytest.raises(InputError, match=r"net\.onnx: criterion 'probe' needs data"):
        criteria.score("probe", context())
    data = Samples(np.zeros((3, 4), np.float32))
    with pytest.raises(InputError, match="criterion 'probe' needs a positive ε"):
        criteria.score("probe", context(data=data))
    criteria.score("probe", context(data=data, epsilon=0.1))


def test_scores_that_cannot_be_ranked_are_refused(monkeypatch):
    def broken(context: Context) -> criteria.Saliency:
        return {name: values * np.nan for name, values in ones(context).items()}

    for score, message in ((broken, "not finite"), (lambda _: {}, r"no scores of shape \(5, 4\)")):
        monkeypatch.setitem(CRITERIA, "probe", Criterion(score, "weight", "—", "—"))
        with pytest.raises(CheckFailed, match=message):
            criteria.score("probe", context())
