"""Soft sharing (Duong et al. 2015): a network for each task, pulled towards their mean."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from autometa.config import Config, per_run
from autometa.networks import Parts, Step
from autometa.sharing.base import Params, Role, Sharing
from autometa.sharing.hard import Hard, HardConfig


class SoftConfig(Config):
    """`tie`: strength λ of the pull; 0 is `independent`, a large one comes near `hard`."""

    kind: Literal["soft"] = "soft"
    tie: float = per_run(1e-2, ge=0.0)


class Soft(Sharing):
    """Towers for each task from one common start, with loss += λ Σ_l Σ_t ‖W_{l,t} − mean_t W_l‖².

    W_{l,t} are all parameters of block l in task t's tower, biases included; heads and task
    conditioning are left out (the normalisations have no parameters). Tasks do not meet in the
    forward pass, so λ = 0 is `Independent`.

    Duong et al. 2015, "Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a
    Neural Network Parser". They tie two networks to each other; the mean makes it T.
    """

    Config = SoftConfig

    def __init__(self, config: SoftConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        self._towers = Hard(HardConfig(split_at=0), parts)

    @classmethod
    def apart_from(cls, config: Any, head: str, n_blocks: int) -> int | None:
        return 0

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self._towers.init(generator)
        return {
            name: leaf[:1].expand_as(leaf).clone() if _is_tied(name) else leaf
            for name, leaf in params.items()
        }, buffers

    def forward(
        self,
        params: Params,
        buffers: Params,
        x: Tensor,
        *,
        tasks: Tensor,
        z: Tensor | None,
        step: Step,
    ) -> tuple[Tensor, Params]:
        return self._towers.forward(params, buffers, x, tasks=tasks, z=z, step=step)

    def roles(self) -> dict[str, Role]:
        return self._towers.roles()

    def penalty(self, params: Params, buffers: Params, step: Step) -> Float[Tensor, ""] | None:
        rate = step.rate("tie")
        if rate is None:
            return None
        distances = [
            (leaf - leaf.mean(0)).square().sum() for name, leaf in params.items() if _is_tied(name)
        ]
        return rate * torch.stack(distances).sum()


def _is_tied(name: str) -> bool:
    return name.startswith("blocks.")
