"""The trainings of a final comparison: all finalists with paired seeds, longer where it pays, and
the refit of what is delivered."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from optuna.trial import FrozenTrial

from autometa.comparison import ARMS, Candidate
from autometa.errors import InfrastructureError
from autometa.levelling import CAP, CHECKED, LONGER, Gain, gain_of
from autometa.searching.bound import Kept
from autometa.searching.executors import Script
from autometa.searching.finalists import Runs, best_of, task_means
from autometa.searching.progress import Progress
from autometa.searching.settings import FINAL_SEEDS, SearchSettings, run_seed
from autometa.searching.units import WorkUnit
from autometa.trained import Trained, TrainedRuns, best_length
from autometa.training.state import PopulationState, Run, load_run
from autometa.trial import TrialConfig

#: streams of seeds that no trial uses
_FINAL, _REFIT = 1_000_002, 1_000_003


@dataclass(frozen=True)
class Entrant:
    """A configuration that takes part in the comparison.

    Attributes:
        method: whose candidate it is: an arm, or what stands beside the arms.
        number: of its trial, if it has one.
        optional: left out if a run of it fails, even if it is its method's only one.
    """

    method: str
    number: int | None
    config: TrialConfig
    optional: bool = False


@dataclass(frozen=True, eq=False)
class Finalist:
    """An entrant as it was trained with the paired seeds.

    Attributes:
        budget: steps that its schedule spans.
        steps: where it was best on validation, in the mean of the seeds: the length it counts with.
        value: its score on validation: that mean, or what its networks reach together where they
            are judged as one; `tasks` the means of the tasks' scores.
        state: the runs there, one a seed.
        kept: whether it keeps to the bound, where one is set for its arm.
        judged: what it predicts where it is judged; None before that is opened.
    """

    method: str
    number: int | None
    config: TrialConfig
    budget: int
    steps: int
    value: float
    tasks: dict[str, float | None]
    state: PopulationState = field(repr=False)
    kept: Kept | None = None
    judged: Candidate | None = field(default=None, repr=False)

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger is better: by score among those that keep to the bound, else by how nearly."""
        if self.kept is None or self.kept.feasible:
            return True, self.value
        return False, -self.kept.closest.below

    @property
    def runs(self) -> list[Run]:
        """Its runs, for predictions; which seed a run was trained with does not matter there."""
        return [Run(self.config, k) for k in range(len(self.state))]


class Trainings(NamedTuple):
    """What training all entrants gave.

    Attributes:
        finalists: those that have a score with every seed.
        gains: of each arm by each longer budget that was tried.
        budget: the longest that all were trained for.
        left_out: entrants that the time did not allow to train.
    """

    finalists: list[Finalist]
    gains: list[Gain]
    budget: int
    left_out: int = 0


@dataclass(frozen=True)
class Judgement:
    """What the final comparison found, and the model it recommends.

    Attributes:
        winners: the winner of each arm that was searched.
        finalists: all that were trained again without fail.
        test: plain JSON: methods, verdict, tasks.
        model: folder of the delivered model.
    """

    winners: dict[str, Finalist]
    finalists: tuple[Finalist, ...]
    test: dict[str, Any]
    model: Path


