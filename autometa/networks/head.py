"""The linear head: features → output channels, with the task's own modulation where asked."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from autometa.networks.layers import Modulation, fan_in_uniform


class Head:
    """A linear layer [row, feature] → [row, output]."""

    def __init__(self, in_features: int, n_outputs: int) -> None:
        self.in_features = in_features
        self.channels = n_outputs

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        shape = (self.channels, self.in_features)
        return {
            "weight": fan_in_uniform(shape, self.in_features, generator),
            "bias": torch.zeros(self.channels),
        }

    def forward(
        self,
        params: dict[str, Tensor],
        h: Float[Tensor, "row feature"],
        modulation: Modulation,
    ) -> Float[Tensor, "row output"]:
        out = F.linear(h, params["weight"], params["bias"])
        if modulation.shift is not None:
            out = out + modulation.shift
        if modulation.scale is not None:
            out = out * (1.0 + modulation.scale)
        if modulation.offset is not None:
            out = out + modulation.offset
        return out
