"""What fixes a search: its settings, and the arm and the seeds of a trial that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autometa.space import Arm  # it loads Optuna, which a worker can do without

#: what NumPy, scikit-learn and torch all take
MAX_SEED = 2**32 - 1
#: of the time-out: for the trials; the rest is for the judgement, with what the trials left over
TRIALS_SHARE = 0.5
#: the paired seeds of the final comparison, each with a fold of its own where there are folds
FINAL_SEEDS = 5
#: seeds that a finalist is run again with, and their stream, which no trial uses
RERUN_SEEDS, _RERUN = 3, 1_000_001


@dataclass(frozen=True)
class SearchSettings:
    """What fixes a search besides suite and space.

    `max_steps`: optimizer steps of a trial that is never stopped early.
    `timeout`: seconds for the trials and the judgement (`TRIALS_SHARE`); None for no limit.
    `no_task_worse_than`: how far a task's score may be below the reference (see `bound`).
    `cost`: what is minimised beside the score (`costs.COSTS`).
    `ensemble`: networks that are delivered as one model, and judged as one.
    `deliver`: `auto`: the recommended method, whichever it is; `network`: the best network.
    """

    n_trials: int
    max_steps: int
    seed: int = 0
    sampler: str = "tpe"
    pruner: str = "asha"
    independent_share: float = 0.5
    timeout: float | None = None
    device: str = "auto"
    no_task_worse_than: float | None = None
    cost: str | None = None
    ensemble: int = FINAL_SEEDS
    deliver: str = "auto"


def arm_of(number: int, independent_share: float, arms: tuple[Arm, ...]) -> Arm:
    """The arm of a trial: `independent_share` of all trials, evenly interleaved."""
    if len(arms) == 1:
        return arms[0]
    before, after = (independent_trials(n, independent_share) for n in (number, number + 1))
    return "independent" if after > before else "sharing"


def independent_trials(n_trials: int, independent_share: float) -> int:
    """How many of all trials belong to the independent arm."""
    # rounding keeps 10 × 0.1 from falling short of 1
    return math.floor(round(n_trials * independent_share, 9))


def rerun_seeds(seed: int, number: int) -> list[int]:
    """The seeds that a trial is run again with, as a finalist."""
    return [run_seed(seed, _RERUN, number, k) for k in range(RERUN_SEEDS)]


def run_seed(seed: int, *numbers: int) -> int:
    """The seed of a run, drawn from the search's seed and the run's numbers."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0] & 0x7FFFFFFF)
