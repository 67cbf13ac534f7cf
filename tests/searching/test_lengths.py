"""What a trial counts with, which rungs are used, and the default configurations of a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from autometa.home import Home
from autometa.searching.loop import SearchLoop
from autometa.searching.units import UnitResult, WorkUnit, best_of_unit, best_point, run_unit
from autometa.study import is_default, read_study, rung_values, score_of, trial_rows
from autometa.training.population import RunResult
from tests.searching.support import SPACE
from tests.searching.test_loop import drive, rows

pytestmark = pytest.mark.usefixtures("early_rungs")

DEFAULTS = (
    SPACE
    + """
defaults:
  sharing:
    - {sharing.kind: hard, sharing.split_at: 2, backbone.width: 8, optimizer.lr: 3.0e-3}
    - {sharing.kind: hard, sharing.split_at: 1, backbone.width: 8, optimizer.lr: 3.0e-3}
  independent:
    - {backbone.width: 4, optimizer.lr: 1.0e-2}
"""
)


def scored(score: Callable[[dict[str, Any], int], float | None]) -> Callable[[SearchLoop], None]:
    """Drives a search whose runs score what a function of configuration and step says; None: the
    run diverged."""

    def run(config: dict[str, Any], step: int) -> RunResult:
        value = score(config, step)
        if value is None:
            return RunResult(step, None, reason="It diverged.")
        return RunResult(step, value, {"up": value, "down": value, "sign": value})

    def work(loop: SearchLoop) -> None:
        while isinstance(unit := loop.next_unit(), WorkUnit):
            results = tuple(run(config, unit.to_step) for config in unit.configs)
            loop.complete(unit, UnitResult(results))

    return work


def trials(home: Path) -> list[FrozenTrial]:
    return read_study(Home.find(home), "s").trials


# --- the best rung --------------------------------------------------------------------------------


def test_the_best_rung_counts_and_the_earlier_of_equals(home: Path) -> None:
    reached = {1: 0.5, 3: 0.7, 9: 0.7}
    drive(home, run=scored(lambda config, step: reached[step]), pruner="none")
    assert {t.state for t in trials(home)} == {TrialState.COMPLETE}
    assert {t.value for t in trials(home)} == {0.7}
    assert {t.user_attrs["best_step"] for t in trials(home)} == {3}
    assert {row["best_step"] for row in trial_rows(read_study(Home.find(home), "s"))} == {3}


def test_scores_of_tasks_are_those_of_the_best_rung(home: Path) -> None:
    reached = {1: 0.9, 3: 0.7, 9: 0.8}
    drive(home, run=scored(lambda config, step: reached[step]), pruner="none")
    assert {t.value for t in trials(home)} == {0.9}
    assert all(set(t.user_attrs["tasks"].values()) == {0.9} for t in trials(home))


def test_both_arms_and_pruned_trials_follow_the_same_rule(home: Path) -> None:
    drive(home, run=scored(lambda config, step: config["optimizer.lr"] - step), n_trials=16)
    states = set()
    for t in trials(home):
        assert score_of(t) == max(rung_values(t).values()) == rung_values(t)[1]
        states.add((t.user_attrs["arm"], t.state.name))
    assert {("sharing", "COMPLETE"), ("independent", "COMPLETE"), ("sharing", "PRUNED")} <= states


def test_a_run_that_diverges_counts_with_what_it_had_reached(home: Path) -> None:
    work = scored(lambda config, step: None if step == 9 else 0.1 * step)
    drive(home, run=work, pruner="none", n_trials=4)
    for t in trials(home):
        assert (t.state, t.value, t.user_attrs["best_step"]) == (
            TrialState.COMPLETE,
            pytest.approx(0.3),
            3,
        )
        assert t.user_attrs["reason"] == "It diverged. What it had reached before counts."


def test_a_run_that_reached_nothing_has_failed(home: Path) -> None:
    drive(home, run=scored(lambda config, step: None), n_trials=4)
    assert {t.state for t in trials(home)} == {TrialState.FAIL}


def test_promotion_looks_at_the_rung_and_not_at_the_best(home: Path) -> None:
    """At step 3 the order is turned round: who goes on to the end leads there."""

    def score(config: dict[str, Any], step: int) -> float:
        good = 10 * float(config["optimizer.lr"])
        return good + 1 if step == 1 else -good

    drive(home, run=scored(score), n_trials=40, independent_share=0.0)
    at_second = {t.number: rung_values(t)[3] for t in trials(home) if 3 in rung_values(t)}
    ended = {t.number for t in trials(home) if 9 in rung_values(t)}
    assert ended < set(at_second)
    assert max(at_second, key=lambda n: at_second[n]) in ended


def test_best_point_and_unit() -> None:
    points = [
        RunResult(1, 0.2),
        RunResult(3, 0.4),
        RunResult(9, 0.4),
        RunResult(12, None, reason="x"),
    ]
    assert best_point(points) is points[1]
    assert best_point(points[3:]) is None
    unit = WorkUnit(("0",), ({},), (0,), 0, 9, 9, "", "", "", at=(3,), curve=(1,))
    assert unit.points == (1, 3, 9)
    curve = (RunResult(1, 0.9), RunResult(3, 0.4), RunResult(9, 0.5))
    (best,) = best_of_unit(unit, UnitResult((curve[-1],), curves=(curve,)))
    assert best is curve[2], "a point of the curve is no rung"


# --- rungs that do not predict the end ------------------------------------------------------------


def turned(config: dict[str, Any], step: int) -> float:
    """The order at the first rung is that of the end turned round."""
    good = float(config["optimizer.lr"])
    return 1 - good if step == 1 else good


def test_a_rung_that_does_not_predict_stops_nobody_any_more(home: Path) -> None:
    options: dict[str, Any] = {"independent_share": 0.0, "sampler": "random"}
    drive(home, run=scored(turned), n_trials=60, **options)
    drive(home, run=scored(turned), n_trials=90, resume=True, **options)
    study = read_study(Home.find(home), "s")
    first, second = study.user_attrs["rungs"]
    assert (first["arm"], first["step"], first["used"]) == ("sharing", 1, False)
    assert first["correlation"] < 0.3
    assert (second["step"], second["used"]) == (3, True)
    assert second["correlation"] == pytest.approx(1.0)
    went_on = [3 in rung_values(t) for t in study.trials]
    assert sum(went_on[:60]) < 40
    assert all(went_on[60:])


def test_rungs_are_judged_alike_after_a_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = {"n_trials": 40, "independent_share": 0.0, "sampler": "random"}
    straight = drive(tmp_path / "a", run=scored(turned), **options)

    def some(loop: SearchLoop) -> None:
        work = scored(turned)
        left = iter(range(9))
        ask = loop.next_unit
        loop.next_unit = lambda workers=1: ask() if next(left, None) is not None else None  # type: ignore[method-assign]
        work(loop)

    drive(tmp_path / "b", run=some, **options)
    assert len(rows(tmp_path / "b")) <= 40
    assert drive(tmp_path / "b", resume=True, run=scored(turned), **options) == straight
    found = [read_study(Home.find(tmp_path / k), "s").user_attrs["rungs"] for k in "ab"]
    assert found[0] == found[1]


# --- default configurations -----------------------------------------------------------------------


def of_arm(home: Path, arm: str) -> list[FrozenTrial]:
    return [t for t in trials(home) if t.user_attrs["arm"] == arm]


def test_defaults_are_first_and_trained_to_the_end(home: Path) -> None:
    """Although they are the worst at every rung."""

    def score(config: dict[str, Any], step: int) -> float:
        given = (config["optimizer.lr"], config["backbone.width"])
        return 0.0 if given in ((3e-3, 8), (1e-2, 4)) else 0.5 + config["optimizer.lr"]

    drive(home, run=scored(score), n_trials=24, space=DEFAULTS)
    for arm, n in (("sharing", 2), ("independent", 1)):
        own = of_arm(home, arm)
        assert [is_default(t) for t in own] == [True] * n + [False] * (12 - n)
        assert {tuple(rung_values(t)) for t in own[:n]} == {(1, 3, 9)}
        assert {t.state for t in own[n:]} == {TrialState.COMPLETE, TrialState.PRUNED}
    first, second = of_arm(home, "sharing")[:2]
    assert [t.params["sharing.split_at"] for t in (first, second)] == [2, 1]
    assert first.params["backbone.dropout"] == 0.0
    assert len(trials(home)) == 24
    marked = [row["default"] for row in trial_rows(read_study(Home.find(home), "s"))]
    assert sum(marked) == 3


@pytest.mark.parametrize(("n_trials", "n"), [(2, 1), (8, 1), (10, 2), (40, 2)])
def test_defaults_are_a_quarter_of_an_arm_at_most(n_trials: int, n: int, home: Path) -> None:
    drive(home, run=scored(lambda config, step: 0.5), n_trials=n_trials, space=DEFAULTS)
    assert sum(map(is_default, of_arm(home, "sharing"))) == n


@pytest.mark.parametrize("units_done", [0, 1, 2])
def test_defaults_are_the_same_after_a_resume(units_done: int, tmp_path: Path) -> None:
    straight = drive(tmp_path / "a", space=DEFAULTS)

    def stop(loop: SearchLoop) -> None:
        for _ in range(units_done):
            unit = loop.next_unit()
            assert isinstance(unit, WorkUnit)
            loop.complete(unit, run_unit(unit))
        loop.next_unit()

    drive(tmp_path / "b", space=DEFAULTS, run=stop)
    assert drive(tmp_path / "b", space=DEFAULTS, resume=True) == straight
    assert sum(map(is_default, trials(tmp_path / "b"))) == 3
