"""Search spaces: reading them, and what they suggest."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autometa.errors import SpaceError
from autometa.networks import Problem
from autometa.sharing import SHARING
from autometa.space import Space, default_space, shipped_spaces
from autometa.trial import TrialConfig, build

TABLE = Problem(
    layout="aligned",
    feature_shape=(6,),
    kinds=("regression", "regression", "regression"),
    n_outputs=(1, 1, 1),
)
MIXED = Problem(
    layout="aligned", feature_shape=(6,), kinds=("regression", "multiclass"), n_outputs=(1, 4)
)
IMAGES = Problem(
    layout="grouped", feature_shape=(1, 28, 28), kinds=("multiclass",) * 2, n_outputs=(5, 5)
)

HARD = """
parameters:
  sharing.kind: {type: categorical, choices: [hard]}
"""


def space(parameters: str, top: str = "") -> Space:
    indented = textwrap.indent(textwrap.dedent(parameters), "  ")
    return Space.from_yaml(f"{top}\nparameters:\n{indented}\n", "mine.yaml")


def ask(seed: int = 0) -> optuna.trial.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna_logger = optuna.logging.get_logger("optuna")
    monkeypatch.setattr(optuna_logger, "disabled", True)
    monkeypatch.setattr(optuna.storages._in_memory._logger, "disabled", True)


# --- the shipped spaces


EVERY_SHARING = [kind for kind in SHARING if kind != "independent"]


def test_default_space_is_the_one_agreed() -> None:
    found = Space.load("sharing")
    assert found.arms == ("sharing", "independent")
    assert found.unbuildable == "drop"
    some = CategoricalDistribution
    both = {
        "backbone.width": some([32, 96, 192]),
        "backbone.dropout": FloatDistribution(0.0, 0.5),
        "backbone.norm": some(["layer", "none"]),
        "backbone.linear": some(["none", "path"]),
        "backbone.inputs": some(["plain", "piecewise"]),
        "balancing.kind": some(["equal", "uncertainty"]),
        "optimizer.lr": FloatDistribution(3e-4, 2e-2, log=True),
        "optimizer.weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
        "optimizer.schedule": some(["cosine", "constant"]),
    }
    assert found.distributions("independent") == both
    assert found.distributions("sharing") == both | {
        "sharing.kind": some(EVERY_SHARING),
        "sharing.split_at": IntDistribution(1, 3),
        "sharing.tie": FloatDistribution(1e-5, 10.0, log=True),
        "sharing.units": some(["layer", "channel"]),
        "sharing.init_same": some([0.9, 1.0]),
        "sharing.relation": FloatDistribution(1e-6, 1e-1, log=True),
        "sharing.orthogonality": FloatDistribution(1e-5, 1e-1, log=True),
        "sharing.mixing_lr": FloatDistribution(1.0, 100.0, log=True),
        "conditioning.kind": some(["none", "concat", "additive", "multiplicative"]),
        "conditioning.at": some(["input", "every", "last", "head"]),
        "head": some(["multi_head", "single_head"]),
    }


@pytest.mark.parametrize(
    ("name", "problem", "backbone"),
    [
        ("sharing", TABLE, "mlp"),
        ("sharing", MIXED, "mlp"),
        ("hard", TABLE, "mlp"),
        ("hard", MIXED, "mlp"),
        ("images", IMAGES, "conv"),
        ("transformer", TABLE, "transformer"),
        ("transformer", MIXED, "transformer"),
        ("transformer", IMAGES, "transformer"),
        ("balancing", TABLE, "mlp"),
        ("balancing", MIXED, "mlp"),
    ],
)
def test_every_suggestion_of_a_shipped_space_builds(
    name: str, problem: Problem, backbone: str
) -> None:
    bound = Space.load(name).bind(problem)
    for seed, arm in itertools.product(range(25), bound.arms):
        values = bound.suggest(ask(seed), arm)
        config = TrialConfig.from_flat(values)
        build(config, problem)
        assert config.flat().items() >= values.items()
        assert config.flat()["backbone.kind"] == backbone
        assert (config.flat()["sharing.kind"] == "independent") == (arm == "independent")


def test_default_by_suite() -> None:
    def named(kind: str, *shape: int) -> str:
        suite: Any = SimpleNamespace(input_kind=kind, feature_shape=shape)
        return default_space(suite).where

    assert named("table", 2000) == "sharing"
    assert named("image", 1, 11, 11) == "sharing"
    assert named("image", 1, 19, 21) == "sharing"
    assert named("image", 3, 20, 20) == "images"


def test_names_and_files(tmp_path: Path) -> None:
    shipped = ["balancing", "hard", "images", "meta", "meta_images", "sharing", "transformer"]
    assert list(shipped_spaces()) == shipped
    with pytest.raises(SpaceError, match=r"space = sharin`\. Did you mean `sharing`\?"):
        Space.load("sharin")
    file = tmp_path / "own.yaml"
    file.write_text(HARD)
    assert Space.load(file).text == HARD
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpaceError, match="cannot be read"):
        Space.load(file)


# --- suggesting


def test_conditions_hold_and_absent_parameters_are_absent() -> None:
    found = Space.load("hard")
    seen = set()
    for seed in range(60):
        values = found.suggest(ask(seed), "sharing")
        told = values["conditioning.kind"] != "none"
        assert ("conditioning.at" in values) == ("head" in values) == told
        assert 1 <= values["sharing.split_at"] <= 3
        seen.add((values["conditioning.kind"], values["sharing.split_at"]))
    assert len(seen) == 12
    alone = found.suggest(ask(), "independent")
    assert alone["sharing.kind"] == "independent"
    assert not {"sharing.split_at", "conditioning.kind", "head"} & set(alone)


def test_independent_arm_does_not_ask_for_the_kind() -> None:
    trial = ask()
    Space.load("sharing").suggest(trial, "independent")
    assert "sharing.kind" not in trial.params


def test_asking_twice_gives_the_same() -> None:
    trial = ask()
    found = Space.load("sharing")
    assert found.suggest(trial, "sharing") == found.suggest(trial, "sharing")


def test_bounds_follow_another_parameter() -> None:
    found = space(
        """
        backbone.depth: {type: int, low: 1, high: 5, step: 2}
        sharing.kind: hard
        sharing.split_at: {type: int, low: 0, high: backbone.depth, when: {sharing.kind: hard}}
        """
    ).bind(TABLE)
    assert found.distributions("sharing")["sharing.split_at"] == IntDistribution(0, 5)
    seen = set()
    for seed in range(80):
        values = found.suggest(ask(seed), "sharing")
        seen.add((values["backbone.depth"], values["sharing.split_at"]))
    assert seen == {(d, s) for d in (1, 3, 5) for s in range(d + 1)}


@pytest.mark.parametrize(
    ("kinds", "arms"),
    [
        ("hard", ("sharing", "independent")),
        ("independent", ("independent",)),
        ("{type: categorical, choices: [independent]}", ("independent",)),
        ("{type: categorical, choices: [independent, hard]}", ("sharing", "independent")),
    ],
)
def test_arms(kinds: str, arms: tuple[str, ...]) -> None:
    found = space(f"sharing.kind: {kinds}\noptimizer.schedule: cosine").bind(TABLE)
    assert found.arms == arms
    assert found.suggest(ask(), "independent")["sharing.kind"] == "independent"
    if "sharing" in arms:
        trial = ask()
        assert found.suggest(trial, "sharing")["sharing.kind"] == "hard"
        assert trial.distributions.get("sharing.kind") in (None, CategoricalDistribution(["hard"]))


def test_without_sharing_kind_the_default_is_the_sharing_arm() -> None:
    found = space("optimizer.lr: {type: float, low: 1e-3, high: 1e-2, log: true}").bind(TABLE)
    assert found.arms == ("sharing", "independent")
    assert found.suggest(ask(), "sharing").keys() == {"optimizer.lr"}
    assert found.suggest(ask(), "independent")["sharing.kind"] == "independent"


def test_numbers_written_without_a_dot_are_numbers() -> None:
    found = space(
        """
        optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
        optimizer.weight_decay: 1e-5
        optimizer.clip: {type: categorical, choices: [1e0, 5.0]}
        """
    ).bind(TABLE)
    assert found.suggest(ask(), "sharing")["optimizer.weight_decay"] == 1e-5
    assert found.distributions("sharing")["optimizer.lr"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert found.distributions("sharing")["optimizer.clip"] == CategoricalDistribution([1.0, 5.0])


# --- what a file may not say


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("head: [multi_head, single_head]", "type: categorical, choices:"),
        ("head: {type: categoricl, choices: [a]}", "Did you mean `categorical`"),
        ("head: {type: categorical, choices: []}", "at least 1 item"),
        ("head: {type: categorical, choices: [a, a]}", "a choice appears twice"),
        ("head: {type: categorical, choice: [a]}", "`mine.yaml: head.choice"),
        ("head: {type: float, low: 2, high: 1}", "Found `low = 2.0`, `high = 1.0`"),
        ("head: {type: float, low: .nan, high: 1}", "finite number"),
        ("head: {type: float, low: 0, high: 1, log: true}", "above 0 with `log: true`"),
        ("head: {type: int, low: 1, high: 9, log: true, step: 2}", "cannot be combined"),
        ("head: {type: int, low: 1.5, high: 3}", "Found `1.5`"),
        ("a: 1\nb: {type: int, low: 1, high: c}", "whole-number parameter. Found `c`"),
        ("a: x\nb: {type: int, low: 1, high: a}", "whole-number parameter. Found `a`"),
        (
            "head: {type: int, low: 1, high: 2, when: {backbone.kid: mlp}}\nbackbone.kind: mlp",
            "`when` should name an earlier parameter. Found `backbone.kid`",
        ),
        (
            "backbone.kind: mlp\nhead: {type: int, low: 1, high: 2, when: {backbone.kind: mpl}}",
            "can never hold, because `backbone.kind` is one of mlp. Did you mean `mlp`",
        ),
        (
            "a: {type: float, low: 0, high: 1}\nb: {type: int, low: 1, high: 2, when: {a: 0}}",
            "Found `a`, which is a range",
        ),
    ],
)
def test_what_the_file_may_not_say(parameters: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(parameters)
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: {}", "at least 1 item"),
        ("parmeters: {a: 1}", "parameters` is missing|Did you mean `parameters`"),
        ("- a", "should be a YAML mapping"),
        ("parameters:\n  a: &x 1\n  b: *x", "aliases"),
        ("parameters:\n  a: 1\n  a: 2", "appears twice"),
        ("unbuildable: maybe\nparameters: {a: 1}", "'error' or 'drop'"),
    ],
)
def test_what_is_not_a_space(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Space.from_yaml(text)
