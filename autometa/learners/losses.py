"""Loss of every row under its task's kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autometa.networks import Problem


def at_least_float32(out: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Widen half-precision outputs, in which losses lose too many digits."""
    return out if out.dtype == torch.float64 else out.float()


def mask_classes(
    out: Float[Tensor, "task row output"],
    class_mask: Bool[Tensor, "all_tasks output"],
    tasks: Int[Tensor, " task"],
) -> Float[Tensor, "task row output"]:
    """Set the channels that a task does not have to −∞."""
    return out.masked_fill(~class_mask[tasks][:, None, :], float("-inf"))


def row_losses(
    problem: Problem,
    out: Float[Tensor, "task row output"],
    y: Float[Tensor, "task row"],
) -> Float[Tensor, "task row"]:
    """Squared error of standardised values, or cross-entropy in nats.

    `out` holds −∞ in channels beyond a task's classes (`mask_classes`). Suites that mix kinds are
    aligned: task t is row t of `out`.
    """
    kinds = set(problem.kinds)
    if len(kinds) == 1:
        return _LOSS[problem.kinds[0]](out, y)
    parts = [_LOSS[kind](out[t], y[t]) for t, kind in enumerate(problem.kinds)]
    return torch.stack(parts)


def task_losses(
    rows: Float[Tensor, "task row"], mask: Bool[Tensor, "task row"]
) -> tuple[Float[Tensor, " task"], Bool[Tensor, " task"]]:
    """Mean over the labelled rows of each task (0 without any), and which tasks have some."""
    count = mask.sum(-1)
    total = torch.where(mask, rows, torch.zeros_like(rows)).sum(-1)
    return total / count.clamp(min=1), count > 0


def mean_over_tasks(
    losses: Float[Tensor, " task"], present: Bool[Tensor, " task"]
) -> Float[Tensor, ""]:
    """The objective in episodes, of what `task_losses` gives."""
    return losses.sum() / present.sum().clamp(min=1)


def _squared(out: Tensor, y: Tensor) -> Tensor:
    return (out[..., 0] - y) ** 2


def _binary(out: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(out[..., 0], y, reduction="none")


def _multiclass(out: Tensor, y: Tensor) -> Tensor:
    log_p = F.log_softmax(out, dim=-1)
    # a missing label carries class 0, which every task has
    return -log_p.gather(-1, y.long()[..., None])[..., 0]


_LOSS = {"regression": _squared, "binary": _binary, "multiclass": _multiclass}
