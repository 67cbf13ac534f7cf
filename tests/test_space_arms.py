"""Parameters of the independent arm alone, and conditions of which one has to hold."""

from __future__ import annotations

import textwrap

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autometa.errors import SpaceError
from autometa.networks import Problem
from autometa.space import Space
from autometa.space import check as space_check

TABLE = Problem(
    layout="aligned", feature_shape=(6,), kinds=("regression",) * 3, n_outputs=(1, 1, 1)
)
MIXED = Problem(
    layout="aligned", feature_shape=(6,), kinds=("regression", "multiclass"), n_outputs=(1, 4)
)

SHARED = """
backbone.depth: 2
backbone.width: {type: categorical, choices: [8, 16]}
sharing.kind: hard
sharing.split_at: {type: int, low: 1, high: backbone.depth, when: {sharing.kind: hard}}
optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
"""


def space(parameters: str = SHARED, independent: str = "", top: str = "") -> Space:
    def section(name: str, text: str) -> str:
        indented = textwrap.indent(textwrap.dedent(text), "  ")
        return f"{name}:\n{indented}\n" if text else ""

    text = f"{top}\n{section('parameters', parameters)}{section('independent', independent)}"
    return Space.from_yaml(text, "mine.yaml")


def ask(seed: int = 0) -> optuna.trial.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.storages._in_memory._logger, "disabled", True)


# --- the section `independent:`


def test_own_parameters_take_the_place_of_the_others_in_one_arm() -> None:
    found = space(
        independent="""
            backbone.depth: {type: int, low: 1, high: 4}
            optimizer.lr: {type: float, low: 1.0e-3, high: 1.0, log: true}
            optimizer.schedule: {type: categorical, choices: [cosine, constant]}
            """
    ).bind(TABLE)
    width = CategoricalDistribution([8, 16])
    assert found.distributions("sharing") == {
        "backbone.width": width,
        "sharing.split_at": IntDistribution(1, 2),
        "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
    }
    assert found.distributions("independent") == {
        "backbone.depth": IntDistribution(1, 4),
        "backbone.width": width,
        "optimizer.lr": FloatDistribution(1e-3, 1.0, log=True),
        "optimizer.schedule": CategoricalDistribution(["cosine", "constant"]),
    }
    seen = set()
    for seed in range(40):
        assert found.suggest(ask(seed), "sharing")["backbone.depth"] == 2
        alone = found.suggest(ask(seed), "independent")
        assert alone["sharing.kind"] == "independent"
        assert not {"sharing.split_at"} & set(alone)
        seen.add(alone["backbone.depth"])
    assert seen == {1, 2, 3, 4}


def test_one_study_takes_both_arms() -> None:
    study = optuna.create_study()
    found = space(independent="backbone.width: {type: categorical, choices: [8, 16]}").bind(TABLE)
    for _ in range(3):
        for arm in found.arms:
            trial = study.ask()
            found.suggest(trial, arm)
            study.tell(trial, 0.0)
    assert len(study.trials) == 6


@pytest.mark.parametrize(
    "own",
    [
        "{type: categorical, choices: [8, 32]}",
        "{type: int, low: 8, high: 16}",
    ],
)
def test_what_one_study_cannot_hold_is_refused(own: str) -> None:
    with pytest.raises(SpaceError, match=r"`backbone.width` in mine.yaml: one study cannot hold"):
        space(independent=f"backbone.width: {own}")
    assert space(independent="backbone.width: 32").bind(TABLE)


def test_scales_should_be_equal_and_ranges_need_not_be() -> None:
    with pytest.raises(SpaceError, match=r"Found `type: float, log: true` and `type: float`"):
        space(independent="optimizer.lr: {type: float, low: 0.1, high: 1.0}")
    assert space(independent="optimizer.lr: {type: float, low: 0.1, high: 1.0, log: true}")


def test_choices_that_only_one_arm_can_build_are_refused_before_a_trial() -> None:
    """`drop` takes `single_head` from the arm that shares; Optuna knows one list of choices."""
    heads = "{type: categorical, choices: [multi_head, single_head]}"
    shared = "sharing.kind: hard\nconditioning.kind: none\nhead: " + heads
    with pytest.raises(SpaceError, match=r"`head` in mine.yaml: one study cannot hold"):
        space(
            shared,
            "conditioning.kind: none\nhead: " + heads,
            "unbuildable: drop",
        ).bind(TABLE)


@pytest.mark.parametrize(
    ("independent", "message"),
    [
        ("sharing.kind: hard", "`sharing.kind` in mine.yaml should not be under `independent:`"),
        ("sharing.partitions: {type: partitions}", "should not be under `independent:`"),
        ("optimizer.lrr: 0.1", "`optimizer.lrr` in mine.yaml is not known. Did you mean"),
        (
            "optimizer.clip: {type: float, low: 1, high: 2, when: {backbone.width: 12}}",
            "`when: {backbone.width: 12}` can never hold, because `backbone.width` is one of 8, 16",
        ),
        (
            "optimizer.clip: {type: float, low: 1, high: 2, when: {sharing.split_at: 1}}",
            "`when` should name an earlier parameter. Found `sharing.split_at`",
        ),
        (
            "backbone.depth: {type: float, low: 1, high: 2}",
            "whole-number parameter. Found `backbone.depth`",
        ),
        ("backbone.dropout: {type: float, low: 0, high: 1}", "less than 1"),
    ],
)
def test_what_the_section_may_not_say(independent: str, message: str) -> None:
    # without its condition `split_at` is bounded in both arms
    shared = (
        SHARED.replace(", when: {sharing.kind: hard}", "") if "depth" in independent else SHARED
    )
    with pytest.raises(SpaceError) as caught:
        space(shared, independent).bind(TABLE)
    assert message in str(caught.value)


