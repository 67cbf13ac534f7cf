"""Reptile: θ moves towards what a few gradient steps make of it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from autometa.balancing import Balancer
from autometa.config import Config, per_run
from autometa.learners.base import Batch, Learner
from autometa.learners.inner import InnerLoop, check_adapts, context_size
from autometa.learners.losses import mean_over_tasks
from autometa.networks import ConditioningConfig, Problem, Step
from autometa.sharing import Params, Role
from autometa.sharing.base import subset
from autometa.sharing.hard import Hard


class ReptileConfig(Config):
    """`steps`: inner steps in training. `test_steps`: on a new task. `inner_lr`: their rate."""

    kind: Literal["reptile"] = "reptile"
    steps: int = Field(5, ge=1, le=100)
    test_steps: int = Field(10, ge=0, le=1000)
    inner_lr: float = per_run(0.02, ge=0.0, allow_inf_nan=False)


class Reptile(Learner):
    """θ ← θ − ε mean_t(θ − φ_t), φ_t from `steps` gradient steps on task t's support rows.

    Nichol et al. 2018, with the outer optimizer in place of the plain step: it is given
    mean_t(θ − φ_t) as the gradient of the leaves with role `task`. Leaves that tasks share, of
    which the paper knows none, are given the gradient of the query losses at φ, held fixed. The
    objective's value is the mean query loss.
    """

    Config = ReptileConfig
    episodic = True

    def __init__(
        self,
        config: ReptileConfig,
        problem: Problem,
        network: Hard,
        conditioning: ConditioningConfig,
        balancer: Balancer,
    ) -> None:
        self.problem = problem
        self.row_size = network.parts.backbone.row_size
        self._config = config
        self._inner = InnerLoop(problem, network, context_size(conditioning))

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        check_adapts(config, n_blocks)

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        return self._inner.init(generator)

    def roles(self) -> dict[str, Role]:
        return self._inner.roles()

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        config, rate = self._config, step.rate("inner_lr")
        return self._inner.adapt(
            params,
            support,
            step,
            steps=config.steps if step.train else config.test_steps,
            rate=config.inner_lr if rate is None else rate,
            first_order=True,
        )

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        adapted = {name: leaf.detach() for name, leaf in subset(params, "adapted").items()}
        phi = params | {f"adapted.{name}": leaf for name, leaf in adapted.items()}
        losses = self._inner.losses(self._inner.outputs(phi, batch.x, step), batch)
        total = mean_over_tasks(losses, batch.mask.any(-1))
        for name, leaf in adapted.items():
            if name in params:  # the context starts at 0 for every task
                far = (params[name] - leaf).square().sum() / (2 * len(leaf))
                total = total + (far - far.detach())
        return total, losses.detach(), buffers

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        return self._inner.outputs(params, x, Step())
