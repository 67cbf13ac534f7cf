"""Cuts a suite into tasks to meta-learn from and tasks that are held out whole.

Nothing that is fitted to labels sees a held-out task: targets of one unit are brought back to it
and standardised anew on the meta-train rows; classes are numbered with those of meta-train tasks
first. Inputs are standardised anew on the meta-train rows; the median of a missing number and the
levels of a category are still those of the suite's own training rows, which know no label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from autometa.errors import DataError
from autometa.tasks.encoder import Encoder
from autometa.tasks.episodes import EpisodeShape
from autometa.tasks.images import ImageEncoder
from autometa.tasks.scales import center_and_spread, no_common_unit
from autometa.tasks.splits import SPLIT_NAMES, TEST, TRAIN, VAL, check_fractions
from autometa.tasks.suite import TaskSuite
from autometa.tasks.task import Kind, Metric, Task


class _Rows(NamedTuple):
    """All rows of a suite, a row a task: x [row, …], y, task and class [row]."""

    x: Tensor
    y: Tensor
    task: Tensor
    classes: Tensor | None

    def take(self, at: Tensor) -> _Rows:
        classes = None if self.classes is None else self.classes[at]
        return _Rows(self.x[at], self.y[at], self.task[at], classes)


def hold_out(
    suite: TaskSuite,
    shape: EpisodeShape,
    *,
    seed: int,
    fractions: tuple[float, ...],
    one_task: bool,
    test_shape: EpisodeShape,
) -> dict[str, Any]:
    """The fields of an `EpisodicSuite`; see `EpisodicSuite.from_suite`."""
    kind, metric = _one_kind(suite)
    _check_shape(suite, kind, shape, test_shape, one_task)
    fractions = check_fractions(fractions)
    if suite.n_tasks < 3:
        raise DataError(
            f"Suite `{suite.name}` has {suite.n_tasks} task{'s'[: suite.n_tasks - 1]}; episodes "
            "need at least 3, to train on, to validate and to test on tasks that are not seen "
            "before."
        )
    rows, left_out = _enough(suite, _all_rows(suite, kind), shape, test_shape, one_task)
    split = _split_tasks(suite, left_out, seed, fractions)
    if shape.ways is not None:
        _check_classes(suite, rows, split, shape, test_shape, one_task)
    kept = [t for t in range(suite.n_tasks) if suite.tasks[t].name not in left_out]
    number = torch.zeros(suite.n_tasks, dtype=torch.int64)
    number[kept] = torch.arange(len(kept))
    code = split[kept]
    rows = rows._replace(task=number[rows.task])
    train = code[rows.task] == TRAIN
    tasks = [suite.tasks[t] for t in kept]
    own_units = suite.layout == "aligned" and kind == "regression"
    y, mean, std = rows.y, 0.0, 1.0
    if kind == "regression" and not own_units:
        original = _restored(tasks, rows.y, rows.task)
        known = (train).numpy()  # whether held-out tasks have this unit is not known
        own_units = (
            len({(task.mean, task.std) for task in tasks}) > 1  # as the suite has it
            and no_common_unit(original.numpy()[known], rows.task.numpy()[known], len(tasks))
            is not None
        )
        y, mean, std = _standardised(suite, original, train)
    if own_units and suite.is_grouped:
        y, mean, std, tasks = _each_by_itself(tasks, original, rows)
    x, encoder = _inputs(rows.x, suite.encoder, train)
    return {
        "name": suite.name,
        "shape": shape,
        "test_shape": test_shape,
        "kind": kind,
        "metric": metric,
        "input_kind": suite.input_kind,
        "tasks": tuple(task.name for task in tasks),
        "task_split": code.to(torch.int8),
        "x": x,
        "y": y.float(),
        "task": rows.task,
        "classes": None if rows.classes is None else _numbered(rows.classes, code[rows.task]),
        "one_task": one_task,
        "labels": tasks[0].classes if kind == "binary" else (),
        "target_mean": mean,
        "target_std": std,
        "units": tuple((task.mean, task.std) for task in tasks) if own_units else None,
        "left_out": left_out,
        "encoder": encoder,
        "target": suite.target,
        "task_column": suite.task_column,
        "notes": suite.notes,
        "columns": suite.columns,
        "fingerprint": _fingerprint(suite, shape, test_shape, one_task, code, tuple(left_out)),
    }


def _one_kind(suite: TaskSuite) -> tuple[Kind, Metric]:
    kinds = list(dict.fromkeys(suite.kinds))
    if len(kinds) > 1:
        mine = [task.name for task in suite.tasks if task.kind == kinds[0]]
        raise DataError(
            f"Tasks of episodes should be of one kind. Found {', '.join(kinds)}; choose targets of "
            f"one kind with `targets` (--targets {','.join(mine[:4])}{',…' * (len(mine) > 4)})."
        )
    metrics = list(dict.fromkeys(task.metric for task in suite.tasks))
    if len(metrics) > 1:
        raise DataError(
            f"Tasks of episodes should have one metric. Found {', '.join(metrics)}; give one name "
            "for all as `metrics`."
        )
    return cast(Kind, kinds[0]), metrics[0]


def _check_shape(
    suite: TaskSuite, kind: Kind, shape: EpisodeShape, test_shape: EpisodeShape, one_task: bool
) -> None:
    for where, one in (("ways", shape), ("test_ways", test_shape)):
        if kind == "multiclass" and one.ways is None:
            raise DataError(
                f"Parameter `{where}` should be the number of classes of an episode, such as 5, "
                f"where tasks are multiclass. Found `{where} = None`."
            )
        if kind != "multiclass" and one.ways is not None:
            raise DataError(
                f"Parameter `{where}` should be left out where tasks are {kind}: an episode is "
                f"rows of one task. Found `{where} = {one.ways}`."
            )
    if one_task and kind != "multiclass":
        raise DataError(
            f"Parameter `one_task` is for multiclass tasks; an episode of a {kind} task is of one "
            "task anyway. Found `one_task = True`."
        )
    if suite.layout == "aligned" and kind == "multiclass" and not one_task:
        raise DataError(
            "Parameter `one_task` should be True where every row has a class of each target: "
            "mixed, a row could be two classes of one episode. Found `one_task = False`."
        )
    if suite.layout == "aligned" and kind == "regression":
        for where, one in (("shots", shape), ("test_shots", test_shape)):
            if one.shots < 2:
                raise DataError(
                    f"Parameter `{where}` should be at least 2 where every target has a unit of "
                    f"its own, which is taken from the support rows. Found `{where} = {one.shots}`."
                )


def _all_rows(suite: TaskSuite, kind: Kind) -> _Rows:
    """Rows of all splits: they belong to their task, and are sealed again with it."""
    test = suite.open_test()
    x = torch.cat([suite.x, test.x])
    y, mask = torch.cat([suite.y, test.y]), torch.cat([suite.mask, test.mask])
    if suite.task is not None:
        assert test.task is not None  # noqa: S101 - of the same suite
        task = torch.cat([suite.task, test.task])
    else:
        at, task = torch.nonzero(mask, as_tuple=True)
        x, y, mask = x[at], y[at, task], mask[at, task]
    classes = None
    if kind == "multiclass":
        most = max(len(one.classes) for one in suite.tasks)
        classes = task * most + y.long()
    rows = _Rows(x, y, task, classes)
    return rows if bool(mask.all()) else rows.take(torch.nonzero(mask)[:, 0])


def _enough(
    suite: TaskSuite, rows: _Rows, shape: EpisodeShape, test_shape: EpisodeShape, one_task: bool
) -> tuple[_Rows, dict[str, str]]:
    """Rows of tasks (and classes) that can give an episode, and why others are left out."""
    need = max(shape.shots, test_shape.shots) + 1
    left_out = {}
    if rows.classes is None:
        counts = torch.bincount(rows.task, minlength=suite.n_tasks).tolist()
        for task, count in zip(suite.tasks, counts, strict=True):
            if count < need:
                left_out[task.name] = f"{count} rows, {need} are needed"
    else:
        per_class = torch.bincount(rows.classes)
        rows = rows.take(torch.nonzero(per_class[rows.classes] >= need)[:, 0])
        found = rows.classes if rows.classes is not None else rows.task
        owner = torch.unique(torch.stack([found, rows.task]), dim=1)[1]
        counts = torch.bincount(owner, minlength=suite.n_tasks).tolist()
        ways = max(shape.ways or 1, test_shape.ways or 1) if one_task else 1
        for task, count in zip(suite.tasks, counts, strict=True):
            if count < ways:
                left_out[task.name] = (
                    f"{count} classes with at least {need} rows, {ways} are needed"
                )
    if suite.n_tasks - len(left_out) < 3:
        name, reason = next(iter(left_out.items()))
        raise DataError(
            f"Episodes need at least 3 tasks with enough rows. Found "
            f"{suite.n_tasks - len(left_out)} of {suite.n_tasks}: task `{name}` has {reason}, and "
            "so on. Lower `shots` (--shots) or `ways` (--ways)."
        )
    out = torch.tensor([task.name in left_out for task in suite.tasks])
    return rows.take(torch.nonzero(~out[rows.task])[:, 0]), left_out


def _split_tasks(
    suite: TaskSuite, left_out: dict[str, str], seed: int, fractions: tuple[float, ...]
) -> Tensor:
    """The split of each task of the suite; −1 where it is left out."""
    order = np.random.default_rng(seed).permutation(suite.n_tasks)
    kept = [int(t) for t in order if suite.tasks[t].name not in left_out]
    n_test = max(1, round(fractions[2] * len(kept)))
    n_val = max(1, round(fractions[1] * len(kept)))
    if n_test + n_val >= len(kept):
        raise DataError(
            f"Parameter `fractions` leaves no task to train on, of {len(kept)}. Found "
            f"`fractions = {fractions}`."
        )
    split = torch.full((suite.n_tasks,), -1, dtype=torch.int64)
    split[kept[:n_test]] = TEST
    split[kept[n_test : n_test + n_val]] = VAL
    split[kept[n_test + n_val :]] = TRAIN
    return split


def _check_classes(
    suite: TaskSuite,
    rows: _Rows,
    split: Tensor,
    shape: EpisodeShape,
    test_shape: EpisodeShape,
    one_task: bool,
) -> None:
    """Enough classes in every split (a task of one that is too small is left out before)."""
    if one_task or rows.classes is None:
        return
    for code, name in enumerate(SPLIT_NAMES):
        n = len(torch.unique(rows.classes[split[rows.task] == code]))
        where, one = ("ways", shape) if code == TRAIN else ("test_ways", test_shape)
        if n < (one.ways or 0):
            raise DataError(
                f"Parameter `{where}` should be at most {n}, the classes of the {name} tasks of "
                f"suite `{suite.name}` with enough rows. Found `{where} = {one.ways}`."
            )


def _restored(tasks: Sequence[Task], y: Tensor, task: Tensor) -> Tensor:
    """Targets in their units, float64."""
    mean, std = (torch.tensor([getattr(t, key) for t in tasks]).double() for key in ("mean", "std"))
    return y.double() * std[task] + mean[task]


def _each_by_itself(
    tasks: Sequence[Task], original: Tensor, rows: _Rows
) -> tuple[Tensor, float, float, list[Task]]:
    """Targets standardised by the mean and deviation of all labelled rows of their task."""
    y, found = torch.zeros_like(original), []
    for number, task in enumerate(tasks):
        mine = rows.task == number
        mean, std = center_and_spread(original[mine].numpy(), "standard")
        found.append(replace(task, mean=mean, std=std or 1.0))
        y[mine] = (original[mine] - mean) / (std or 1.0)
    return y, 0.0, 1.0, found


def _standardised(suite: TaskSuite, original: Tensor, train: Tensor) -> tuple[Tensor, float, float]:
    """Targets of one unit, standardised on the meta-train rows instead of the suite's own."""
    mean, std = float(original[train].mean()), float(original[train].std(correction=0))
    if std == 0:
        raise DataError(
            f"Target `{suite.target}` is constant in the tasks to train on: there is nothing to "
            "learn; choose another split of the tasks (seed)."
        )
    return (original - mean) / std, mean, std


