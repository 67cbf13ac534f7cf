"""Gradients of each task's loss, the raw material of balancing and of diagnosis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def task_gradients(
    losses: Float[Tensor, "run task"], leaves: Sequence[Tensor]
) -> Float[Tensor, "run task parameter"]:
    """The gradient of every task's loss with respect to stacked leaves, one backward pass a task.

    Args:
        losses: with their graph, which is kept.
        leaves: [run, …] each, in the order of the result; a leaf that a task does not reach
            counts as zero.
    """
    rows = []
    for task in range(losses.shape[1]):
        grads = torch.autograd.grad(
            losses[:, task].sum(), list(leaves), retain_graph=True, materialize_grads=True
        )
        rows.append(torch.cat([g.flatten(1) for g in grads], dim=1))
    return torch.stack(rows, dim=1)
