"""What every final comparison does: the best trials again, winners with paired seeds, one refit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from autometa.errors import InfrastructureError
from autometa.model import Model
from autometa.searching.bound import Kept
from autometa.searching.executors import Script
from autometa.searching.finalists import Rerun, Runs, best_of
from autometa.searching.progress import Progress
from autometa.searching.settings import SearchSettings, rerun_seeds, run_seed
from autometa.space import Arm
from autometa.study import is_advised, is_eligible
from autometa.training.state import PopulationState, load_run
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
        test: plain JSON: scores, verdict, tasks.
        model: folder of the recommended model.
    """

    winners: dict[str, Finalist]
    finalists: tuple[Finalist, ...]
    test: dict[str, Any]
    model: Path


class Finals:
    """The trainings of a final comparison, as scripts of units.

    Args:
        folder: for the copy of the suite that workers read, and checkpoints.
        models: folder that the recommended model is written to.
    """

    def __init__(
        self,
        settings: SearchSettings,
        *,
        study: str,
        fingerprint: str,
        folder: Path,
        models: Path,
        notify: Callable[[Progress], None],
    ) -> None:
        self.settings = settings
        self.study = study
        self.folder = folder
        self._models = models
        self._notify = notify
        self._runs = Runs(folder, fingerprint, settings.max_epochs, settings.device)
        self._done = 0
        self._total = 0

    def finalists(
        self,
        trials: Sequence[FrozenTrial],
        known: Mapping[str, float],
        finalist: Callable[[FrozenTrial, Rerun], Finalist],
    ) -> Script[tuple[Finalist, ...]]:
        """The best of each arm and what the diagnosis advised, trained again with new seeds.

        Args:
            known: trial number → mean score over new seeds, where there is one already.

        Raises:
            InfrastructureError: no trial completed, or none could be trained again.
        """
        chosen = [trial for arm in ("sharing", "independent") for trial in best_of(trials, arm)]
        chosen += [t for t in trials if is_advised(t) and is_eligible(t) and t not in chosen]
        if not trials:
            raise InfrastructureError(
                "No trial was started before the time was up, so there is nothing to judge. Resume "
                f"study `{self.study}` with a longer `timeout`."
            )
        if not chosen:
            raise InfrastructureError(
                "No trial completed, so there is nothing to judge. `autometa trials "
                f"{self.study}` gives the reason of each failure; resume with more trials."
            )
        arms = {trial.user_attrs["arm"] for trial in chosen}
        new = [trial for trial in chosen if str(trial.number) not in known]
        self._total = len(new) + len(arms) + 1
        self.say("The best trials of each arm are run again with new seeds.")
        seeds = [rerun_seeds(self.settings.seed, trial.number) for trial in new]
        again = yield from self._runs.rerun(new, seeds)
        runs = {trial.number: run for trial, run in zip(new, again, strict=True)}
        runs |= {t.number: Rerun(known[str(t.number)], {}) for t in chosen if t not in new}
        found = [(trial, runs[trial.number]) for trial in chosen]
        finalists = tuple(finalist(trial, run) for trial, run in found if run is not None)
        if not finalists:
            raise InfrastructureError(
                "None of the best trials could be trained again: all diverged with new seeds. "
                "Lower the learning rates of the space and resume with more trials."
            )
        return finalists

    def train(
        self, configs: Mapping[str, TrialConfig], optional: Container[str] = ()
    ) -> Script[dict[str, PopulationState]]:
        """Every configuration trained with the same `FINAL_SEEDS` seeds.

        Args:
            optional: configurations that are left out if a run of them fails.

        Raises:
            InfrastructureError: a run of another one failed.
        """
        seeds = [run_seed(self.settings.seed, _FINAL, k) for k in range(FINAL_SEEDS)]
        units = [
            self._runs.unit(f"final-{name}", config.flat(), seeds, keep=True)
            for name, config in configs.items()
        ]
        self._total = self._done + len(units) + 1
        self.say(f"The winner of each arm is trained with {FINAL_SEEDS} paired seeds.")
        results = yield units
        states = {}
        for name, unit, result in zip(configs, units, results, strict=True):
            failed = [r.reason for r in result.results if r.reason]
            if failed and name in optional:
                continue
            if failed:
                raise InfrastructureError(f"A final run ({name}) failed: {failed[0]}")
            states[name] = PopulationState.join(
                [load_run(unit.checkpoint(n, unit.to_epoch)) for n in unit.names]
            )
        return states

    def refit(self, suite: Any, config: TrialConfig, facts: dict[str, Any]) -> Script[Path]:
        """Train and save the recommended model.

        Args:
            suite: its training and validation rows or tasks merged.
            facts: what the model is to say of itself.

        Raises:
            InfrastructureError: the run failed.
        """
        suite.save(self.folder / "merged")
        seed = run_seed(self.settings.seed, _REFIT)
        unit = self._runs.unit("refit", config.flat(), [seed], keep=True, suite="merged")
        (result,) = yield [unit]
        if result.results[0].reason:
            raise InfrastructureError(f"The final refit failed: {result.results[0].reason}")
        state = load_run(unit.checkpoint("refit-0", unit.to_epoch))
        path = self._models / self.study
        shutil.rmtree(path, ignore_errors=True)
        source = {"study": self.study, "epochs": self.settings.max_epochs, "seed": seed}
        return Model.of(suite, config, state, {**facts, **source}).save(path)

    def unit_done(self) -> None:
        """Tell the user that one of the script's units has ended."""
        self._done += 1
        self._notify(Progress("judge", self._done, self._total))

    def say(self, message: str) -> None:
        self._notify(Progress("judge", self._done, self._total, message=message))


def deliver_network(test: dict[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
    """The comparison where a network is delivered whatever is recommended.

    Args:
        values: arm → score of its winner on validation.
    """
    if test["recommended"] in values:
        return test
    arm = test["outcome"]
    if arm == "undecided":
        arm = max(values, key=lambda name: values[name])
    return {**test, "recommended": arm}
