"""Sinusoid regression, the classic check of meta-learning (Finn et al. 2017, section 5.1).

A task is y = A sin(x − φ) with A uniform in [0.1, 5], φ in [0, π] and x in [−5, 5]. The paper has
no noise; `noise` is the standard deviation of a normal error on every y.
"""

from __future__ import annotations

import numpy as np
import torch

from autometa.tasks.episodes import EpisodeShape
from autometa.tasks.episodic import EpisodicSuite
from autometa.tasks.splits import TEST, TRAIN, VAL
from autometa.tasks.suite import TaskSuite

AMPLITUDE, PHASE, INPUT = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0)
#: tasks and rows a task of the catalog's suite
TASKS, ROWS = 600, 40


def draw_sinusoids(
    n_tasks: int, rows: int, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and values [task, row] of new tasks."""
    amplitude = rng.uniform(*AMPLITUDE, (n_tasks, 1))
    phase = rng.uniform(*PHASE, (n_tasks, 1))
    x = rng.uniform(*INPUT, (n_tasks, rows))
    y = amplitude * np.sin(x - phase)
    return x, y + noise * rng.normal(size=y.shape) if noise else y


def load_sinusoid(seed: int = 0) -> TaskSuite:
    """600 sinusoids of 40 rows without noise, as a grouped suite."""
    x, y = draw_sinusoids(TASKS, ROWS, 0.0, np.random.default_rng(seed))
    fifth = ROWS // 5  # rows are drawn alike, so any of them may be for validation and test
    split = np.repeat(["train", "val", "test"], [ROWS - 2 * fifth, fifth, fifth])
    return TaskSuite.from_arrays(
        x.reshape(-1, 1),
        y.reshape(-1),
        names=["y"],
        kinds="regression",
        task=np.repeat(np.arange(TASKS), ROWS),
        splits=np.tile(split, TASKS),
        name="sinusoid",
        task_scale="shared",
    )


def sinusoid_episodes(
    n_tasks: int = 20_000,
    rows: int = 20,
    *,
    noise: float = 0.0,
    seed: int = 0,
    shape: EpisodeShape | None = None,
    test_shape: EpisodeShape | None = None,
    held_out: tuple[int, int] = (200, 1000),
    held_out_rows: int = 110,
) -> EpisodicSuite:
    """Sinusoids to meta-learn from, in the paper's units: nothing is standardised.

    Args:
        n_tasks, rows: to train on, and the rows of each.
        shape: 10-shot with 10 query rows if not given.
        held_out, held_out_rows: validation and test tasks, and the rows of each.
    """
    shape = shape or EpisodeShape(shots=10, queries=10)
    rng = np.random.default_rng(seed)
    parts = [(n_tasks, rows), *((n, held_out_rows) for n in held_out)]
    drawn = [draw_sinusoids(n, r, noise, rng) for n, r in parts]
    tasks = np.repeat(
        np.arange(n_tasks + sum(held_out)), np.repeat([r for _, r in parts], [n for n, _ in parts])
    )
    split = np.repeat([TRAIN, VAL, TEST], [n for n, _ in parts])
    x, y = (np.concatenate([part[i].reshape(-1) for part in drawn]) for i in (0, 1))
    return EpisodicSuite(
        name="sinusoid",
        shape=shape,
        test_shape=test_shape or shape,
        kind="regression",
        metric="rmse",
        input_kind="table",
        tasks=tuple(map(str, range(len(split)))),
        task_split=torch.from_numpy(split.astype(np.int8)),
        x=torch.from_numpy(x.astype(np.float32))[:, None],
        y=torch.from_numpy(y.astype(np.float32)),
        task=torch.from_numpy(tasks),
        target="y",
        task_column="task",
    )
