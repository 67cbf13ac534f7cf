"""A linear path from the input to the output, beside the network."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autometa.networks.problem import Problem


class LinearPath:
    """out_t(x) = network_t(x) + W_t x, with W = 0 at the start: the plain network.

    What a linear model can say of a row need not pass through layers that normalise it, so the
    network is left with what is not linear. There is no bias: the head has one.

    Args:
        per_task: whether each task has a matrix of its own, as it has a head of its own.
    """

    def __init__(self, problem: Problem, per_task: bool) -> None:
        shape = (problem.width, math.prod(problem.feature_shape))
        self._shape = (problem.n_tasks, *shape) if per_task else shape
        self._grouped = problem.layout == "grouped"
        self.per_task = per_task

    def init(self) -> dict[str, Tensor]:
        return {"weight": torch.zeros(self._shape)}

    def forward(
        self, params: dict[str, Tensor], x: Float[Tensor, "*rows"], tasks: Int[Tensor, " task"]
    ) -> Float[Tensor, "#task row output"]:
        """What is added to the outputs of the given tasks; `x` and `tasks` as in `Sharing`."""
        weight = params["weight"]
        if self._grouped:
            own = weight[tasks] if self.per_task else weight
            return x.flatten(2) @ own.mT
        return x.flatten(1) @ weight.mT if self.per_task else (x.flatten(1) @ weight.mT)[None]