class Finals:
    """The trainings of a final comparison, as scripts of units.

    Args:
        folder: for the copy of the suite that workers read, and checkpoints.
        models: folder that the delivered model is written to.
        folds: as of the contest.
        left: seconds until the time-out. Where they are short, only the best trials of each arm
            are trained, and no longer budget is tried.
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
        folds: int = 0,
        left: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.settings = settings
        self.study = study
        self.folder = folder
        self._models = models
        self._notify = notify
        self._left = left
        own = tuple(range(folds))
        self._runs = Runs(folder, fingerprint, settings.max_steps, settings.device, own)
        self._seeds = [run_seed(settings.seed, _FINAL, k) for k in range(FINAL_SEEDS)]
        self._done = 0
        self._total = 0
        self._spent, self._steps = 0.0, 0  # seconds, and the steps of the units trained in them

    def entrants(self, trials: Sequence[FrozenTrial]) -> list[Entrant]:
        """The best trials of each arm; what a diagnosis advised is among the trials of its arm.

        Raises:
            InfrastructureError: no trial completed.
        """
        chosen = [
            Entrant(arm, trial.number, TrialConfig.from_flat(trial.user_attrs["config"]))
            for arm in ("sharing", "independent")
            for trial in best_of(trials, arm)
        ]
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
        return chosen

    def train(self, entrants: Sequence[Entrant], *, longer: bool) -> Script[Trainings]:
        """Train every entrant with the same `FINAL_SEEDS` seeds.

        Args:
            longer: find out whether the arms have levelled off, and train them longer if not.

        Raises:
            InfrastructureError: of an arm none could be trained again.
        """
        budget, gains = self.settings.max_steps, list[Gain]()
        last = CAP * budget if longer else budget
        runs: TrainedRuns = {}
        checked = [k for k, one in enumerate(entrants) if one.method in ARMS]
        checked = [k for k in checked if _rank(entrants, k) < CHECKED]
        places = list(range(len(entrants)))
        self.say(f"The best trials of each arm are trained with {FINAL_SEEDS} paired seeds.")
        if math.isinf(self._left()):
            check = self._units(entrants, checked, LONGER * budget) if last > budget else {}
            yield from self._add(runs, self._units(entrants, places, budget) | check)
        else:
            yield from self._in_time(runs, entrants, budget)
            places = [k for k in places if (k, budget) in runs]
        while last > budget:
            checked = [k for k in checked if k in places]
            check = self._units(entrants, checked, LONGER * budget, runs)
            if check and self._fits(check):
                yield from self._add(runs, check)
            found = [gain for arm in ARMS if (gain := _gain(arm, entrants, runs, budget))]
            gains += found
            wanted = self._units(entrants, places, LONGER * budget, runs)
            if not any(gain.gains for gain in found) or not self._fits(wanted):
                break
            budget *= LONGER
            self.say(f"An arm gains by longer training: all are trained for {budget:,} steps.")
            yield from self._add(runs, wanted)
        finalists, reasons = [], dict[str, str]()
        for number in places:
            entrant = entrants[number]
            lengths = [some for (k, _), some in runs.items() if k == number]
            failed = [run.failed for run in lengths[0] if run.failed]
            if failed:
                reasons[entrant.method] = failed[0]
                continue
            one = _finalist(entrant, lengths)
            if one is None:
                reasons[entrant.method] = "Its runs diverged, each at another length."
            else:
                finalists.append(one)
        kept = {finalist.method for finalist in finalists}
        for entrant in entrants:
            if entrant.method not in kept and not entrant.optional:
                raise InfrastructureError(
                    f"None of the best trials of the {entrant.method} arm could be trained again "
                    f"with new seeds: {reasons[entrant.method]} Lower the learning rates of the "
                    "space and resume with more trials."
                )
        return Trainings(finalists, gains, budget, len(entrants) - len(places))

    def refit(
        self, suite: Any, finalist: Finalist, members: int, facts: dict[str, Any]
    ) -> Script[tuple[PopulationState, dict[str, Any]]]:
        """Train `members` runs of a finalist's configuration for the length that it counts with.

        For those that diverge others are tried once; fewer are delivered if these do, too.

        Args:
            suite: its training and validation rows or tasks merged.
            facts: what the model is to say of itself.

        Returns:
            The runs, and the facts with those of the training.

        Raises:
            InfrastructureError: every run failed.
        """
        suite.save(self.folder / "merged")
        runs = replace(self._runs, max_steps=finalist.budget, folds=())
        trained: dict[int, Path] = {}
        reasons: list[str] = []
        for first in (0, members):
            missing = members - len(trained)
            seeds = [run_seed(self.settings.seed, _REFIT, first + k) for k in range(missing)]
            unit = runs.unit(
                f"refit-{first}", finalist.config.flat(), seeds, keep=True, suite="merged",
                to_step=finalist.steps,
            )  # fmt: skip
            (result,) = yield [unit]
            for seed, name, one in zip(seeds, unit.names, result.results, strict=True):
                if one.reason is None:
                    trained[seed] = unit.checkpoint(name, unit.to_step)
                else:
                    reasons.append(one.reason)
            if len(trained) == members:
                break
        if not trained:
            raise InfrastructureError(f"The final refit failed: {reasons[0]}")
        state = PopulationState.join([load_run(path) for path in trained.values()])
        return state, self.facts_of(finalist, facts, list(trained))

    def facts_of(
        self, finalist: Finalist, facts: dict[str, Any], seeds: Sequence[int] = ()
    ) -> dict[str, Any]:
        """The facts of a model, with those of its training; by default with the paired seeds."""
        lengths = {"steps": finalist.steps, "budget": finalist.budget}
        return {**facts, "study": self.study, **lengths, "seeds": list(seeds or self._seeds)}

    def place(self) -> Path:
        """The folder of the delivered model, empty."""
        path = self._models / self.study
        shutil.rmtree(path, ignore_errors=True)
        return path

    def unit_done(self) -> None:
        """Tell the user that one of the script's units has ended."""
        self._done += 1
        self._notify(Progress("judge", self._done, max(self._total, self._done)))

    def say(self, message: str) -> None:
        self._notify(Progress("judge", self._done, max(self._total, self._done), message=message))

    def _units(
        self,
        entrants: Sequence[Entrant],
        places: Sequence[int],
        budget: int,
        done: Collection[tuple[int, int]] = (),
    ) -> dict[tuple[int, int], WorkUnit]:
        """(Place of an entrant, budget) → the unit of all its seeds, but for what is done."""
        made = replace(self._runs, max_steps=budget)
        return {
            (place, budget): made.unit(
                f"final-{place}-{budget}", entrants[place].config.flat(), self._seeds, keep=True
            )
            for place in places
            if (place, budget) not in done
        }

    def _in_time(self, runs: TrainedRuns, entrants: Sequence[Entrant], budget: int) -> Script[None]:
        """Train the best of each method, and of the others as many as the time allows."""
        best = [k for k in range(len(entrants)) if _rank(entrants, k) == 0]
        yield from self._add(runs, self._units(entrants, best, budget))
        for rank in sorted({_rank(entrants, k) for k in range(len(entrants))}, reverse=True):
            others = [k for k in range(len(entrants)) if 0 < _rank(entrants, k) <= rank]
            units = self._units(entrants, others, budget)
            if units and self._fits(units):
                yield from self._add(runs, units)
                return

    def _fits(self, units: Mapping[tuple[int, int], WorkUnit]) -> bool:
        """Whether there is time for these units and a refit, as long as those before took."""
        left = self._left()
        if math.isinf(left):
            return True
        steps = sum(budget for _, budget in units)
        refit = max((budget for _, budget in units), default=0)
        return (steps + refit) * self._spent <= left * self._steps

    def _add(self, runs: TrainedRuns, units: Mapping[tuple[int, int], WorkUnit]) -> Script[None]:
        self._total = max(self._total, self._done + 1) + len(units)
        began = time.monotonic()
        results = yield list(units.values())
        self._spent += time.monotonic() - began
        self._steps += sum(budget for _, budget in units)
        for (key, unit), result in zip(units.items(), results, strict=True):
            curves = result.curves or tuple((one,) for one in result.results)  # lost units
            runs[key] = [
                Trained(unit, name, curve) for name, curve in zip(unit.names, curves, strict=True)
            ]


