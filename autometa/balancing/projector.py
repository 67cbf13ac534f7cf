"""The projection that UPGrad and DualProj need, for TorchJD."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torchjd.linalg import DualConeProjector

from autometa.balancing.base import Unsolvable
from autometa.balancing.solved import root, unit_trace


class NonNegativeProjector(DualConeProjector):
    """TorchJD's projection onto the dual cone, solved as non-negative least squares.

    min vᵀGv subject to v ≥ u is, with v = u + s and G = R Rᵀ, min ‖Rᵀs + Rᵀu‖ subject to s ≥ 0.
    TorchJD's own projector needs two packages more, and adds 10⁻⁴ trace G to the diagonal of G, in
    which a task whose gradients are a hundred times shorter than the others' is lost.
    """

    def __call__(self, U: Tensor, G: Any) -> Tensor:
        across = root(unit_trace(G.double())).T.numpy()
        rows = np.atleast_2d(U.double().numpy())
        try:
            moved = np.stack([u + nnls(across, -across @ u)[0] for u in rows])
        except RuntimeError as exc:  # too many iterations
            raise Unsolvable from exc
        return torch.as_tensor(moved).reshape(U.shape).to(U.dtype)
