"""Small problems, configs, batches and suites that several test files use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from autometa.learners import Batch, Episode, Learner
from autometa.networks import Problem
from autometa.sharing import Params
from autometa.tasks import TaskSuite
from autometa.training.data import TrainingRows
from autometa.training.state import Run
from autometa.trial import TrialConfig, build

TABLE, IMAGE = (5,), (2, 6, 5)
SMALL = {"backbone.width": 8, "backbone.depth": 2, "optimizer.batch_size": 16}


def in_steps(suite: TaskSuite, config: TrialConfig, epochs: int) -> int:
    """Optimizer steps of so many passes over the training rows."""
    rows = TrainingRows(suite.rows("train"), Problem.of(suite), torch.device("cpu"))
    return epochs * rows.steps(config.optimizer)


def seeded(*seeds: int) -> list[Run]:
    """Runs of the default configuration with these seeds."""
    return [Run(TrialConfig(), seed) for seed in seeds]


@contextmanager
def double_precision() -> Iterator[None]:
    """New tensors are float64 inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def make_config(values: Mapping[str, Any] | None = None, **sections: Any) -> TrialConfig:
    """A small network; `values` has dotted names."""
    return TrialConfig.from_flat({**SMALL, **(values or {}), **sections})


def make_problem(
    layout: str = "aligned",
    shape: tuple[int, ...] = TABLE,
    kinds: tuple[str, ...] | None = None,
    n_outputs: tuple[int, ...] | None = None,
) -> Problem:
    """Three tasks: of mixed kinds if aligned, with different numbers of classes if grouped."""
    if kinds is None:
        mixed = layout == "aligned"
        kinds = ("regression", "multiclass", "binary") if mixed else ("multiclass",) * 3
        n_outputs = (1, 3, 1) if mixed else (3, 2, 4)
    if n_outputs is None:
        n_outputs = (1,) * len(kinds)
    return Problem.model_validate(
        {"layout": layout, "feature_shape": shape, "kinds": kinds, "n_outputs": n_outputs}
    )


def same_kind(layout: str, shape: tuple[int, ...] = TABLE, n_tasks: int = 3) -> Problem:
    """Regression tasks, which may share one head."""
    return make_problem(layout, shape, ("regression",) * n_tasks)


def make_learner(problem: Problem, values: Mapping[str, Any] | None = None) -> Learner:
    return build(make_config(values), problem)


def draw(learner: Learner, seed: int = 0) -> tuple[Params, Params]:
    """θ in float64 with no leaf at its start, where some are zero; and the buffers."""
    params, buffers = learner.init(torch.Generator().manual_seed(seed))
    noise = torch.Generator().manual_seed(seed + 1)
    moved = {
        name: leaf.double() + 0.3 * torch.randn(leaf.shape, generator=noise, dtype=torch.float64)
        for name, leaf in params.items()
    }
    return moved, {name: buffer.double() for name, buffer in buffers.items()}


def make_batch(problem: Problem, rows: int = 4, seed: int = 0, slots: int = 0) -> Batch:
    """Random float64 rows, about a fifth of the labels missing.

    Grouped: one slot for each task, in reverse order; with `slots`, that many random ones.
    """
    rng = np.random.default_rng(seed)
    n = problem.n_tasks
    tasks = np.arange(n)
    lead: tuple[int, ...] = (rows,)
    if problem.layout == "grouped":
        tasks = rng.integers(0, n, slots) if slots else tasks[::-1].copy()
        lead = (len(tasks), rows)
    y = np.empty((len(tasks), rows))
    for place, task in enumerate(tasks):
        kind, outputs = problem.kinds[task], problem.n_outputs[task]
        if kind == "regression":
            y[place] = rng.normal(size=rows)
        else:
            y[place] = rng.integers(0, max(2, outputs), rows)
    mask = rng.random(y.shape) < 0.8
    mask[:, 0] = True
    return Batch(
        torch.from_numpy(rng.normal(size=lead + problem.feature_shape)),
        torch.from_numpy(np.where(mask, y, 0.0)),
        torch.from_numpy(mask),
        torch.from_numpy(tasks),
    )


def make_episode_problem(
    kind: str = "regression",
    shape: tuple[int, ...] = TABLE,
    ways: int | None = None,
    shots: int = 4,
    queries: int = 3,
    base_classes: int = 7,
) -> Problem:
    """One task that stands for all; `multiclass` is 3-way unless told otherwise."""
    n_way = (ways or 3) if kind == "multiclass" else None
    return Problem.model_validate(
        {
            "layout": "aligned",
            "feature_shape": shape,
            "kinds": (kind,),
            "n_outputs": (n_way or 1,),
            "episode": {"ways": n_way, "shots": shots, "queries": queries},
            "base_classes": base_classes if n_way else 0,
        }
    )


