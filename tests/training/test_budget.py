"""How many steps a full training has, and how many rows a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autometa.errors import UserError
from autometa.networks import Problem
from autometa.tasks import TaskSuite
from autometa.tasks.sinusoid import sinusoid_episodes
from autometa.training.budget import (
    default_batch_size,
    epochs_in_steps,
    full_length,
    with_batch_size,
)
from autometa.training.data import TrainingRows
from autometa.training.episodes import TrainingEpisodes
from autometa.trial import OptimizerConfig, TrialConfig
from tests.small import make_config, make_suite, seeded

CPU = torch.device("cpu")


def table(rows: int, grouped: int | None = None) -> TaskSuite:
    """So many training rows, and 40 others."""
    x = np.random.default_rng(0).normal(size=(rows + 40, 3))
    part = np.array(["train"] * rows + ["val"] * 20 + ["test"] * 20)
    if grouped is None:
        return TaskSuite.from_arrays(x, x[:, :2], splits=part)
    task = np.arange(rows + 40) % grouped
    return TaskSuite.from_arrays(x, x[:, 0], task=task, splits=part)


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        (10, 32),
        (500, 32),
        (700, 32),
        (800, 64),
        (1500, 128),
        (2048, 128),
        (4096, 256),
        (10**6, 256),
    ],
)
def test_rows_a_step_are_a_power_of_two_near_a_sixteenth(rows: int, size: int) -> None:
    assert default_batch_size(rows, None, 8) == size


@pytest.mark.parametrize(
    ("rows", "tasks", "batch_tasks", "size"),
    [
        (10_000, 139, 8, 32),  # 256 rows a step, of 8 tasks
        (10_000, 2, 8, 128),
        (300, 10, 8, 16),  # at least 16 …
        (300, 100, 8, 4),  # … but a task has 3
        (100_000, 10, 2, 128),
    ],
)
def test_tasks_with_rows_of_their_own_share_the_rows_of_a_step(
    rows: int, tasks: int, batch_tasks: int, size: int
) -> None:
    assert default_batch_size(rows, tasks, batch_tasks) == size


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_what_is_left_open_is_trained_as_the_number_that_it_stands_for(layout: str) -> None:
    suite = make_suite(layout)
    open_ = make_config({"optimizer.batch_size": None})
    settled = with_batch_size(open_, suite)
    assert settled.optimizer.batch_size is not None
    assert with_batch_size(settled, suite) is settled
    rows = TrainingRows(suite.rows("train"), Problem.of(suite), CPU)
    plans = [rows.epoch(config.optimizer, seeded(3), 0) for config in (open_, settled)]
    assert torch.equal(plans[0].rows, plans[1].rows)
    assert settled.shape_key() == TrialConfig.from_flat(settled.flat()).shape_key()
    given = make_config({"optimizer.batch_size": 5})
    assert with_batch_size(given, suite).optimizer.batch_size == 5


@pytest.mark.parametrize(
    ("suite", "given", "length"),
    [
        (table(500), {}, 2000),
        (table(8000), {}, 27 * 125),  # 27 passes in batches of 64 are more
        (table(500), {"max_steps": 7}, 7),
        (table(500), {"max_epochs": 3}, 3 * 16),
        (table(400, grouped=4), {"max_epochs": 3}, 3 * 7),  # 4 tasks × 16 rows
    ],
)
def test_length_of_a_full_training(suite: TaskSuite, given: dict[str, int], length: int) -> None:
    assert full_length(suite, **given) == length


@pytest.mark.parametrize("grouped", [None, 4])
def test_epochs_are_what_the_trainer_takes_them_for(grouped: int | None) -> None:
    suite = table(400, grouped)
    rows = TrainingRows(suite.rows("train"), Problem.of(suite), CPU)
    for config in (OptimizerConfig(), OptimizerConfig(batch_size=10, batch_tasks=3)):
        assert epochs_in_steps(suite, 2, config) == 2 * rows.steps(config)


def test_episodes_have_27_passes() -> None:
    suite = sinusoid_episodes(40, 20, held_out=(10, 10))
    steps = TrainingEpisodes(suite, CPU).steps(OptimizerConfig())
    assert full_length(suite) == 27 * steps
    config = make_config({"optimizer.batch_size": None})
    assert with_batch_size(config, suite) is config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_steps": 5, "max_epochs": 5}, "`max_epochs` should be left out with `max_steps`"),
        ({"max_steps": 0}, "`max_steps` should be at least 1. Found `max_steps = 0`"),
        ({"max_epochs": -1}, "`max_epochs` should be at least 1. Found `max_epochs = -1`"),
    ],
)
def test_lengths_that_make_no_sense(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        full_length(table(100), **given)
