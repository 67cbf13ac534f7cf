"""Networks and inner loops written out with torch, for the identities of learners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autometa.learners import Batch, Episode, Learner
from autometa.networks import Problem, Step
from autometa.sharing import Params
from tests.backbones import block, leaves, read
from tests.small import IMAGE, TABLE, make_learner

EXACT = {"rtol": 1e-9, "atol": 1e-12}
BACKBONES = pytest.mark.parametrize(("backbone", "shape"), [("mlp", TABLE), ("conv", IMAGE)])
KINDS = pytest.mark.parametrize("kind", ["regression", "multiclass"])


def network(backbone: str, params: Params, x: Tensor) -> Tensor:
    """Outputs [row, output] of one task with its own leaves, no dimension for tasks."""
    h = x
    for number in range(2):
        h = block(backbone, leaves(params, f"blocks.{number}"), h)
    return F.linear(read(backbone, h), params["head.weight"], params["head.bias"])


def task_loss(problem: Problem, out: Tensor, batch: Batch, task: int) -> Tensor:
    """Mean over the labelled rows of a task."""
    keep = batch.mask[task]
    out, y = out[keep], batch.y[task][keep]
    if problem.kinds[0] == "multiclass":
        return F.cross_entropy(out, y.long())
    if problem.kinds[0] == "binary":
        return F.binary_cross_entropy_with_logits(out[:, 0], y)
    return F.mse_loss(out[:, 0], y)


def descend(
    loss: Callable[[Params], Tensor],
    params: Params,
    names: list[str],
    rate: float | Mapping[str, Tensor],
    steps: int,
    first_order: bool = False,
) -> Params:
    """One task's inner loop, step by step."""
    for _ in range(steps):
        found = torch.autograd.grad(
            loss(params), [params[n] for n in names], create_graph=not first_order
        )
        step = dict(zip(names, found, strict=True))
        params = params | {
            n: params[n] - (rate if isinstance(rate, float) else rate[n]) * step[n] for n in names
        }
    return params


def adapted_losses(
    backbone: str, learner: Learner, params: Params, episode: Episode, **how: Any
) -> Tensor:
    """Query losses [task] after adaptation, in a plain loop over tasks.

    Args:
        params: θ of the learner; leaves of tasks have a first dimension of 1.
        how: as in `descend`.
    """
    roles = learner.roles()
    names = [n for n, role in roles.items() if role == "task"]
    mine = {n: leaf[0] if n in names else leaf for n, leaf in params.items()}
    losses = []
    for task in range(len(episode.query.x)):
        support = episode.support

        def loss(p: Params, batch: Batch = support, task: int = task) -> Tensor:
            out = network(backbone, p, batch.x[task])
            return task_loss(learner.problem, out, batch, task)

        phi = descend(loss, mine, names, **how)
        losses.append(loss(phi, episode.query))
    return torch.stack(losses)


def joint_gradient(
    backbone: str, learner: Learner, params: Params, batch: Batch, split_at: int = 2
) -> tuple[Tensor, Params]:
    """Loss and gradient of multi-task learning: the learner `joint`, which has no episodes.

    Args:
        batch: without missing labels, so that the mean over tasks is that over rows.
    """
    problem = learner.problem.model_copy(update={"episode": None, "base_classes": 0})
    joint = make_learner(problem, {"backbone.kind": backbone, "sharing.split_at": split_at})
    rows = Batch(
        batch.x.flatten(0, 1),
        batch.y.reshape(1, -1),
        batch.mask.reshape(1, -1),
        torch.zeros(1).long(),
    )
    total, _, _ = joint.loss(params, {}, rows, Step())
    found = torch.autograd.grad(total, list(params.values()))
    return total, dict(zip(params, found, strict=True))
