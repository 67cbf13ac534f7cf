"""MAML and its relatives: θ is learned so that a few gradient steps adapt it to a task."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from autometa.balancing import Balancer
from autometa.config import Config, per_run
from autometa.learners.base import Batch, Learner
from autometa.learners.inner import (
    InnerLoop,
    check_adapts,
    check_episodic,
    context_size,
    objective,
)
from autometa.networks import ConditioningConfig, Problem, Step
from autometa.sharing import Params, Role
from autometa.sharing.base import subset
from autometa.sharing.hard import Hard

#: leaves with the learned rates; the ending keeps weight decay away from those of weights
_RATES, _END = "inner_lr", ".rate"


class GradientConfig(Config):
    """Which blocks adapt is `sharing.split_at`.

    `steps`: inner steps in training. `test_steps`: on a new task. `inner_lr`: their rate, or where
    it starts with `learned_rates`, one for every parameter (Meta-SGD). `first_order`: the inner
    steps are constants for the gradient of the outer step.
    """

    kind: Literal["gradient"] = "gradient"
    steps: int = Field(1, ge=1, le=100)
    test_steps: int = Field(10, ge=0, le=1000)
    inner_lr: float = per_run(0.01, ge=0.0)
    first_order: bool = False
    learned_rates: bool = False


class Gradient(Learner):
    """min_θ mean_t L_query(φ_t), φ_t = θ − α ∇L_support(θ), repeated `steps` times.

    Model-agnostic meta-learning (Finn et al. 2017), second order or first. What is adapted are the
    leaves with role `task`: all with `sharing.split_at` 0, the head alone with all blocks shared
    (ANIL, Raghu et al. 2020). With `learned_rates` α has an entry for every parameter and is
    learned with θ (Meta-SGD, Li et al. 2017). With conditioning the context z adapts as well, from
    z = 0; with all blocks shared and a single head it is all that does (CAVIA, Zintgraf et al.
    2019, which has it enter the first block).

    A learned rate may become negative, as in the paper; here a context has rates, too.
    """

    Config = GradientConfig
    episodic = True

    def __init__(
        self,
        config: GradientConfig,
        problem: Problem,
        network: Hard,
        conditioning: ConditioningConfig,
        balancer: Balancer,
    ) -> None:
        self.problem = problem
        self.row_size = network.parts.backbone.row_size
        self.balancer = balancer
        self._config = config
        self._inner = InnerLoop(problem, network, context_size(conditioning))

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        check_episodic(config)
        check_adapts(config, n_blocks)

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self._inner.init(generator)
        if self._config.learned_rates:
            for name, leaf in self._inner.start(params, 1).items():
                rate = torch.full_like(leaf, self._config.inner_lr)
                params[f"{_RATES}.{name}{_END}"] = rate.contiguous()
        return params, buffers

    def roles(self) -> dict[str, Role]:
        roles = self._inner.roles()
        if self._config.learned_rates:
            roles |= {f"{_RATES}.{name}{_END}": "shared" for name in self._inner.names}
        return roles

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        config = self._config
        rate: Any = step.rate("inner_lr")
        if config.learned_rates:
            learned = subset(params, _RATES)
            rate = {name.removesuffix(_END): leaf for name, leaf in learned.items()}
        elif rate is None:
            rate = config.inner_lr
        return self._inner.adapt(
            params,
            support,
            step,
            steps=config.steps if step.train else config.test_steps,
            rate=rate,
            first_order=config.first_order,
        )

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        losses = self._inner.losses(self._inner.outputs(params, batch.x, step), batch)
        return objective(self.balancer, losses, batch, step), losses, buffers

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        return self._inner.outputs(params, x, Step())
