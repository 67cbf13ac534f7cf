"""Pieces that blocks are made of, written for one model and one task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from autometa.networks.keys import keep
from autometa.networks.problem import Step


@dataclass(frozen=True)
class Modulation:
    """How the task enters one block; every entry is [channel] and may be absent.

    `shift` is added to the linear or convolution output before the normalisation; `scale` and
    `offset` act after it, before the nonlinearity: h' = (1 + scale) ⊙ h + offset.
    """

    shift: Tensor | None = None
    scale: Tensor | None = None
    offset: Tensor | None = None

    def entries(self) -> dict[str, Tensor]:
        """The entries that are present, by name."""
        found = {"shift": self.shift, "scale": self.scale, "offset": self.offset}
        return {name: value for name, value in found.items() if value is not None}


def fan_in_uniform(
    shape: tuple[int, ...], fan_in: int, generator: torch.Generator
) -> Float[Tensor, "*shape"]:
    """Draw from U(−1/√fan_in, 1/√fan_in), the initialisation of torch's own layers."""
    bound = 1.0 / math.sqrt(fan_in)
    return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound


def dropout(h: Float[Tensor, "*shape"], step: Step, layer: int) -> Float[Tensor, "*shape"]:
    """Inverted dropout at the run's own rate, with a mask drawn from the run's key."""
    rate = step.rate("dropout")
    if not step.train or rate is None or step.key is None:
        return h
    kept = keep(step.key, layer, rate, h.shape)
    return h * (kept.to(h.dtype) * (1.0 / (1.0 - rate)).to(h.dtype))


def per_channel(value: Float[Tensor, " channel"], ndim: int) -> Tensor:
    """View [channel] so that it broadcasts over rows and, for images, over positions."""
    return value.reshape(value.shape + (1,) * (ndim - 2))
