"""The diagnosis of a finished search, as a script of units: measure, find, advise, try.

It reads training and validation rows only. What it found is an attribute of the study, and what it
advised is tried as trials of the study, so that a search that was killed here goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from torch import device as torch_device

from autometa.diagnosis.advice import advise, changed, counterparts, partitions
from autometa.diagnosis.causes import HARMS, lacks_capacity
from autometa.diagnosis.findings import find
from autometa.diagnosis.measurements import Influence, Measurements, Pairs
from autometa.diagnosis.measuring import Trained, influences, measure
from autometa.diagnosis.networks import Network, Role, n_blocks, plan
from autometa.diagnosis.storing import ATTRIBUTE, record, searched, stored, untried
from autometa.networks import Problem
from autometa.searching.executors import Script
from autometa.searching.finalists import best_of
from autometa.searching.loop import SearchSettings, run_seed
from autometa.searching.progress import Progress
from autometa.searching.promotion import ladder
from autometa.searching.units import UnitResult, WorkUnit, best_of_unit, curve_steps
from autometa.space import Arm
from autometa.study import StudyHandle, is_advised
from autometa.tasks import TaskSuite
from autometa.tracking import Tracker
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import PopulationState, Run, load_run
from autometa.trial import TrialConfig

#: seeds of each network, and of the affinities
SEEDS = 3
#: pairs of more tasks are not measured: a step would be tried for each task on all the others
PAIRED_TASKS = 36
#: tasks that are isolated in turn, at most
ISOLATED = 8
#: tasks that are looked at again, at most, and with how many new seeds
SUSPECTS, SECOND_SEEDS = 3, 8
#: spans of training of which the cosines are kept, at most: a study is read whole
_COSINES = 9
#: said of the diagnosis of a study with a bound or a cost
_NOT_PLAIN = "The bound on the tasks or the cost is not looked at here, and no advice is tried."
#: streams of seeds that nothing else uses
_MEASURED, _TRIED, _SUSPECTED = 1_000_011, 1_000_012, 1_000_013


class Diagnosis:
    """Why sharing hurts or helps in a study, and what to try.

    Where a cost is minimised or a bound is set, advice is given and not tried.

    Args:
        suite: its test rows are not read; it may have none.
        folder: holds the workers' copy of the suite (`suite`), and takes checkpoints.
        is_late: whether the time-out has passed; then nothing new is started.
    """

    def __init__(
        self,
        suite: TaskSuite,
        settings: SearchSettings,
        handle: StudyHandle,
        *,
        folder: Path,
        tracker: Tracker,
        notify: Callable[[Progress], None],
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        self._suite = suite.without_test()
        self._problem = Problem.of(suite)
        self._specs = task_specs(self._suite)
        rungs, curve = ladder(settings.max_steps), curve_steps(settings.max_steps)
        self._steps = tuple(sorted({*rungs, *curve}))
        self._settings = settings
        self._handle = handle
        self._folder = folder
        self._tracker = tracker
        self._notify = notify
        self._is_late = is_late
        self._done = 0
        self._total = 0

    @cached_property
    def _trainer(self) -> Trainer:
        """For predictions only, and so where the checkpoints are read."""
        return Trainer(self._suite, self._settings.max_steps, torch_device("cpu"))

    def script(self) -> Script[dict[str, Any]]:
        """The stored diagnosis of these trials, or a new one; its advice tried as trials."""
        trials = self._handle.trials()
        found = stored(self._handle.study.user_attrs, trials)
        if found is None:
            if self._is_late():  # not stored: with more time there can be one
                return _nothing("The time-out had passed.")
            found = yield from self._diagnose(trials)
            found = {"searched": searched(trials), **found}
            if not self._is_plain:
                found |= {"note": _NOT_PLAIN}
            self._handle.set_attr(ATTRIBUTE, found)
            self._handle.commit()
        if self._is_plain and not self._is_late():
            yield from self._try([advice for advice in found["advice"] if advice["config"]])
        return dict(found)

    @property
    def _is_plain(self) -> bool:
        """Whether the score alone decides: an advised trial would have neither the cost nor what a
        bound is judged by."""
        return self._settings.cost is None and self._settings.no_task_worse_than is None

    def unit_done(self) -> None:
        """Tell the user that one of the script's units has ended."""
        self._done += 1
        self._notify(Progress("diagnosis", self._done, self._total))

    def _say(self, message: str, more: int) -> None:
        """Announce some more units."""
        self._total = self._done + more
        self._notify(Progress("diagnosis", self._done, self._total, message=message))

    def _diagnose(self, trials: Sequence[FrozenTrial]) -> Script[dict[str, Any]]:
        if reason := self._why_not(trials):
            return _nothing(reason)
        networks = plan(trials, self._problem)
        if "sharing" not in networks:
            return _nothing("No network that shares was trained to the end.")
        trunk = networks["trunk"]
        units = self._units(networks)
        pairs = self._pair_units(trunk.config)
        self._say(
            "Why sharing helps or hurts: controls are trained and scored on validation.",
            len(units) + len(pairs),
        )
        results = yield [*units.values(), *pairs]
        trained = self._trained(networks, units, dict(zip(units, results, strict=False)))
        if "sharing" not in trained:
            return _nothing("The best network that shares diverged with new seeds.")
        numbers = measure(
            trained,
            self._suite.rows("train"),
            self._suite.rows("val"),
            self._specs,
            steps=self._steps,
            blocks=n_blocks(trunk.config, self._problem),
            pairs=_pairs(results[len(units) :]),
            seed=self._settings.seed,
        )
        if "trunk" in trained and self._suite.n_tasks > 2 and not lacks_capacity(numbers):
            more = yield from self._isolate(trunk, trained["trunk"], numbers)
            numbers, results = replace(numbers, influences=more[0]), [*results, *more[1]]
        return self._report(numbers, results, trials)

    def _isolate(
        self, trunk: Network, shared: Trained, numbers: Measurements
    ) -> Script[tuple[tuple[Influence, ...], list[UnitResult]]]:
        """Give each task a tower of its own in turn, then the suspects again with new seeds.

        The second look is the one that is tested: a task that was chosen for its harm under some
        seeds has to do it under others.
        """
        seeds = [run_seed(self._settings.seed, _MEASURED, k) for k in range(SEEDS)]
        first, spent = yield from self._influences(trunk, shared, candidates(numbers), seeds)
        suspects = suspected(first)
        if not suspects:
            return tuple(replace(one, p=None) for one in first), spent
        seeds = [run_seed(self._settings.seed, _SUSPECTED, k) for k in range(SECOND_SEEDS)]
        unit = self._unit("trunk-again", [trunk.config] * len(seeds), seeds, keep=True)
        (result,) = yield [unit]
        if not _all_reached(unit, result):
            return (), [*spent, result]
        again = self._outputs(trunk, unit, result, slice(None), train=False)
        second, more = yield from self._influences(trunk, again, suspects, seeds)
        tested = {one.task: one for one in second}
        both = tuple(tested.get(one.task, replace(one, p=None)) for one in first)
        return both, [*spent, result, *more]

    def _influences(
        self, trunk: Network, shared: Trained, tasks: Sequence[int], seeds: Sequence[int]
    ) -> Script[tuple[tuple[Influence, ...], list[UnitResult]]]:
        """What each of some tasks does to the others; its networks are trained as one."""
        everyone = tuple(range(self._suite.n_tasks))
        blocks = n_blocks(trunk.config, self._problem)
        networks: dict[int, Network] = {}
        for task in tasks:
            groups = (tuple(t for t in everyone if t != task), (task,))
            tree = partitions(groups, len(everyone), 0, blocks, blocks)
            changes = {"sharing.kind": "tree", "sharing.partitions": tree}
            flat = changed(trunk.config.flat(), changes, self._problem)
            if flat is not None:
                networks[task] = Network(TrialConfig.from_flat(flat), 0)
        if not networks:
            return (), []
        configs = [network.config for network in networks.values() for _ in seeds]
        name = "isolated-" + "-".join(map(str, networks))
        unit = self._unit(name, configs, [*seeds] * len(networks), keep=True)
        self._say("Tasks in turn are given a tower of their own.", 1)
        (result,) = yield [unit]
        if not _all_reached(unit, result):
            return (), [result]
        isolated = {}
        for place, (task, network) in enumerate(networks.items()):
            part = slice(place * len(seeds), (place + 1) * len(seeds))
            isolated[task] = self._outputs(network, unit, result, part, train=False)
        val = self._suite.rows("val")
        found = influences(shared, isolated, val, self._specs, self._steps, self._settings.seed)
        return found, [result]

    def _report(
        self,
        numbers: Measurements,
        results: Sequence[UnitResult],
        trials: Sequence[FrozenTrial],
    ) -> dict[str, Any]:
        findings = find(numbers)
        advice = advise(numbers, findings, self._problem)
        spent = sum(float(t.user_attrs.get("seconds", 0.0)) for t in trials if not is_advised(t))
        return {
            "reason": None,
            "cause": findings.cause,
            "findings": [finding.to_json() for finding in findings.all],
            "advice": [one.to_json() for one in advice],
            "measurements": numbers.to_json(),
            "seconds": round(sum(result.seconds for result in results), 2),
            "search_seconds": round(spent, 2),
        }

    def _why_not(self, trials: Sequence[FrozenTrial]) -> str | None:
        if self._suite.n_tasks < 2:
            return "The suite has one task, so there is nothing to share."
        if not any(t.user_attrs.get("arm") == "sharing" for t in trials):
            return "No network that shares was searched: every trial was of independent networks."
        return None

    # --- measuring --------------------------------------------------------------------------------

    def _units(self, networks: Mapping[Role, Network]) -> dict[Role, WorkUnit]:
        """One unit for each network; the trunk has none where it is the sharing network."""
        seeds = [run_seed(self._settings.seed, _MEASURED, k) for k in range(SEEDS)]
        return {
            role: self._unit(f"diagnosis-{role}", [network.config] * SEEDS, seeds, keep=True)
            for role, network in networks.items()
            if not (role == "trunk" and network is networks["sharing"])
        }

    def _pair_units(self, trunk: TrialConfig) -> list[WorkUnit]:
        if self._suite.n_tasks > PAIRED_TASKS:
            return []
        seed = run_seed(self._settings.seed, _MEASURED, 0)
        return [self._unit("affinity", [trunk], [seed], measure="affinity")]

    def _trained(
        self,
        networks: Mapping[Role, Network],
        units: Mapping[Role, WorkUnit],
        results: Mapping[Role, UnitResult],
    ) -> dict[Role, Trained]:
        """The networks of which every seed was trained to the end, as they count: at their best."""
        found: dict[Role, Trained] = {}
        for role, unit in units.items():
            if _all_reached(unit, results[role]):
                part = slice(0, SEEDS)
                found[role] = self._outputs(networks[role], unit, results[role], part)
        if "sharing" in found and networks["trunk"] is networks["sharing"]:
            found["trunk"] = found["sharing"]
        return found

    def _outputs(
        self, network: Network, unit: WorkUnit, result: UnitResult, part: slice, train: bool = True
    ) -> Trained:
        """What the runs of a part of a unit predict at their best rung, and how they scored on the
        way."""
        best = [one.step for one in best_of_unit(unit, result)[part] if one is not None]
        state = PopulationState.gather(
            [
                load_run(unit.checkpoint(name, step))
                for name, step in zip(unit.names[part], best, strict=True)
            ]
        )
        runs = [Run(network.config, seed) for seed in unit.seeds[part]]
        curves = result.curves[part]
        tasks = [
            [[_number(point.tasks[name]) for name in self._suite.task_names] for point in curve]
            for curve in curves
        ]
        return Trained(
            network,
            self._trainer.predict(runs, state, self._suite.rows("train")) if train else None,
            self._trainer.predict(runs, state, self._suite.rows("val")),
            np.array([[_number(point.value) for point in curve] for curve in curves]),
            np.array(tasks),
        )

    # --- trying -----------------------------------------------------------------------------------

    def _try(self, advice: Sequence[dict[str, Any]]) -> Script[None]:
        """Train what is advised and record it as trials, unless the study has them already.

        For each a variation of the best independent network is tried too, so that both arms have
        the same number of tries.
        """
        trials = self._handle.trials()
        wanted: list[tuple[Arm, dict[str, Any]]] = [("sharing", one) for one in advice]
        best = best_of([trial for trial in trials if not is_advised(trial)], "independent")
        if best:
            found = counterparts(best[0].user_attrs["config"], advice, self._problem)
            wanted += [("independent", one.to_json()) for one in found]
        new = untried(wanted, trials)
        if not new:
            return
        units: list[WorkUnit] = []
        for _, one in new:
            number = len(trials) + len(units)
            seed = run_seed(self._settings.seed, _TRIED, number)
            config = TrialConfig.from_flat(one["config"])
            units.append(self._unit(f"advised-{number}", [config], [seed]))
        self._say("What the diagnosis advises is tried.", len(units))
        results = yield units
        for (arm, one), unit, result in zip(new, units, results, strict=True):
            record(self._handle, self._tracker, arm, unit, result, one["changes"])
        self._handle.commit()

    def _unit(
        self,
        name: str,
        configs: Sequence[TrialConfig],
        seeds: Sequence[int],
        *,
        keep: bool = False,
        measure: Any = None,
    ) -> WorkUnit:
        return WorkUnit(
            names=tuple(f"{name}-{k}" for k in range(len(seeds))),
            configs=tuple(config.flat() for config in configs),
            seeds=tuple(seeds),
            from_step=0,
            to_step=self._settings.max_steps,
            max_steps=self._settings.max_steps,
            suite=str(self._folder / "suite"),
            fingerprint=self._suite.fingerprint,
            checkpoints=str(self._folder),
            keep=keep,
            device=self._settings.device,
            measure=measure,
            at=ladder(self._settings.max_steps),
            curve=curve_steps(self._settings.max_steps),
        )


