"""Binding a search space to a suite: what cannot be built is found, and dropped if asked for."""

from __future__ import annotations

import itertools
import textwrap

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from autometa.errors import SpaceError
from autometa.networks import Problem
from autometa.space import Space
from autometa.space import check as space_check
from autometa.space.space import Arm
from autometa.trial import TrialConfig

TABLE = Problem(
    layout="aligned",
    feature_shape=(6,),
    kinds=("regression", "regression", "regression"),
    n_outputs=(1, 1, 1),
)
MIXED = Problem(
    layout="aligned", feature_shape=(6,), kinds=("regression", "multiclass"), n_outputs=(1, 4)
)


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


@pytest.mark.parametrize(("name", "sharing"), [("hard", 6 * 21), ("sharing", 6 * 45)])
def test_shape_keys_of_the_shipped_spaces(name: str, sharing: int) -> None:
    """The fewer, the more trials are trained as one. Norm, path and inputs make 6 of each."""
    two = Problem(
        layout="aligned", feature_shape=(6,), kinds=("multiclass",) * 2, n_outputs=(10, 10)
    )
    bound = Space.load(name).bind(two)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    most: dict[Arm, int] = {"sharing": sharing, "independent": 6 * 3}
    for arm, keys in most.items():
        configs = [TrialConfig.from_flat(bound.suggest(study.ask(), arm)) for _ in range(1200)]
        found = {config.shape_key() for config in configs}
        assert keys / 2 < len(found) <= keys
        assert len({config.graph_key() for config in configs}) > len(found)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("optimizer.lrr: 0.1", "`optimizer.lrr` in mine.yaml is not known. Did you mean"),
        ("backbone.kind: {type: categorical, choices: [mlp, cnv]}", "Did you mean `conv`"),
        ("optimizer.lr: {type: float, low: -1, high: 1}", "greater than 0"),
        ("backbone.dropout: {type: float, low: 0, high: 1}", "less than 1"),
        ("backbone.width: {type: int, low: 0, high: 64}", "greater than or equal to 1"),
        ("sharing.split_at: {type: int, low: 1, high: 2}", "add `when: {sharing.kind: …}`"),
        (
            "backbone.depth: 2\nsharing.kind: hard\n"
            "sharing.split_at: {type: int, low: 1, high: 3, when: {sharing.kind: hard}}",
            "on this suite, with `sharing.split_at = 3`: Parameter `sharing.split_at` "
            "should be at most the number of blocks (2)",
        ),
        (
            "sharing.kind: {type: categorical, choices: [hard]}\n"
            "sharing.split_at: {type: int, low: 1, high: 3, when: {sharing.kind: hard}}\n"
            "conditioning.kind: {type: categorical, choices: [none], when: {sharing.kind: hard}}\n"
            "head: {type: categorical, choices: [single_head], "
            "when: {sharing.kind: hard, sharing.split_at: 3}}",
            "`sharing.split_at = 3`",
        ),
        (
            "sharing.kind: hard\n"
            "optimizer.schedule: {type: categorical, choices: [cosine], "
            "when: {sharing.kind: independent}}\n"
            "optimizer.clip: {type: float, low: 1, high: 2, "
            "when: {sharing.kind: hard, optimizer.schedule: cosine}}",
            "`optimizer.clip` in mine.yaml is never reached",
        ),
        (
            "sharing.kind: hard\n"
            "backbone.depth: {type: int, low: 1, high: 3, when: {sharing.kind: hard}}\n"
            "backbone.width: {type: int, low: 1, high: backbone.depth}",
            "bounded by `backbone.depth`, which is absent",
        ),
    ],
)
def test_branches_that_cannot_be_built_are_found_before_any_trial(
    parameters: str, message: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        space(parameters).bind(TABLE)
    assert message in str(caught.value)


def test_drop_leaves_out_what_this_suite_cannot_build() -> None:
    found = Space.load("sharing")
    assert found.bind(TABLE).dropped == ()
    bound = found.bind(MIXED)
    assert bound.distributions("sharing")["head"] == CategoricalDistribution(["multi_head"])
    assert len(bound.dropped) == 1
    assert bound.dropped[0].startswith(
        "head = single_head: Parameter `head` should be `multi_head`"
    )
    assert bound.text == found.text
    strict = Space.from_yaml(found.text.replace("unbuildable: drop", "unbuildable: error"))
    with pytest.raises(SpaceError, match=r"with `head = single_head`: .*unbuildable: drop"):
        strict.bind(MIXED)


def test_drop_follows_conditions_and_shortens_ranges() -> None:
    text = """
        backbone.kind: {type: categorical, choices: [mlp, conv]}
        backbone.norm: {type: categorical, choices: [group], when: {backbone.kind: conv}}
        backbone.depth: 2
        sharing.kind: hard
        sharing.split_at: {type: int, low: 1, high: 5, when: {sharing.kind: hard}}
        optimizer.schedule:
          type: categorical
          choices: [cosine]
          when: {backbone.kind: [mlp, conv]}
        """
    bound = space(text, "unbuildable: drop").bind(TABLE)
    assert list(bound.distributions("sharing")) == [
        "backbone.kind",
        "sharing.split_at",
        "optimizer.schedule",
    ]
    assert bound.distributions("sharing")["sharing.split_at"] == IntDistribution(1, 2)
    assert len(bound.dropped) == 4  # conv, and split_at 3 to 5; group goes with conv
    assert bound.suggest(ask(), "sharing")["optimizer.schedule"] == "cosine"


def test_drop_does_not_hide_what_fails_only_together() -> None:
    together = """
        sharing.kind: hard
        sharing.split_at: {type: int, low: 1, high: 3, when: {sharing.kind: hard}}
        head: {type: categorical, choices: [multi_head, single_head], when: {sharing.kind: hard}}
        """
    with pytest.raises(SpaceError, match=r"`sharing.split_at = 3`, `head = single_head`.*together"):
        space(together, "unbuildable: drop").bind(TABLE)


def test_drop_does_not_fall_back_on_a_default_silently() -> None:
    two_conditions = """
        backbone.depth: 3
        sharing.kind: hard
        sharing.split_at: {type: int, low: 2, high: 3, when: {sharing.kind: hard}}
        optimizer.schedule: {type: categorical, choices: [cosine, constant]}
        head:
          type: categorical
          choices: [single_head]
          when: {sharing.split_at: 3, optimizer.schedule: cosine}
        """
    with pytest.raises(SpaceError, match="any choice of `head`"):
        space(two_conditions, "unbuildable: drop").bind(TABLE)


def test_drop_refuses_what_leaves_nothing() -> None:
    with pytest.raises(SpaceError, match="cannot be built on this suite: .*Found `conv`"):
        Space.load("images").bind(TABLE)


def test_a_large_space_is_checked_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Space.load("sharing")
    monkeypatch.setattr(space_check, "MAX_BRANCHES", 50)
    calls = []
    real = space_check.check
    monkeypatch.setattr(space_check, "check", lambda c, p: (calls.append(c.flat()), real(c, p))[1])
    found.bind(TABLE)
    sharing = [c for c in calls if c["sharing.kind"] == "hard"]
    assert len(sharing) < 500, "the product has 684"
    names = {
        "backbone.width": [32, 96, 192],
        "sharing.split_at": [1, 2, 3],
        "conditioning.kind": ["concat", "additive", "multiplicative"],
        "conditioning.at": ["input", "every", "last", "head"],
        "head": ["multi_head", "single_head"],
        "balancing.kind": ["equal", "uncertainty"],
        "optimizer.schedule": ["cosine", "constant"],
    }
    for (a, first), (b, second) in itertools.combinations(names.items(), 2):
        for x, y in itertools.product(first, second):
            assert any(c[a] == x and c[b] == y for c in sharing), (a, x, b, y)
    assert found.bind(MIXED).dropped[0].startswith("head = single_head")
    broken = Space.from_yaml(
        found.text.replace("when: {conditioning.kind: [concat, additive, multiplicative]}", "")
    )
    with pytest.raises(SpaceError, match=r"conditioning.at|head"):
        broken.bind(TABLE)
