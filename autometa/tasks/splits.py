"""Which row is for training (0), validation (1) and test (2).

Rows are stratified unless the user says how to split: by the class, by quantiles of a regression
target, within each task of a grouped suite, and over all targets together (rarest label first)
when there are several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autometa.errors import DataError, nearest
from autometa.tasks.labels import Target
from autometa.tasks.reading import as_text

TRAIN, VAL, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "val", "test")
FRACTIONS = (0.6, 0.2, 0.2)

_SYNONYMS = {
    "train": TRAIN, "training": TRAIN, "0": TRAIN,
    "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL, "1": VAL,
    "test": TEST, "testing": TEST, "2": TEST,
}  # fmt: skip
_BINS = 10
_GROUP_TRIES = 64


@dataclass(frozen=True)
class SplitPlan:
    """How rows are to be split.

    Attributes:
        own: the user's split column (`train` / `val` / `test` or 0 / 1 / 2), [rows].
        groups: rows of one group stay in one split, [rows].
        is_test: rows that came from a separate test table, bool [rows].
        time: when each row was: later rows are for test, those before them for validation;
            rows of one time stay together. float64 [rows]
    """

    seed: int = 0
    fractions: tuple[float, ...] = FRACTIONS
    own: np.ndarray | None = None
    groups: np.ndarray | None = None
    is_test: np.ndarray | None = None
    time: np.ndarray | None = None

    @property
    def draws_validation(self) -> bool:
        """Whether validation rows are drawn, not marked by the user."""
        if self.time is not None:
            return False
        if self.own is None:
            return True
        marked = self.own if self.is_test is None else self.own[~self.is_test]
        return not (_own_splits(marked) == VAL).any()

    def take(self, rows: np.ndarray) -> SplitPlan:
        """The plan of these rows only (a bool mask)."""
        own, groups, is_test, time = (
            None if a is None else a[rows] for a in (self.own, self.groups, self.is_test, self.time)
        )
        return SplitPlan(self.seed, self.fractions, own, groups, is_test, time)


def make_splits(
    plan: SplitPlan, targets: Sequence[Target], task: np.ndarray | None, n_tasks: int
) -> np.ndarray:
    """Split the rows of an aligned suite (`task` None) or a grouped one (`task` [rows]).

    Returns:
        int8 [rows]: 0 train, 1 val, 2 test.

    Raises:
        DataError: fractions or split values that make no sense, or groups too few to split.
    """
    fractions = check_fractions(plan.fractions)
    if not isinstance(plan.seed, (int, np.integer)) or plan.seed < 0:
        raise DataError(
            f"Parameter `seed` should be a whole number of at least 0. Found `seed = {plan.seed}`."
        )
    rows = len(targets[0].values)
    split = np.full(rows, -1, dtype=np.int8)
    if plan.is_test is not None:
        split[plan.is_test] = TEST
    if plan.own is not None:
        open_rows = split < 0
        split[open_rows] = _own_splits(plan.own[open_rows])
        if not (split == TEST).any():
            raise DataError(
                "The split column marks no row as `test`; mark some or give a test table (test=)."
            )
        if (split == VAL).any():
            return _checked_groups(split, plan.groups)
        split[split == TRAIN] = -1  # train and test only: validation is taken from train
    if (split == TEST).any():
        fractions = (fractions[0], fractions[1], 0.0)
    fractions = tuple(f / sum(fractions) for f in fractions)
    free = split < 0
    if not free.any():
        raise DataError("There is no row left for training: every row is for test.")
    split[free] = _assign(plan, fractions, targets, task, n_tasks, free)
    return _checked_groups(split, plan.groups)


def _assign(
    plan: SplitPlan,
    fractions: tuple[float, ...],
    targets: Sequence[Target],
    task: np.ndarray | None,
    n_tasks: int,
    free: np.ndarray,
) -> np.ndarray:
    if plan.time is not None:
        return _by_time(plan.time[free], fractions)
    rng = np.random.default_rng(plan.seed)
    mine = [Target(t.name, t.kind, t.classes, t.values[free]) for t in targets]
    group_task = None if task is None else task[free]
    if plan.groups is not None:
        return _by_group(plan.groups[free], fractions, mine, group_task, n_tasks, rng)
    n = int(free.sum())
    out = np.empty(n, dtype=np.int8)
    if group_task is not None:
        for number in range(n_tasks):
            rows = np.flatnonzero(group_task == number)
            own = stratum(mine[0], rows)
            is_class = mine[0].kind != "regression"
            out[rows] = _systematic(own, fractions, rng, is_class)
            _lend_rows(out, rows, fractions)
    elif len(mine) == 1:
        is_class = mine[0].kind != "regression"
        out[:] = _systematic(stratum(mine[0], np.arange(n)), fractions, rng, is_class)
    else:
        out[:] = iterative(label_matrix(mine), fractions, rng)
    if group_task is None:
        for target in mine:
            _lend_rows(out, np.flatnonzero(target.labelled), fractions)
    return out


def _systematic(
    strata: np.ndarray, fractions: tuple[float, ...], rng: np.random.Generator, is_class: bool
) -> np.ndarray:
    """Sort rows by stratum (shuffled within) and hand them out by the largest deficit.

    Neighbours in the sorted order go to different splits, so every stratum and the whole follow
    the fractions to within a row. The first row of a class goes to training.
    """
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    out = np.empty(len(strata), dtype=np.int8)
    owed = [0.0, 0.0, 0.0]
    f0, f1, f2 = fractions
    last = None
    for row in order:
        owed[0] += f0
        owed[1] += f1
        owed[2] += f2
        key = strata[row]
        choice = TRAIN if is_class and key != last else owed.index(max(owed))
        last = key
        owed[choice] -= 1.0
        out[row] = choice
    return out


def stratum(target: Target, rows: np.ndarray) -> np.ndarray:
    """int [rows]: the class, or the quantile bin of a regression target."""
    values = target.values[rows]
    if target.kind != "regression":
        return values.astype(np.int64)
    bins = max(1, min(_BINS, len(values) // 5))
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return rank * bins // max(1, len(values))


def label_matrix(targets: Sequence[Target]) -> np.ndarray:
    """Bool [rows, labels]: each class of each target, the top fifth of a number, "is labelled"."""
    labels = []
    for target in targets:
        if target.kind == "regression":
            cut = np.nanquantile(target.values, 0.8)
            labels.append(np.nan_to_num(target.values, nan=-np.inf) > cut)
        else:
            labels += [target.values == c for c in range(len(target.classes))]
        if not target.labelled.all():
            labels.append(target.labelled)
    return np.stack(labels, axis=1)


def iterative(
    labels: np.ndarray, fractions: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011), rarest label first.

    Deviation: labels are ordered once by their number of rows, not again after each label.
    """
    n = len(labels)
    share = np.array(fractions)
    wanted = labels.sum(axis=0)[:, None] * share  # [labels, splits]
    wanted_rows = n * share
    out = np.full(n, -1, dtype=np.int8)
    shuffled = rng.permutation(n)
    by_rarity = [c for c in np.argsort(labels.sum(axis=0), kind="stable") if labels[:, c].any()]
    groups = [shuffled[labels[shuffled, c]] for c in by_rarity] + [shuffled]
    for column, rows in zip([*by_rarity, None], groups, strict=True):
        for row in rows:
            if out[row] >= 0:
                continue
            need = wanted_rows if column is None else wanted[column]
            best = np.flatnonzero(need == need.max())
            choice = int(best[np.argmax(wanted_rows[best])])
            out[row] = choice
            wanted[labels[row], choice] -= 1
            wanted_rows[choice] -= 1
    return out


