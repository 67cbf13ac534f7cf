"""Folds of the rows that are not for test: cross-validation where validation rows are few.

A fifth of a small table says little about a model, and the best of many on it is the luckiest.
Where the validation rows were drawn, others may take their place: every row is then predicted by a
model that has not seen it.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from autometa.tasks.labels import Target
from autometa.tasks.splits import iterative, label_matrix, stratum
from autometa.tasks.suite import TaskSuite

#: validation rows that are enough as they are
ENOUGH = 1000


def fold_numbers(suite: TaskSuite, folds: int) -> Int64[Tensor, " row"] | None:
    """The fold of each training and validation row, the same wherever it is asked for.

    Folds are stratified like the splits; rows of one group are in one fold.

    Returns:
        None where the suite's own validation rows are to be used: the user chose them, there are
        `ENOUGH`, or leaving out some fold would leave a task without rows, or without classes.
    """
    if not suite.drawn or suite.counts["val"] >= ENOUGH:
        return None
    rng = np.random.default_rng(int(suite.fingerprint[:12], 16))
    if suite.group is not None:
        fold = _by_group(suite.group.numpy(), folds, rng)
    else:
        fold = _stratified(suite, folds, rng)
    return torch.from_numpy(fold) if _is_learnable(suite, fold, folds) else None


def _by_group(group: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Whole groups, in random order, each to the fold with the fewest rows."""
    _, group, size = np.unique(group, return_inverse=True, return_counts=True)
    chosen = np.empty(len(size), dtype=np.int64)
    rows = np.zeros(folds)
    for g in rng.permutation(len(size)):
        chosen[g] = int(np.argmin(rows))
        rows[chosen[g]] += size[g]
    return chosen[group]


def _stratified(suite: TaskSuite, folds: int, rng: np.random.Generator) -> np.ndarray:
    targets = _targets(suite)
    if suite.task is not None:
        out = np.empty(len(suite.x), dtype=np.int64)
        for number in range(suite.n_tasks):
            rows = np.flatnonzero(suite.task.numpy() == number)
            out[rows] = _dealt(stratum(targets[number], rows), folds, rng)
        return out
    if len(targets) == 1:
        return _dealt(stratum(targets[0], np.arange(len(suite.x))), folds, rng)
    return iterative(label_matrix(targets), (1 / folds,) * folds, rng).astype(np.int64)


def _targets(suite: TaskSuite) -> list[Target]:
    """The tasks' values as the splits know them, NaN where missing."""
    values = torch.where(suite.mask, suite.y.double(), torch.nan).numpy()
    return [
        Target(task.name, task.kind, task.classes, values if suite.is_grouped else values[:, t])
        for t, task in enumerate(suite.tasks)
    ]


def _dealt(strata: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Rows in the order of their strata, shuffled within, dealt out in rounds of shuffled folds."""
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    rounds = [rng.permutation(folds) for _ in range(-(-len(strata) // folds))]
    out = np.empty(len(strata), dtype=np.int64)
    out[order] = np.concatenate(rounds)[: len(strata)] if rounds else []
    return out


def _is_learnable(suite: TaskSuite, fold: np.ndarray, folds: int) -> bool:
    """Whether no fold is empty and every task can be learned without any one of them."""
    if len(np.unique(fold)) < folds:
        return False
    mask, y = suite.mask.numpy(), suite.y.numpy()
    for number, task in enumerate(suite.tasks):
        mine = mask & (suite.task.numpy() == number) if suite.task is not None else mask[:, number]
        truth = y if suite.is_grouped else y[:, number]
        for one in range(folds):
            seen = truth[mine & (fold != one)]
            if len(seen) == 0 or (task.kind != "regression" and len(np.unique(seen)) < 2):
                return False
    return True
