"""Multi-task attention network (Liu, Johns & Davison 2019): a mask a task on a shared trunk."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from autometa.config import Config
from autometa.errors import ConfigError
from autometa.networks import HalvedBlock, Parts, Step
from autometa.networks.layers import Modulation, dropout, fan_in_uniform
from autometa.sharing.base import Params, Role, Sharing, per_task_apply, stack_init, subset
from autometa.sharing.hard import Hard, HardConfig


class MTANConfig(Config):
    """No parameter of its own."""

    kind: Literal["mtan"] = "mtan"


class MTAN(Sharing):
    """A trunk of all blocks, and for every task and block a mask of the block's output.

        a_{t,l} = σ(norm(V_{t,l} relu(norm(U_{t,l} [u_l; f_l(â_{t,l−1})]))))
        â_{t,l} = a_{t,l} ⊙ p_l,      f_l(â) = relu(norm(F_l â))

    The paper's blocks have several layers: u is the feature after the first and p the one after
    the second. A transformer's block has two halves: u_l is what leaves the first, with attention,
    and p_l what leaves the second. The blocks of the other backbones have one layer, so u_l is what
    enters block l (the trunk's p_{l−1}; for block 1 the input rows) and p_l is what leaves it.
    There is no f for block 1. Heads read â_{t,L}; the trunk reads p, never â. U and V belong to a
    task, F is common to all tasks. For images U and V are 1×1 convolutions, F is 3×3, and u and f
    are max-pooled to the size of p; for tokens all three are linear in the channels of one token.
    The norm is LayerNorm (of each token), for images GroupNorm with one group; the paper has batch
    normalisation, with which a row's mask would depend on other rows. Like those of our blocks it
    has no scale or shift, so that an entry of a mask is about σ(±2) at most.

    Dropout acts on p. Where z enters the trunk, p differs between tasks.

    Raises:
        ConfigError: the backbone's activations are neither vectors nor images nor tokens of blocks
            with two halves.
    """

    Config = MTANConfig
    stacks_exactly = False  # σ

    def __init__(self, config: MTANConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        self._trunk = Hard(HardConfig(), parts)
        entered = parts.backbone.enter(torch.empty(1, *parts.problem.feature_shape, device="meta"))
        blocks = parts.backbone.blocks
        halved = [isinstance(block, HalvedBlock) for block in blocks]
        if entered.ndim not in (2, 4) and not (entered.ndim == 3 and all(halved)):
            raise ConfigError(
                "Parameter `sharing.kind` should be another than `mtan` for a backbone whose "
                "activations are neither vectors nor images, nor tokens of blocks with two halves. "
                f"Found activations of shape {tuple(entered.shape[1:])}."
            )
        sides = (1, 3) if entered.ndim == 4 else (0, 0)
        channels = [entered.shape[1]] + [block.channels for block in blocks]
        self._inner, self._outer, self._link = [], [], []
        for number, (before, own) in enumerate(itertools.pairwise(channels)):
            u = own if halved[number] else before
            self._inner.append(_Linear(u + own if number else u, own, sides[0]))
            self._outer.append(_Linear(own, own, sides[0]))
            self._link.append(_Linear(before, own, sides[1]) if number else None)

    @classmethod
    def apart_from(cls, config: Any, head: str, n_blocks: int) -> int | None:
        return n_blocks  # heads read what the masks leave; the trunk is one for all

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self._trunk.init(generator)
        for name, layer, per_task in self._attention():
            if per_task:
                leaves = stack_init(layer.init, self.parts.problem.n_tasks, generator)
            else:
                leaves = layer.init(generator)
            params.update({f"{name}.{leaf}": value for leaf, value in leaves.items()})
        return params, buffers

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
        backbone = self.parts.backbone
        task_rows = self.parts.problem.layout == "grouped"
        p = vmap(backbone.enter)(x) if task_rows else backbone.enter(x)
        attended = p
        for number, block in enumerate(backbone.blocks):
            halves: list[Any] = [block.forward]
            if isinstance(block, HalvedBlock):
                halves = [block.first, block.second]
            own = subset(params, f"blocks.{number}")
            modulation = self._modulation(params, number, tasks, z, per_task=False)
            for half in halves:  # u enters the last
                u, u_rows = p, task_rows
                p, task_rows = per_task_apply(
                    half, own, u, modulation, task_params=False, task_rows=u_rows
                )
            p = dropout(p, step, number)
            link, fed = self._link[number], {}
            if link is not None:
                shared = subset(params, f"links.{number}")
                fed = {"f": vmap(functools.partial(_linked, link, shared))(attended)}
            mask = functools.partial(_mask, self._inner[number], self._outer[number])
            own = self._of(subset(params, f"masks.{number}"), tasks)
            in_dims = (0, 0 if u_rows else None, 0, 0 if task_rows else None)
            attended = vmap(lambda o, u, f, p, mask=mask: mask(o, u, f, p) * p, in_dims=in_dims)(
                own, u, fed, p
            )
        per_task = self.parts.head_per_task
        head = subset(params, "head")
        out, _ = per_task_apply(
            self.parts.head.forward,
            self._of(head, tasks) if per_task else head,
            vmap(backbone.leave)(attended),
            self._modulation(params, len(backbone.blocks), tasks, z, per_task=per_task),
            task_params=per_task,
            task_rows=True,
        )
        return out, buffers

    def roles(self) -> dict[str, Role]:
        roles = self._trunk.roles()
        for name, _, per_task in self._attention():
            for leaf in ("weight", "bias"):
                roles[f"{name}.{leaf}"] = "task" if per_task else "shared"
        return roles

    def _attention(self) -> list[tuple[str, _Linear, bool]]:
        """Name, layer and whether each task has its own."""
        out = []
        for number, link in enumerate(self._link):
            out.append((f"masks.{number}.inner", self._inner[number], True))
            out.append((f"masks.{number}.outer", self._outer[number], True))
            if link is not None:
                out.append((f"links.{number}", link, False))
        return out

    def _of(self, leaves: Params, tasks: Tensor) -> Params:
        """Entries of the given tasks; on an aligned suite these are all, in order."""
        if self.parts.problem.layout == "aligned":
            return leaves
        return {name: leaf[tasks] for name, leaf in leaves.items()}

    def _modulation(
        self, params: Params, number: int, tasks: Tensor, z: Tensor | None, *, per_task: bool
    ) -> Modulation | None:
        conditioner = self.parts.conditioners.get(number)
        if conditioner is None or z is None:
            return None
        own = subset(params, f"conditioning.{number}")
        entries = vmap(
            lambda p, z_t: conditioner.modulation(p, z_t).entries(),
            in_dims=(0 if per_task else None, 0),
        )(self._of(own, tasks) if per_task else own, z)
        return Modulation(**entries)


class _Linear:
    """A linear layer on vectors or tokens (`side` 0), or a convolution of `side` × `side`."""

    def __init__(self, fan_in: int, channels: int, side: int) -> None:
        self._shape = (channels, fan_in, side, side) if side else (channels, fan_in)
        self._side = side

    def init(self, generator: torch.Generator) -> Params:
        weight = fan_in_uniform(self._shape, math.prod(self._shape[1:]), generator)
        return {"weight": weight, "bias": torch.zeros(self._shape[0])}

    def forward(self, params: Params, h: Tensor) -> Tensor:
        """norm(W h + b)."""
        if self._side:
            out = F.conv2d(h, params["weight"], params["bias"], padding=self._side // 2)
            return F.group_norm(out, 1)
        if h.ndim == 3:  # tokens [row, channel, token]
            return self._vectors(params, h.mT).mT
        return self._vectors(params, h)

    def _vectors(self, params: Params, h: Tensor) -> Tensor:
        return F.layer_norm(F.linear(h, params["weight"], params["bias"]), self._shape[:1])


def _linked(
    link: _Linear, params: Params, attended: Float[Tensor, "row channel *rest"]
) -> Float[Tensor, "row own_channel *rest"]:
    """f(â) of one task."""
    return torch.relu(link.forward(params, attended))


def _mask(
    inner: _Linear,
    outer: _Linear,
    params: Params,
    u: Float[Tensor, "row in_channel *in_rest"],
    fed: Params,
    p: Float[Tensor, "row channel *rest"],
) -> Float[Tensor, "row channel *rest"]:
    """The mask of one task; `fed` holds f(â), or nothing in the first block."""
    joint = torch.cat([_pooled(h, p) for h in (u, *fed.values())], dim=1)
    h = torch.relu(inner.forward(subset(params, "inner"), joint))
    return torch.sigmoid(outer.forward(subset(params, "outer"), h))


def _pooled(h: Tensor, like: Tensor) -> Tensor:
    """Images max-pooled to the height and width of `like`."""
    if h.shape[2:] == like.shape[2:]:
        return h
    return F.max_pool2d(h, [a // b for a, b in zip(h.shape[2:], like.shape[2:], strict=True)])
