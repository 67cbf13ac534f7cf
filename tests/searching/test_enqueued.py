"""Trials that someone enqueued with plain Optuna: what the space has not is said, not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState, create_trial

from autometa.home import Home
from autometa.priors import records
from autometa.searching.loop import SearchLoop
from autometa.searching.progress import Progress
from autometa.study import read_study, trial_rows
from tests.searching.test_loop import drive

pytestmark = pytest.mark.usefixtures("early_rungs")

#: what is given, and the reason why it cannot be run
OUTSIDE = [
    (
        {"backbone.width": 100},
        "`backbone.width` should be one of 4, 8. Found `backbone.width = 100`",
    ),
    ({"sharing.kind": "cross_stich"}, "`sharing.kind` should be one of hard. Found"),
    ({"backbone.dropout": 1.5}, "`backbone.dropout` should be between 0 and 0.3. Found"),
    ({"optimizer.lr": 100}, "`optimizer.lr` should be between 0.001 and 0.03. Found"),
    ({"optimizer.lr": -1.0}, "`optimizer.lr` should be between 0.001 and 0.03. Found"),
    ({"optimizer.lr": "fast"}, "Found `optimizer.lr = fast`"),
    ({"optimizer.lr": None}, "Found `optimizer.lr = None`"),
    ({"optimizer.lr": 10**400}, "`optimizer.lr` should be between"),
    ({"sharing.split_at": 3}, "`sharing.split_at` should be a whole number between 1 and 2. Found"),
    ({"sharing.split_at": 1.5}, "`sharing.split_at` should be a whole number between 1 and 2."),
    ({"optimizer.batch_size": 32}, "`optimizer.batch_size` should be left out, or `64`"),
    ({"optimizer.lrr": 0.01}, "Did you mean `optimizer.lr`?"),
]


def enqueue(home: Path, *given: dict[str, Any]) -> None:
    """As a user does: with Optuna alone, before the search is resumed."""
    backend = JournalFileBackend(str(Home.find(home).journal("s")))
    study = optuna.load_study(study_name="s", storage=JournalStorage(backend))
    for params in given:
        study.enqueue_trial(params, user_attrs={"arm": "sharing"})


def test_values_outside_the_space_fail_one_by_one_and_the_search_goes_on(home: Path) -> None:
    drive(home, n_trials=2)
    enqueue(home, *(params for params, _ in OUTSIDE))
    seen: list[Progress] = []
    drive(home, n_trials=30, resume=True, seen=seen)
    rows = trial_rows(read_study(Home.find(home), "s"))
    assert len(rows) == 30
    refused = rows[2 : 2 + len(OUTSIDE)]
    for row, (_, reason) in zip(refused, OUTSIDE, strict=True):
        assert row["state"] == "FAIL"
        assert reason in row["reason"]
        assert any(row["reason"] in (step.message or "") for step in seen)
    others = rows[:2] + rows[2 + len(OUTSIDE) :]
    assert {row["state"] for row in others} <= {"COMPLETE", "PRUNED"}


def test_all_that_waits_may_be_refused(home: Path) -> None:
    """Then others are asked for, up to the total."""
    drive(home, n_trials=1)
    enqueue(home, *[{"optimizer.lr": 100}] * 9)
    drive(home, n_trials=24, resume=True)
    states = [row["state"] for row in trial_rows(read_study(Home.find(home), "s"))]
    assert states.count("FAIL") == 9
    assert len(states) == 24
    assert not {"RUNNING", "WAITING"} & set(states)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"backbone.width": 8.0}, 8),
        ({"sharing.split_at": 2.0}, 2),
        ({"optimizer.lr": "0.01"}, 0.01),
    ],
)
def test_values_of_another_type_are_those_of_the_space(
    home: Path, given: dict[str, Any], value: float
) -> None:
    (name,) = given
    drive(home, n_trials=1)
    enqueue(home, given)
    drive(home, n_trials=4, resume=True)
    row = trial_rows(read_study(Home.find(home), "s"))[1]
    assert row["state"] in ("COMPLETE", "PRUNED")
    assert row["config"][name] == value
    assert type(row["config"][name]) is type(value)


def test_what_another_branch_is_asked_is_left_alone(home: Path) -> None:
    """The arm of independent networks is not asked where to split."""
    drive(home, n_trials=1)
    backend = JournalFileBackend(str(Home.find(home).journal("s")))
    study = optuna.load_study(study_name="s", storage=JournalStorage(backend))
    given = {"sharing.split_at": 1, "optimizer.lr": 0.01}
    study.enqueue_trial(given, user_attrs={"arm": "independent"})
    drive(home, n_trials=4, resume=True)
    row = trial_rows(read_study(Home.find(home), "s"))[1]
    assert row["state"] in ("COMPLETE", "PRUNED")
    assert row["params"]["optimizer.lr"] == 0.01


@pytest.mark.parametrize(
    ("params", "distributions"),
    [
        ({}, {}),
        ({"optimizer.lr": 100.0}, {"optimizer.lr": FloatDistribution(1e-3, 1e3, log=True)}),
        ({"optimizer.lr": "fast"}, {"optimizer.lr": CategoricalDistribution(["fast"])}),
        ({"backbone.width": 100}, {"backbone.width": CategoricalDistribution([4, 100])}),
    ],
)
def test_a_trial_that_was_running_when_its_driver_died(
    home: Path, params: dict[str, Any], distributions: dict[str, Any]
) -> None:
    drive(home, n_trials=2)
    backend = JournalFileBackend(str(Home.find(home).journal("s")))
    study = optuna.load_study(study_name="s", storage=JournalStorage(backend))
    study.add_trial(
        create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=distributions,
            system_attrs={} if params else {"fixed_params": {"backbone.width": 100}},
        )
    )
    drive(home, n_trials=8, resume=True)
    rows = trial_rows(read_study(Home.find(home), "s"))
    assert rows[2]["state"] == "FAIL"
    assert rows[2]["reason"].startswith(f"Parameter `{next(iter(params), 'backbone.width')}`")
    assert len(rows) == 8
    assert {row["state"] for row in rows if row["number"] != 2} <= {"COMPLETE", "PRUNED"}


def test_a_refused_trial_costs_no_record(home: Path) -> None:
    def waits(loop: SearchLoop) -> None:
        loop._handle.study.enqueue_trial({"optimizer.lr": 100}, user_attrs={"arm": "sharing"})

    drive(home, n_trials=2, run=waits)
    drive(home, n_trials=12, resume=True)
    study = read_study(Home.find(home), "s")
    found = records.record_of_any(study, episodic=False)
    assert len(found.trials) >= 11
    assert found.left_out == 0
