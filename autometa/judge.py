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
from autometa.searching.bound import Kept, Reference, judge_bound
from autometa.searching.executors import Script
from autometa.searching.finalists import Rerun, Runs, best_of
from autometa.searching.progress import Progress
from autometa.searching.settings import SearchSettings, rerun_seeds, run_seed
from autometa.space import Arm
from autometa.study import is_advised, is_eligible
from autometa.tasks import Rows, TaskSuite
from autometa.training.population import Trainer, task_specs
from autometa.training.state import PopulationState, Run, load_run
from autometa.trial import TrialConfig

#: the paired seeds of the final comparison
FINAL_SEEDS = 5
#: streams of seeds that no trial uses
_FINAL, _REFIT = 1_000_002, 1_000_003


@dataclass(frozen=True)
class Finalist:
    """A trial that was run again: its mean score on validation and what it was.

    `kept`: whether it keeps to the bound, where one is set for its arm.
    """

    arm: Arm
    number: int
    config: TrialConfig
    value: float
    kept: Kept | None = None

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger is better: by score among those that keep to the bound, else by how nearly."""
        if self.kept is None or self.kept.feasible:
            return True, self.value
        return False, -self.kept.closest.below


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
        self._runs = Runs(folder, suite.fingerprint, settings.max_epochs, settings.device)
        self._done = 0
        self._total = 0

    def script(
        self,
        trials: Sequence[FrozenTrial],
        reference: Reference | None = None,
        known: Mapping[str, float] | None = None,
    ) -> Script[Judgement]:
        """Compare the arms and leave the recommended model.

        Args:
            reference: what a bound on the tasks is measured from, where one is set.
            known: trial number → mean score on validation over new seeds, where the diagnosis has
                trained it already; of use without a bound only.

        Raises:
            InfrastructureError: no trial completed, or no finalist could be trained again.
        """
        self._suite.without_test().save(self._folder / "suite")
        known = known if reference is None and known is not None else {}
        finalists = yield from self._finalists(trials, reference, known)
        winners: dict[str, Finalist] = {}
        for one in finalists:
            if one.arm not in winners or one.rank > winners[one.arm].rank:
                winners[one.arm] = one
        states = yield from self._train_final(winners)
        test = self._compare(winners, states, describe_independent(trials))
        test["winners"] = {arm: winner.number for arm, winner in winners.items()}
        test["notes"] = [*test.get("notes", ()), *_notes(winners, trials)]
        test = self._judge_bound(test, trials, winners, reference)
        model = yield from self._refit(winners[test["recommended"]], test)
        return Judgement(winners, finalists, test, model)

    def _finalists(
        self,
        trials: Sequence[FrozenTrial],
        reference: Reference | None,
        known: Mapping[str, float],
    ) -> Script[tuple[Finalist, ...]]:
        """The best of each arm and what the diagnosis advised, trained again with new seeds."""
        chosen = [trial for arm in ("sharing", "independent") for trial in best_of(trials, arm)]
        chosen += [t for t in trials if is_advised(t) and is_eligible(t) and t not in chosen]
        if not chosen:
            raise InfrastructureError(
                "No trial completed, so there is nothing to judge. `autometa trials "
                f"{self._study}` gives the reason of each failure; resume with more trials."
            )
        arms = {trial.user_attrs["arm"] for trial in chosen}
        new = [trial for trial in chosen if str(trial.number) not in known]
        self._total = len(new) + len(arms) + 1
        self._say("The best trials of each arm are run again with new seeds.")
        seeds = [rerun_seeds(self._settings.seed, trial.number) for trial in new]
        again = yield from self._runs.rerun(new, seeds)
        runs = {trial.number: run for trial, run in zip(new, again, strict=True)}
        runs |= {t.number: Rerun(known[str(t.number)], {}) for t in chosen if t not in new}
        finalists = []
        for trial in chosen:
            run = runs[trial.number]
            if run is not None:
                finalists.append(self._finalist(trial, run, reference))
        if not finalists:
            raise InfrastructureError(
                "None of the best trials could be trained again: all diverged with new seeds. "
                "Lower the learning rates of the space and resume with more trials."
            )
        return tuple(finalists)

    def _finalist(self, trial: FrozenTrial, run: Rerun, reference: Reference | None) -> Finalist:
        arm, delta = trial.user_attrs["arm"], self._settings.no_task_worse_than
        kept = None
        if reference is not None and delta is not None and arm == "sharing":
            closest = reference.closest(run.tasks)
            kept = Kept(is_eligible(trial) and closest.below <= delta, closest)
        config = TrialConfig.from_flat(trial.user_attrs["config"])
        return Finalist(arm, trial.number, config, run.value, kept)

    def _judge_bound(
        self,
        test: dict[str, Any],
        trials: Sequence[FrozenTrial],
        winners: dict[str, Finalist],
        reference: Reference | None,
    ) -> dict[str, Any]:
        delta, sharing = self._settings.no_task_worse_than, winners.get("sharing")
        if reference is None or delta is None or sharing is None or sharing.kept is None:
            return test
        found = judge_bound(test, trials, reference, delta, sharing.number, sharing.kept)
        return found if found["recommended"] in winners else {**found, "recommended": "sharing"}

    def _train_final(self, winners: dict[str, Finalist]) -> Script[dict[str, PopulationState]]:
        """Every winner trained with the same seeds."""
        seeds = [run_seed(self._settings.seed, _FINAL, k) for k in range(FINAL_SEEDS)]
        units = [
            self._runs.unit(f"final-{arm}", winner.config.flat(), seeds, keep=True)
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
        unit = self._runs.unit("refit", winner.config.flat(), [seed], keep=True, suite="merged")
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
        parts = flat["sharing.partitions"].split("/")
        if len(parts[0]) > 12:  # of many tasks only how many groups they form
            parts = [f"{len(set(part))}" for part in parts]
        details.append(f"groups {', '.join(parts)}")
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


def describe_network(config: TrialConfig) -> str:
    """How a configuration shares, and how large it is: "…, 3 blocks of width 96"."""
    backbone: Any = config.backbone
    independent = config.flat()["sharing.kind"] == "independent"
    name = "independent networks" if independent else describe_sharing(config)
    return f"{name}, {backbone.depth} blocks of width {backbone.width}"


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
