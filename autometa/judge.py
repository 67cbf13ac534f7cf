"""The final comparison: the best of each arm, re-run, paired, and read on the test rows once.

The three best trials of each arm, and those that a diagnosis advised, are run again with three new
seeds each, on validation; the mean names the arm's winner. The two winners are then trained with
five seeds that both share, and their predictions on the test rows are compared. Nothing else ever
opens the test rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from torch import device as torch_device

from autometa.baselines import gbdt_predictions
from autometa.comparison import Comparison, compare
from autometa.errors import InfrastructureError
from autometa.metrics import evaluate
from autometa.model import Model
from autometa.searching.executors import Script
from autometa.searching.finalists import best_of, is_advised
from autometa.searching.loop import SearchSettings, run_seed
from autometa.searching.progress import Progress
from autometa.searching.units import WorkUnit
from autometa.space import Arm
from autometa.tasks import Rows, TaskSuite
from autometa.training.population import Trainer, task_specs
from autometa.training.state import PopulationState, Run, load_run
from autometa.trial import TrialConfig

#: validation seeds of a finalist, and the paired seeds of the final comparison
RERUN_SEEDS, FINAL_SEEDS = 3, 5
#: streams of seeds that no trial uses
_RERUN, _FINAL, _REFIT = 1_000_001, 1_000_002, 1_000_003


@dataclass(frozen=True)
class Finalist:
    """A trial that was run again: its mean score on validation and what it was."""

    arm: Arm
    number: int
    config: TrialConfig
    value: float


@dataclass(frozen=True)
class Judgement:
    """What the final comparison found, and the model it recommends.

    Attributes:
        winners: the winner of each arm that was searched.
        finalists: all that were trained again without fail.
        test: plain JSON: scores, Δm, verdict and tasks, as `Comparison.to_json` gives it.
        model: folder of the recommended model.
    """

    winners: dict[str, Finalist]
    finalists: tuple[Finalist, ...]
    test: dict[str, Any]
    model: Path


class Judge:
    """The final comparison of a study, as a script of units.

    Args:
        suite: with its test rows, opened here and nowhere else.
        folder: for the copy of the suite that workers read, and checkpoints.
        models: folder that the recommended model is written to.
    """

    def __init__(
        self,
        suite: TaskSuite,
        settings: SearchSettings,
        *,
        study: str,
        folder: Path,
        models: Path,
        notify: Callable[[Progress], None],
    ) -> None:
        self._suite = suite
        self._settings = settings
        self._study = study
        self._folder = folder
        self._models = models
        self._notify = notify
        self._done = 0
        self._total = 0

    def script(
        self, trials: Sequence[FrozenTrial], known: Mapping[str, float] | None = None
    ) -> Script[Judgement]:
        """Compare the arms and leave the recommended model.

        Args:
            known: trial number → mean score on validation over `RERUN_SEEDS` new seeds, where the
                diagnosis has trained it already.

        Raises:
            InfrastructureError: no trial completed, or no finalist could be trained again.
        """
        self._suite.without_test().save(self._folder / "suite")
        finalists = yield from self._finalists(trials, known or {})
        winners: dict[str, Finalist] = {}
        for finalist in finalists:
            best = winners.get(finalist.arm)
            if best is None or finalist.value > best.value:
                winners[finalist.arm] = finalist
        states = yield from self._train_final(winners)
        test = self._compare(winners, states, describe_independent(trials))
        test["notes"] = [*test.get("notes", ()), *_notes(winners, trials)]
        model = yield from self._refit(winners[test["recommended"]], test)
        return Judgement(winners, finalists, test, model)

    def _finalists(
        self, trials: Sequence[FrozenTrial], known: Mapping[str, float]
    ) -> Script[tuple[Finalist, ...]]:
        """The best of each arm and what the diagnosis advised, trained again with new seeds."""
        chosen = [trial for arm in ("sharing", "independent") for trial in best_of(trials, arm)]
        chosen += [
            trial
            for trial in trials
            if is_advised(trial) and trial.value is not None and trial not in chosen
        ]
        if not chosen:
            raise InfrastructureError(
                "No trial completed, so there is nothing to judge. `autometa trials "
                f"{self._study}` gives the reason of each failure; resume with more trials."
            )
        arms = {trial.user_attrs["arm"] for trial in chosen}
        new = [trial for trial in chosen if str(trial.number) not in known]
        self._total = len(new) + len(arms) + 1
        values = yield from self._rerun(new)
        found = {trial.number: known.get(str(trial.number)) for trial in chosen}
        found |= {trial.number: value for trial, value in zip(new, values, strict=True)}
        finalists = []
        for trial in chosen:
            value = found[trial.number]
            if value is not None:
                config = TrialConfig.from_flat(trial.user_attrs["config"])
                arm = trial.user_attrs["arm"]
                finalists.append(Finalist(arm, trial.number, config, value))
        if not finalists:
            raise InfrastructureError(
                "None of the best trials could be trained again: all diverged with new seeds. "
                "Lower the learning rates of the space and resume with more trials."
            )
        return tuple(finalists)

    def _rerun(self, finalists: Sequence[FrozenTrial]) -> Script[list[float | None]]:
        """Mean validation score of each finalist over new seeds; None if a run failed."""
        units = []
        for trial in finalists:
            seeds = [
                run_seed(self._settings.seed, _RERUN, trial.number, k) for k in range(RERUN_SEEDS)
            ]
            config = trial.user_attrs["config"]
            units.append(self._unit(f"rerun-{trial.number}", config, seeds, keep=False))
        self._say("The best trials of each arm are run again with new seeds.")
        values: list[float | None] = []
        for result in (yield units):
            scores = [r.value for r in result.results]
            values.append(
                None if any(s is None for s in scores) else float(np.mean([s or 0 for s in scores]))
            )
        return values

    def _train_final(self, winners: dict[str, Finalist]) -> Script[dict[str, PopulationState]]:
        """Every winner trained with the same seeds."""
        seeds = [run_seed(self._settings.seed, _FINAL, k) for k in range(FINAL_SEEDS)]
        units = [
            self._unit(f"final-{arm}", winner.config.flat(), seeds, keep=True)
            for arm, winner in winners.items()
        ]
        self._say(f"The winner of each arm is trained with {FINAL_SEEDS} paired seeds.")
        results = yield units
        states = {}
        for (arm, winner), unit, result in zip(winners.items(), units, results, strict=True):
            failed = [r.reason for r in result.results if r.reason]
            if failed:
                raise InfrastructureError(
                    f"A final run of trial {winner.number} failed: {failed[0]}"
                )
            states[arm] = PopulationState.join(
                [load_run(unit.checkpoint(n, unit.to_epoch)) for n in unit.names]
            )
        return states

    def _compare(
        self,
        winners: dict[str, Finalist],
        states: dict[str, PopulationState],
        independent_words: str,
    ) -> dict[str, Any]:
        stripped = self._suite.without_test()
        specs = task_specs(stripped)
        trainer = Trainer(stripped, self._settings.max_epochs, torch_device("cpu"))
        test = self._suite.open_test()
        predictions = {
            arm: trainer.predict(
                [Run(winner.config, k) for k in range(FINAL_SEEDS)], states[arm], test
            )
            for arm, winner in winners.items()
        }
        truth = test.y.numpy()
        mask, task = test.mask.numpy(), _numpy(test.task)
        trees = None if self._suite.is_image else self._trees(test)
        if len(winners) == 2:
            found: Comparison = compare(
                predictions["sharing"],
                predictions["independent"],
                truth,
                specs,
                mask=mask,
                task=task,
                gbdt=trees,
                suite=self._suite.name,
                sharing=describe_sharing(winners["sharing"].config),
                independent_words=independent_words,
                seed=self._settings.seed,
            )
            return found.to_json()
        (arm,) = winners
        score, gbdt = (
            None
            if pred is None
            else float(evaluate(pred, truth, specs, mask=mask, task=task).value().mean())
            for pred in (predictions[arm], trees)
        )
        return one_arm(arm, self._suite.name, score, gbdt)

    def _trees(self, test: Rows) -> np.ndarray:
        train = self._suite.rows("train")
        return gbdt_predictions(
            train.x.numpy(),
            train.y.numpy(),
            test.x.numpy(),
            task_specs(self._suite.without_test()),
            mask_train=train.mask.numpy(),
            task_train=_numpy(train.task),
            task=_numpy(test.task),
            seed=self._settings.seed,
        )

    def _refit(self, winner: Finalist, test: dict[str, Any]) -> Script[Path]:
        merged = self._suite.merged()
        merged.save(self._folder / "merged")
        seed = run_seed(self._settings.seed, _REFIT)
        unit = self._unit("refit", winner.config.flat(), [seed], keep=True, suite="merged")
        self._say("The recommended model is trained on training and validation rows.")
        (result,) = yield [unit]
        if result.results[0].reason:
            raise InfrastructureError(f"The final refit failed: {result.results[0].reason}")
        facts = {
            "suite": self._suite.name,
            "fingerprint": self._suite.fingerprint,
            "study": self._study,
            "trial": winner.number,
            "arm": winner.arm,
            "epochs": self._settings.max_epochs,
            "seed": seed,
            "validation_score": winner.value,
            "test_score": test["score" if winner.arm == "sharing" else "independent_score"],
            "verdict": test["verdict"],
        }
        state = load_run(unit.checkpoint("refit-0", unit.to_epoch))
        path = self._models / self._study
        shutil.rmtree(path, ignore_errors=True)
        return Model.of(merged, winner.config, state, facts).save(path)

    def _unit(
        self,
        name: str,
        config: dict[str, Any],
        seeds: Sequence[int],
        *,
        keep: bool,
        suite: str = "suite",
    ) -> WorkUnit:
        return WorkUnit(
            names=tuple(f"{name}-{k}" for k in range(len(seeds))),
            configs=(config,) * len(seeds),
            seeds=tuple(seeds),
            from_epoch=0,
            to_epoch=self._settings.max_epochs,
            max_epochs=self._settings.max_epochs,
            suite=str(self._folder / suite),
            fingerprint=self._suite.fingerprint,
            checkpoints=str(self._folder),
            keep=keep,
            device=self._settings.device,
        )

    def unit_done(self) -> None:
        """Tell the user that one of the script's units has ended."""
        self._done += 1
        self._notify(Progress("judge", self._done, self._total))

    def _say(self, message: str) -> None:
        self._notify(Progress("judge", self._done, self._total, message=message))


