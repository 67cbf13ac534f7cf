"""How the members of an ensemble predict together: the mean of what each of them says.

Regression takes the mean of the standardised values, classification the mean of the class
probabilities (Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty estimation
using deep ensembles", arXiv:1612.01474). Probabilities are given back as what a network would put
out: the logit of a binary task's mean, the logarithms of a multiclass task's means, −∞ in the
channels beyond a task's classes. An ensemble of one predicts what its member predicts, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from autometa.metrics import TaskOfRow, TaskSpec


def combine(
    outputs: Float[np.ndarray, "member *cells output"],
    specs: Sequence[TaskSpec],
    task: TaskOfRow = None,
) -> Float[np.ndarray, "*cells output"]:
    """What an ensemble predicts.

    Args:
        outputs: of its members, `[M, T, N, O]`, or `[M, N, O]` with `task`; channels as in
            `metrics`.
        task: the task of each row, for grouped suites.

    Returns:
        `[T, N, O]` or `[N, O]`, of the dtype of `outputs`.
    """
    own = [0 if s.kind == "regression" else 1 if s.kind == "binary" else s.n_classes for s in specs]
    logits = np.array(own, dtype=np.int64)
    cells = torch.from_numpy(logits if task is None else logits[task])
    return mixture(torch.from_numpy(np.ascontiguousarray(outputs)), cells).numpy()


def leave_one_out(
    outputs: Float[np.ndarray, "member *cells output"],
    specs: Sequence[TaskSpec],
    task: TaskOfRow = None,
) -> Float[np.ndarray, "member *cells output"]:
    """What the ensembles predict that lack one member each; a single member stays as it is.

    Args:
        outputs, task: as in `combine`.
    """
    if len(outputs) == 1:
        return outputs
    each = range(len(outputs))
    return np.stack([combine(np.delete(outputs, lost, 0), specs, task) for lost in each])


def mixture(
    outputs: Float[Tensor, "member cell *rows output"], logits: Int[Tensor, " cell"]
) -> Float[Tensor, "cell *rows output"]:
    """`combine` for tensors, through which gradients flow.

    Args:
        logits: of each cell (a task, or a row of a grouped suite): none where it is a regression,
            one where it has two classes, else one a class.
    """
    if len(outputs) == 1:
        return outputs[0]
    found = torch.full_like(outputs[0], -torch.inf)
    for count in logits.unique().tolist():
        cells = logits == count
        members = outputs[:, cells, ..., : max(count, 1)].double()
        if count == 0:
            part = _mean(members)
        elif count == 1:
            part = _log_mean(F.logsigmoid(members)) - _log_mean(F.logsigmoid(-members))
        else:
            part = _log_mean(F.log_softmax(members, -1))
        padding = (0, found.shape[-1] - part.shape[-1])
        found[cells] = F.pad(part.to(found.dtype), padding, value=-torch.inf)
    return found


def _mean(members: Tensor) -> Tensor:
    """Over the first axis, one after the other: the same whatever other rows there are."""
    total = members[0]
    for one in members[1:]:
        total = total + one
    return total / len(members)


def _log_mean(members: Tensor) -> Tensor:
    """log(mean(exp(members))) over the first axis."""
    high = members.amax(0).detach()
    high = torch.where(high.isfinite(), high, 0.0)
    return _mean((members - high).exp()).log() + high
