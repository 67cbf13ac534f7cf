"""The trainings of the final comparison: lengths, longer budgets, runs that fail, the refit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autometa import finals as finals_module
from autometa.errors import InfrastructureError
from autometa.finals import Entrant, Finals, Trainings
from autometa.judge import _budget, _held_at
from autometa.levelling import CHECKED
from autometa.searching.settings import FINAL_SEEDS, SearchSettings
from autometa.searching.units import UnitResult, WorkUnit
from autometa.training.population import RunResult
from autometa.training.state import PopulationState, Run, save_run
from autometa.trial import TrialConfig

BUDGET = 300
CONFIG = TrialConfig.from_flat({"backbone.width": 4})
ENTRANTS = [Entrant("sharing", 3, CONFIG), Entrant("independent", 5, CONFIG)]

#: what a run reaches: (place of its entrant, budget, seed, step) → score, None if it diverged
Curve = Callable[[int, int, int, int], float | None]


def finals(folder: Path, **options: Any) -> Finals:
    settings = SearchSettings(4, BUDGET, device="cpu")
    return Finals(
        settings, study="s", fingerprint="f", folder=folder, models=folder / "models",
        notify=lambda step: None, **options,
    )  # fmt: skip


def trained(unit: WorkUnit, curve: Curve) -> UnitResult:
    """What a worker would return; the parameters of a checkpoint are its seed and step."""
    _, place, budget = unit.names[0].split("-")[:3]
    runs = []
    for k, name in enumerate(unit.names):
        points: list[RunResult] = []
        for step in unit.points:
            value = curve(int(place), int(budget), k, step)
            if value is None or (points and points[-1].reason):
                points.append(RunResult(step, None, reason="The loss is NaN."))
                continue
            points.append(RunResult(step, value, {"a": value}))
            state = PopulationState(torch.tensor([[float(k), step]]), {}, {}, step)
            save_run(state, 0, Run(CONFIG, unit.seeds[k]), unit.checkpoint(name, step))
        runs.append(tuple(points))
    curves = tuple(runs) if len(unit.points) > 1 else ()
    return UnitResult(tuple(run[-1] for run in runs), curves=curves)


def play(script: Any, answer: Callable[[WorkUnit], UnitResult]) -> tuple[Any, list[WorkUnit]]:
    """Run a script; what it returned, and its units."""
    units: list[WorkUnit] = []
    try:
        wanted = next(script)
        while True:
            units += wanted
            wanted = script.send([answer(unit) for unit in wanted])
    except StopIteration as end:
        return end.value, units


def train(
    folder: Path, curve: Curve, *, longer: bool = True, **options: Any
) -> tuple[Trainings, list[WorkUnit]]:
    script = finals(folder, **options).train(ENTRANTS, longer=longer)
    found, units = play(script, lambda unit: trained(unit, curve))
    assert isinstance(found, Trainings)
    return found, units


def told(found: Trainings) -> tuple[dict[str, Any], str]:
    by_arm = {one.method: [one] for one in found.finalists}
    budget = _budget(BUDGET, by_arm, found)
    return budget, _held_at(budget)


def test_the_length_with_the_best_mean_over_the_seeds_counts(tmp_path: Path) -> None:
    def curve(place: int, budget: int, seed: int, step: int) -> float:
        if step == 100:
            return 0.5
        return 0.9 if seed == 0 else 0.3  # best of all, and worse in the mean: .42

    found, units = train(tmp_path, curve, longer=False)
    assert [unit.points for unit in units] == [(100, 300)] * 2
    assert units[0].seeds == units[1].seeds, "the seeds are paired"
    assert len(set(units[0].seeds)) == FINAL_SEEDS
    for one in found.finalists:
        assert (one.steps, one.budget, one.value, one.tasks) == (100, 300, 0.5, {"a": 0.5})
        assert one.state.values.tolist() == [[seed, 100.0] for seed in range(FINAL_SEEDS)]
    assert (found.gains, found.budget) == ([], BUDGET)
    budget, words = told(found)
    assert budget["lengths"]["sharing"] == {"steps": 100, "budget": 300}
    assert words.endswith("whether more would change it was not tried.")


def test_of_equal_lengths_the_shorter_counts(tmp_path: Path) -> None:
    found, _ = train(tmp_path, lambda *_: 0.5)
    assert [(one.steps, one.budget) for one in found.finalists] == [(100, 300)] * 2
    budget, words = told(found)
    assert (budget["levelled"], budget["still_gains"], budget["steps"]) == (True, [], 300)
    assert words == (
        "It holds for 300 optimizer steps a network: with 3 times as many no arm gains more than "
        "noise on validation (sharing +0.000, independent networks +0.000)."
    )


def test_an_arm_that_gains_triples_the_budget_of_both(tmp_path: Path) -> None:
    def curve(place: int, budget: int, seed: int, step: int) -> float:
        independent = 0.3 if budget == 300 else 0.7
        return 0.5 if place == 0 else independent

    found, units = train(tmp_path, curve)
    gained = [(g.arm, g.steps, g.longer, g.gains) for g in found.gains]
    assert gained == [
        ("sharing", 300, 900, False), ("independent", 300, 900, True),
        ("sharing", 900, 2700, False), ("independent", 900, 2700, False),
    ]  # fmt: skip
    assert found.budget == 900
    sharing, independent = found.finalists
    assert (sharing.budget, independent.budget, independent.value) == (300, 900, 0.7)
    made = sorted((unit.names[0].split("-")[1], unit.max_steps) for unit in units)
    assert made == [(place, budget) for place in "01" for budget in (300, 900, 2700)]
    assert all(unit.seeds == units[0].seeds for unit in units)
    budget, words = told(found)
    assert budget["levelled"]
    assert words.startswith("It holds for 900 optimizer steps a network: with 3 times as many no")


def test_the_budget_is_tripled_twice_at_most(tmp_path: Path) -> None:
    found, units = train(tmp_path, lambda place, budget, seed, step: np.log(budget) / 9)
    assert found.budget == max(unit.max_steps for unit in units) == 9 * BUDGET
    assert all(gain.gains for gain in found.gains)
    assert [one.budget for one in found.finalists] == [9 * BUDGET] * 2
    budget, words = told(found)
    assert budget["still_gains"] == ["sharing", "independent"]
    assert not budget["levelled"]
    assert words == (
        "It holds for 2,700 optimizer steps a network, the most that are tried (9 times those of "
        "the search), where sharing and independent networks still gain."
    )


def test_only_the_first_finalists_of_an_arm_are_tried_longer(tmp_path: Path) -> None:
    entrants = [Entrant(arm, k, CONFIG) for k in range(4) for arm in ("sharing", "independent")]
    script = finals(tmp_path).train(entrants, longer=True)
    found, units = play(script, lambda unit: trained(unit, lambda *_: 0.5))
    longer = [int(unit.names[0].split("-")[1]) for unit in units if unit.max_steps == 3 * BUDGET]
    assert sorted(longer) == list(range(2 * CHECKED))
    assert len(found.finalists) == len(entrants)


class Clock:
    """A time-out that every unit takes a second of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0
        monkeypatch.setattr(finals_module.time, "monotonic", lambda: self.now)

    def left(self) -> float:
        return self.seconds - self.now

    def trained(self, unit: WorkUnit, curve: Curve) -> UnitResult:
        self.now += unit.max_steps / BUDGET
        return trained(unit, curve)


