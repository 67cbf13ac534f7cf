"""The runs of each method: its candidates, and the best of them without one of its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from autometa.comparison.luck import Luck, luck_of
from autometa.comparison.methods import Method
from autometa.ensembles import combine, leave_one_out
from autometa.errors import AutometaError, DataError
from autometa.metrics import Evaluation, Mask, TaskOfRow, TaskSpec, evaluate


@dataclass(frozen=True, eq=False)
class Entry:
    """How the results of a method are made of those of the runs.

    Attributes:
        full: [candidate, run], what each candidate reaches; the first is the method's result.
        without: [seed, run], what the first reaches without one of its seeds; no rows if it has
            one seed.
        luck: of the search that chose the first; None where it has no others.
        seed_scores: the score of each seed's network of the first candidate.
    """

    full: Float[np.ndarray, "candidate run"]
    without: Float[np.ndarray, "seed run"]
    luck: Luck | None
    seed_scores: tuple[float, ...]


def entry_of(
    method: Method,
    outputs: list[np.ndarray],
    y: np.ndarray,
    specs: Sequence[TaskSpec],
    mask: Mask,
    task: TaskOfRow,
    ensemble: bool,
) -> Entry:
    """What a method is made of; its runs are added to `outputs`."""
    start = sum(map(len, outputs))
    for candidate in method.candidates:
        found = evaluate(outputs_of(candidate.outputs), y, specs, mask=mask, task=task)
        bad = np.argwhere(~np.isfinite(found.error))
        if len(bad):
            who = "" if candidate.number is None else f" (trial {candidate.number})"
            raise AutometaError(
                f"The predictions of `{method.name}`{who} with seed {bad[0][0]} are not finite for "
                f"task {specs[bad[0][1]].name!r}; leave it out of the comparison."
            )
    best = outputs_of(method.best.outputs)
    scores = evaluate(best, y, specs, mask=mask, task=task).value()
    members = [outputs_of(candidate.outputs) for candidate in method.candidates]
    if not ensemble:
        outputs += members
        return averaged(method, start, [len(one) for one in members], scores)
    outputs += [combine(one, specs, task)[None] for one in members]
    k, seeds = len(members), len(best)
    full = np.eye(k, start + k, start)
    without = np.zeros((0, start + k))
    if seeds > 1:
        outputs.append(leave_one_out(best, specs, task))
        without = np.eye(seeds, start + k + seeds, start + k)
    return Entry(full, without, _luck(method), tuple(scores.tolist()))


def averaged(
    method: Method, start: int, counts: Sequence[int], scores: Float[np.ndarray, "seed"]
) -> Entry:
    """Candidates whose result is the mean over the runs of their seeds, in this order."""
    width = start + sum(counts)
    full = np.zeros((len(counts), width))
    for place, (count, first) in enumerate(zip(counts, np.cumsum([start, *counts]), strict=False)):
        full[place, first : first + count] = 1.0 / count
    n = counts[0]
    without = np.zeros((n if n > 1 else 0, width))
    if n > 1:
        without[:, start : start + n] = (1.0 - np.eye(n)) / (n - 1)
    return Entry(full, without, _luck(method), tuple(scores.tolist()))


def _luck(method: Method) -> Luck | None:
    return luck_of(len(method.candidates)) if method.values else None


def padded(entry: Entry, runs: int) -> Entry:
    """With zeros for the runs of later methods."""
    full, without = (
        np.pad(part, ((0, 0), (0, runs - part.shape[1]))) for part in (entry.full, entry.without)
    )
    return replace(entry, full=full, without=without)


def outputs_of(outputs: np.ndarray | None) -> np.ndarray:
    if outputs is None:
        raise DataError("A candidate that is judged on rows should have outputs. Found none.")
    return outputs


def statistics_of(found: Evaluation | None) -> Evaluation:
    if found is None:
        raise DataError("A candidate that is judged in episodes should have statistics of them.")
    return found


def check_seeds(methods: Sequence[Method]) -> None:
    seeds = {}
    for method in methods:
        for candidate in method.candidates:
            part = candidate.outputs if candidate.found is None else candidate.found.error
            if method.kind == "network":
                seeds[len(outputs_of(part))] = method.name
    if len(seeds) > 1 or 0 in seeds:
        counts = ", ".join(f"{n} for {name}" for n, name in seeds.items())
        raise DataError(
            f"All networks should have the same number of seeds, at least one. Found {counts}."
        )
