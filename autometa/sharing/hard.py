"""Hard sharing (Caruana 1997): blocks below `split_at` are shared, the rest belong to tasks."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.func import vmap

from autometa.config import Config
from autometa.errors import ConfigError
from autometa.networks import Parts, Problem, Step
from autometa.networks.keys import fold
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

    @classmethod
    def apart_from(cls, config: Any, head: str, n_blocks: int) -> int | None:
        own = n_blocks + (head == "single_head")
        return own if config.split_at is None else min(config.split_at, own)

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
        own = self._pick(params, tasks)
        h, task_rows = self._blocks(own, *self._enter(x), z, step)
        h, task_rows = self._layer(own, h, task_rows, z, self.parts.n_blocks)
        if not task_rows:  # one head, no conditioning: every task has the same output
            h = h.expand(len(tasks), *h.shape)
        return h, buffers

    def features(
        self, params: Params, x: Tensor, *, tasks: Tensor, z: Tensor | None, step: Step
    ) -> Float[Tensor, "task row feature"]:
        """What the head is given; arguments as in `forward`."""
        h, task_rows = self._blocks(self._pick(params, tasks), *self._enter(x), z, step)
        leave = self.parts.backbone.leave
        if task_rows:
            return vmap(leave)(h)
        h = leave(h)
        return h.expand(len(tasks), *h.shape)

    @cached_property
    def first_own(self) -> int:
        """The first layer that belongs to a task or is told which task it is.

        The head has the number of blocks; one more where there is no such layer.
        """
        n = self.parts.n_blocks
        own = [number for number in range(n + 1) if self._is_per_task(number)]
        return min([*own, *self.parts.conditioners, n + 1])

    def below(
        self, params: Params, x: Float[Tensor, "row *feature"], step: Step
    ) -> Float[Tensor, "row *activation"]:
        """Input rows of any tasks after the blocks below `first_own`: alike for every task."""
        h = self.parts.backbone.enter(x)
        last = min(self.first_own, self.parts.n_blocks)
        return self._blocks(params, h, False, None, step, range(last))[0]

    def above(
        self,
        params: Params,
        h: Float[Tensor, "task row *activation"],
        z: Float[Tensor, "task z"] | None,
        step: Step,
    ) -> Float[Tensor, "task row output"]:
        """The outputs of what `below` gave, each task's rows through its own leaves.

        Args:
            params: leaves with role `task` are those of the tasks of `h`, in its order.
        """
        roles = self._roles
        shared = {name: leaf for name, leaf in params.items() if roles.get(name) == "shared"}
        varying = {name: leaf for name, leaf in params.items() if roles.get(name) == "task"}
        keys = None
        if step.key is not None and step.rate("dropout") is not None:  # masks of their own
            keys = fold(step.key, torch.arange(len(h), device=h.device))
        others = {"z": z, "key": keys}

        # one `vmap` for all layers: entering it costs as much as a small layer
        def one(own: Params, rows: Tensor, entry: Params) -> Tensor:
            leaves = shared | own
            how = dataclasses.replace(step, key=entry.get("key"))
            for number in range(min(self.first_own, self.parts.n_blocks), self.parts.n_blocks):
                rows = dropout(self._one(leaves, rows, entry.get("z"), number), how, number)
            rows = self.parts.backbone.leave(rows)
            return self._one(leaves, rows, entry.get("z"), self.parts.n_blocks)

        found: Tensor = vmap(one)(varying, h, {n: e for n, e in others.items() if e is not None})
        return found

    def _one(self, params: Params, h: Tensor, z: Tensor | None, number: int) -> Tensor:
        """One block, or the head, of one task; `params` without a dimension for tasks."""
        is_head = number == self.parts.n_blocks
        layer: Any = self.parts.head if is_head else self.parts.backbone.blocks[number]
        modulation, conditioner = Modulation(), self.parts.conditioners.get(number)
        if conditioner is not None and z is not None:
            modulation = conditioner.modulation(subset(params, f"conditioning.{number}"), z)
        out: Tensor = layer.forward(
            subset(params, "head" if is_head else f"blocks.{number}"), h, modulation
        )
        return out

    def _pick(self, params: Params, tasks: Tensor) -> Params:
        """The leaves of `tasks`, in their order."""
        if self.parts.problem.layout == "aligned":  # then they are all, in order
            return params
        # by name: to ask for the roles draws leaves, which vmap does not allow
        own = tuple(f"{name}." for name, _, per_task in self._layers() if per_task)
        return {n: leaf[tasks] if n.startswith(own) else leaf for n, leaf in params.items()}

    def _enter(self, x: Tensor) -> tuple[Tensor, bool]:
        """What the first block is given, and whether each task has its own rows."""
        task_rows = self.parts.problem.layout == "grouped"
        enter = self.parts.backbone.enter
        return (vmap(enter)(x) if task_rows else enter(x)), task_rows

    def _blocks(
        self,
        params: Params,
        h: Tensor,
        task_rows: bool,
        z: Tensor | None,
        step: Step,
        numbers: range | None = None,
    ) -> tuple[Tensor, bool]:
        """What blocks (all if not given) make of rows, and whether it differs between tasks."""
        for number in range(self.parts.n_blocks) if numbers is None else numbers:
            h, task_rows = self._layer(params, h, task_rows, z, number)
            h = dropout(h, step, number)
        return h, task_rows

    def _layer(
        self, params: Params, h: Tensor, task_rows: bool, z: Tensor | None, number: int
    ) -> tuple[Tensor, bool]:
        """One block, or the head."""
        backbone = self.parts.backbone
        is_head = number == self.parts.n_blocks
        layer: Any = self.parts.head if is_head else backbone.blocks[number]
        if is_head:
            h = vmap(backbone.leave)(h) if task_rows else backbone.leave(h)
        return per_task_apply(
            layer.forward,
            subset(params, "head" if is_head else f"blocks.{number}"),
            h,
            self._modulation(params, number, z),
            task_params=self._is_per_task(number),
            task_rows=task_rows,
        )

    def roles(self) -> dict[str, Role]:
        return dict(self._roles)

    @cached_property
    def _roles(self) -> dict[str, Role]:
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

    def _modulation(self, params: Params, number: int, z: Tensor | None) -> Modulation | None:
        conditioner = self.parts.conditioners.get(number)
        if conditioner is None or z is None:
            return None
        entries = vmap(
            lambda p, z_t: conditioner.modulation(p, z_t).entries(),
            in_dims=(0 if self._is_per_task(number) else None, 0),
        )(subset(params, f"conditioning.{number}"), z)
        return Modulation(**entries)
