"""What is compared: methods, and the candidates that each of them was chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from autometa.errors import DataError
from autometa.metrics import Evaluation

Arm: TypeAlias = Literal["sharing", "independent"]
ARMS: tuple[Arm, Arm] = ("sharing", "independent")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A finalist of an arm, or the setting of a peer that was chosen on validation.

    Attributes:
        number: of its trial, if it is one.
        value: score on validation, mean over the paired seeds.
        outputs: test predictions of the network of each seed, [S, T, N, O] or [S, N, O] as
            `metrics` takes them; a baseline has S = 1. None in episodes.
        found: in episodes, statistics of every one under the name of its task, error
            [seed, episode]. The name is empty where an episode has classes of several tasks.
    """

    number: int | None
    value: float
    outputs: np.ndarray | None = None
    found: Evaluation | None = None


@dataclass(frozen=True, eq=False)
class Method:
    """One way to predict the test rows, or the query rows of the test episodes.

    Attributes:
        name: `sharing`, `independent`, or what a baseline or another network is called.
        words: how the verdict calls it.
        kind: `network` where it is trained by a search, else `baseline`.
        candidates: best on validation first; the first is what the method delivers.
        values: validation scores of the completed trials of the arm, from which the candidates
            were chosen; empty for what was not searched.
        n_trials, n_completed: of the arm, and those among them that were trained to the end.
        tuned: settings or trials that were tried.
        seconds: that fitting or searching took.
    """

    name: str
    words: str
    kind: Literal["network", "baseline"]
    candidates: tuple[Candidate, ...]
    values: tuple[float, ...] = ()
    n_trials: int = 0
    n_completed: int = 0
    tuned: int = 1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.candidates:
            raise DataError(f"Method `{self.name}` should have a candidate. Found none.")

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def check_names(methods: Sequence[Method]) -> None:
    """Raise DataError unless there are methods, each under a name of its own."""
    names = [method.name for method in methods]
    if not names:
        raise DataError("There is no method to judge.")
    if len(set(names)) < len(names):
        raise DataError(f"Each method should have a name of its own. Found {', '.join(names)}.")
