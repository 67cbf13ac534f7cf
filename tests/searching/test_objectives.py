"""A bound on every task, and a cost beside the score, in the search loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from autometa.errors import InfrastructureError, StudyError
from autometa.home import Home
from autometa.searching import executors
from autometa.searching.bound import Closest, Kept, Reference, judge_bound
from autometa.searching.executors import Chain, InlineExecutor
from autometa.searching.finalists import FINALISTS, best_of
from autometa.searching.loop import SearchLoop
from autometa.searching.settings import SearchSettings, rerun_seeds
from autometa.searching.units import UnitResult, WorkUnit
from autometa.space import Space
from autometa.study import (
    open_study,
    pareto_front,
    read_study,
    rung_values,
    trial_rows,
)
from autometa.tracking import NullTracker
from autometa.training.population import RunResult
from tests.searching.support import SPACE, finished, small_suite

pytestmark = pytest.mark.usefixtures("early_rungs")

Trials = list[FrozenTrial]
REFERENCE = Reference(0, 0.5, 3, {"up": 0.6, "sign": 0.4}, {"down": "2 evaluation rows"})


class Spy(NullTracker):
    """Notes the metrics of every rung."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[int, dict[str, float]] = {}

    def trial_rung(self, number: int, step: int, metrics: Any) -> None:
        self.metrics.setdefault(number, {}).update(metrics)


def drive(
    home: Path,
    *,
    n_trials: int = 12,
    resume: bool = False,
    storage: str | None = None,
    stop_after: int | None = None,
    tracker: Spy | None = None,
    **changes: Any,
) -> Trials:
    """Search `small_suite`, at most `stop_after` units of it, and return the trials."""
    place, suite = Home.find(home), small_suite(rows=200)
    settings = SearchSettings(n_trials=n_trials, max_steps=9, device="cpu", **changes)
    folder = place.checkpoints("s")
    suite.without_test().save(folder / "suite")
    with open_study(
        place,
        "s",
        storage=storage,
        resume=resume,
        fingerprint=suite.fingerprint,
        attrs={"space": SPACE},
        with_cost=settings.cost is not None,
    ) as handle:
        loop = SearchLoop(
            handle,
            Space.from_yaml(SPACE).bind(suite),
            settings,
            suite=folder / "suite",
            fingerprint=suite.fingerprint,
            checkpoints=folder,
            tracker=tracker or NullTracker(),
            notify=[].append,
        )
        source = Chain(loop, loop.referencing(), loop)
        if stop_after is None:
            InlineExecutor().run(source)
        for done in range(stop_after or 0):
            unit = source.next_unit()
            assert isinstance(unit, WorkUnit)
            result = executors.run_unit(unit)
            if done < (stop_after or 0) - 1:  # killed before the last result was taken
                source.complete(unit, result)
    return read_study(place, "s", storage).trials


def told(trials: Trials) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.state.name, t.values, t.params, rung_values(t), t.constraints, arm(t))
        for t in trials
    ]


def arm(trial: FrozenTrial) -> str:
    return str(trial.user_attrs["arm"])


def of(trials: Trials, name: str, state: TrialState = TrialState.COMPLETE) -> Trials:
    return [t for t in trials if arm(t) == name and t.state == state]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[WorkUnit]:
    """Runs that cost nothing: sharing both blocks scores best, but hurts the task `sign`.

    Returns the units that were run.
    """
    units: list[WorkUnit] = []

    def fake(unit: WorkUnit) -> UnitResult:
        units.append(unit)
        at = [
            map(partial(_planted, unit=unit, step=s), unit.configs, unit.seeds) for s in unit.points
        ]
        curves = tuple(zip(*at, strict=True))
        return UnitResult(tuple(c[-1] for c in curves), curves=curves if len(at) > 1 else ())

    monkeypatch.setattr(executors, "run_unit", fake)
    return units


def _planted(config: dict[str, Any], seed: int, unit: WorkUnit, step: int) -> RunResult:
    noise = 0.01 * np.random.default_rng(seed).random()
    late = step / unit.max_steps - 1 + noise - 0.05 * config["backbone.dropout"]
    if config["sharing.kind"] == "independent":
        tasks = {"up": 0.6, "down": 0.6, "sign": 0.6}
    elif config["sharing.split_at"] == 1:
        tasks = {"up": 0.65, "down": 0.65, "sign": 0.61}
    else:
        tasks = {"up": 0.9, "down": 0.9, "sign": 0.4}
    scores: dict[str, float | None] = {name: score + late for name, score in tasks.items()}
    value = float(np.mean([score + late for score in tasks.values()]))
    cost = float(config["backbone.width"]) if unit.cost and step == 9 else None
    return RunResult(step, value, scores, cost=cost)


# --- a bound on every task ------------------------------------------------------------------------