def _all_reached(unit: WorkUnit, result: UnitResult) -> bool:
    """Whether every run was trained to the end."""
    return all(run.reason is None for run in result.results)


def candidates(numbers: Measurements) -> list[int]:
    """The tasks to isolate: all, or of many those with the lowest affinity to the others."""
    tasks = list(range(len(numbers.tasks)))
    if len(tasks) <= ISOLATED:
        return tasks
    if numbers.pairs is None:
        return []
    return sorted(sorted(tasks, key=numbers.pairs.mean_affinity)[:ISOLATED])


def suspected(found: Sequence[Influence]) -> list[int]:
    """The tasks that did the others most harm at a first look."""
    harm = {one.task: one.others.value for one in found if one.others is not None}
    worst = sorted((t for t in harm if harm[t] >= HARMS), key=lambda t: (-harm[t], t))
    return sorted(worst[:SUSPECTS])


def _pairs(results: Sequence[UnitResult]) -> Pairs | None:
    """The affinity of the trunk's tasks, if it was measured; cosines of at most 9 spans."""
    found = [one for result in results for one in result.affinities if one is not None]
    if not found:
        return None
    (one,) = found
    places = np.unique(np.linspace(0, len(one["steps"]) - 1, _COSINES).round().astype(int))
    return Pairs(
        tuple(one["steps"][k] for k in places),
        tuple(one["cosine"][k] for k in places),
        tuple(one["affinity"]),
    )


def _nothing(reason: str) -> dict[str, Any]:
    return {
        "reason": reason, "cause": None, "findings": [], "advice": [], "measurements": None,
        "seconds": 0.0, "search_seconds": 0.0,
    }  # fmt: skip


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
