"""The search loop on a real study, inline."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from autometa.home import Home
from autometa.searching import loop as loops
from autometa.searching.executors import FINISHED, InlineExecutor
from autometa.searching.loop import SearchLoop, SearchSettings, arm_of, run_seed
from autometa.searching.progress import Progress
from autometa.searching.promotion import decide
from autometa.searching.units import UnitResult, WorkUnit, run_unit
from autometa.space import Space
from autometa.study import open_study, read_study, score_of, trial_rows
from autometa.tracking import NullTracker
from autometa.trial import TrialConfig
from tests.searching.support import SPACE, small_suite

Rows = list[tuple[Any, ...]]


def drive(
    home: Path,
    *,
    n_trials: int = 12,
    resume: bool = False,
    run: Callable[[SearchLoop], object] | None = None,
    seen: list[Progress] | None = None,
    space: str = SPACE,
    **changes: Any,
) -> Rows:
    """Search `small_suite` and return what the study then holds."""
    place, suite = Home.find(home), small_suite()
    settings = SearchSettings(n_trials=n_trials, max_steps=9, device="cpu", **changes)
    folder = place.checkpoints("s")
    suite.without_test().save(folder / "suite")
    bound = Space.from_yaml(space).bind(suite)
    with open_study(
        place, "s", resume=resume, fingerprint=suite.fingerprint, attrs={"space": space}
    ) as handle:
        loop = SearchLoop(
            handle,
            bound,
            settings,
            suite=folder / "suite",
            fingerprint=suite.fingerprint,
            checkpoints=folder,
            tracker=NullTracker(),
            notify=[].append if seen is None else seen.append,
        )
        (run or InlineExecutor().run)(loop)
    return rows(home)


def rows(home: Path) -> Rows:
    study = read_study(Home.find(home), "s")
    return [
        (t.number, t.state.name, t.values, t.params, t.intermediate_values)
        if t.state == TrialState.COMPLETE
        else (t.number, t.state.name, t.params, t.intermediate_values)
        for t in study.trials
    ]


pytestmark = pytest.mark.usefixtures("early_rungs")


@pytest.fixture(scope="module")
def straight(early_rungs: None, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return drive(tmp_path_factory.mktemp("straight"))


def test_total_is_exact_and_every_trial_is_told(straight: Rows) -> None:
    assert [row[0] for row in straight] == list(range(12))
    states = Counter(row[1] for row in straight)
    assert set(states) <= {"COMPLETE", "PRUNED"}
    assert states["COMPLETE"] >= 2


def test_fidelity_is_honest(home: Path) -> None:
    drive(home)
    for trial in read_study(Home.find(home), "s").trials:
        steps = sorted(trial.intermediate_values)
        assert steps == [1, 3, 9][: len(steps)]
        assert (trial.state == TrialState.COMPLETE) == (steps == [1, 3, 9])
        best = max(steps, key=lambda step: trial.intermediate_values[step])
        assert trial.user_attrs["best_step"] == best
        assert score_of(trial) == trial.intermediate_values[best]


def test_trials_are_pruned_among_their_own_arm_only(home: Path) -> None:
    drive(home, n_trials=16)
    at_first: dict[str, dict[int, float]] = {"sharing": {}, "independent": {}}
    trials = read_study(Home.find(home), "s").trials
    for trial in trials:
        at_first[trial.user_attrs["arm"]][trial.number] = trial.intermediate_values[1]
    assert [len(values) for values in at_first.values()] == [8, 8]
    for values in at_first.values():
        went_on = {number for number in values if 3 in trials[number].intermediate_values}
        # whoever ends up as the best of its arm was that at every earlier time too
        assert max(values, key=lambda number: values[number]) in went_on
        assert len(went_on) < len(values)


def test_the_same_search_twice_is_the_same(straight: Rows, home: Path) -> None:
    assert drive(home) == straight


@pytest.mark.parametrize("sampler", ["random", "cmaes"])
def test_other_samplers_repeat_too(sampler: str, tmp_path: Path) -> None:
    assert drive(tmp_path / "a", sampler=sampler) == drive(tmp_path / "b", sampler=sampler)


@pytest.mark.parametrize(
    ("pruner", "ladders"),
    [
        ("none", {(1, 3, 9)}),
        ("median", {(1,), (1, 3), (1, 3, 9)}),
        ("hyperband", {(1,), (1, 3), (1, 3, 9), (3,), (3, 9), (9,)}),
    ],
)
def test_every_pruner_tells_all_trials(
    pruner: str, ladders: set[tuple[int, ...]], home: Path
) -> None:
    drive(home, pruner=pruner)
    trials = read_study(Home.find(home), "s").trials
    assert len(trials) == 12
    assert all(t.state.is_finished() for t in trials)
    assert {tuple(t.intermediate_values) for t in trials} <= ladders
    assert (9,) in {tuple(t.intermediate_values)[-1:] for t in trials}


@pytest.mark.parametrize("units_done", [0, 1, 3, 6])
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_at_any_unit_it_ends_the_same(
    straight: Rows, home: Path, units_done: int, when: str
) -> None:
    def stop(loop: SearchLoop) -> None:
        for done in range(units_done + 1):
            unit = loop.next_unit()
            assert isinstance(unit, WorkUnit)
            if done == units_done and when == "before":
                return
            result = run_unit(unit)
            if done < units_done:
                loop.complete(unit, result)

    drive(home, run=stop)
    assert drive(home, resume=True) == straight


@pytest.mark.parametrize("step", [1, 9])
def test_results_that_were_half_written_are_decided_on_resume(home: Path, step: int) -> None:
    """A kill can leave a trial's report without what was decided on it."""

    def stop(loop: SearchLoop) -> None:
        unit = loop.next_unit()
        assert isinstance(unit, WorkUnit)
        loop._running[int(unit.names[0])].trial.report(0.5, step)

    drive(home, run=stop)
    found = drive(home, resume=True)
    assert len(found) == 12
    assert {row[1] for row in found} <= {"COMPLETE", "PRUNED"}
    trials = read_study(Home.find(home), "s").trials
    (half,) = [t for t in trials if t.intermediate_values.get(step) == 0.5]
    if step == 9:
        assert half.state == TrialState.COMPLETE
        assert half.value == 0.5


