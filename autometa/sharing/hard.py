"""Hard sharing (Caruana 1997): blocks below `split_at` are shared, the rest belong to tasks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.func import vmap

from autometa.config import Config
from autometa.errors import ConfigError
from autometa.networks import Parts, Problem, Step
from autometa.networks.layers import Modulation, dropout
from autometa.sharing.base import Params, Role, Sharing, per_task_apply, stack_init, subset


class HardConfig(Config):
    """`split_at`: number of shared blocks, from 0 (none) to all; all if not given."""

    kind: Literal["hard"] = "hard"
    split_at: int | None = Field(None, ge=0)


class Hard(Sharing):
    """One trunk of `split_at` blocks, then towers, then heads.

    With a single head and every block shared, tasks differ by conditioning alone; where there is
    no conditioning either, a grouped suite gets one pooled model.

    Raises:
        ConfigError: `split_at` exceeds the number of blocks.
    """

    Config = HardConfig
    extends_to_new_tasks = True

    def __init__(self, config: HardConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        self._split = parts.n_blocks if config.split_at is None else config.split_at

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        if config.split_at is not None and config.split_at > n_blocks:
            raise ConfigError(
                f"Parameter `sharing.split_at` should be at most the number of blocks "
                f"({n_blocks}). Found `sharing.split_at = {config.split_at}`."
            )

    @classmethod
    def tells_apart(cls, config: Any, problem: Problem, n_blocks: int) -> bool:
        return config.split_at not in (None, n_blocks)

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params: Params = {}
        for name, layer, per_task in self._layers():
            if per_task:
                leaves = stack_init(layer.init, self.parts.problem.n_tasks, generator)
            else:
                leaves = layer.init(generator)
            params.update({f"{name}.{leaf}": value for leaf, value in leaves.items()})
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
        h, task_rows = self._blocks(params, x, tasks, z, step)
        h, task_rows = self._layer(params, h, task_rows, tasks, z, self.parts.n_blocks)
        if not task_rows:  # one head, no conditioning: every task has the same output
            h = h.expand(len(tasks), *h.shape)
        return h, buffers

    def features(
        self, params: Params, x: Tensor, *, tasks: Tensor, z: Tensor | None, step: Step
    ) -> Float[Tensor, "task row feature"]:
        """What the head is given; arguments as in `forward`."""
        h, task_rows = self._blocks(params, x, tasks, z, step)
        leave = self.parts.backbone.leave
        if task_rows:
            return vmap(leave)(h)
        h = leave(h)
        return h.expand(len(tasks), *h.shape)

    def _blocks(
        self,
        params: Params,
        x: Tensor,
        tasks: Tensor,
        z: Tensor | None,
        step: Step,
    ) -> tuple[Tensor, bool]:
        """What the blocks make of the input rows, and whether it differs between tasks."""
        task_rows = self.parts.problem.layout == "grouped"
        enter = self.parts.backbone.enter
        h = vmap(enter)(x) if task_rows else enter(x)
        for number in range(self.parts.n_blocks):
            h, task_rows = self._layer(params, h, task_rows, tasks, z, number)
            h = dropout(h, step, number)
        return h, task_rows

    def _layer(
        self,
        params: Params,
        h: Tensor,
        task_rows: bool,
        tasks: Tensor,
        z: Tensor | None,
        number: int,
    ) -> tuple[Tensor, bool]:
        """One block, or the head."""
        backbone = self.parts.backbone
        every_task = self.parts.problem.layout == "aligned"  # then `tasks` are all, in order
        is_head = number == self.parts.n_blocks
        layer: Any = self.parts.head if is_head else backbone.blocks[number]
        task_params = self._is_per_task(number)
        own = subset(params, "head" if is_head else f"blocks.{number}")
        if task_params and not every_task:
            own = {leaf: value[tasks] for leaf, value in own.items()}
        if is_head:
            h = vmap(backbone.leave)(h) if task_rows else backbone.leave(h)
        return per_task_apply(
            layer.forward,
            own,
            h,
            self._modulation(params, number, tasks, z, task_params, every_task),
            task_params=task_params,
            task_rows=task_rows,
        )

    def roles(self) -> dict[str, Role]:
        probe = torch.Generator().manual_seed(0)
        return {
            f"{name}.{leaf}": "task" if per_task else "shared"
            for name, layer, per_task in self._layers()
            for leaf in layer.init(probe)
        }

    def _is_per_task(self, number: int) -> bool:
        if number == self.parts.n_blocks:
            return self.parts.head_per_task
        return number >= self._split

    def _layers(self) -> list[tuple[str, Any, bool]]:
        """Name, layer and whether each task has its own, of everything with parameters."""
        n = self.parts.n_blocks
        out: list[tuple[str, Any, bool]] = [
            (f"blocks.{i}", block, self._is_per_task(i))
            for i, block in enumerate(self.parts.backbone.blocks)
        ]
        out.append(("head", self.parts.head, self._is_per_task(n)))
        out += [
            (f"conditioning.{i}", conditioner, self._is_per_task(i))
            for i, conditioner in self.parts.conditioners.items()
        ]
        return out

    def _modulation(
        self,
        params: Params,
        number: int,
        tasks: Tensor,
        z: Tensor | None,
        task_params: bool,
        every_task: bool,
    ) -> Modulation | None:
        conditioner = self.parts.conditioners.get(number)
        if conditioner is None or z is None:
            return None
        own = subset(params, f"conditioning.{number}")
        if task_params and not every_task:
            own = {leaf: value[tasks] for leaf, value in own.items()}
        entries = vmap(
            lambda p, z_t: conditioner.modulation(p, z_t).entries(),
            in_dims=(0 if task_params else None, 0),
        )(own, z)
        return Modulation(**entries)