@pytest.mark.parametrize(
    ("seconds", "trained_", "longest"),
    [(0.0, [0, 1], 1), (4.9, [0, 1], 1), (5.0, [0, 1, 2, 3], 1), (7.0, range(6), 1),
     (20.9, range(6), 1), (21.0, range(6), 3)],
)  # fmt: skip
def test_a_time_out_trains_fewer_and_no_longer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    trained_: Sequence[int],
    longest: int,
) -> None:
    """A refit is kept time for; the best of each arm are trained whatever it takes."""
    entrants = [Entrant(arm, k, CONFIG) for k in range(3) for arm in ("sharing", "independent")]
    clock = Clock(monkeypatch, seconds)
    script = finals(tmp_path, left=clock.left).train(entrants, longer=True)
    found, units = play(script, lambda unit: clock.trained(unit, lambda *_: 0.5))
    done = [int(unit.names[0].split("-")[1]) for unit in units if unit.max_steps == BUDGET]
    assert done == list(trained_)
    assert max(unit.max_steps for unit in units) == longest * BUDGET
    assert bool(found.gains) is (longest > 1)
    assert found.left_out == 6 - len(trained_)
    assert clock.left() >= 1 or longest == 1 == len(done) - 1 or seconds < 5


def test_a_gain_that_time_does_not_allow_to_follow_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entrants = [Entrant(arm, k, CONFIG) for k in range(4) for arm in ("sharing", "independent")]
    clock = Clock(monkeypatch, 8 + 12 + 3)
    script = finals(tmp_path, left=clock.left).train(entrants, longer=True)
    found, _ = play(script, lambda unit: clock.trained(unit, lambda p, b, s, step: b / 9e3))
    assert found.budget == BUDGET
    assert [gain.gains for gain in found.gains] == [True, True]
    budget, words = told(found)
    assert (budget["steps"], budget["levelled"]) == (BUDGET, False)
    assert words == (
        "It holds for 300 optimizer steps a network: with 3 times as many sharing and independent "
        "networks gain on validation, but the time was up."
    )