def test_trials_that_someone_enqueued_are_run(home: Path) -> None:
    def enqueue(loop: SearchLoop) -> None:
        loop._handle.study.enqueue_trial({"optimizer.lr": 0.0123})

    drive(home, run=enqueue)
    drive(home, resume=True)
    trials = read_study(Home.find(home), "s").trials
    assert len(trials) == 12
    assert trials[0].params["optimizer.lr"] == 0.0123
    assert trials[0].state.is_finished()


def test_resuming_with_a_larger_total_goes_on(straight: Rows, home: Path) -> None:
    drive(home, n_trials=5)
    assert len(rows(home)) == 5
    assert len(drive(home, n_trials=12, resume=True)) == 12


def test_resuming_a_finished_study_does_nothing(home: Path) -> None:
    before = drive(home)
    text = Home.find(home).journal("s").read_bytes()

    def nothing(loop: SearchLoop) -> None:
        assert loop.next_unit() == FINISHED

    assert drive(home, resume=True, run=nothing) == before
    assert Home.find(home).journal("s").read_bytes().startswith(text)


def test_checkpoints_of_told_trials_are_gone(home: Path) -> None:
    drive(home)
    assert list(Home.find(home).checkpoints("s").glob("*.safetensors")) == []


def test_failed_runs_are_told_with_their_reason(home: Path) -> None:
    def lose_first(loop: SearchLoop) -> None:
        unit = loop.next_unit()
        assert isinstance(unit, WorkUnit)
        loop.complete(unit, UnitResult.lost(unit, "The worker died."))
        InlineExecutor().run(loop)

    drive(home, run=lose_first)
    failed = [r for r in trial_rows(read_study(Home.find(home), "s")) if r["state"] == "FAIL"]
    assert failed
    assert all(row["reason"] == "The worker died." for row in failed)
    assert len(rows(home)) == 12


def test_timeout_starts_no_unit(home: Path) -> None:
    seen: list[WorkUnit] = []

    def late(loop: SearchLoop) -> None:
        unit = loop.next_unit()
        assert unit == FINISHED
        seen.append(unit)  # type: ignore[arg-type]  # FINISHED, as asserted

    drive(home, run=late, timeout=0.0)
    assert seen == [FINISHED]