def test_independent_networks_come_first_and_are_frozen(
    planted: list[WorkUnit], home: Path
) -> None:
    trials = drive(home, n_trials=20, no_task_worse_than=0.05)
    assert [arm(t) for t in trials] == ["independent"] * 10 + ["sharing"] * 10
    reruns = [k for k, unit in enumerate(planted) if unit.names[0].startswith("rerun-")]
    firsts = [{arm(trials[int(n)]) for n in unit.names} for unit in planted[: reruns[0]]]
    assert firsts == [{"independent"}] * len(firsts)
    seeds = {t.number: tuple(rerun_seeds(0, t.number)) for t in best_of(trials, "independent")}
    assert [planted[k].seeds for k in reruns] == list(seeds.values())
    means = {}
    for t in best_of(trials, "independent"):
        config, unit = t.user_attrs["config"], planted[reruns[0]]
        runs = [_planted(config, seed, unit, 9) for seed in rerun_seeds(0, t.number)]
        means[t.number] = (
            np.mean([run.value for run in runs if run.value is not None]),
            np.mean([run.tasks["sign"] for run in runs if run.tasks["sign"] is not None]),
        )
    kept = read_study(Home.find(home), "s").user_attrs["reference"]
    assert kept["trial"] == max(means, key=lambda n: means[n][0])
    assert (kept["score"], kept["tasks"]["sign"]) == pytest.approx(means[kept["trial"]])
    assert kept["left_out"] == {}
    assert {planted[k].at for k in reruns} == {(1, 3, 9)}


def test_constraint_is_the_worst_task_below_its_reference(
    planted: list[WorkUnit], home: Path
) -> None:
    spy = Spy()
    trials = drive(home, n_trials=40, no_task_worse_than=0.05, tracker=spy)
    kept = read_study(Home.find(home), "s").user_attrs["reference"]
    assert set(kept["rungs"]) == {"1", "3"}
    assert kept["rungs"]["3"]["up"] == pytest.approx(kept["tasks"]["up"] - 6 / 9)
    assert all(t.constraints == {} for t in trials if arm(t) == "independent")
    rows = trial_rows(read_study(Home.find(home), "s"))
    seen = set()
    for t in of(trials, "sharing") + of(trials, "sharing", TrialState.PRUNED):
        step = max(rung_values(t))
        reference = kept["tasks"] if step == 9 else kept["rungs"][str(step)]
        below = {name: reference[name] - t.user_attrs["tasks"][name] for name in reference}
        worst = max(below, key=lambda name: below[name])
        assert t.constraints == {"worst_task": pytest.approx(below[worst] - 0.05)}
        assert rows[t.number]["closest"] == {"task": worst, "below": pytest.approx(below[worst])}
        assert spy.metrics[t.number]["below_reference"] == pytest.approx(below[worst])
        hurts = t.user_attrs["config"]["sharing.split_at"] == 2
        assert (t.constraints["worst_task"] > 0) == hurts
        complete = t.state == TrialState.COMPLETE
        assert rows[t.number]["feasible"] is (not hurts if complete else None)
        seen.add((hurts, complete))
    assert {(True, False), (False, True)} <= seen
    assert rows[0]["feasible"] is None


def test_what_breaks_the_bound_is_promoted_last(planted: list[WorkUnit], home: Path) -> None:
    """Its scores are higher at every rung, so by value alone nothing else would be trained on."""
    trials = drive(home, n_trials=40, no_task_worse_than=0.05)
    at_first: dict[int, float] = {}
    for t in trials[20:]:
        at_first[t.number] = rung_values(t)[1]
    broken = {t.number for t in trials[20:] if t.params["sharing.split_at"] == 2}
    assert broken
    assert min(at_first[n] for n in broken) > max(at_first[n] for n in set(at_first) - broken)
    kept = {n for n in at_first if 3 in rung_values(trials[n])}
    others = set(at_first) - broken
    assert max(others, key=lambda n: at_first[n]) in kept
    # some that break it go on where nothing else had come to the rung yet
    assert len(kept & broken) / len(broken) < len(kept & others) / len(others)
    keep = [t for t in of(trials, "sharing") if t.params["sharing.split_at"] == 1]
    assert len(keep) >= 2


def test_the_best_that_breaks_the_bound_is_no_finalist(planted: list[WorkUnit], home: Path) -> None:
    trials = drive(home, n_trials=30, no_task_worse_than=0.05, pruner="none")
    done = of(trials, "sharing")
    best = max(done, key=lambda t: t.values[0])
    assert best.user_attrs["config"]["sharing.split_at"] == 2
    finalists = best_of(trials, "sharing")
    assert len(finalists) == FINALISTS
    assert {t.user_attrs["config"]["sharing.split_at"] for t in finalists} == {1}


