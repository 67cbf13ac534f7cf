"""Multilayer perceptron: linear → LayerNorm (no affine) → ReLU, block by block."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from autometa.config import Config, per_run
from autometa.errors import ConfigError
from autometa.networks.layers import Modulation, fan_in_uniform
from autometa.networks.problem import Problem


class MLPConfig(Config):
    """`depth` blocks of `width` units. Images are flattened.

    `norm`: of a block's linear output, over its units. `linear`: with a `path` each task's output
    has a linear function of its row added (`LinearPath`). `inputs`: with `piecewise` the network
    reads each feature's place in `bins` bins, too (`PiecewiseInputs`).
    """

    kind: Literal["mlp"] = "mlp"
    width: int = Field(96, ge=1, le=8192)
    depth: int = Field(3, ge=1, le=64)
    norm: Literal["layer", "none"] = "layer"
    linear: Literal["none", "path"] = "none"
    inputs: Literal["plain", "piecewise"] = "plain"
    bins: int = Field(8, ge=2, le=64)
    dropout: float = per_run(0.0, ge=0.0, lt=1.0)


class MLPBlock:
    """One block on rows [row, in] → [row, width]."""

    def __init__(self, in_features: int, width: int, norm: str) -> None:
        self.fan_in = in_features
        self.channels = width
        self._norm = norm

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "weight": fan_in_uniform((self.channels, self.fan_in), self.fan_in, generator),
            "bias": torch.zeros(self.channels),
        }

    def forward(
        self,
        params: dict[str, Tensor],
        x: Float[Tensor, "row feature"],
        modulation: Modulation,
    ) -> Float[Tensor, "row width"]:
        h = F.linear(x, params["weight"], params["bias"])
        if modulation.shift is not None:
            h = h + modulation.shift
        if self._norm == "layer":
            h = F.layer_norm(h, (self.channels,))
        if modulation.scale is not None:
            h = h * (1.0 + modulation.scale)
        if modulation.offset is not None:
            h = h + modulation.offset
        return torch.relu(h)


class MLP:
    """The backbone `mlp`: an ordered list of `MLPBlock`s.

    Raises:
        ConfigError: never for valid configs; images of any size are flattened.
    """

    Config = MLPConfig

    def __init__(self, config: MLPConfig, problem: Problem) -> None:
        features = math.prod(problem.feature_shape)
        if features < 1:
            raise ConfigError("The suite has no features; backbone `mlp` needs at least one.")
        sizes = [features] + [config.width] * config.depth
        self.blocks = tuple(
            MLPBlock(fan_in, fan_out, config.norm) for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.out_features = config.width
        self.row_size = max(sizes)

    def enter(self, x: Float[Tensor, "row *feature"]) -> Float[Tensor, "row feature"]:
        """Arrange input rows for the first block."""
        return x.flatten(1)

    def leave(self, h: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Arrange the last block's output for the head."""
        return h
