"""What is told of a prior: counts, sources that were dropped, and an honest verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from autometa import study
from autometa.priors import sampler
from autometa.priors.account import FREE, account, compare, dropped

SOURCE: dict[str, Any] = {"name": "a", "suite": "x", "weight": {"sharing": 1.0, "independent": 1.0}}


def trial(
    number: int,
    by: str | None,
    value: float,
    arm: str = "sharing",
    *,
    state: TrialState = TrialState.COMPLETE,
    drops: Sequence[int] = (),
    epoch: int = 9,
) -> FrozenTrial:
    attrs: dict[str, Any] = {} if by is None else {study.PROPOSED_BY: by}
    if drops:
        attrs[study.DROPPED] = json.dumps(list(drops))
    found = create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        intermediate_values={} if state == TrialState.FAIL else {epoch: value},
        user_attrs={"arm": arm},
        system_attrs=attrs,
    )
    found.number = number
    return found


def mixed(ahead: float, n: int = 48, free_every: int = 3) -> list[FrozenTrial]:
    """Every third trial is prior-free; the others are better by `ahead`."""
    noise = np.random.default_rng(0).normal(size=n)
    return [
        trial(
            i,
            "tpe" if i // 2 % free_every == 0 else "model",
            float(noise[i] + ahead * (i // 2 % free_every != 0)),
            ("sharing", "independent")[i % 2],
        )
        for i in range(n)
    ]


def test_names_of_attributes_are_the_sampler_s() -> None:
    assert (study.PROPOSED_BY, study.DROPPED) == (sampler.PROPOSED_BY, sampler.DROPPED)


def test_helped_only_where_trials_are_better_by_more_than_luck() -> None:
    better, same = account(mixed(3.0), [SOURCE]), account(mixed(0.0), [SOURCE])
    assert better["verdict"] == "helped"
    assert better["p"] < 0.01
    assert same["verdict"] == "neutral"
    assert account(mixed(-3.0), [SOURCE])["verdict"] == "neutral"
    assert account(mixed(-3.0), [SOURCE])["p"] > 0.9
    assert better["proposed"] == {"portfolio": 0, "model": 32, "random": 0, "tpe": 16, "gp": 0}
    assert better["best"]["prior"] > better["best"]["free"]


def test_helped_needs_the_best_trial_too() -> None:
    lucky = [*mixed(3.0), trial(48, "random", 99.0)]
    found = account(lucky, [SOURCE])
    assert found["p"] < 0.05
    assert found["best"]["free"] == 99.0
    assert found["verdict"] == "neutral"


def test_more_trials_alone_are_no_help() -> None:
    """The best of many is better than the best of few whoever proposed them."""
    verdicts = []
    for seed in range(40):
        values = np.random.default_rng(seed).normal(size=32)
        trials = [trial(i, "tpe" if i % 8 == 3 else "model", v) for i, v in enumerate(values)]
        verdicts.append(account(trials, [SOURCE])["verdict"])
    assert verdicts.count("helped") <= 6  # 5% by chance


def test_trials_are_compared_with_those_of_their_time_and_arm() -> None:
    """Values that rise with time, or differ between arms, say nothing of who proposed them."""
    early = [trial(i, "random", float(i)) for i in range(8)]
    late = [trial(i, "model", float(i)) for i in range(8, 16)]
    assert compare([*early, *late]) is None
    arms = [trial(i, "random", float(i), "independent") for i in range(8)]
    assert compare([*arms, *late]) is None
    found = account([*early, *late], [SOURCE])
    assert (found["p"], found["verdict"]) == (None, "neutral")


def test_p_of_a_window_by_hand() -> None:
    # the one prior-free trial is the worst of four: one arrangement of four
    trials = [trial(0, "random", 0.0), *(trial(i, "model", float(i)) for i in (1, 2, 3))]
    assert compare(trials) == pytest.approx(0.25, abs=0.02)


def test_outcome_is_how_far_a_trial_came_then_its_score() -> None:
    best, failed = TrialState.COMPLETE, TrialState.FAIL
    pruned = {"state": TrialState.PRUNED, "epoch": 1}
    trials = [
        trial(0, "model", 0.1, state=best),
        trial(1, "tpe", 0.9, **pruned),
        trial(2, "model", 0.95, **pruned),
        trial(3, "tpe", 0.0, state=failed),
    ]
    # model: first and second of four; one of six arrangements
    assert compare(trials) == pytest.approx(1 / 6, abs=0.02)


def test_dropped_where_all_sources_were() -> None:
    other = {**SOURCE, "name": "b", "weight": {"sharing": 0.5, "independent": None}}
    trials = [
        trial(0, "portfolio", 0.1, drops=[1]),
        trial(1, "portfolio", 0.1, "independent"),
        trial(2, "tpe", 0.3, drops=[0, 1]),
        trial(3, "random", 0.4, "independent"),
    ]
    assert dropped(trials) == {"sharing": {1: 0, 0: 2}}
    found = account(trials, [SOURCE, other])
    assert found["verdict"] == "neutral"
    assert [row["dropped"] for row in found["sources"]] == [{"sharing": 2}, {"sharing": 0}]
    trials.append(trial(4, "tpe", 0.4, "independent", drops=[0]))
    assert account(trials, [SOURCE, other])["verdict"] == "dropped"


def test_trials_of_others_are_not_counted() -> None:
    advised = trial(9, "model", 5.0)
    advised.user_attrs["advised"] = True
    found = account([trial(0, None, 1.0), advised], [SOURCE])
    assert sum(found["proposed"].values()) == 0
    assert found["verdict"] is None
    assert set(FREE) < set(found["proposed"])
