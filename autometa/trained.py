"""What the runs of a final comparison reached on the way, and at which length they were best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autometa.searching.units import WorkUnit
from autometa.training.population import RunResult


@dataclass(frozen=True, eq=False)
class Trained:
    """One run: where it was scored and saved on the way."""

    unit: WorkUnit
    name: str
    curve: tuple[RunResult, ...]

    @property
    def failed(self) -> str | None:
        """Why it has no score anywhere; a run that diverged late counts with what it had."""
        if any(result.value is not None for result in self.curve):
            return None
        return next((r.reason for r in self.curve if r.reason), "The run has no score.")

    @property
    def best(self) -> float:
        return max(result.value for result in self.curve if result.value is not None)


TrainedRuns = dict[tuple[int, int], list[Trained]]
"""(Place of an entrant, budget) → its runs, one a paired seed."""


def best_length(
    lengths: Sequence[Sequence[Trained]],
) -> tuple[Sequence[Trained], int, float] | None:
    """Where a configuration is best in the mean of its seeds; equal ones favour the shorter.

    Args:
        lengths: its runs, one a seed, with each budget.

    Returns:
        The runs, the point of their curves, and the mean there; None where at no point every run
        has a score.
    """
    best: tuple[Sequence[Trained], int, float] | None = None
    for of_seed in lengths:
        for place in range(len(of_seed[0].curve)):
            values = [run.curve[place].value if place < len(run.curve) else None for run in of_seed]
            known = [value for value in values if value is not None]
            if len(known) == len(values) and (best is None or np.mean(known) > best[2]):
                best = of_seed, place, float(np.mean(known))
    return best
