"""A suite's rows on a device, arranged for training and for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from autometa.learners import Batch
from autometa.networks import Problem
from autometa.tasks import Rows
from autometa.training.batches import GroupedRows, Plan, plan_aligned, steps_per_epoch
from autometa.training.budget import default_batch_size
from autometa.training.state import Run
from autometa.trial import OptimizerConfig


class TrainingRows:
    """Training rows on a device, and the batches that K runs draw from them.

    Args:
        rows: training rows of the suite.
        problem: its shapes.
        fold: of each row, where runs leave out one fold each; those draw the others.

    Attributes:
        x: their inputs.
    """

    def __init__(
        self,
        rows: Rows,
        problem: Problem,
        device: torch.device,
        fold: Int[Tensor, " row"] | None = None,
    ) -> None:
        self._problem = problem
        self.x = rows.x.to(device)
        self._y = rows.y.to(device)
        self._mask = rows.mask.to(device)
        self._device = device
        folds = [None] if fold is None else range(int(fold.max()) + 1)
        self._parts = {one: _Part.of(rows, fold, one, problem.n_tasks) for one in folds}
        self._is_grouped = rows.task is not None

    def __len__(self) -> int:
        """Rows that a run draws from; the fewest where runs leave out folds."""
        return min(len(part.rows) for part in self._parts.values())

    def steps(self, config: OptimizerConfig) -> int:
        """Steps of one epoch."""
        per_step = min(config.batch_tasks, self._problem.n_tasks) if self._is_grouped else 1
        return steps_per_epoch(len(self), self._batch_size(config), per_step)

    def epoch(self, config: OptimizerConfig, runs: Sequence[Run], epoch: int) -> Plan:
        """The plans of K runs, stacked: rows [step, run, …]."""
        plans = [self._plan(config, run, epoch) for run in runs]
        tasks = [plan.tasks for plan in plans if plan.tasks is not None]
        return Plan(
            torch.stack([plan.rows for plan in plans], 1).to(self._device),
            torch.stack([plan.valid for plan in plans], 1).to(self._device),
            torch.stack(tasks, 1).to(self._device) if tasks else None,
        )

    def batch(self, plan: Plan, step: int) -> Batch:
        """The rows of one step, each entry with the run as its first dimension."""
        rows, valid = plan.rows[step], plan.valid[step]
        if plan.tasks is None:
            y = self._y[rows].transpose(1, 2)
            mask = (self._mask[rows] & valid[..., None]).transpose(1, 2)
            tasks = torch.arange(self._problem.n_tasks, device=self._device)
            return Batch(self.x[rows], y, mask, tasks.expand(len(rows), -1))
        return Batch(self.x[rows], self._y[rows], valid, plan.tasks[step])

    def _plan(self, config: OptimizerConfig, run: Run, epoch: int) -> Plan:
        size, steps = self._batch_size(config), self.steps(config)
        part = self._parts[run.fold]
        if part.grouped is None:
            plan = plan_aligned(len(part.rows), size, run.seed, epoch, steps)
        else:
            plan = part.grouped.plan(size, config.batch_tasks, run.seed, epoch, steps)
        return plan if run.fold is None else plan._replace(rows=part.rows[plan.rows])

    def _batch_size(self, config: OptimizerConfig) -> int:
        n_tasks = self._problem.n_tasks if self._is_grouped else None
        return config.batch_size or default_batch_size(len(self), n_tasks, config.batch_tasks)


class _Part(NamedTuple):
    """The rows that a run draws from.

    Attributes:
        rows: their numbers.
        grouped: by task, where a row belongs to one.
    """

    rows: Int[Tensor, " row"]
    grouped: GroupedRows | None

    @classmethod
    def of(
        cls, rows: Rows, fold: Int[Tensor, " row"] | None, left_out: int | None, n_tasks: int
    ) -> _Part:
        index = torch.arange(len(rows.x))
        if fold is not None:
            index = index[fold != left_out]
        task = rows.task
        return cls(index, None if task is None else GroupedRows(task[index], n_tasks))


class Slots(NamedTuple):
    """Rows of a grouped suite in slots of one task each, padded.

    Attributes:
        rows: [slot, row], row numbers; padding repeats row 0.
        valid: same shape.
        tasks: [slot].
    """

    rows: Int[Tensor, "slot row"]
    valid: Bool[Tensor, "slot row"]
    tasks: Int[Tensor, " slot"]


def into_slots(task: Int[Tensor, " row"], size: int = 128) -> Slots:
    """Arrange rows by task in slots of at most `size` rows."""
    size = min(size, int(torch.bincount(task).max()))
    order = torch.argsort(task, stable=True)
    counts = torch.bincount(task)
    per_task = -(-counts // size)
    tasks = torch.repeat_interleave(torch.arange(len(counts)), per_task)
    first = per_task.cumsum(0) - per_task
    part = torch.arange(len(tasks)) - first[tasks]
    start = counts.cumsum(0) - counts
    within = part[:, None] * size + torch.arange(size)[None]
    valid = within < counts[tasks][:, None]
    rows = order[(start[tasks][:, None] + within).clamp(max=len(task) - 1)]
    return Slots(torch.where(valid, rows, 0), valid, tasks)
