"""What earlier searches did for a search that learned from them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import rankdata

from autometa.study import DROPPED, is_advised, proposed_by, rung_values, score_of

FROM_SOURCES = ("portfolio", "model")
FREE = ("random", "tpe", "gp")
WINDOW = 8
"""Trials of an arm, one after the other, that are compared: about as many as are suggested ahead,
so that they were proposed knowing about as much."""
N_PERMUTATIONS = 9999
LEVEL = 0.05


def account(trials: Sequence[FrozenTrial], sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the sources did, as JSON.

    `proposed`: trials by how they were proposed: `portfolio` and `model` from the sources,
    `random`, `tpe` and `gp` without them. `best`: the highest score of a completed trial of the
    sources' (`prior`) and of the others (`free`). `sources`: those given, with `dropped` by arm:
    the number of the trial at which they were found to order the trials wrongly. `p` and `verdict`:

    - `dropped`: all sources were dropped, in every arm that had any.
    - `helped`: the sources' trials came out higher than the prior-free ones, p < 0.05, and the best
      completed trial is one of theirs.
    - `neutral`: neither can be said, also where there are too few trials to say it.
    - None: no trial with an outcome was proposed yet.

    A trial's outcome is how far it came before it was pruned, then its score there. p is of a
    one-sided stratified rank test (van Elteren 1960), by permutation: prior-free trials are
    compared with those of the same arm that were proposed at about the same time. It compares
    proposals within this search: prior-free trials profit from what the others found, so that a
    search without any prior may do worse than they did, or better. Only a second search with
    `prior="off"` can tell.
    """
    own = [t for t in trials if not is_advised(t) and proposed_by(t) is not None]
    numbers = dropped(own)
    rows = [
        {**source, "dropped": {arm: at[k] for arm, at in numbers.items() if k in at}}
        for k, source in enumerate(sources)
    ]
    best = {
        "prior": _best(t for t in own if proposed_by(t) in FROM_SOURCES),
        "free": _best(t for t in own if proposed_by(t) in FREE),
    }
    p = compare(own)
    verdict = None
    if any(t.state.is_finished() for t in own):
        ahead = _or_least(best["prior"]) > _or_least(best["free"])
        verdict = "helped" if p is not None and p < LEVEL and ahead else "neutral"
        if _all_dropped(rows):
            verdict = "dropped"
    counts = Counter(proposed_by(t) for t in own)
    return {
        "sources": rows,
        "proposed": {by: counts[by] for by in (*FROM_SOURCES, *FREE)},
        "best": best,
        "p": p,
        "verdict": verdict,
    }


def dropped(trials: Iterable[FrozenTrial]) -> dict[str, dict[int, int]]:
    """Arm → source → number of the trial at which it was dropped."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for trial in sorted(trials, key=lambda t: t.number):
        for source in json.loads(trial.system_attrs.get(DROPPED, "[]")):
            found[trial.user_attrs.get("arm", "sharing")].setdefault(source, trial.number)
    return dict(found)


def compare(trials: Sequence[FrozenTrial]) -> float | None:
    """p of the hypothesis that proposals of the sources are no better than prior-free ones; None if
    no two can be compared (see `account`)."""
    strata: list[tuple[np.ndarray, np.ndarray]] = []
    for arm in sorted({t.user_attrs.get("arm", "sharing") for t in trials}):
        own = [t for t in trials if t.user_attrs.get("arm", "sharing") == arm]
        own.sort(key=lambda t: t.number)
        for start in range(0, len(own), WINDOW):
            told = [(o, t) for t in own[start : start + WINDOW] if (o := _outcome(t)) is not None]
            free = np.array([proposed_by(t) in FREE for _, t in told], dtype=bool)
            if 0 < free.sum() < len(told):
                places = {o: k for k, o in enumerate(sorted({o for o, _ in told}))}
                strata.append((rankdata([places[o] for o, _ in told]) / (len(told) + 1), free))
    if not strata:
        return None
    found = sum(float(ranks[~free].sum()) for ranks, free in strata)
    rng = np.random.default_rng(0)
    drawn = np.zeros(N_PERMUTATIONS)
    for ranks, free in strata:
        mixed = rng.permuted(np.tile(ranks, (N_PERMUTATIONS, 1)), axis=1)
        drawn += mixed[:, : int((~free).sum())].sum(1)
    return float((1 + (drawn >= found - 1e-9).sum()) / (1 + N_PERMUTATIONS))


def _outcome(trial: FrozenTrial) -> tuple[float, ...] | None:
    """Larger is better; None without a value. Failed trials are the worst."""
    if trial.state == TrialState.FAIL:
        return 0.0, 0.0, 0.0
    score = score_of(trial)
    if not trial.state.is_finished() or score is None:
        return None
    return 1.0, float(max(rung_values(trial), default=0)), score


def _best(trials: Iterable[FrozenTrial]) -> float | None:
    done = (score_of(t) for t in trials if t.state == TrialState.COMPLETE)
    return max((value for value in done if value is not None), default=None)


def _or_least(value: float | None) -> float:
    return -np.inf if value is None else value


def _all_dropped(rows: Sequence[Mapping[str, Any]]) -> bool:
    pairs = [
        arm in row["dropped"]
        for row in rows
        for arm, weight in row["weight"].items()
        if weight is not None
    ]
    return bool(pairs) and all(pairs)
