"""Predictions of K stacked runs for any number of rows, in blocks that fit memory."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from autometa.learners import Learner
from autometa.sharing import Params
from autometa.training.data import into_slots

#: largest number of activations [run × task × row × number] in one pass, 16 MB: more are no faster,
#: and there are three of them before, in and after a layer
_NUMBERS = 4_000_000
#: rows of a block, or slots of rows, are a multiple of the first of these that fits: so a block has
#: the products that all rows together would have, bit for bit
_ALIGNED = (64, 8, 1)


def predict(
    learner: Learner,
    params: Params,
    buffers: Params,
    x: Tensor,
    task: Tensor | None,
    device: torch.device,
) -> Float[np.ndarray, "*shape"]:
    """Outputs in evaluation.

    Args:
        params, buffers: leaves [run, …].
        x: rows [row, *feature].
        task: [row], the task of each row of a grouped suite; None if aligned.

    Returns:
        float32 [run, task, row, output] (aligned) or [run, row, output] (grouped).
    """
    n_runs = len(next(iter(params.values())))

    def one(p: Params, b: Params, rows: Tensor, tasks: Tensor) -> Tensor:
        return learner.predict(p, b, rows, tasks)

    stacked = vmap(one, in_dims=(0, 0, None, None))
    n_tasks, width = learner.problem.n_tasks, learner.problem.width
    if not len(x):
        cells = (n_tasks, 0) if task is None else (0,)
        return np.zeros((n_runs, *cells, width), dtype=np.float32)
    with torch.no_grad():
        if task is None:
            tasks = torch.arange(n_tasks, device=device)
            size = _aligned(_NUMBERS // (n_runs * n_tasks * learner.row_size))
            parts = [
                stacked(params, buffers, rows.to(device), tasks).float().cpu()
                for rows in x.split(size)
            ]
            return torch.cat(parts, dim=2).numpy()
        out = torch.empty(n_runs, len(x), width, dtype=torch.float32)
        slots = into_slots(task)
        a_slot = slots.rows.shape[1] * learner.towers_per_row * learner.row_size
        size = _aligned(_NUMBERS // (n_runs * a_slot))
        pieces = zip(
            slots.rows.split(size), slots.valid.split(size), slots.tasks.split(size), strict=True
        )
        for rows, valid, tasks in pieces:
            found = stacked(params, buffers, x[rows].to(device), tasks.to(device)).float().cpu()
            out[:, rows[valid]] = found[:, valid]
        return out.numpy()


def _aligned(most: int) -> int:
    """About `most`; at least 1."""
    of = next((size for size in _ALIGNED if size <= most), 1)
    return max(1, most // of * of)
