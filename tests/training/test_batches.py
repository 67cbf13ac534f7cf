"""Which rows a run sees: every row once, slots in proportion to rows, padding masked."""

from __future__ import annotations

import math

import pytest
import torch

from autometa.networks import Problem
from autometa.training.batches import GroupedRows, plan_aligned, steps_per_epoch
from autometa.training.data import TrainingRows, into_slots
from autometa.trial import OptimizerConfig
from tests.small import make_suite, seeded


@pytest.mark.parametrize(
    ("rows", "batch", "tasks", "steps"),
    [(64, 64, 1, 1), (65, 64, 1, 2), (1, 64, 1, 1), (1000, 32, 4, 8), (1025, 32, 4, 9)],
)
def test_steps_per_epoch(rows, batch, tasks, steps):
    assert steps_per_epoch(rows, batch, tasks) == steps == math.ceil(rows / (tasks * batch))


@pytest.mark.parametrize("n_rows", [1, 7, 16, 33])
def test_aligned_epoch_has_every_row_once(n_rows):
    plan = plan_aligned(n_rows, 8, seed=3, epoch=0)
    assert plan.rows.shape == plan.valid.shape == (math.ceil(n_rows / 8), 8)
    assert sorted(plan.rows[plan.valid].tolist()) == list(range(n_rows))
    assert plan.tasks is None


def test_aligned_order_depends_on_seed_and_epoch_only():
    def order(seed: int, epoch: int) -> list[int]:
        plan = plan_aligned(50, 8, seed, epoch)
        return plan.rows[plan.valid].tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(s, e)) for s in (0, 1, 2) for e in (0, 1, 2)}) == 9


COUNTS = [3, 40, 1, 17, 120]


def grouped(counts: list[int]) -> tuple[GroupedRows, torch.Tensor]:
    task = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    task = task[torch.randperm(len(task), generator=torch.Generator().manual_seed(0))]
    return GroupedRows(task, len(counts)), task


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch_tasks", [1, 3, 16])
def test_grouped_plan(seed, batch_tasks):
    rows, task = grouped(COUNTS)
    plan = rows.plan(batch_size=8, batch_tasks=batch_tasks, seed=seed, epoch=1)
    per_step = min(batch_tasks, len(COUNTS))
    assert plan.rows.shape == (math.ceil(sum(COUNTS) / (per_step * 8)), per_step, 8)
    assert plan.tasks is not None
    # a valid row belongs to its slot's task
    slot = plan.tasks[..., None].expand_as(plan.rows)
    assert torch.equal(task[plan.rows[plan.valid]], slot[plan.valid])
    # a slot holds as many rows as its task has, at most a batch, none twice
    for at, valid, number in zip(
        plan.rows.flatten(0, 1), plan.valid.flatten(0, 1), plan.tasks.flatten(), strict=True
    ):
        assert valid.sum() == min(8, COUNTS[number])
        assert len(set(at[valid].tolist())) == valid.sum()
    # slots are proportional to rows, rounded up or down
    found = torch.bincount(plan.tasks.flatten(), minlength=len(COUNTS))
    for number, count in enumerate(COUNTS):
        assert abs(found[number] - plan.tasks.numel() * count / sum(COUNTS)) < 1


def test_a_tasks_slots_use_up_its_rows_before_one_comes_again():
    rows, _ = grouped([40, 40])
    plan = rows.plan(batch_size=8, batch_tasks=2, seed=0, epoch=0)
    assert sorted(plan.rows.flatten().tolist()) == list(range(80))


def test_small_tasks_are_seen_over_the_epochs():
    rows, _ = grouped(COUNTS)
    seen = [rows.plan(8, 3, seed=0, epoch=e).tasks for e in range(60)]
    expected = torch.tensor(COUNTS) / sum(COUNTS)
    counts = torch.bincount(torch.cat([s.flatten() for s in seen if s is not None]))
    assert torch.allclose(counts / counts.sum(), expected, atol=0.01)


@pytest.mark.parametrize("kind", ["aligned", "grouped", "image"])
def test_batches_hold_the_suites_rows_and_mask_the_padding(kind):
    suite = make_suite(kind)
    train = suite.rows("train")
    problem = Problem.of(suite)
    data = TrainingRows(train, problem, torch.device("cpu"))
    config = OptimizerConfig(batch_size=10, batch_tasks=1)
    assert data.steps(config) == 4  # 36 rows
    plan = data.epoch(config, seeded(5, 6, 7), 0)
    labels = 0
    for step in range(4):
        batch = data.batch(plan, step)
        assert batch.y.shape == batch.mask.shape
        assert batch.y.shape[::2] == (3, 10)
        assert batch.tasks.shape == batch.y.shape[:2]
        for k in range(3):
            rows, valid = plan.rows[step, k], plan.valid[step, k]
            assert torch.equal(batch.x[k], train.x[rows])
            if train.task is None:
                assert torch.equal(batch.y[k], train.y[rows].T)
                assert torch.equal(batch.mask[k], (train.mask[rows] & valid[:, None]).T)
            else:
                assert torch.equal(batch.mask[k], valid)
                assert torch.equal(train.task[rows[valid]], batch.tasks[k].expand(10)[valid[0]])
        labels += int(batch.mask[0].sum())
    if train.task is None:
        assert labels == int(train.mask.sum())


@pytest.mark.parametrize("size", [1, 3, 128])
def test_slots_for_prediction_hold_every_row_once(size):
    _, task = grouped(COUNTS)
    slots = into_slots(task, size)
    assert sorted(slots.rows[slots.valid].tolist()) == list(range(len(task)))
    own = slots.tasks[:, None].expand_as(slots.rows)
    assert torch.equal(task[slots.rows[slots.valid]], own[slots.valid])
