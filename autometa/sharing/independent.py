"""Independent networks: T disjoint networks, the baseline that every sharing is judged against."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from autometa.config import Config
from autometa.networks import Parts, Step
from autometa.sharing.base import Params, Role, Sharing
from autometa.sharing.hard import Hard, HardConfig


class IndependentConfig(Config):
    """Nothing is shared; no parameter of its own."""

    kind: Literal["independent"] = "independent"


class Independent(Sharing):
    """`Hard` split before the first block, each task with its own head."""

    Config = IndependentConfig
    own_heads = True

    def __init__(self, config: IndependentConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        #: the networks, as hard sharing of nothing
        self.towers = Hard(HardConfig(split_at=0), dataclasses.replace(parts, head_per_task=True))

    @classmethod
    def apart_from(cls, config: Any, head: str, n_blocks: int) -> int | None:
        return 0

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        return self.towers.init(generator)

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
        return self.towers.forward(params, buffers, x, tasks=tasks, z=z, step=step)

    def roles(self) -> dict[str, Role]:
        return self.towers.roles()