def test_the_bound_steers_the_sampler(planted: list[WorkUnit], tmp_path: Path) -> None:
    late = {}
    for delta in (0.05, 10.0):
        trials = drive(tmp_path / str(delta), no_task_worse_than=delta, pruner="none", n_trials=80)
        chosen = [t.params["sharing.split_at"] for t in trials[-20:]]
        late[delta] = chosen.count(1) / len(chosen)
    assert late[0.05] > 0.6
    assert late[10.0] < 0.4


def test_a_resumed_search_keeps_its_reference(planted: list[WorkUnit], home: Path) -> None:
    drive(home, n_trials=12, no_task_worse_than=0.05)
    before = read_study(Home.find(home), "s").user_attrs["reference"]
    planted.clear()
    trials = drive(home, n_trials=20, no_task_worse_than=0.05, resume=True)
    assert not [unit for unit in planted if unit.names[0].startswith("rerun-")]
    assert read_study(Home.find(home), "s").user_attrs["reference"] == before
    # both arms grow, so that they stay equally tuned
    assert [arm(t) for t in trials[12:]] == ["independent"] * 4 + ["sharing"] * 4
    for t in of(trials[12:], "sharing"):
        below = max(before["tasks"][k] - t.user_attrs["tasks"][k] for k in before["tasks"])
        assert t.constraints["worst_task"] == pytest.approx(below - 0.05)


def test_without_an_independent_network_there_is_no_reference(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "run_unit", lambda unit: UnitResult.lost(unit, "It died."))
    with pytest.raises(InfrastructureError, match="no reference for `no_task_worse_than`"):
        drive(home, no_task_worse_than=0.05)


def test_a_task_without_a_score_is_the_worst() -> None:
    assert REFERENCE.closest({"up": 0.5, "down": -1.0, "sign": 0.45}).task == "up"
    closest = REFERENCE.closest({"up": 0.5, "sign": None})
    assert (closest.task, math.isfinite(closest.below)) == ("sign", True)
    assert closest.below > 2.0  # more than any score that can be


def test_finalists_where_no_trial_keeps_to_the_bound() -> None:
    trials = [finished(n, n / 10, 0.3 - 0.05 * n) for n in range(6)]
    assert [t.number for t in best_of(trials, "sharing")] == [5, 4, 3, 2, 1]
    trials.append(finished(6, -0.5, 0.0))
    assert [t.number for t in best_of(trials, "sharing")] == [6]


def test_test_rows_say_within_beyond_or_unclear() -> None:
    def task(name: str, low: float, high: float, judged: bool = True) -> dict[str, Any]:
        middle = (low + high) / 2
        ends = (low, high)
        return {"name": name, "difference": middle, "difference_ci": ends, "judged": judged}

    names = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}
    reference = Reference(0, 0.5, 3, names, {})
    rows = [task("a", -0.019, 0.1), task("b", -0.2, -0.021), task("c", -0.1, 0.1)]
    rows += [task("d", 0.0, 0.1, judged=False), task("not bound", 0.0, 0.1)]
    methods = [{"name": n, "words": n, "score": 0.5} for n in ("sharing", "independent")]
    test = {
        "tasks": rows, "verdict": "Sharing helps.", "recommended": "sharing", "methods": methods,
        "delivered": {"method": "sharing", "words": "sharing", "score": 0.5},
    }  # fmt: skip
    trials = [finished(0, 0.5, 0.0), finished(1, 0.6, 0.1)]
    kept = Kept(True, Closest("a", -0.01, 0.0, 0.01))
    found = judge_bound(test, trials, reference, 0.02, 0, kept)
    within = {t["name"]: t["within"] for t in found["constraint"]["tasks"]}
    assert within == {"a": "yes", "b": "no", "c": "unclear", "d": "unclear"}
    assert (found["constraint"]["feasible"], found["constraint"]["trials"]) == (1, 2)
    assert (found["recommended"], found["verdict"]) == ("sharing", "Sharing helps.")
    broken = judge_bound(
        test, trials, reference, 0.02, 0, Kept(False, Closest("a", -0.1, 0.0, 0.1))
    )
    assert broken["recommended"] == "independent"
    assert "1 of 2 trials did in one run" in broken["verdict"]
    assert "0.100 below them on a" in broken["verdict"]
    none = [finished(1, 0.6, 0.1)]
    lucky = judge_bound(test, none, reference, 0.02, 1, Kept(False, Closest("a", 0.0, 0.0, 0.01)))
    assert lucky["recommended"] == "independent"
    assert "0.010 below them on a in the mean of new runs, within the bound" in lucky["verdict"]


# --- a cost beside the score ----------------------------------------------------------------------


