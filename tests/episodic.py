"""Small suites to cut episodes from, and a learner that is solved in closed form."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from autometa.config import Config, per_run
from autometa.learners import Batch, Learner
from autometa.learners.losses import row_losses, task_losses
from autometa.networks import Problem, Step
from autometa.sharing import Params, Role
from autometa.tasks import EpisodeShape, EpisodicSuite, TaskSuite
from autometa.training.state import Run
from autometa.trial import TrialConfig


def lines(kind: str = "regression", sizes: tuple[int, ...] = (30, 24, 40, 18, 30, 26, 5, 30)):
    """Tasks y = slope·a + height of a table with a feature `b` without use, and unequal sizes.

    Binary: whether y is above its task's median.
    """
    rng = np.random.default_rng(0)
    parts = []
    for task, n in enumerate(sizes):
        a, b = rng.normal(3.0, 2.0, n), rng.normal(size=n)
        y = rng.normal(0, 3) * a + rng.normal(50, 10) + 0.1 * rng.normal(size=n)
        if kind == "binary":
            y = np.where(y > np.median(y), "yes", "no")
        parts.append(pd.DataFrame({"a": a, "b": b, "y": y, "place": f"p{task}"}))
    return pd.concat(parts, ignore_index=True)


def grouped(kind: str = "regression", table: pd.DataFrame | None = None) -> TaskSuite:
    table = lines(kind) if table is None else table
    return TaskSuite.from_frame(table, target="y", task_column="place", name="lines")


def pictures(
    n_tasks: int = 6, n_classes: int = 5, rows: int = 8, names: tuple[str, ...] | None = None
) -> TaskSuite:
    """Images whose class is the place of the bright pixel, with noise."""
    rng = np.random.default_rng(1)
    task, label = np.meshgrid(np.arange(n_tasks), np.arange(n_classes), indexing="ij")
    task, label = np.repeat(task.ravel(), rows), np.repeat(label.ravel(), rows)
    x = rng.normal(0, 20, (len(task), 6, 6)) + 100
    bright = (5 * task + label) % 36
    x.reshape(len(task), -1)[np.arange(len(task)), bright] += 120
    return TaskSuite.from_arrays(x, label, task=task, kinds="multiclass", name="pictures")


def targets(n: int = 4, rows: int = 60) -> TaskSuite:
    """Targets of one table in units of their own, some labels missing."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(rows, 3))
    scale, shift = 10.0 ** np.arange(n), 100.0 * np.arange(n)
    y = (x @ rng.normal(size=(3, n))) * scale + shift
    y[rng.random(y.shape) < 0.1] = np.nan
    return TaskSuite.from_arrays(x, y, kinds="regression", name="targets")


REGRESSION = EpisodeShape(shots=6, queries=4)
BINARY = EpisodeShape(shots=6, queries=4)
NWAY = EpisodeShape(ways=3, shots=2, queries=4)
#: a task has rows for some query rows only
SCARCE = EpisodeShape(shots=6, queries=30)

#: a suite of every type
CASES = {
    "regression": lambda: EpisodicSuite.from_suite(grouped(), REGRESSION),
    "binary": lambda: EpisodicSuite.from_suite(grouped("binary"), BINARY),
    "mixed": lambda: EpisodicSuite.from_suite(pictures(), NWAY),
    "one_task": lambda: EpisodicSuite.from_suite(pictures(), NWAY, one_task=True),
    "targets": lambda: EpisodicSuite.from_suite(targets(), REGRESSION),
}


class RidgeConfig(Config):
    kind: Literal["ridge"] = "ridge"
    ridge: float = per_run(0.1, gt=0.0)
    width: int = 8


class Ridge(Learner):
    """Features tanh(xW), and on them ridge regression of the support labels (one-hot of classes).

    Classes: ten times the regression is the logit.
    """

    Config = RidgeConfig
    episodic = True
    any_ways = True

    def __init__(self, config: RidgeConfig, problem: Problem, *_: Any) -> None:
        self.problem = problem
        self._config = config
        self._inputs = int(np.prod(problem.feature_shape))

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        shape = (self._inputs, self._config.width)
        start = torch.randn(shape, generator=generator) / self._inputs**0.5
        return {"map.weight": start, "map.bias": torch.zeros(self._config.width)}, {}

    def roles(self) -> dict[str, Role]:
        return {"map.weight": "shared", "map.bias": "shared"}

    def _features(self, params: Params, x: Tensor) -> Tensor:
        h = torch.tanh(x.flatten(2) @ params["map.weight"] + params["map.bias"])
        return torch.cat([h, torch.ones_like(h[..., :1])], -1)

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        h = self._features(params, support.x) * support.mask[..., None]
        y = support.y[..., None]
        if self.problem.kinds[0] == "multiclass":
            ways = torch.arange(support.tasks.shape[-1], device=y.device)
            y = 10 * (y == ways).to(h.dtype)
        elif self.problem.kinds[0] == "binary":
            y = 10 * (2 * y - 1)
        own = step.rate("ridge")
        ridge = self._config.ridge if own is None else own
        gram = h.mT @ h + ridge * torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
        return params | {"adapted.head": torch.linalg.solve(gram, h.mT @ y)}

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        out = self.predict(params, buffers, batch.x, batch.tasks)
        losses, _ = task_losses(row_losses(self.problem, out, batch.y), batch.mask)
        return losses.mean(), losses, buffers

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        return self._features(params, x) @ params["adapted.head"]


def runs_of(*values: dict[str, object], **common: object) -> list[Run]:
    """Runs of `Ridge`, which a test registers, unless told otherwise; seeds count from 0."""
    flat = {"adaptation.kind": "ridge", "optimizer.batch_tasks": 5, **common}
    return [Run(TrialConfig.from_flat({**flat, **own}), seed=k) for k, own in enumerate(values)]
