"""Models of every learner that adapts, with random weights, over the table of `tests.small`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from autometa.learners import LEARNERS
from autometa.model import Model
from autometa.tasks.encoder import Encoder
from autometa.tasks.images import ImageEncoder
from autometa.tasks.support import NewTask
from autometa.trial import build
from tests.small import IMAGE, make_config, make_episode_problem, make_suite

EPISODIC = [kind for kind, learner in LEARNERS.items() if learner.episodic]
#: those that take gradient steps
STEPPING = [kind for kind in EPISODIC if "test_steps" in LEARNERS[kind].Config.model_fields]

#: those that say how sure they are of a number
SURE_OF_NUMBERS = [kind for kind in EPISODIC if LEARNERS[kind].has_variance]

#: what a new task is, by the column that holds its labels
NEW_TASKS = {
    "size": NewTask("regression", "rmse", "size", "site", mean=100.0, std=20.0),
    "species": NewTask("multiclass", "accuracy", "species", "site"),
    "sold": NewTask("binary", "accuracy", "sold", "site", ("no", "yes")),
    "own": NewTask("regression", "rmse", own_scale=True),
}


def learners_for(target: str) -> list[str]:
    """Learners that can predict this target."""
    return [k for k in EPISODIC if k != "metric" or NEW_TASKS[target].kind != "regression"]


def make_meta(
    kind: str,
    target: str = "size",
    *,
    images: bool = False,
    ways: int = 3,
    members: int = 1,
    **values: Any,
) -> Model:
    """A model that was trained in episodes of 4 support rows (of each class)."""
    new = NEW_TASKS[target]
    encoder: Encoder | None = ImageEncoder(IMAGE, 0.0, 1.0) if images else make_suite().encoder
    problem = make_episode_problem(
        new.kind, IMAGE if images else (3,), ways if new.kind == "multiclass" else None
    )
    flat = {"adaptation.kind": kind, "backbone.kind": "conv" if images else "mlp"}
    if kind == "amortized":
        flat["conditioning.kind"] = "multiplicative"
    config = make_config({**flat, **values})
    generator = torch.Generator().manual_seed(3)
    drawn = []
    for _ in range(members):
        params, buffers = build(config, problem).init(generator)
        # what starts at zero says nothing about the support rows
        noise = {n: 0.1 * torch.randn(p.shape, generator=generator) for n, p in params.items()}
        drawn.append(({n: p + noise[n] for n, p in params.items()}, buffers))
    params, buffers = (
        {n: torch.stack([one[part][n] for one in drawn]) for n in drawn[0][part]} for part in (0, 1)
    )
    facts = {"suite": "small"}
    return Model(
        config, problem, (), encoder, new.target, new.task_column, params, buffers, facts, new
    )


def make_images(rows: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of three classes that differ in brightness, and the classes' names."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    x = rng.normal(size=(rows, *IMAGE)) + 2.0 * y[:, None, None, None]
    return x.astype(np.float32), np.array(["dim", "grey", "light"])[y]
