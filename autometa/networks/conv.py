"""Convolutional backbone: conv 3×3 → GroupNorm (no affine) → ReLU → 2×2 max pooling.

With `depth: 4` and `width: 64` this is the "conv-4" network of the few-shot literature (Vinyals
et al. 2016), with GroupNorm in place of BatchNorm so that a row's output does not depend on the
other rows of its batch.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from autometa.config import Config, per_run
from autometa.errors import ConfigError
from autometa.networks.layers import Modulation, fan_in_uniform, per_channel
from autometa.networks.problem import Problem


class ConvConfig(Config):
    """`depth` blocks of `width` channels; pooling halves the image while a side is at least 2."""

    kind: Literal["conv"] = "conv"
    width: int = Field(32, ge=1, le=2048)
    depth: int = Field(4, ge=1, le=64)
    norm: Literal["group", "none"] = "group"
    dropout: float = per_run(0.0, ge=0.0, lt=1.0)


class ConvBlock:
    """One block on images [row, in, height, width] → [row, channel, height', width']."""

    def __init__(self, in_channels: int, channels: int, norm: str, pool: bool) -> None:
        self.in_channels = in_channels
        self.fan_in = in_channels * 9
        self.channels = channels
        # a group of few channels would normalise the task's shift and small images away
        self._groups = next((g for g in (8, 4, 2) if channels % g == 0 and channels >= 4 * g), 1)
        self._norm = norm
        self._pool = pool

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        shape = (self.channels, self.in_channels, 3, 3)
        return {
            "weight": fan_in_uniform(shape, self.fan_in, generator),
            "bias": torch.zeros(self.channels),
        }

    def forward(
        self,
        params: dict[str, Tensor],
        x: Float[Tensor, "row channel height width"],
        modulation: Modulation,
    ) -> Float[Tensor, "row out_channel out_height out_width"]:
        h = F.conv2d(x, params["weight"], params["bias"], padding=1)
        if modulation.shift is not None:
            h = h + per_channel(modulation.shift, h.ndim)
        if self._norm == "group":
            h = F.group_norm(h, self._groups)
        if modulation.scale is not None:
            h = h * (1.0 + per_channel(modulation.scale, h.ndim))
        if modulation.offset is not None:
            h = h + per_channel(modulation.offset, h.ndim)
        h = torch.relu(h)
        return F.max_pool2d(h, 2) if self._pool else h


class Conv:
    """The backbone `conv`: an ordered list of `ConvBlock`s.

    Raises:
        ConfigError: the suite does not hold images.
    """

    Config = ConvConfig

    def __init__(self, config: ConvConfig, problem: Problem) -> None:
        if not problem.is_image:
            raise ConfigError(
                "Parameter `backbone.kind` should be `mlp` or `transformer` for tables. Found "
                "`conv`, which needs images [channel, height, width], and features of shape "
                f"{problem.feature_shape}."
            )
        channels, height, width = problem.feature_shape
        self.row_size = max(channels, config.width) * height * width
        blocks = []
        for _ in range(config.depth):
            pool = min(height, width) >= 2
            blocks.append(ConvBlock(channels, config.width, config.norm, pool))
            channels = config.width
            if pool:
                height, width = height // 2, width // 2
        self.blocks = tuple(blocks)
        self.out_features = channels * height * width

    def enter(self, x: Float[Tensor, "row *feature"]) -> Float[Tensor, "row channel height width"]:
        """Arrange input rows for the first block."""
        return x

    def leave(self, h: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row feature"]:
        """Arrange the last block's output for the head."""
        return h.flatten(1)
