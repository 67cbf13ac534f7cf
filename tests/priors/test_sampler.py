"""`TransferSampler`: Optuna's own cases, then what it adds to them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import FrozenTrial, Trial, TrialState
from threadpoolctl import threadpool_info, threadpool_limits

from autometa.priors import TransferSampler

Objective = Callable[[Trial], float]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def searched(objective: Objective, n: int = 25, seed: int = 0, **study: Any) -> optuna.Study:
    found = optuna.create_study(sampler=RandomSampler(seed=seed), **study)
    found.optimize(objective, n_trials=n)
    return found


def bowl(x: float, rate: float, kind: str) -> Objective:
    """Best at the given values; a shift between problems that are alike."""

    def objective(trial: Trial) -> float:
        at = trial.suggest_float("x", 0, 10)
        log = math.log10(trial.suggest_float("rate", 1e-5, 1, log=True))
        wrong = trial.suggest_categorical("kind", ["a", "b", "c"]) != kind
        return (at - x) ** 2 / 10 + (log - rate) ** 2 + wrong

    return objective


SOURCES = [searched(bowl(3 + i / 2, -3, "b"), seed=i) for i in range(3)]


def forked(trial: Trial) -> float:
    """A space with two branches: the `deep` one is good where its own `depth` is 3."""
    if trial.suggest_categorical("model", ["flat", "deep"]) == "flat":
        return 2 + abs(trial.suggest_float("width", 0, 1) - 0.5)
    depth = trial.suggest_int("depth", 1, 8)
    if trial.suggest_categorical("skip", [True, False]):
        return abs(depth - 3) + abs(trial.suggest_float("gate", 0, 1) - 0.2)
    return 1 + abs(depth - 3)


def mixed(trial: Trial) -> float:
    """The names of Optuna's cases, as other kinds and in other ranges."""
    return (
        trial.suggest_float("x", -5, 5)
        + trial.suggest_int("y", 0, 20)
        + float(trial.suggest_categorical("a", ["p", "q"]) == "p")
    )


class TestSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Optuna's cases for samplers of one objective."""

    @pytest.fixture(params=["no sources", "same names", "branches"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        sources = CASE_SOURCES[request.param]
        return lambda: TransferSampler(sources, seed=0)


CASE_SOURCES = {
    "no sources": [],
    "same names": [searched(mixed, 12), searched(mixed, 12, seed=1)],
    "branches": [searched(forked, 12), searched(lambda t: t.suggest_float("x", 0, 1), 12)],
}


def run(
    objective: Objective, sources: Sequence[Any], n: int, direction: str = "minimize", **kwargs: Any
) -> optuna.Study:
    study = optuna.create_study(
        sampler=TransferSampler(sources, **{"seed": 0, **kwargs}), direction=direction
    )
    study.optimize(objective, n_trials=n)
    return study


def proposed_by(study: optuna.Study) -> list[str]:
    return [t.system_attrs["transfer:by"] for t in study.trials]


def dropped(study: optuna.Study) -> list[int]:
    return [
        i for t in study.trials for i in json.loads(t.system_attrs.get("transfer:dropped", "[]"))
    ]


def test_starts_near_the_sources_best() -> None:
    study = run(bowl(3.5, -3, "b"), SOURCES, 8)
    random = searched(bowl(3.5, -3, "b"), 8)
    # the random trial puts the sources to the test
    assert proposed_by(study)[:7] == ["portfolio"] * 5 + ["random", "model"]
    assert study.trials[0].params["kind"] == "b"
    assert study.trials[0].value < 1
    assert study.best_value < 0.5 * random.best_value


def test_portfolio_is_made_of_configurations_of_the_sources() -> None:
    study = run(bowl(3.5, -3, "b"), SOURCES, 5, cold_share=0.0)
    tried = np.array([t.params["x"] for source in SOURCES for t in source.trials])
    for trial in study.trials:
        assert np.abs(tried - trial.params["x"]).min() < 1e-6
    assert len({t.params["x"] for t in study.trials}) == 5


def test_direction_is_the_study_s() -> None:
    def negative(shift: float) -> Objective:
        return lambda trial: -bowl(shift, -3, "b")(trial)

    sources = [searched(negative(s), 20, direction="maximize") for s in (3, 4)]
    study = run(negative(3.5), [s.trials for s in sources], 6, direction="maximize")
    assert study.best_value > -1
    with pytest.raises(ValueError, match="should be studies that minimize one value"):
        run(bowl(3, -3, "b"), sources, 1)


def test_sources_of_several_objectives_are_refused() -> None:
    source = optuna.create_study(directions=["minimize", "minimize"])
    source.optimize(lambda t: (t.suggest_float("x", 0, 1), 1.0), n_trials=3)
    with pytest.raises(ValueError, match=r"one value.*Found source 0"):
        run(bowl(3, -3, "b"), [source], 1)
    with pytest.raises(ValueError, match=r"Found one with several in source 1"):
        run(bowl(3, -3, "b"), [SOURCES[0], source.trials], 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_portfolio": -1}, "`n_portfolio = -1`"),
        ({"cold_share": 1.5}, "`cold_share = 1.5`"),
        ({"probes": [[1.0], [2.0]]}, "one for each of the 3 sources"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransferSampler(SOURCES, **wrong)


def test_sources_without_a_message_are_passed_over() -> None:
    constant = searched(lambda t: 0.0 * t.suggest_float("x", 0, 1), 5)
    short = SOURCES[0].trials[:2]
    failed = [optuna.create_trial(state=TrialState.FAIL)] * 4
    study = run(bowl(3, -3, "b"), [[], constant, short, failed], 5)
    assert proposed_by(study) == ["random"] * 5
    # positions and names are those of the sources that were given
    study = run(lambda t: -bowl(3, -3, "b")(t), [[], constant, *SOURCES], 15)
    assert dropped(study)
    assert set(dropped(study)) <= {2, 3, 4}


def test_a_share_of_the_trials_knows_no_source() -> None:
    found = proposed_by(run(bowl(3.5, -3, "b"), SOURCES, 30, cold_share=0.4))
    free = [by for by in found[6:] if by in ("random", "tpe")]
    assert 4 <= len(free) <= 16
    assert "tpe" in free
    assert set(proposed_by(run(bowl(3.5, -3, "b"), SOURCES, 12, cold_share=0.0))) == {
        "portfolio",
        "model",
    }


def test_parameters_are_drawn_together_only_beside_trusted_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together: list[bool] = []

    class Told(TPESampler):
        def __init__(self, *, multivariate: bool, **options: Any) -> None:
            together.append(multivariate)
            super().__init__(multivariate=multivariate, **options)

    monkeypatch.setattr("autometa.priors.sampler.TPESampler", Told)
    run(bowl(3.5, -3, "b"), SOURCES, 30, cold_share=0.4)
    assert set(together) == {True}
    together.clear()
    # more likely wrong than right, and yet not so surely that one is dropped
    monkeypatch.setattr(
        "autometa.priors.sampler.guard.doubt",
        lambda predictions, values, rng: np.full(predictions.shape[1], 0.6),
    )
    doubted = run(bowl(3.5, -3, "b"), SOURCES, 12)
    assert dropped(doubted) == []
    assert set(together) == {False}


def test_adversarial_sources_are_dropped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    def negative(trial: Trial) -> float:
        return -bowl(3.5, -3, "b")(trial)

    liars = [searched(negative, seed=i) for i in range(3)]
    with caplog.at_level(logging.INFO, logger="autometa.priors"):
        study = run(bowl(3.5, -3, "b"), [*liars, SOURCES[0]], 20)
    assert set(dropped(study)) == {0, 1, 2}
    at = next(t.number for t in study.trials if "transfer:dropped" in t.system_attrs)
    assert any(f"Trial {at}: dropped source" in m for m in caplog.messages)
    # once dropped, for good
    assert len(dropped(study)) == 3
    only = run(bowl(3.5, -3, "b"), liars, 25)
    last = max(t.number for t in only.trials if "transfer:dropped" in t.system_attrs)
    assert set(dropped(only)) == {0, 1, 2}
    # without sources TPE and a Gaussian process propose about as many each
    free = proposed_by(only)[last:]
    assert set(free) == {"tpe", "gp"}
    assert 0.2 <= free.count("gp") / len(free) <= 0.8
    assert only.best_value < 1


def test_good_sources_are_kept() -> None:
    assert dropped(run(bowl(3.5, -3, "b"), SOURCES, 25)) == []


def test_same_seed_and_trials_same_suggestion() -> None:
    objective = bowl(3.5, -3, "b")
    whole = run(objective, SOURCES, 14, cold_share=0.4)
    again = optuna.create_study(sampler=TransferSampler(SOURCES, seed=0, cold_share=0.4))
    for _ in range(7):
        # a new instance for every two trials, as in a search that is resumed
        again.optimize(objective, n_trials=2)
        again.sampler = TransferSampler(SOURCES, seed=0, cold_share=0.4)
    assert [t.params for t in again.trials] == [t.params for t in whole.trials]
    assert {"portfolio", "model", "random"} <= set(proposed_by(whole))
    other = run(objective, SOURCES, 14, seed=1, cold_share=0.4)
    assert [t.params for t in other.trials] != [t.params for t in whole.trials]


def test_with_seed_shares_the_fit() -> None:
    objective = bowl(3.5, -3, "b")
    first = TransferSampler(SOURCES, seed=5)
    optuna.create_study(sampler=first).optimize(objective, n_trials=1)
    second = first.with_seed(0)
    study = optuna.create_study(sampler=second)
    study.optimize(objective, n_trials=9)
    assert second._fitted is first._fitted
    assert [t.params for t in study.trials] == [t.params for t in run(objective, SOURCES, 9).trials]


def test_one_sampler_for_two_studies() -> None:
    """A plan that was never told is not that of another study's trial of the same number."""
    sampler = TransferSampler(SOURCES, seed=0)
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 10)}
    first, second = (optuna.create_study(sampler=sampler) for _ in range(2))
    for study in (first, second):
        study.ask(space)
    assert proposed_by(first) == proposed_by(second) == ["portfolio"]


def test_branches_are_learned_from_the_sources() -> None:
    sources = [searched(forked, 40, seed=i) for i in range(3)]
    study = run(forked, sources, 25)
    assert study.best_params["model"] == "deep"
    assert study.best_params["depth"] == 3
    assert study.best_value < 0.05
    # a configuration of one branch has the parameters of this branch and no random ones
    first = study.trials[0].params
    assert first["model"] == "deep"
    assert any(first["depth"] == t.params.get("depth") for s in sources for t in s.trials)


def test_changed_parameters_are_mapped_or_ignored() -> None:
    """Another range, another set of choices, a number that was a choice, one new and one lost."""

    def old(trial: Trial) -> float:
        return (
            abs(math.log10(trial.suggest_float("rate", 1e-4, 1, log=True)) + 2)
            + abs(trial.suggest_categorical("size", [16, 32, 64]) - 32) / 32
            + (trial.suggest_categorical("kind", ["a", "b", "c"]) != "b")
            + trial.suggest_float("lost", 0, 1)
        )

    def new(trial: Trial) -> float:
        return (
            abs(math.log10(trial.suggest_float("rate", 1e-3, 10, log=True)) + 2)
            + abs(trial.suggest_int("size", 8, 64, log=True) - 32) / 32
            + (trial.suggest_categorical("kind", ["b", "d"]) != "b")
            + abs(trial.suggest_float("new", -1, 1))
        )

    study = run(new, [searched(old, 40, seed=i) for i in range(3)], 25)
    first = study.trials[0].params
    assert first["kind"] == "b"
    assert 1e-3 <= first["rate"] < 0.1
    assert study.best_value < 0.5
    assert len({t.params["new"] for t in study.trials}) > 15


def test_a_range_far_beyond_the_sources() -> None:
    sources = [searched(lambda t: abs(t.suggest_float("x", 0, 1) - 1), seed=i) for i in range(2)]
    study = run(lambda t: abs(t.suggest_float("x", 0, 100) - 60), sources, 30)
    assert study.best_value < 15
    logs = [searched(lambda t: t.suggest_float("x", 1e-6, 1e-2, log=True), seed=i) for i in (0, 1)]
    study = run(lambda t: abs(t.suggest_float("x", 0, 1) - 0.5), logs, 30)
    assert study.best_value < 0.1


def test_sources_with_nothing_in_common_do_no_harm() -> None:
    study = run(forked, SOURCES, 30)
    assert set(proposed_by(study)[1:]) == {"random", "tpe", "gp"}
    assert study.best_value < 1


def test_trials_suggested_ahead_of_results_are_the_portfolio_s() -> None:
    space = SOURCES[0].trials[0].distributions

    def ahead(n: int, **options: Any) -> optuna.Study:
        study = optuna.create_study(sampler=TransferSampler(SOURCES, seed=0, **options))
        for _ in range(n):
            study.ask(space)
        return study

    found = proposed_by(ahead(16, n_portfolio=2))
    assert found[:3] == ["portfolio", "portfolio", "random"]
    assert set(found) == {"portfolio", "random"}
    assert found.count("portfolio") >= 11
    params = [tuple(t.params.values()) for t in ahead(16, n_portfolio=2).trials]
    assert len(set(params)) == 16
    # prior-free ones remain, and without a portfolio there is nothing to fall back on
    assert proposed_by(ahead(16, cold_share=1.0)) == ["portfolio"] * 5 + ["random"] * 11
    assert set(proposed_by(ahead(6, n_portfolio=0))) == {"random"}


def test_running_trials_are_not_proposed_again() -> None:
    study = run(bowl(3.5, -3, "b"), SOURCES, 10, cold_share=0.0)
    space: dict[str, BaseDistribution] = {
        "x": FloatDistribution(0, 10),
        "rate": FloatDistribution(1e-5, 1, log=True),
        "kind": CategoricalDistribution(["a", "b", "c"]),
    }
    batch = np.array([list(study.ask(space).params.values())[:2] for _ in range(4)], dtype=float)
    gaps = np.abs(batch[:, None, 0] - batch[None, :, 0])[np.triu_indices(4, 1)]
    assert gaps.min() > 1e-3


def test_pruned_and_infinite_trials() -> None:
    def objective(trial: Trial) -> float:
        value = bowl(3.5, -3, "b")(trial)
        trial.report(value, 0)
        if value > 4:
            raise optuna.TrialPruned
        return math.inf if value > 3 else value

    sources = [searched(objective, 30, seed=i) for i in range(2)]
    assert any(t.state == TrialState.PRUNED for t in sources[0].trials)
    study = run(objective, sources, 15)
    assert study.best_value < 1


def test_values_that_are_all_equal() -> None:
    study = run(lambda t: 0.0 * bowl(3.5, -3, "b")(t), SOURCES, 12)
    assert len(study.trials) == 12


def nearest_by_probes(probes: Any) -> FrozenTrial:
    """The first trial, where one source of three is like the target."""
    sources = [searched(bowl(3, -3, kind), 60, seed=i) for i, kind in enumerate("aac")]
    return run(bowl(3, -3, "c"), sources, 1, probes=probes).trials[0]


def test_probes_weigh_the_sources() -> None:
    assert nearest_by_probes(None).params["kind"] == "a"
    assert nearest_by_probes([[9.0, 0], [1.0, 0], [1.5, 0], [9.0, 0]]).params["kind"] == "c"
    # a probe that is the same for all says nothing, one that is missing neither
    assert nearest_by_probes([[1.0], [1.0], [1.0], [1.0]]).params["kind"] == "a"
    probes = [[9.0, np.nan], [1.0, 0], [1.5, 0], [9.0, np.nan]]
    assert nearest_by_probes(probes).params["kind"] == "c"


def test_choices_of_a_dynamic_space() -> None:
    study = optuna.create_study(sampler=TransferSampler(SOURCES, seed=0))
    for i in range(12):
        trial = study.ask()
        x = trial.suggest_int("x", 0, 10) if i > 6 else 0
        trial.suggest_float("rate", 1e-4, 10.0 ** (i % 3), log=True)
        study.tell(trial, x + 1.0)
    assert all(isinstance(t.params.get("x", 0), int) for t in study.trials)
    assert IntDistribution(0, 10) in study.trials[-1].distributions.values()


def test_names_that_branches_make_do_not_outweigh_the_others() -> None:
    """A space that names a parameter anew in every branch, as refinements of a tree do."""

    def tree(names: str) -> Objective:
        def objective(trial: Trial) -> float:
            branch = trial.suggest_categorical("branch", list(names))
            trial.suggest_float(f"at.{branch}", 0, 1)
            return bowl(3.5, -3, "b")(trial)

        return objective

    sources = [searched(tree("xyz"), 25, seed=i) for i in range(2)]
    found = proposed_by(run(tree("abcdefghijklmnop"), sources, 30, cold_share=0.0))
    assert set(found) == {"portfolio", "model"}


def test_plans_of_trials_told_elsewhere_are_forgotten() -> None:
    sampler = TransferSampler(SOURCES, seed=0)
    study = optuna.create_study(sampler=sampler)
    for i in range(300):
        sampler._plans["another", i] = None  # type: ignore[assignment]  # never looked at
    study.ask({"x": FloatDistribution(0, 10)})
    assert len(sampler._plans) == 256


def test_one_thread_for_blas_while_it_proposes(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> set[int]:
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    seen: list[set[int]] = []
    propose = TransferSampler._propose
    monkeypatch.setattr(
        TransferSampler, "_propose", lambda *args: (seen.append(threads()), propose(*args))[1]
    )
    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        run(bowl(3.5, -3, "b"), SOURCES, 7)
        assert threads() == before
    assert seen == [{1}] * 7


def test_threads_of_one_study() -> None:
    study = optuna.create_study(sampler=TransferSampler(SOURCES, seed=0))
    study.optimize(bowl(3.5, -3, "b"), n_trials=16, n_jobs=4)
    assert len(study.trials) == 16
    assert {"portfolio", "model"} <= set(proposed_by(study))
    assert study.best_value < 1
