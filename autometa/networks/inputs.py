"""How the numbers of a table enter the network: piecewise-linear encoding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autometa.errors import ConfigError
from autometa.networks.problem import Problem

#: rows from which quantiles are found, at most
_ROWS = 20_000


class PiecewiseInputs:
    """Each feature, and beside it how far it lies in each of B bins: [D] becomes [D + D·B].

        e_b(x) = (x − q_b) / (q_{b+1} − q_b),   cut to [0, 1],

    with q_0, …, q_B the quantiles of the training rows at 0, 1/B, …, 1. The first bin is open below
    and the last one above, so values beyond those of the training rows keep their order. A bin
    between equal quantiles is empty and its entry 0: a column of few values has few bins.

    The bins are what the data say, so they are buffers of a run: `start` has those of a standard
    normal distribution, which `fit` replaces.

    Gorishniy, Rubachev & Babenko 2022, "On Embeddings for Numerical Features in Tabular Deep
    Learning", arXiv:2203.05556. They leave out x itself; with it the plain network is the one whose
    weights on the other entries are 0.

    Raises:
        ConfigError: the suite's inputs are images.
    """

    def __init__(self, problem: Problem, bins: int) -> None:
        if problem.is_image:
            raise ConfigError(
                "Parameter `backbone.inputs` should be `plain` for images. Found "
                "`backbone.inputs = piecewise`."
            )
        self._features = math.prod(problem.feature_shape)
        self._bins = bins
        self.shape = (self._features * (1 + bins),)

    def start(self) -> dict[str, Tensor]:
        """The buffers before any row was seen."""
        levels = torch.linspace(0.0, 1.0, self._bins + 1).clamp(0.01, 0.99)
        edges = math.sqrt(2.0) * torch.erfinv(2.0 * levels - 1.0)
        return _buffers(edges.expand(self._features, -1))

    def fit(self, x: Float[Tensor, "row feature"]) -> dict[str, Tensor]:
        """The buffers of these training rows."""
        rows = x[:: -(-len(x) // _ROWS)].cpu().numpy()
        edges = np.quantile(rows, np.linspace(0.0, 1.0, self._bins + 1), axis=0).T
        return {name: value.to(x) for name, value in _buffers(torch.from_numpy(edges)).items()}

    def encode(
        self, buffers: dict[str, Tensor], x: Float[Tensor, "*row feature"]
    ) -> Float[Tensor, "*row entry"]:
        """Rows as the network is given them: the features, then the bins of each in turn."""
        place = (x[..., None] - buffers["lower"]) * buffers["scale"]
        place = torch.minimum(torch.maximum(place, buffers["least"]), buffers["most"])
        return torch.cat([x, place.flatten(-2)], -1)


def columns_of(features: Sequence[int | None], n_earlier: int, bins: int) -> list[int | None]:
    """For each entry of an encoded row, which of an earlier encoding it is (None: a new one).

    Args:
        features: for each feature, which of the `n_earlier` ones it is.
    """
    binned = [
        None if feature is None else n_earlier + feature * bins + number
        for feature in features
        for number in range(bins)
    ]
    return [*features, *binned]


def _buffers(edges: Float[Tensor, "feature edge"]) -> dict[str, Tensor]:
    """Where each bin begins, 1 / its width (0 if it is empty), and what its entry is cut to."""
    width = edges.diff(dim=1)
    filled = width > 1e-6
    number = filled.cumsum(1)
    first, last = filled & (number == 1), filled & (number == number[:, -1:])
    one = torch.ones_like(width)
    return {
        "lower": edges[:, :-1].clone(),
        "scale": torch.where(filled, 1.0 / width.clamp(min=1e-6), 0.0),
        "least": torch.where(first, -torch.inf, 0.0 * one),
        "most": torch.where(last, torch.inf, one),
    }