def test_a_finalist_of_which_one_seed_diverges_is_left_out(tmp_path: Path) -> None:
    entrants = [*ENTRANTS, Entrant("sharing", 7, CONFIG)]
    script = finals(tmp_path).train(entrants, longer=False)

    def curve(place: int, budget: int, seed: int, step: int) -> float | None:
        return None if (place, seed) == (0, 2) else 0.5

    found, _ = play(script, lambda unit: trained(unit, curve))
    assert [one.number for one in found.finalists] == [5, 7]


def test_a_run_that_diverges_late_counts_where_all_had_a_score(tmp_path: Path) -> None:
    def curve(place: int, budget: int, seed: int, step: int) -> float | None:
        if step == 100:
            return 0.4
        return None if (place, seed) == (0, 2) else 0.5

    found, _ = train(tmp_path, curve, longer=False)
    assert [one.steps for one in found.finalists] == [100, 300]


def test_what_is_lost_with_its_worker_is_left_out(tmp_path: Path) -> None:
    entrants = [*ENTRANTS, Entrant("sharing", 7, CONFIG), Entrant("joint", None, CONFIG, True)]

    def answer(unit: WorkUnit) -> UnitResult:
        _, place, budget = unit.names[0].split("-")[:3]
        # of the first everything, of the last but one the longer budget
        if place in ("0", "3") or (place, budget) == ("2", "900"):
            return UnitResult.lost(unit, "Its workers died.")
        return trained(unit, lambda *_: 0.5)

    found, _ = play(finals(tmp_path).train(entrants, longer=True), answer)
    assert [(one.method, one.number) for one in found.finalists] == [
        ("independent", 5), ("sharing", 7),
    ]  # fmt: skip
    assert [gain.arm for gain in found.gains] == ["independent"]


def test_an_arm_without_any_finalist_is_an_error(tmp_path: Path) -> None:
    match = "None of the best trials of the sharing arm could be trained again.*The loss is NaN"
    with pytest.raises(InfrastructureError, match=match):
        train(tmp_path, lambda place, *_: None if place == 0 else 0.5)


class Saved:
    """Stands for a suite: the workers of these tests read none."""

    def save(self, folder: Path) -> None:
        pass


@pytest.mark.parametrize("also_again", [False, True])
def test_for_a_run_that_diverges_in_the_refit_another_is_tried(
    tmp_path: Path, also_again: bool
) -> None:
    whole = finals(tmp_path)
    found, _ = play(
        whole.train(ENTRANTS, longer=False),
        lambda unit: trained(unit, lambda *_: 0.5),
    )
    finalist = replace(found.finalists[0], steps=100)

    def answer(unit: WorkUnit) -> UnitResult:
        again = unit.names[0].startswith("refit-3")
        results = []
        for k, (name, seed) in enumerate(zip(unit.names, unit.seeds, strict=True)):
            failed = also_again if again else k == 1
            if not failed:
                state = PopulationState(torch.tensor([[float(seed)]]), {}, {}, 100)
                save_run(state, 0, Run(CONFIG, seed), unit.checkpoint(name, 100))
            results.append(RunResult(100, None, reason="The loss is NaN." if failed else None))
        return UnitResult(tuple(results))

    (state, facts), units = play(whole.refit(Saved(), finalist, 3, {"method": "sharing"}), answer)
    assert [len(unit.seeds) for unit in units] == [3, 1]
    assert {(unit.to_step, unit.max_steps) for unit in units} == {(100, 300)}
    kept = [units[0].seeds[0], units[0].seeds[2], *([] if also_again else units[1].seeds)]
    assert facts["seeds"] == kept
    assert len(state) == len(kept)
    assert not set(units[1].seeds) & set(units[0].seeds)


def test_a_refit_in_which_everything_diverges_is_an_error(tmp_path: Path) -> None:
    whole = finals(tmp_path)
    found, _ = play(whole.train(ENTRANTS, longer=False), lambda unit: trained(unit, lambda *_: 0.5))
    script = whole.refit(Saved(), found.finalists[0], 2, {})
    with pytest.raises(InfrastructureError, match="The final refit failed: Died"):
        play(script, lambda unit: UnitResult.lost(unit, "Died."))
