"""Gradients of a step, and those of each task's loss, which balancing and diagnosis go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from autometa.sharing import Params


class Gradients(NamedTuple):
    """Of the runs of a stack, or some of them.

    Attributes:
        losses: objectives [run].
        task_losses: [run, task].
        leaves: gradients of the objectives, balanced, as the optimizer takes them [run, …].
        buffers: after the forward pass.
    """

    losses: Tensor
    task_losses: Tensor
    leaves: Params
    buffers: Params


def join(parts: Sequence[Gradients]) -> Gradients:
    """Of all runs, from those of some."""
    return Gradients(
        torch.cat([part.losses for part in parts]),
        torch.cat([part.task_losses for part in parts]),
        {n: torch.cat([part.leaves[n] for part in parts]) for n in parts[0].leaves},
        {n: torch.cat([part.buffers[n] for part in parts]) for n in parts[0].buffers},
    )


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