def make_episode(problem: Problem, tasks: int = 3, seed: int = 0, missing: bool = True) -> Episode:
    """Random float64 episodes; `missing`: about a fifth of the labels.

    Every class keeps a labelled support row. Tasks are numbered 0, 1, …; in N-way episodes the
    classes are drawn from `problem.base_classes`.
    """
    assert problem.episode is not None
    rng = np.random.default_rng(seed)
    ways = problem.episode.ways
    if ways is None:
        numbers = np.arange(tasks)
    else:
        numbers = np.stack([rng.permutation(problem.base_classes)[:ways] for _ in range(tasks)])

    def part(rows_a_class: int) -> Batch:
        rows = rows_a_class * (ways or 1)
        if problem.kinds[0] == "regression":
            y = rng.normal(size=(tasks, rows))
        else:
            y = np.tile(np.arange(rows) % (ways or 2), (tasks, 1)).astype(float)
        mask = rng.random(y.shape) < (0.8 if missing else 2.0)
        mask[:, : ways or 2] = True
        order = rng.permuted(np.tile(np.arange(rows), (tasks, 1)), axis=1)
        y, mask = np.take_along_axis(y, order, 1), np.take_along_axis(mask, order, 1)
        return Batch(
            torch.from_numpy(rng.normal(size=(tasks, rows, *problem.feature_shape))),
            torch.from_numpy(np.where(mask, y, 0.0)),
            torch.from_numpy(mask),
            torch.from_numpy(numbers),
        )

    return Episode(part(problem.episode.shots), part(problem.episode.queries))


def gradients(loss: Tensor, params: Params) -> Params:
    """Gradient of every leaf; zero for a leaf that the loss does not depend on."""
    found = torch.autograd.grad(
        loss, list(params.values()), allow_unused=True, retain_graph=True, materialize_grads=True
    )
    return dict(zip(params, found, strict=True))


def trainable(params: Params) -> Params:
    return {name: leaf.detach().clone().requires_grad_() for name, leaf in params.items()}


def make_suite(kind: str = "aligned", rows: int = 60, seed: int = 0) -> TaskSuite:
    """`aligned` (mixed kinds, missing labels), `grouped` (classes differ), or images."""
    rng = np.random.default_rng(seed)
    part = np.array(["train", "train", "val", "train", "test"])[np.arange(rows) % 5]
    if kind == "image":
        x = rng.normal(size=(rows, *IMAGE)).astype(np.float32)
        y = np.stack([x.mean((1, 2, 3)), x[:, 0].std((1, 2)), x[:, 1, 0, 0]], 1)
        return TaskSuite.from_arrays(x, y, splits=part)
    table = make_table(rows, seed).assign(part=part)
    if kind == "grouped":
        return TaskSuite.from_frame(
            table.drop(columns=["size", "sold", "grade"]),
            target="species",
            task_column="site",
            split_column="part",
        )
    targets = ["size", "species", "sold"] if kind == "aligned" else ["size", "grade"]
    return TaskSuite.from_frame(
        table[["a", "b", "c", *targets, "part"]], targets=targets, split_column="part"
    )


def make_table(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """Features a, b, c; targets size (missing ones), species, sold, grade; the task column site."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    number = np.arange(rows)
    species = np.array(["ash", "birch", "cedar"])[(2 * number + number // 5) % 3]
    # at the second site there are two species only
    site = np.where((species != "cedar") & (number % 2 == 0), "south", "north")
    size = np.where(number % 7 == 1, np.nan, 100 + 20 * (x @ [1.0, 2.0, -1.0]))
    return pd.DataFrame(
        {
            "a": x[:, 0],
            "b": x[:, 1],
            "c": x[:, 2] * 50,
            "size": size,
            "species": species,
            "sold": np.where(x[:, 0] + 0.3 * rng.normal(size=rows) > 0, "yes", "no"),
            "grade": (2 * number + number // 5) % 3 + 4,
            "site": site,
        }
    )


def timeless(test: dict[str, Any] | None) -> dict[str, Any]:
    """A final comparison without the seconds that its methods took."""
    assert test is not None
    methods = [{k: v for k, v in row.items() if k != "seconds"} for row in test["methods"]]
    return {**test, "methods": methods}


def in_double(suite: TaskSuite) -> TaskSuite:
    """The suite with its rows in float64."""
    return dataclasses.replace(suite, x=suite.x.double(), y=suite.y.double())


def sales(rows: int = 300) -> pd.DataFrame:
    """Five numbers and three targets that share what they depend on."""
    r = np.random.default_rng(0)
    x, w = r.normal(size=(rows, 5)), r.normal(size=(5, 2))
    y = x @ w + 0.3 * r.normal(size=(rows, 2))
    frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(5)])
    frame["price"] = 10 * y[:, 0] + 100
    frame["demand"] = 20 * np.exp(y[:, 1] / 2)
    frame["returned"] = np.where(y.sum(1) > 0.5, "yes", "no")
    return frame
