"""Recipes of the loop: methods by name, what overrules what, text and back, and what is refused, with its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secateur.formats.errors import InputError
from secateur.pipeline.prune import CRITERIA
from secateur.pipeline.tickets import recipe
from secateur.pipeline.tickets.methods import METHODS
from secateur.pipeline.tickets.recipe import Recipe, changes, made, parse, text
from secateur.pipeline.train.presets import PRESETS

FULL = """
methods = ["imp", "imp+nrs", "slimming", "mine"]
data = "some/where/mnist.npz"
network = "conv_small"
seeds = [3, 1]
epsilon = 0.1
train_images = 100

[training]
objective = "crown-ibp"
epochs = 7

[retraining]
epochs = 4

[regularisers]
nrs = 0.5

[pruning]
rounds = 3
share = 0.5
include = ["conv*"]

[method.slimming]
share = 0.25

[method.mine]
criterion = "snip"
sparsities = [0.5, 0.9]
options = { attack-steps = 2 }
then = "fine-tune"
"""


def test_a_method_is_its_row_then_what_holds_for_all_then_its_own() -> None:
    full = made(parse(FULL, "r.toml"))
    assert full.of("imp").course == (0.5, 0.75, 0.875)
    assert full.of("imp").include == ("conv*",) and full.of("imp").regulariser == ""
    slimming = full.of("slimming")
    assert slimming.course == pytest.approx((0.25, 0.4375, 0.578125))
    assert (slimming.criterion, slimming.granularity, slimming.regulariser) == (
        "bn-scale",
        "channel",
        "bn_l1",
    )
    mine = full.of("mine")
    assert mine.course == (0.5, 0.9) and mine.then == "fine-tune"
    # robust training makes the loss of criteria robust
    assert mine.plan(2, epsilon=0.1, seed=0).options == {"loss": "robust", "attack-steps": "2"}
    assert mine.plan(2, epsilon=0.1, seed=0).epsilon == 0.1
    assert full.of("imp").plan(1, epsilon=0.1, seed=0).epsilon is None


def test_regularisers_have_the_weights_of_the_recipe_or_of_the_paper() -> None:
    full = made(parse(FULL, "r.toml"))
    nrs = full.settings(3, "nrs")
    assert (nrs.nrs, nrs.rs, nrs.epsilon, nrs.seed, nrs.epochs) == (0.5, 0.0, 0.1, 3, 7)
    assert full.settings(3, "rs").rs == 0.001
    assert full.settings(3, "bn_l1", again=True).bn_l1 == 1e-4
    assert full.settings(3, again=True).epochs == 4
    assert Recipe(("imp",), training={"objective": "adversarial"}).settings(0, "nrs").nrs == 0.01
    assert Recipe(("imp",)).settings(0).epsilon == 0.0
    assert Recipe(("imp",)).settings(0, "nrs").epsilon == 0.05


def test_the_paper_s_schedules() -> None:
    assert Recipe(("imp",), pruning={"rounds": 15}).of("imp").course[-1] == pytest.approx(1 - 0.8**15)
    assert Recipe(("slimming",), pruning={"rounds": 12}).of("slimming").course[-1] == pytest.approx(
        1 - 0.89**12
    )
    to_goal = Recipe(("imp",), pruning={"rounds": 4, "sparsity": 0.8, "schedule": "linear"}).of("imp").course
    assert to_goal == pytest.approx((0.2, 0.4, 0.6, 0.8))


@pytest.mark.parametrize("name", [*METHODS, *CRITERIA])
def test_every_method_and_criterion_makes_plans(name: str) -> None:
    pruning = Recipe((name,)).of(name)
    assert [pruning.plan(k, epsilon=0.1, seed=1).sparsity for k in (1, 2)] == list(pruning.course[:2])


STUDY = Path(__file__).parents[3] / "vnncomp_benchmarks" / "certified_tickets" / "recipes"


@pytest.mark.parametrize("path", sorted(STUDY.rglob("*.toml")), ids=lambda path: str(path.relative_to(STUDY)))
def test_the_study_s_recipes(path: Path) -> None:
    study = made(recipe.read(str(path)), path.name)
    full = path.parent.name == "full"
    assert len(study.of("imp+nrs").course) == (15 if full else 5)
    assert study.of("imp+nrs").course[-1] == pytest.approx(1 - 0.8**15, abs=1e-4)
    assert study.of("slimming").course[-1] == pytest.approx(1 - 0.89**12, abs=1e-4)
    assert study.settings(0, "nrs").nrs == (0.01 if study.training["objective"] == "adversarial" else 0.001)
    if full:
        preset = PRESETS[f"paper-{path.stem.rpartition('-')[2]}-{path.stem.rpartition('-')[0]}"]
        assert (preset.mean or (), preset.std or ()) == (study.mean, study.std)
        ours = replace(study.settings(0), ramp_length=preset.settings.ramp_length)
        assert ours == preset.settings


def test_text_and_back() -> None:
    full = made(parse(FULL, "r.toml"))
    again = made(parse(text(full), "again"))
    assert again == replace(full, data="mnist.npz")
    assert "some/where" not in text(full)
    assert made(recipe.quick()) == made(parse(text(made(recipe.quick())), "quick"))


def test_changes_are_named() -> None:
    full = made(parse(FULL, "r.toml"))
    assert changes(full, replace(full, seeds=(9,), methods=("imp",), data="else/where/mnist.npz")) == []
    training = {**full.training, "epochs": 8, "clip": 8.0}
    other = replace(full, epsilon=0.2, training=training, method={}, methods=("imp",))
    assert changes(full, other) == [
        "epsilon",
        *(f"method.mine.{key}" for key in ("criterion", "options.attack-steps", "sparsities", "then")),
        "method.slimming.share",
        "training.clip",
        "training.epochs",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("methods = [\n= 3]", ("r.toml:2", "not TOML")),
        ("", ("no methods",)),
        ("methods = []", ("no methods",)),
        ('methods = ["imp", "imp"]', ("twice",)),
        ('methods = ["astrology"]', ("astrology", "imp+nrs")),
        ('methods = "imp"', ("r.toml:1", "methods", "a list")),
        ('methods = ["dense"]', ("dense",)),
        ('methods = ["imp"]\nseeds = [-1]', ("seeds", "-1")),
        ('methods = ["imp"]\nseeds = []', ("seeds",)),
        ('methods = ["imp"]\nepsilon = 0', ("epsilon",)),
        ('methods = ["imp"]\nepsilons = 0.1', ("r.toml:2", "epsilons", "epsilon")),
        ('methods = ["imp"]\n[training]\n\nepoch = 3', ("r.toml:4", "epoch", "epochs")),
        ('methods = ["imp"]\n[training]\nepochs = 3.5', ("r.toml:3", "a whole number")),
        ('methods = ["imp"]\n[training]\nobjective = "vague"', ("r.toml:3", "crown-ibp")),
        ('methods = ["imp"]\n[training]\nseed = 3', ("r.toml:3", "seed")),
        ('methods = ["imp"]\n[pruning]\ncriterion = "snip"', ("r.toml:3", "criterion")),
        ('methods = ["imp"]\n[pruning]\nrounds = 0', ("rounds",)),
        ('methods = ["imp"]\n[pruning]\nrounds = true', ("r.toml:3", "a whole number")),
        ('methods = ["imp"]\n[pruning]\nshare = 1.5', ("share", "1.5")),
        ('methods = ["imp"]\n[pruning]\nsparsities = [0.5, 0.4]', ("sparsities", "larger")),
        ('methods = ["imp"]\n[pruning]\nsparsities = [0.5]\nsparsity = 0.5', ("one of them",)),
        ('methods = ["imp"]\n[pruning]\nschedule = "slow"', ("slow", "geometric")),
        ('methods = ["imp"]\n[pruning]\nthen = "rest"', ("r.toml:3", "'rewind'")),
        ('methods = ["snip"]\n[pruning]\none_shot = true', ("one_shot", "start")),
        ('methods = ["imp"]\n[method.imp]\ngranularity = "atom"', ("atom",)),
        ('methods = ["imp"]\n[method.imp]\nwidth = 1', ("r.toml:3", "width")),
        ('methods = ["imp"]\n[method]\nimp = 1', ("method.imp", "a table")),
        ('methods = ["refill"]\n[method.imp]\nsparsities = [0.5]', ("refill", "more rounds")),
        ('methods = ["a"]\n[method.a]\ncriterion = "random"\nscored = "refill"', ("'refill'", "another")),
        ('methods = ["imp"]\n[evaluation]\nimages = "all"', ("r.toml:3", "images")),
    ],
)
def test_what_is_refused(content: str, says: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        made(parse(content, "r.toml"), "r.toml")
    assert str(caught.value).startswith("r.toml")
    for word in says:
        assert word in str(caught.value)