def test_progress_counts_and_names_the_best(home: Path) -> None:
    seen: list[Progress] = []
    found = drive(home, seen=seen)
    assert seen[-1].done == seen[-1].total == 12
    best = max((row for row in found if row[1] == "COMPLETE"), key=lambda row: row[2][0])
    assert (seen[-1].best_number, seen[-1].best_value) == (best[0], best[2][0])


def test_study_holds_all_that_rebuilds_a_trial(home: Path) -> None:
    drive(home)
    for row in trial_rows(read_study(Home.find(home), "s")):
        assert row["seed"] == run_seed(0, row["number"])
        assert row["config"]["sharing.kind"] == (
            "independent" if row["arm"] == "independent" else "hard"
        )
        json.dumps(row)


def test_units_are_counted_over_all_drivers(home: Path) -> None:
    seen: list[int] = []

    def counted(loop: SearchLoop) -> None:
        while isinstance(unit := loop.next_unit(), WorkUnit):
            seen.append(len(unit.names))
            loop.complete(unit, dataclasses.replace(run_unit(unit), seconds=2.0))

    drive(home, n_trials=6, run=counted)
    drive(home, n_trials=12, run=counted, resume=True)
    units = read_study(Home.find(home), "s").user_attrs["units"]
    assert units["units"] == len(seen) > 2
    assert units["runs"] == sum(seen)
    assert units["seconds"] == pytest.approx(2.0 * len(seen))


def test_a_shape_is_measured_once_and_its_units_fit_into_memory(home: Path) -> None:
    seen: dict[str, list[WorkUnit]] = {}

    def short_of_memory(loop: SearchLoop) -> None:
        here: set[str] = set()
        while isinstance(unit := loop.next_unit(), WorkUnit):
            shape = TrialConfig.from_flat(unit.configs[0]).shape_key()
            seen.setdefault(shape, []).append(unit)
            assert len(unit.names) <= 2 or shape not in here
            here.add(shape)
            loop.complete(unit, dataclasses.replace(run_unit(unit), most=2))

    drive(home, n_trials=16, run=short_of_memory)
    drive(home, n_trials=24, run=short_of_memory, resume=True)
    known = 0
    for units in seen.values():
        several = [unit for unit in units if len(unit.names) > 1]
        assert all(unit.memory is not None for unit in several[1:])
        known += len(several[1:])
    assert known >= 3


def test_the_last_trials_are_shared_by_the_workers(home: Path) -> None:
    def two(loop: SearchLoop) -> None:
        first, second = loop.next_unit(2), loop.next_unit(2)
        assert isinstance(first, WorkUnit)
        assert isinstance(second, WorkUnit)
        assert abs(len(first.names) - len(second.names)) <= 1

    drive(home, n_trials=8, run=two, space=SPACE.replace("choices: [4, 8]", "choices: [4]")
          .replace("low: 1, high: 2", "low: 1, high: 1"), independent_share=0.0)  # fmt: skip


def test_who_goes_on_is_decided_once_a_unit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deciding for every trial of it would cost more and more as the study grows."""
    calls: list[int] = []

    def counting(pruner: str, values: Any, *rest: Any) -> frozenset[int]:
        calls.append(len(values))
        return decide(pruner, values, *rest)

    monkeypatch.setattr(loops, "decide", counting)
    units: list[WorkUnit] = []

    def watch(loop: SearchLoop) -> None:
        while isinstance(unit := loop.next_unit(), WorkUnit):
            units.append(unit)
            loop.complete(unit, run_unit(unit))

    drive(home, n_trials=24, run=watch)
    assert max(len(unit.names) for unit in units) > 2
    assert len(calls) == sum(unit.to_step < 9 for unit in units)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.25, 25), (0.1, 10), (0.0, 0), (1, 100)]
)
def test_arms_get_their_share_evenly(share: float, expected: int) -> None:
    arms = [arm_of(n, share, ("sharing", "independent")) for n in range(100)]
    assert arms.count("independent") == expected
    if share:
        first = [n for n, arm in enumerate(arms) if arm == "independent"]
        gaps = {b - a for a, b in itertools.pairwise(first)}
        assert gaps <= {round(1 / share)}


def test_a_space_with_one_arm_has_one_arm() -> None:
    assert {arm_of(n, 0.5, ("independent",)) for n in range(4)} == {"independent"}