def describe_sharing(config: TrialConfig) -> str:
    """How a configuration shares, in a few words: "hard sharing (2 of 3 blocks shared)"."""
    flat = config.flat()
    kind = flat["sharing.kind"]
    details = []
    if kind == "hard":
        depth = flat["backbone.depth"]
        split = flat["sharing.split_at"]
        details.append(f"{depth if split is None else split} of {depth} blocks shared")
    if kind == "tree" and flat["sharing.partitions"] is not None:
        details.append(f"groups {flat['sharing.partitions'].replace('/', ', ')}")
    if kind == "soft":
        details.append(f"tie {flat['sharing.tie']:.2g}")
    if kind == "cross_stitch":
        details.append(f"one unit a {flat['sharing.units']}")
    if kind == "sluice":
        details.append(f"{flat['sharing.subspaces']} subspaces")
    if flat["conditioning.kind"] != "none":
        details.append(f"{flat['conditioning.kind']} conditioning at {flat['conditioning.at']}")
    if flat["head"] == "single_head":
        details.append("one head for all tasks")
    name = f"{kind.replace('_', '-')} sharing"
    return f"{name} ({', '.join(details)})" if details else name


def describe_independent(trials: Sequence[FrozenTrial]) -> str:
    """ "Equally tuned" only where both arms had as many trials, give or take one."""
    number = {
        arm: sum(t.user_attrs.get("arm") == arm and not is_advised(t) for t in trials)
        for arm in ("sharing", "independent")
    }
    if number["independent"] + 1 >= number["sharing"]:
        return "equally tuned independent networks"
    return (
        f"independent networks tuned with {number['independent']} of {sum(number.values())} trials"
    )


