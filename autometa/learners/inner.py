"""The inner loop of gradient-based meta-learning: plain gradient steps on the support loss.

What is adapted are the network's leaves with role `task`, and the context z where there is
conditioning: z starts at 0 and is no leaf of θ. All tasks go through the network together. The
blocks that no adapted leaf and no context enters are the same for all of them, and their output
for the support rows is the same in every step: it is computed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from autometa.errors import ConfigError
from autometa.learners.base import Batch
from autometa.learners.losses import at_least_float32, row_losses, task_losses
from autometa.networks import Problem, Step
from autometa.networks.keys import fold
from autometa.sharing import Params, Role
from autometa.sharing.base import subset
from autometa.sharing.hard import Hard

#: the adapted representation of a task, among the leaves of φ
CONTEXT = "context"


class InnerLoop:
    """Adapts one model to several tasks.

    Args:
        z_dim: entries of the context; 0 without conditioning.
    """

    def __init__(self, problem: Problem, network: Hard, z_dim: int) -> None:
        self._problem = problem
        self._network = network
        self._z_dim = z_dim
        self._names = [name for name, role in network.roles().items() if role == "task"]
        #: what is adapted
        self.names = [*self._names, CONTEXT] if z_dim else self._names

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        """θ and buffers of the network; conditioning is drawn, so that the context matters."""
        params, buffers = self._network.init(generator)
        for place, conditioner in self._network.parts.conditioners.items():
            for leaf, value in conditioner.draw(generator).items():
                name = f"conditioning.{place}.{leaf}"
                params[name] = value.expand_as(params[name]).clone()
        return params, buffers

    def roles(self) -> dict[str, Role]:
        return self._network.roles()

    def start(self, params: Params, n_tasks: int) -> Params:
        """What is adapted before the first step, [task, …]: θ's leaves, and a context of zeros."""
        own = {name: params[name].expand(n_tasks, *params[name].shape[1:]) for name in self._names}
        if self._z_dim:
            like = next(iter(params.values()))
            own[CONTEXT] = like.new_zeros(n_tasks, self._z_dim)
        return own

    def adapt(
        self,
        params: Params,
        support: Batch,
        step: Step,
        *,
        steps: int,
        rate: Tensor | float | Mapping[str, Tensor],
        first_order: bool = False,
        start: Params | None = None,
    ) -> Params:
        """φ after `steps` steps: the leaves of θ, and `adapted.…` beside them.

        A task without support rows stays where it started.

        Args:
            rate: of all leaves, or of each by its name, in the leaf's shape.
            first_order: take the steps as constants when φ is differentiated.
            start: what is adapted, if not `self.start`.
        """
        own = self.start(params, len(support.x)) if start is None else start
        if steps:
            fixed = params
            if first_order:
                fixed = {name: leaf.detach() for name, leaf in params.items()}
            h = self._below(fixed, support.x, stream(step, 1))

            def loss(own: Params, number: int) -> Tensor:
                out = self._above(fixed, own, h, stream(step, 2 + number))
                return self.losses(out, support).sum()

            # tasks are independent: the gradient of the sum is each task's own
            gradient = grad(loss)
            for number in range(steps):
                at = {n: leaf.detach() for n, leaf in own.items()} if first_order else own
                found = gradient(at, number)
                own = {
                    name: leaf - (rate[name] if isinstance(rate, Mapping) else rate) * found[name]
                    for name, leaf in own.items()
                }
        return params | {f"adapted.{name}": leaf for name, leaf in own.items()}

    def outputs(
        self, phi: Params, x: Float[Tensor, "task row *feature"], step: Step
    ) -> Float[Tensor, "task row output"]:
        """Outputs of adapted tasks; where φ is θ, those before the first step."""
        own = subset(phi, "adapted")
        if own:
            out = self._above(phi, own, self._below(phi, x, step), step)
        else:  # not adapted, they are one task
            rows = x.flatten(0, 1)[None]
            out = self._above(phi, self.start(phi, 1), self._below(phi, rows, step), step)
            out = out[0].unflatten(0, x.shape[:2])
        return at_least_float32(out)

    def losses(self, out: Float[Tensor, "task row output"], batch: Batch) -> Float[Tensor, " task"]:
        """Mean loss of each task; 0 without labelled rows."""
        rows = row_losses(self._problem, at_least_float32(out), batch.y)
        return task_losses(rows, batch.mask)[0]

    def _below(self, params: Params, x: Tensor, step: Step) -> Tensor:
        return self._network.below(params, x.flatten(0, 1), step).unflatten(0, x.shape[:2])

    def _above(self, params: Params, own: Params, h: Tensor, step: Step) -> Tensor:
        return self._network.above(params | own, h, own.get(CONTEXT), step)


def check_adapts(config: Any, n_blocks: int, *, context: bool = True) -> None:
    """Refuse a network of which the inner loop would change nothing.

    Args:
        config: of the whole trial.
        context: the learner adapts one where there is conditioning.

    Raises:
        ConfigError: see its text.
    """
    shared = config.sharing.kind == "hard" and config.sharing.split_at in (None, n_blocks)
    if shared and config.head == "single_head" and config.conditioning.kind == "none":
        other = ", or `conditioning.kind`" if context else ""
        raise ConfigError(
            f"Parameter `head` should be `multi_head` with `adaptation.kind = "
            f"{config.adaptation.kind}` where all blocks are shared and there is no conditioning: "
            "there is nothing to adapt. (Or set `sharing.split_at` below the number of blocks, "
            f"{n_blocks}{other}.) Found `head = single_head`."
        )


def context_size(conditioning: Any) -> int:
    """Entries of the context that a conditioning takes; 0 without one."""
    return 0 if conditioning.kind == "none" else conditioning.dim


def stream(step: Step, number: int) -> Step:
    """The same step with other dropout masks: those of the query rows are number 0."""
    if not step.train or step.key is None or step.rate("dropout") is None:
        return step
    return dataclasses.replace(step, key=fold(step.key, number))