def _rank(entrants: Sequence[Entrant], place: int) -> int:
    """How many entrants of the same method are before it."""
    return sum(one.method == entrants[place].method for one in entrants[:place])


def _gain(arm: str, entrants: Sequence[Entrant], runs: TrainedRuns, budget: int) -> Gain | None:
    """What an arm gains by the next budget; None if none of its runs can say."""
    pairs: list[Float[np.ndarray, "two seed"]] = []
    for place, entrant in enumerate(entrants):
        both = [runs.get((place, steps), []) for steps in (budget, LONGER * budget)]
        if entrant.method == arm and all(some and not any(r.failed for r in some) for some in both):
            pairs.append(np.array([[run.best for run in some] for some in both]))
    if not pairs:
        return None
    values = np.stack(pairs)
    return gain_of(arm, budget, LONGER * budget, values[:, 0], values[:, 1])


def _finalist(entrant: Entrant, lengths: Sequence[Sequence[Trained]]) -> Finalist | None:
    """An entrant at its best length; None where at no length every run has a score."""
    found = best_length(lengths)
    if found is None:
        return None
    of_seed, place, value = found
    steps, budget = of_seed[0].curve[place].step, of_seed[0].unit.max_steps
    state = PopulationState.join(
        [load_run(run.unit.checkpoint(run.name, steps)) for run in of_seed]
    )
    tasks = task_means([run.curve[place] for run in of_seed])
    return Finalist(
        entrant.method, entrant.number, entrant.config, budget, steps, value, tasks, state
    )
