"""Which rows a run sees in each step of an epoch: a pure function of its seed and the epoch."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Plan(NamedTuple):
    """Rows of the steps of one epoch.

    Attributes:
        rows: aligned [step, row]; grouped [step, task, row]; row numbers of the training table.
        valid: same shape; False where a batch is padded.
        tasks: grouped [step, task], the task of each slot; None if aligned.
    """

    rows: Int[Tensor, "*shape"]
    valid: Bool[Tensor, "*shape"]
    tasks: Int[Tensor, "step task"] | None


def steps_per_epoch(n_rows: int, batch_size: int, tasks_per_step: int = 1) -> int:
    """⌈rows / (tasks a step × rows a task)⌉."""
    return math.ceil(n_rows / (tasks_per_step * batch_size))


def plan_aligned(
    n_rows: int, batch_size: int, seed: int, epoch: int, steps: int | None = None
) -> Plan:
    """Every row once, in a new order; the last step is padded.

    Args:
        steps: of the epoch, where it is to be shorter: some rows then wait for another epoch.
    """
    steps = steps or steps_per_epoch(n_rows, batch_size)
    order = torch.randperm(n_rows, generator=_generator(seed, epoch))[: steps * batch_size]
    rows = torch.zeros(steps * batch_size, dtype=torch.int64)
    rows[: len(order)] = order
    valid = torch.arange(steps * batch_size) < len(order)
    return Plan(rows.view(steps, batch_size), valid.view(steps, batch_size), None)


class GroupedRows:
    """Training rows of a grouped suite, indexed by task.

    Args:
        task: [row], the task of each training row; every task has at least one.
    """

    def __init__(self, task: Int[Tensor, " row"], n_tasks: int) -> None:
        self._task = task
        self._counts = torch.bincount(task, minlength=n_tasks)
        self._starts = self._counts.cumsum(0) - self._counts
        self.n_tasks = n_tasks

    def plan(
        self, batch_size: int, batch_tasks: int, seed: int, epoch: int, steps: int | None = None
    ) -> Plan:
        """Slots of one task × `batch_size` rows; a task gets slots in proportion to its rows.

        Slots are placed by systematic sampling, so a task's number of slots is its expectation
        rounded up or down; a task's slots walk through its rows in a new order and start over
        when they are used up. A slot is padded when its task has fewer rows than it holds.

        Args:
            steps: of the epoch, if not as many as its rows fill.
        """
        generator = _generator(seed, epoch)
        n_rows = len(self._task)
        per_step = min(batch_tasks, self.n_tasks)
        steps = steps or steps_per_epoch(n_rows, batch_size, per_step)
        n_slots = steps * per_step

        noise = torch.rand(n_rows, generator=generator, dtype=torch.float64)
        order = torch.argsort(self._task + noise)  # rows by task, shuffled within it

        shuffled = torch.randperm(self.n_tasks, generator=generator)
        ends = self._counts[shuffled].cumsum(0).double()
        start = torch.rand((), generator=generator, dtype=torch.float64)
        places = (torch.arange(n_slots, dtype=torch.float64) + start) * (n_rows / n_slots)
        position = torch.searchsorted(ends, places, right=True).clamp(max=self.n_tasks - 1)
        first = torch.searchsorted(position, position)  # `position` is sorted
        visit = torch.arange(n_slots) - first
        slot_task = shuffled[position]

        count, base = self._counts[slot_task][:, None], self._starts[slot_task][:, None]
        within = torch.arange(batch_size)[None]
        rows = order[base + (visit[:, None] * batch_size + within) % count]
        valid = within < count

        mix = torch.randperm(n_slots, generator=generator)
        shape = (steps, per_step, batch_size)
        return Plan(
            rows[mix].view(shape), valid[mix].view(shape), slot_task[mix].view(steps, per_step)
        )


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch + 1) % (2**63))