def _notes(winners: Mapping[str, Finalist], trials: Sequence[FrozenTrial]) -> list[str]:
    """What else a reader of the verdict has to know."""
    advised = [trial.number for trial in trials if is_advised(trial)]
    if "sharing" not in winners or winners["sharing"].number not in advised:
        return []
    return [
        f"the sharing network was advised by the diagnosis, tried beyond the searched trials "
        f"({len(advised)} of its kind)"
    ]


def one_arm(arm: str, suite: str, score: float | None, gbdt: float | None) -> dict[str, Any]:
    """The result where one arm was searched and there is nothing to compare with."""
    other = "independent networks" if arm == "sharing" else "sharing"
    missing = "independent" if arm == "sharing" else "sharing"
    return {
        "suite": suite,
        "outcome": "undecided",
        "recommended": arm,
        "score": score if arm == "sharing" else None,
        "independent_score": score if arm == "independent" else None,
        "gbdt_score": gbdt,
        "constant_score": 0.0,
        "difference": None,
        "difference_ci": None,
        "delta_m": None,
        "delta_m_ci": None,
        "tasks": [],
        "verdict": (
            f"No comparison on {suite}: no trial of the {missing} arm completed, so nothing can "
            f"be said about {other}; the network found scores {score:.3f}."
        ),
    }


def _numpy(values: Any) -> np.ndarray | None:
    return None if values is None else values.numpy()
