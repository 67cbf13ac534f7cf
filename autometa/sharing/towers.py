"""What mechanisms that mix towers have in common: every row passes through the towers of all tasks.

Activations are [tower, row, channel, …]. On an aligned suite the rows are those of every task. On a
grouped one the rows of all slots pass through every tower side by side, and the head of a slot's
task reads the mixture meant for it; the work is T times that of `independent`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autometa.errors import ConfigError
from autometa.networks import Parts, Problem, Step
from autometa.networks.layers import Modulation, dropout
from autometa.sharing.base import Params, Role, per_task_apply, stack_init, subset

MAX_GROUPED_TASKS = 16
"""With more tasks, each with rows of its own, T towers on every row cost too much."""


def check_cost(kind: str, problem: Problem) -> None:
    """Refuse suites on which passing every row through every tower costs too much.

    Raises:
        ConfigError: a grouped suite of more than `MAX_GROUPED_TASKS` tasks.
    """
    if problem.layout == "grouped" and problem.n_tasks > MAX_GROUPED_TASKS:
        raise ConfigError(
            f"Parameter `sharing.kind` should be `hard` or `soft` where each task has rows of its "
            f"own and there are more than {MAX_GROUPED_TASKS} tasks. Found `sharing.kind = {kind}`,"
            f" which passes every row through the networks of all tasks, and {problem.n_tasks} "
            f"tasks."
        )


def mixing_start(n: int, same: float) -> Float[Tensor, "n n"]:
    """Weights with `same` on the diagonal whose rows sum to one; 1 where there is one entry."""
    if n == 1:
        return torch.ones(1, 1)
    other = (1.0 - same) / (n - 1)
    return torch.full((n, n), other).fill_diagonal_(same)


class Towers:
    """The blocks of T towers, and the heads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._blocks = [(f"blocks.{i}", block) for i, block in enumerate(parts.backbone.blocks)]

    def init(self, generator: torch.Generator) -> Params:
        params: Params = {}
        for name, layer, per_task in self._layers():
            if per_task:
                leaves = stack_init(layer.init, self._parts.problem.n_tasks, generator)
            else:
                leaves = layer.init(generator)
            params.update({f"{name}.{leaf}": value for leaf, value in leaves.items()})
        return params

    def roles(self) -> dict[str, Role]:
        probe = torch.Generator().manual_seed(0)
        return {
            f"{name}.{leaf}": "task" if per_task else "shared"
            for name, layer, per_task in self._layers()
            for leaf in layer.init(probe)
        }

    def run(
        self, params: Params, x: Tensor, step: Step, mix: Callable[[int, Tensor], Tensor]
    ) -> list[Float[Tensor, "task row channel *rest"]]:
        """Outputs of every block after mixing.

        Args:
            mix: block number and the towers' activations [task, row, channel, …] → the inputs of
                the towers' next blocks, in the same shape.
        """
        h = x if self._parts.problem.layout == "aligned" else x.flatten(0, 1)
        h, by_tower = self._parts.backbone.enter(h), False
        outputs = []
        for number, (name, block) in enumerate(self._blocks):
            h, by_tower = per_task_apply(
                block.forward,
                subset(params, name),
                h,
                None,
                task_params=True,
                task_rows=by_tower,
            )
            h = mix(number, dropout(h, step, number))
            outputs.append(h)
        return outputs

    def predict(
        self,
        params: Params,
        h: Float[Tensor, "all_tasks row channel *rest"],
        tasks: Int[Tensor, " task"],
    ) -> Float[Tensor, "task slot_row output"]:
        """The heads' outputs: aligned, every task's on all rows; grouped, each slot's on its own.

        Args:
            h: what the heads of all tasks read, on all rows.
            tasks: the task of each slot.
        """
        head, leave = self._parts.head, self._parts.backbone.leave
        own = subset(params, "head")
        if self._parts.problem.layout == "grouped":
            slots = torch.arange(len(tasks), device=tasks.device)
            h = h.unflatten(1, (len(tasks), -1))[tasks, slots]
            if self._parts.head_per_task:
                own = {leaf: value[tasks] for leaf, value in own.items()}

        def one(leaves: Params, rows: Tensor, modulation: Modulation) -> Tensor:
            return head.forward(leaves, leave(rows), modulation)

        out, _ = per_task_apply(
            one, own, h, None, task_params=self._parts.head_per_task, task_rows=True
        )
        return out

    def _layers(self) -> list[tuple[str, Any, bool]]:
        """Name, layer and whether each task has its own."""
        head: tuple[str, Any, bool] = ("head", self._parts.head, self._parts.head_per_task)
        return [(name, block, True) for name, block in self._blocks] + [head]