def _inputs(x: Tensor, encoder: Encoder | None, train: Tensor) -> tuple[Tensor, Encoder | None]:
    """Inputs standardised on the meta-train rows, and the encoder that does the same."""
    if encoder is None:
        return x, None
    if isinstance(encoder, ImageEncoder):
        pixels = x[train].double()
        mean, std = float(pixels.mean()), float(pixels.std(correction=0))
        if std == 0:
            raise DataError("All images of the tasks to train on are equal.")
        changed = replace(encoder, mean=encoder.mean + mean * encoder.std, std=encoder.std * std)
        return (x - mean) / std, changed
    values = x.double()
    fitted = values[train]
    varies = fitted.amax(0) > fitted.amin(0)
    if not bool(varies.any()):
        raise DataError("Every feature is constant in the tasks to train on.")
    means, stds = fitted.mean(0), fitted.std(0, correction=0)
    keep = torch.nonzero(varies)[:, 0]
    new = replace(
        encoder,
        features=tuple(encoder.features[i] for i in keep),
        keep=tuple(encoder.keep[i] for i in keep),
        mean=tuple(encoder.mean[i] + float(means[i]) * encoder.scale[i] for i in keep),
        scale=tuple(encoder.scale[i] * float(stds[i]) for i in keep),
    )
    return ((values - means) / stds)[:, keep].float(), new


def _numbered(classes: Tensor, split: Tensor) -> Tensor:
    """Classes counted from 0, those of meta-train tasks first, then validation, then test."""
    most = int(classes.max()) + 1
    _, number = torch.unique(split * most + classes, return_inverse=True)
    return number


def _fingerprint(
    suite: TaskSuite,
    shape: EpisodeShape,
    test_shape: EpisodeShape,
    one_task: bool,
    split: Tensor,
    left_out: tuple[str, ...],
) -> str:
    facts = [
        suite.fingerprint,
        shape.model_dump(mode="json"),
        test_shape.model_dump(mode="json"),
        one_task,
        split.tolist(),
        left_out,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