def test_a_parameter_that_each_arm_replaces_or_lacks_is_never_reached() -> None:
    shared = SHARED + (
        "\noptimizer.clip: {type: float, low: 1, high: 2, when: {sharing.kind: independent}}"
    )
    assert space(shared).bind(TABLE)
    with pytest.raises(SpaceError, match=r"`optimizer.clip` in mine.yaml is never reached"):
        space(shared, "optimizer.clip: 3.0").bind(TABLE)


def test_conditions_follow_the_arms_own_values() -> None:
    """What hangs on a value that only the independent arm has is that arm's."""
    found = space(
        """
        sharing.kind: hard
        optimizer.kind: adamw
        optimizer.momentum: {type: float, low: 0.0, high: 0.9, when: {optimizer.kind: sgd}}
        """,
        "optimizer.kind: sgd",
    ).bind(TABLE)
    assert "optimizer.momentum" not in found.distributions("sharing")
    assert "optimizer.momentum" in found.distributions("independent")
    assert found.possible()["optimizer.kind"] == ("adamw", "sgd")


def test_drop_leaves_the_other_arms_values_alone() -> None:
    found = space(
        """
        sharing.kind: hard
        conditioning.kind: none
        head: {type: categorical, choices: [multi_head, single_head], when: {sharing.kind: hard}}
        """,
        "head: multi_head",
        "unbuildable: drop",
    ).bind(TABLE)
    assert found.distributions("sharing") == {"head": CategoricalDistribution(["multi_head"])}
    assert found.suggest(ask(), "independent")["head"] == "multi_head"
    assert len(found.dropped) == 1


def test_an_independent_arm_that_cannot_be_built_is_said() -> None:
    with pytest.raises(SpaceError, match=r"independent networks cannot be built on this suite"):
        space("sharing.kind: hard", "head: single_head", "unbuildable: drop").bind(MIXED)
    with pytest.raises(SpaceError, match=r"independent networks cannot be built on this suite"):
        space("head: multi_head", "head: single_head", "unbuildable: drop").bind(MIXED)


# --- one of several conditions

EITHER = """
sharing.kind: hard
backbone.width: {type: categorical, choices: [8, 16, 32]}
conditioning.kind: {type: categorical, choices: [none, additive], when: {sharing.kind: hard}}
head:
  type: categorical
  choices: [multi_head, single_head]
  when: [{conditioning.kind: additive, backbone.width: 8}, {backbone.width: 32}]
"""


def test_one_of_several_conditions_has_to_hold() -> None:
    found = space(EITHER)
    seen = set()
    for seed in range(60):
        values = found.suggest(ask(seed), "sharing")
        assert ("head" in values) == (
            values["backbone.width"] == 32
            or (values["backbone.width"] == 8 and values["conditioning.kind"] == "additive")
        )
        seen.add((values["backbone.width"], values["conditioning.kind"], "head" in values))
    assert len(seen) == 6
    alone = [found.suggest(ask(seed), "independent") for seed in range(20)]
    assert {v["backbone.width"] for v in alone if "head" in v} == {32}


def test_every_condition_has_to_make_sense() -> None:
    with pytest.raises(SpaceError, match=r"`when: \{backbone.width: 64\}` can never hold"):
        space(EITHER.replace("{backbone.width: 32}", "{backbone.width: 64}"))
    with pytest.raises(SpaceError, match=r"Found `backbone.widt`. Did you mean `backbone.width`"):
        space(EITHER.replace("{backbone.width: 32}", "{backbone.widt: 32}"))


def test_drop_takes_conditions_one_by_one() -> None:
    text = """
        backbone.kind: {type: categorical, choices: [mlp, conv]}
        sharing.kind: hard
        optimizer.schedule:
          type: categorical
          choices: [cosine, constant]
          when: [{backbone.kind: conv}, {backbone.kind: mlp, sharing.kind: hard}]
        """
    bound = space(text, top="unbuildable: drop").bind(TABLE)
    (condition,) = bound.parameters["optimizer.schedule"].when
    assert condition == {"backbone.kind": ("mlp",), "sharing.kind": ("hard",)}
    assert "optimizer.schedule" in bound.suggest(ask(), "sharing")


def test_pairs_of_a_large_space_meet_every_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = space_check.check
    monkeypatch.setattr(space_check, "MAX_BRANCHES", 2)
    monkeypatch.setattr(space_check, "check", lambda c, p: (calls.append(c.flat()), real(c, p))[1])
    safe = EITHER.replace("[multi_head, single_head]", "[multi_head]")
    space(safe.replace("head:", "optimizer.schedule:").replace("multi_head", "constant")).bind(
        TABLE
    )
    met = {
        (c["backbone.width"], c["conditioning.kind"])
        for c in calls
        if c["optimizer.schedule"] == "constant" and c["sharing.kind"] == "hard"
    }
    assert met >= {(8, "additive"), (32, "none"), (32, "additive")}
    assert {width for width, _ in met} == {8, 32}
