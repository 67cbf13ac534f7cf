"""`TransferSampler` proposes nothing twice, whatever spaces, choices and studies it is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from optuna.trial import Trial, TrialState

from autometa.priors import TransferSampler
from tests.priors.test_sampler import SOURCES, Objective, dropped, proposed_by, run, searched


def quadratic(extra: str = "", sign: float = 1.0) -> Objective:
    def objective(trial: Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        return sign * ((x - 0.3) ** 2 + (y - 0.6) ** 2) + sum(
            0.0 * trial.suggest_float(name, 0, 1) for name in extra
        )

    return objective


@pytest.mark.parametrize("n_sources", [1, 3])
@pytest.mark.parametrize(
    ("ending", "source_has", "target_has"),
    [
        (TrialState.FAIL, "", ""),
        (TrialState.PRUNED, "", ""),
        (TrialState.RUNNING, "z", ""),
        (TrialState.COMPLETE, "z", ""),
        (TrialState.RUNNING, "", "w"),
        (TrialState.COMPLETE, "", "w"),
    ],
)
def test_what_was_tried_is_not_proposed_again(
    ending: TrialState, source_has: str, target_has: str, n_sources: int
) -> None:
    sources = [searched(quadratic(source_has), 20, seed=k) for k in range(n_sources)]
    study = optuna.create_study(sampler=TransferSampler(sources, seed=0, n_portfolio=8))
    objective = quadratic(target_has)
    for _ in range(8):
        trial = study.ask()
        value = objective(trial)
        if ending == TrialState.PRUNED:
            trial.report(value, 1)
        if ending != TrialState.RUNNING:
            study.tell(trial, value if ending == TrialState.COMPLETE else None, state=ending)
    assert proposed_by(study) == ["portfolio"] * 8
    assert len({(t.params["x"], t.params["y"]) for t in study.trials}) == 8


def test_a_category_that_the_target_lacks_does_not_make_a_configuration_new() -> None:
    def objective(kinds: Sequence[str]) -> Objective:
        return lambda t: t.suggest_float("x", 0, 1) + (t.suggest_categorical("k", kinds) == "old")

    source = searched(objective(["old", "older"]), 20)
    study = run(objective(["new", "newer"]), [source], 8, n_portfolio=8)
    assert proposed_by(study) == ["portfolio"] * 8
    assert len({t.params["x"] for t in study.trials}) == 8


def test_sources_of_the_target_s_own_problem_may_all_be_dropped() -> None:
    """Searches of the target's very probes, but negated, and one farther off that is good."""
    bad = [searched(quadratic(sign=-1.0), 30, seed=k) for k in range(2)]
    good = searched(quadratic(), 30, seed=2)
    probes = [[0.0, 1.0]] * 3 + [[1.0, 0.0]]
    study = run(quadratic(), [*bad, good], 30, probes=probes)
    assert {0, 1} <= set(dropped(study))
    late = [t.value for t in study.trials[15:] if t.system_attrs["transfer:by"] == "model"]
    assert len(late) >= 3
    assert np.median(late) < 0.05


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_choices_that_are_lists() -> None:
    def objective(trial: Trial) -> float:
        layers = trial.suggest_categorical("layers", [[8], [8, 8], [16]])  # type: ignore[list-item]
        return len(layers) + trial.suggest_float("x", 0, 1)

    study = run(objective, [searched(objective, 20)], 20)
    assert {"portfolio", "model"} <= set(proposed_by(study))
    assert study.best_value < 1.3


def test_two_studies_of_one_name_share_a_sampler() -> None:
    sampler = TransferSampler(SOURCES, seed=0)
    space = SOURCES[0].trials[0].distributions
    for _ in range(2):
        study = optuna.create_study(study_name="one", sampler=sampler)
        study.ask(space)  # and never told
        assert proposed_by(study) == ["portfolio"]
