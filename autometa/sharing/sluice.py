"""Sluice networks (Ruder et al. 2017): subspaces of all towers mix, and so do a tower's layers."""

from __future__ import annotations

from itertools import combinations
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from autometa.config import Config, per_run
from autometa.errors import ConfigError
from autometa.networks import Backbone, Parts, Problem, Step
from autometa.sharing.base import Params, Role, Sharing, is_weight, subset
from autometa.sharing.towers import Towers, check_cost, mixing_start


class SluiceConfig(Config):
    """Mixing of subspaces after every block and of block outputs before the head.

    `subspaces`: equal parts G of a block's channels. `init_same`: weight of a subspace on itself,
    and of the last block, at the start; the others share the rest equally. `orthogonality`:
    strength λ of the penalty that keeps a tower's subspaces different. `mixing_lr`: learning rate
    of the mixing weights as a multiple of `optimizer.lr`.
    """

    kind: Literal["sluice"] = "sluice"
    subspaces: int = Field(2, ge=1)
    init_same: float = per_run(0.9, ge=0.0, le=1.0)
    orthogonality: float = per_run(1e-3, ge=0.0)
    mixing_lr: float = per_run(10.0, gt=0.0)


class Sluice(Sharing):
    """x̃_{t,g} = Σ_{j,k} α_{tg,jk} x_{j,k} after every block; the head reads Σ_l β_{t,l} x̃_{t,l}.

    x_{j,k} is subspace k (channels kC/G to (k+1)C/G) of tower j's activation on task t's rows.
    α [TG, TG] is kept as [task, subspace, task, subspace], so that no reshape can mix up the two; β
    is [task, block], without a softmax. The penalty is λ Σ_t Σ_l Σ_{g<h} ‖W_{t,l,g} W_{t,l,h}ᵀ‖²_F,
    W_{t,l,g} being the rows of block l's weight that produce subspace g; in a transformer, of every
    weight whose outputs are the block's channels.

    Ruder et al. 2017, "Latent Multi-task Architecture Learning", arXiv:1705.08142. Deviations:
    outputs of early convolution blocks are average-pooled to the size of the last block's, which
    the paper's recurrent layers do not need. α is from one block to the next for all blocks. With
    G = 1 and β on the last block this is `CrossStitch`.

    Raises:
        ConfigError: a grouped suite of more than 16 tasks, blocks of different widths, or a width
            that `subspaces` does not divide.
    """

    Config = SluiceConfig
    mixes_tasks: ClassVar[bool] = True

    def __init__(self, config: SluiceConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        self._towers = Towers(parts)
        self._config = config

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        check_cost(config.kind, problem)

    @classmethod
    def check_backbone(cls, config: Any, backbone: Backbone) -> None:
        channels = [block.channels for block in backbone.blocks]
        if len(set(channels)) > 1:
            raise ConfigError(
                "Parameter `sharing.kind` should not be `sluice` where blocks differ in width, "
                "because it adds their outputs. Found `sharing.kind = sluice` and blocks of "
                f"{', '.join(map(str, channels))} channels."
            )
        if channels[0] % config.subspaces:
            raise ConfigError(
                f"Parameter `sharing.subspaces` should divide the blocks' width ({channels[0]}). "
                f"Found `sharing.subspaces = {config.subspaces}`."
            )

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params = self._towers.init(generator)
        n_tasks, n_blocks = self.parts.problem.n_tasks, self.parts.n_blocks
        same, n_subspaces = self._config.init_same, self._config.subspaces
        alpha = mixing_start(n_tasks * n_subspaces, same)
        alpha = alpha.view(n_tasks, n_subspaces, n_tasks, n_subspaces)
        params.update({f"mixing.alpha.{number}": alpha.clone() for number in range(n_blocks)})
        params["mixing.beta"] = mixing_start(n_blocks, same)[-1].repeat(n_tasks, 1)
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
        def mix(number: int, h: Tensor) -> Tensor:
            parts = h.unflatten(2, (self._config.subspaces, -1))
            mixed = torch.einsum("tgjk,jrkc...->trgc...", params[f"mixing.alpha.{number}"], parts)
            return mixed.flatten(2, 3)

        outputs = self._towers.run(params, x, step, mix)
        last = outputs[-1]
        layers = torch.stack([_resize(h, last) for h in outputs])
        read = torch.einsum("tl,ltr...->tr...", params["mixing.beta"], layers)
        return self._towers.predict(params, read, tasks), buffers

    def roles(self) -> dict[str, Role]:
        roles = self._towers.roles()
        roles.update({f"mixing.alpha.{number}": "mixing" for number in range(self.parts.n_blocks)})
        roles["mixing.beta"] = "mixing"
        return roles

    def penalty(self, params: Params, buffers: Params, step: Step) -> Float[Tensor, ""] | None:
        rate, n_subspaces = step.rate("orthogonality"), self._config.subspaces
        if rate is None or n_subspaces == 1:
            return None
        overlaps = []
        for number, block in enumerate(self.parts.backbone.blocks):
            for name, leaf in subset(params, f"blocks.{number}").items():
                if not is_weight(name) or leaf.shape[1] != block.channels:
                    continue  # it does not produce the block's channels
                subspaces = leaf.flatten(2).unflatten(1, (n_subspaces, -1)).unbind(1)
                overlaps += [(a @ b.mT).square().sum() for a, b in combinations(subspaces, 2)]
        return rate * torch.stack(overlaps).sum() if overlaps else None


def _resize(h: Tensor, like: Tensor) -> Tensor:
    """Average-pool images [task, row, channel, height, width] to another's height and width."""
    if h.shape == like.shape:
        return h
    if h.ndim != 5 or h.ndim != like.ndim:
        raise ConfigError(
            "Parameter `sharing.kind` should not be `sluice` with this backbone, because it adds "
            "the outputs of blocks. Found `sharing.kind = sluice` and outputs of shapes "
            f"{list(h.shape[2:])} and {list(like.shape[2:])} for one row."
        )
    size = (like.shape[3], like.shape[4])
    return F.adaptive_avg_pool2d(h.flatten(0, 1), size).unflatten(0, h.shape[:2])
