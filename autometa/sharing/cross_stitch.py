"""Cross-stitch networks (Misra et al. 2016): towers that read each other's activations."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from autometa.config import Config, per_run
from autometa.networks import Parts, Problem, Step
from autometa.sharing.base import Params, Role, Sharing
from autometa.sharing.towers import Towers, check_cost, mixing_start


class CrossStitchConfig(Config):
    """Units after every block.

    `units`: one matrix for a `layer`, or one for each `channel`. `init_same`: weight of a tower's
    own activation at the start; the others share the rest equally. `mixing_lr`: learning rate of
    the units as a multiple of `optimizer.lr`.
    """

    kind: Literal["cross_stitch"] = "cross_stitch"
    units: Literal["layer", "channel"] = "layer"
    init_same: float = per_run(0.9, ge=0.0, le=1.0)
    mixing_lr: float = per_run(10.0, gt=0.0)


class CrossStitch(Sharing):
    """x̃_t = Σ_j A_tj x_j after every block, with x_j tower j's activation on task t's rows.

    A is [task, task] (`layer`) or [task, task, channel]; row t is what task t reads. The start is
    α_same = `init_same` and α_other = (1 − `init_same`)/(T − 1). A = I is `Independent`.

    Misra et al. 2016, "Cross-stitch Networks for Multi-task Learning", arXiv:1604.03539. They put
    units after pooling and after fully connected layers; here after every block.

    Raises:
        ConfigError: a grouped suite of more than 16 tasks (see `towers.check_cost`).
    """

    Config = CrossStitchConfig
    mixes_tasks: ClassVar[bool] = True

    def __init__(self, config: CrossStitchConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        self._towers = Towers(parts)
        self._config = config

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        check_cost(config.kind, problem)

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params = self._towers.init(generator)
        start = mixing_start(self.parts.problem.n_tasks, self._config.init_same)
        for number, block in enumerate(self.parts.backbone.blocks):
            unit = start.clone()
            if self._config.units == "channel":
                unit = unit[..., None].repeat(1, 1, block.channels)
            params[f"mixing.{number}"] = unit
        return params, {}

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
        equation = "tj,jrc...->trc..." if self._config.units == "layer" else "tjc,jrc...->trc..."

        def mix(number: int, h: Tensor) -> Tensor:
            return torch.einsum(equation, params[f"mixing.{number}"], h)

        mixed = self._towers.run(params, x, step, mix)
        return self._towers.predict(params, mixed[-1], tasks), buffers

    def roles(self) -> dict[str, Role]:
        roles = self._towers.roles()
        roles.update({f"mixing.{number}": "mixing" for number in range(self.parts.n_blocks)})
        return roles