def _lend_rows(out: np.ndarray, rows: np.ndarray, fractions: tuple[float, ...]) -> None:
    """Give a split that got none of these rows one of them, from the split that has most."""
    needed = [code for code in (TRAIN, VAL, TEST) if fractions[code] > 0]
    if len(rows) < len(needed):
        return  # too few: `check_splits` names the task
    for code in needed:
        if not (out[rows] == code).any():
            counts = np.bincount(out[rows], minlength=3)
            giver = int(np.argmax(counts))
            out[rows[np.flatnonzero(out[rows] == giver)[-1]]] = code


def _by_group(
    groups: np.ndarray,
    fractions: tuple[float, ...],
    targets: Sequence[Target],
    task: np.ndarray | None,
    n_tasks: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Whole groups to splits: of several random assignments, the one nearest to stratified."""
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    needed = [code for code in (TRAIN, VAL, TEST) if fractions[code] > 0]
    if len(size) < len(needed):
        found = ", ".join(f"`{one}`" for one in np.unique(groups))
        raise DataError(
            f"The group column should have at least {len(needed)} groups to be split. "
            f"Found {len(size)} ({found})."
        )
    labels = label_matrix(targets) if task is None else np.eye(n_tasks, dtype=bool)[task]
    labels = np.concatenate([labels, np.ones((len(group), 1), dtype=bool)], axis=1)
    per_group = np.zeros((len(size), labels.shape[1]))
    np.add.at(per_group, group, labels)  # rows of each label in each group
    total = per_group.sum(axis=0)
    best, best_cost = np.zeros(len(size), dtype=np.int8), np.inf
    for _ in range(_GROUP_TRIES):
        owed = np.array(fractions) * len(group)
        chosen = np.empty(len(size), dtype=np.int8)
        for g in rng.permutation(len(size)):
            chosen[g] = int(np.argmax(owed))
            owed[chosen[g]] -= size[g]
        if len(np.unique(chosen)) < len(needed):  # of a few like groups some split would get none
            chosen = _one_each(size, needed, fractions, rng)
        got = np.stack([per_group[chosen == code].sum(axis=0) for code in needed])
        want = np.outer([fractions[code] for code in needed], total)
        empty = ((got == 0) & (total > 0)).sum()
        cost = 1e6 * empty + (np.abs(got - want) / np.maximum(total, 1)).sum()
        if cost < best_cost:
            best, best_cost = chosen, cost
    return best[group]


def _one_each(
    size: np.ndarray, needed: Sequence[int], fractions: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    """A split for each group: every split gets one before the others follow the fractions."""
    owed = np.array(fractions) * size.sum()
    chosen = np.empty(len(size), dtype=np.int8)
    for place, g in enumerate(rng.permutation(len(size))):
        chosen[g] = needed[place] if place < len(needed) else int(np.argmax(owed))
        owed[chosen[g]] -= size[g]
    return chosen


def _by_time(time: np.ndarray, fractions: tuple[float, ...]) -> np.ndarray:
    """The earliest rows train, the latest test; rows of one time are in one split."""
    moments, place, count = np.unique(time, return_inverse=True, return_counts=True)
    needed = [code for code in (TRAIN, VAL, TEST) if fractions[code] > 0]
    if len(moments) < len(needed):
        raise DataError(
            f"The time column should have at least {len(needed)} different times to be split. "
            f"Found {len(moments)}."
        )
    middle = (np.cumsum(count) - count / 2) / len(time)  # of each time among the rows
    ends = np.cumsum(fractions)[:-1]
    code = np.searchsorted(ends, middle).astype(np.int8)
    for split, at in ((needed[0], 0), (needed[-1], -1)):
        code[at] = split
    if VAL in needed and not (code == VAL).any():
        code[-2] = VAL
    return code[place]


def _own_splits(column: np.ndarray) -> np.ndarray:
    out = np.empty(len(column), dtype=np.int8)
    for row, text in enumerate(as_text(column)):
        code = None if text is None else _SYNONYMS.get(text.strip().lower())
        if code is None:
            raise DataError(
                "The split column should hold `train`, `val` or `test`. "
                f"Found `{'' if text is None else text}` in row {row}."
                f"{'' if text is None else nearest(text, SPLIT_NAMES)}"
            )
        out[row] = code
    return out


def _checked_groups(split: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    if groups is not None:
        pairs = {(str(g), int(s)) for g, s in zip(groups, split, strict=True)}
        twice = next((g for g, n in Counter(g for g, _ in pairs).items() if n > 1), None)
        if twice is not None:
            raise DataError(
                f"Group `{twice}` has rows in two splits; a group should be in one. "
                "Correct the split column or the test table."
            )
    return split


def check_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    """Three positive shares that sum to 1; DataError if they are not."""
    values = tuple(float(f) for f in fractions)
    if len(values) != 3 or min(values) <= 0 or abs(sum(values) - 1) > 1e-6:
        raise DataError(
            "Parameter `fractions` should be three positive numbers (train, val, test) that sum "
            f"to 1. Found `fractions = {tuple(fractions)}`."
        )
    return values