def test_scores_prune_alone_and_cost_is_told_at_the_end(
    planted: list[WorkUnit], home: Path
) -> None:
    spy = Spy()
    trials = drive(home, n_trials=16, cost="parameters", tracker=spy)
    assert [d.name for d in read_study(Home.find(home), "s").directions] == ["MAXIMIZE", "MINIMIZE"]
    at_first: dict[str, dict[int, float]] = {"sharing": {}, "independent": {}}
    for t in trials:
        assert t.intermediate_values == {}
        at_first[arm(t)][t.number] = rung_values(t)[1]
        if t.state == TrialState.COMPLETE:
            width = t.user_attrs["config"]["backbone.width"]
            assert t.values == [rung_values(t)[9], width]
            assert spy.metrics[t.number]["cost"] == width
    for values in at_first.values():
        went_on = {number for number in values if 3 in rung_values(trials[number])}
        assert max(values, key=lambda number: values[number]) in went_on
        assert len(went_on) < len(values)
    rows = trial_rows(read_study(Home.find(home), "s"))
    assert {r["state"] for r in rows} == {"COMPLETE", "PRUNED"}
    for r, t in zip(rows, trials, strict=True):
        assert r["value"] == rung_values(t)[r["best_step"]]
        assert (r["cost"] is None) == (r["state"] == "PRUNED")


@pytest.mark.parametrize("sampler", ["tpe", "random", pytest.param("gp", marks=pytest.mark.slow)])
@pytest.mark.parametrize("delta", [None, 0.05])
def test_samplers_take_both(
    planted: list[WorkUnit], sampler: str, delta: float | None, home: Path
) -> None:
    options: dict[str, Any] = {"no_task_worse_than": delta, "pruner": "none", "n_trials": 26}
    trials = drive(home, sampler=sampler, cost="parameters", **options)
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    front = pareto_front(trials)
    assert front
    if delta is not None:
        assert all(arm(t) == "independent" or t.params["sharing.split_at"] == 1 for t in front)


# --- resuming -------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "bound": {"no_task_worse_than": 0.2},
    "cost": {"cost": "parameters"},
    "both": {"no_task_worse_than": 0.2, "cost": "parameters"},
}


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
@pytest.mark.parametrize("name", OPTIONS)
def test_interrupted_it_ends_the_same(
    name: str, storage: str, planted: list[WorkUnit], tmp_path: Path
) -> None:
    """Killed again and again, once while the reference is made."""

    def url(folder: str) -> str | None:
        return None if storage == "journal" else f"sqlite:///{tmp_path}/{folder}.db"

    options = OPTIONS[name]
    straight = told(drive(tmp_path / "a", storage=url("a"), **options))
    killed = []
    for k, units in enumerate([2, 3, 1, 2, 3, 2]):
        drive(tmp_path / "b", storage=url("b"), resume=k > 0, stop_after=units, **options)
        killed.append(planted[-1].names[0].startswith("rerun-"))
    assert any(killed) == ("no_task_worse_than" in options)
    assert told(drive(tmp_path / "b", storage=url("b"), resume=True, **options)) == straight
    assert {row[1] for row in straight} == {"COMPLETE", "PRUNED"}
    if "no_task_worse_than" in options:
        attrs = [
            read_study(Home.find(tmp_path / k), "s", url(k)).user_attrs["reference"] for k in "ab"
        ]
        assert attrs[0] == attrs[1]


@pytest.mark.slow
def test_real_training_interrupted_ends_the_same(tmp_path: Path) -> None:
    options = {"n_trials": 6, "pruner": "none", **OPTIONS["both"]}
    straight = told(drive(tmp_path / "a", **options))
    drive(tmp_path / "b", stop_after=3, **options)
    assert told(drive(tmp_path / "b", resume=True, **options)) == straight
    assert all(row[2][1] > 4 * 4 for row in straight)  # the first layer alone


@pytest.mark.parametrize("name", OPTIONS)
def test_killed_between_report_and_decision(name: str, planted: list[WorkUnit], home: Path) -> None:
    options = OPTIONS[name]
    straight = told(drive(home / "a", **options))
    write: Callable[..., Any] = SearchLoop._promote

    def die(self: SearchLoop, number: int, live: Any, *kept: Any) -> None:
        if live.step == 9:
            self._handle.commit()
            raise KeyboardInterrupt
        write(self, number, live, *kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchLoop, "_promote", die)
        drive(home / "b", **options)
    assert told(drive(home / "b", resume=True, **options)) == straight


def test_a_study_keeps_its_number_of_values(planted: list[WorkUnit], home: Path) -> None:
    drive(home, n_trials=2)
    with pytest.raises(StudyError, match="started for the score alone"):
        drive(home, n_trials=2, resume=True, cost="parameters")
    assert optuna.study.StudyDirection.MINIMIZE not in read_study(Home.find(home), "s").directions
