"""Recipes: several steps in one file, errors that name the line, and models that tell how they were made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import cnn, mlp
from secateur.formats import mask as masks
from secateur.formats import onnx_model
from secateur.formats.errors import InputError
from secateur.formats.onnx_model import from_proto, to_bytes
from secateur.pipeline.prune import Plan, prune, recipe, shrink
from secateur.pipeline.prune.recipe import Shrink

STEPS = """\
# channels first
[[step]]
prune = "magnitude"
sparsity = 0.5
granularity = "channel"
ratios = { "conv0" = 0.25 }

[[step]]
prune = "random"
seed = 3
sparsity = 0.2
include = ["fc*"]

[[step]]
shrink = true
"""


def test_steps_are_done_one_after_the_other():
    dense = from_proto(cnn(channels=8))
    made = recipe.run(dense, recipe.parse(STEPS, "r.toml"))
    first = prune(dense, Plan("magnitude", 0.5, "channel", ratios={"conv0": 0.25}))
    second = prune(from_proto(first.proto), Plan("random", 0.2, include=("fc*",), seed=3))
    assert to_bytes(made.proto) == to_bytes(shrink(from_proto(second.proto)).proto)
    assert made.mask is None
    assert len(made.lines) == 3


def test_the_mask_of_several_steps_is_of_the_first_model():
    dense = from_proto(cnn(channels=8))
    made = recipe.run(dense, [Plan("random", 0.3, seed=1), Plan("magnitude", 0.5, "channel")])
    assert made.mask is not None and made.mask.model_sha256 == dense.sha256
    zeroed = onnx_model.initializers(prune_by(dense, made.mask))
    assert all(np.array_equal(zeroed[k], v) for k, v in onnx_model.initializers(made.proto).items())


def prune_by(model, mask):
    from secateur.pipeline.prune import apply

    return apply(model, mask)


def test_a_model_tells_how_it_was_made():
    steps = recipe.parse(STEPS, "r.toml")
    made = recipe.run(from_proto(cnn(channels=8)), steps)
    told = recipe.of(from_proto(made.proto))
    assert recipe.parse(told, "told") == steps
    again = recipe.run(from_proto(cnn(channels=8)), recipe.parse(told, "told"))
    assert to_bytes(again.proto) == to_bytes(made.proto)
    with pytest.raises(InputError, match="no history"):
        recipe.of(from_proto(mlp([2, 2])))


PLANS = st.one_of(
    st.builds(Shrink, st.integers(0, 9)),
    st.builds(
        Plan,
        st.sampled_from(["magnitude", "random"]),
        st.floats(0, 1),
        st.sampled_from(["weight", "channel", "block:2x3"]),
        st.sampled_from(["global", "layer", "erk"]),
        include=st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=2).map(tuple),
        steps=st.integers(1, 5),
        schedule=st.sampled_from(["geometric", "linear", "cubic"]),
        normaliser=st.sampled_from([None, "none", "lamp"]),
        epsilon=st.none() | st.floats(0.001, 1),
        seed=st.integers(0, 9),
    ),
    st.builds(
        Plan, st.just("magnitude"), ratios=st.dictionaries(st.text(max_size=5), st.floats(0, 1), min_size=1)
    ),
)


@given(st.lists(PLANS, min_size=1, max_size=4))
def test_recipes_survive_being_written(steps):
    assert recipe.parse(recipe.text(steps), "r.toml") == tuple(steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[step]\n", "r.toml:1: not TOML"),
        ('[[step]]\nprune = "magnitude"\nsparsity = \n', "r.toml:3: not TOML"),
        ("", "r.toml: no steps"),
        ("step = 3\n", "r.toml: no steps"),
        ('title = "x"\n[[step]]\nshrink = true\n', "r.toml:1: unknown key 'title'"),
        ("[[step]]\nsparsity = 0.5\n", "r.toml:1: expected either prune = CRITERION or shrink = true"),
        ('[[step]]\nshrink = true\nprune = "magnitude"\n', "r.toml:1: expected either"),
        ("[[step]]\nshrink = false\n", "r.toml:2: shrink = False: expected true"),
        ("[[step]]\nprune = 3\n", "r.toml:2: prune = 3: expected a criterion's name"),
        (
            "\n[[step]]\nshrink = true\nsparsity = 1\n",
            "r.toml:4: unknown key 'sparsity': a step that shrinks",
        ),
        ('[[step]]\nprune = "magnitude"\n\nsparsty = 0.5\n', "r.toml:4: unknown key 'sparsty'"),
        (
            '[[step]]\nprune = "magnitude"\nsparsity = "half"\n',
            "r.toml:3: sparsity = 'half': expected a number",
        ),
        (
            '[[step]]\nprune = "magnitude"\nsteps = true\nsparsity = 1\n',
            "r.toml:3: steps = True: expected a whole",
        ),
        ('[[step]]\nprune = "magic"\nsparsity = 0.5\n', "r.toml:2: unknown criterion 'magic'"),
        ('[[step]]\nprune = "magnitude"\nsparsity = 1.5\n', "r.toml:3: sparsity 1.5: expected a share"),
        ('[[step]]\nshrink = true\n[[step]]\nprune = "magnitude"\n', "r.toml:3: no sparsity"),
        (
            '[[step]]\nprune = "magnitude"\nsparsity = 1\n[step.ratios]\na = 2\n',
            "r.toml:4: ratio a 2: expected",
        ),
        (
            '[[step]]\nprune = "magnitude"\nsparsity = 1\ninclude = "fc"\n',
            "r.toml:4: include = 'fc': expected a list",
        ),
    ],
)
def test_mistakes_are_named_with_their_line(text, message):
    with pytest.raises(InputError) as caught:
        recipe.parse(text, "r.toml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_recipes_through_the_command_line(invoke, tmp_path):
    dense, file, out = tmp_path / "d.onnx", tmp_path / "r.toml", tmp_path / "o.onnx"
    onnx_model.write(cnn(channels=8), str(dense))
    file.write_text(STEPS)
    result = invoke("prune", "--recipe", file, dense, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert len(result.stderr.splitlines()) == 3
    told = invoke("inspect", out, "--recipe")
    assert recipe.parse(told.stdout, "told") == recipe.parse(STEPS, "r.toml")
    (tmp_path / "told.toml").write_text(told.stdout)
    again = invoke("prune", "--recipe", tmp_path / "told.toml", "-", stdin=dense.read_bytes())
    assert again.stdout_bytes == out.read_bytes()
    lines = invoke("inspect", out).stderr.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("history: ")] == ["prune", "prune", "shrink"]
    file.write_text(STEPS.replace("[[step]]\nshrink = true\n", ""))
    assert invoke("prune", "--recipe", file, dense, "-o", out, "--mask-out", tmp_path / "m").exit_code == 0
    assert masks.read(str(tmp_path / "m")).criterion == "magnitude + random"
