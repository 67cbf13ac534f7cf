"""Multi-task learning: there is nothing to adapt, every task trains the network jointly."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from autometa.balancing import Balancer
from autometa.config import Config
from autometa.learners.base import Batch, Learner
from autometa.learners.losses import at_least_float32, mask_classes, row_losses, task_losses
from autometa.networks import ConditioningConfig, Problem, Step
from autometa.sharing import Params, Role, Sharing
from autometa.sharing.base import subset


class JointConfig(Config):
    """No parameter of its own."""

    kind: Literal["joint"] = "joint"


class Joint(Learner):
    """θ = network, linear path, task embeddings and balancing weights; `adapt` is the identity."""

    Config = JointConfig
    balances = True
    merges = True
    reads_rows = True

    def __init__(
        self,
        config: JointConfig,
        problem: Problem,
        network: Sharing,
        conditioning: ConditioningConfig,
        balancer: Balancer,
    ) -> None:
        self.problem = problem
        self.network = network
        self.row_size = network.parts.backbone.row_size
        self.towers_per_row = problem.n_tasks if network.mixes_tasks else 1
        self._inputs = network.parts.inputs
        self._path = network.parts.path
        self._conditioning = conditioning
        self.balancer = balancer
        self._class_mask = problem.class_mask()
        self._masked = not bool(self._class_mask.all())

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self.network.init(generator)
        if self._path is not None:
            params |= _named("linear", self._path.init())
        if self._inputs is not None:
            buffers |= _named("inputs", self._inputs.start())
        if self._has_embedding:
            shape = (self.problem.n_tasks, self._conditioning.dim)
            params["embedding.weight"] = torch.randn(shape, generator=generator)
        for name, leaf in self.balancer.init(self.problem.n_tasks).items():
            params[f"balancing.{name}"] = leaf
        for name, leaf in self.balancer.state(self.problem.n_tasks).items():
            buffers[f"balancing.{name}"] = leaf
        return params, buffers

    def roles(self) -> dict[str, Role]:
        roles = self.network.roles()
        if self._path is not None:
            roles["linear.weight"] = "task" if self._path.per_task else "shared"
        if self._has_embedding:
            roles["embedding.weight"] = "task"
        for name in self.balancer.init(self.problem.n_tasks):
            roles[f"balancing.{name}"] = "task"
        return roles

    def fit(self, x: Tensor) -> Params:
        return {} if self._inputs is None else _named("inputs", self._inputs.fit(x))

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        return params

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        out, buffers = self._forward(params, buffers, batch.x, batch.tasks, step)
        rows = row_losses(self.problem, at_least_float32(out), batch.y)
        losses, present = task_losses(rows, batch.mask)
        weights = subset(params, "balancing") | subset(buffers, "balancing")
        total = self.balancer.combine(weights, losses, present, batch.tasks, step)
        penalty = self.network.penalty(params, buffers, step)
        return total if penalty is None else total + penalty, losses, buffers

    @property
    def update_every(self) -> int:
        return self.network.update_every if self.network.updates_buffers else 0

    def after_step(self, params: Params, buffers: Params) -> Params:
        return self.network.after_step(params, buffers)

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        return at_least_float32(self._forward(params, buffers, x, tasks, Step())[0])

    @property
    def _has_embedding(self) -> bool:
        return self._conditioning.kind != "none" and self._conditioning.embedding == "learned"

    def _forward(
        self, params: Params, buffers: Params, x: Tensor, tasks: Tensor, step: Step
    ) -> tuple[Tensor, Params]:
        rows = x
        if self._inputs is not None:
            rows = self._inputs.encode(subset(buffers, "inputs"), x)
        out, buffers = self.network.forward(
            params, buffers, rows, tasks=tasks, z=self._z(params, tasks), step=step
        )
        if self._path is not None:
            out = out + self._path.forward(subset(params, "linear"), x, tasks)
        if self._masked:
            out = mask_classes(out, self._class_mask.to(out.device), tasks)
        return out, buffers

    def _z(self, params: Params, tasks: Tensor) -> Tensor | None:
        if self._conditioning.kind == "none":
            return None
        if self._has_embedding:
            return params["embedding.weight"][tasks]
        dtype = next(iter(params.values())).dtype
        return torch.eye(self.problem.n_tasks, dtype=dtype, device=tasks.device)[tasks]


def _named(start: str, tensors: Params) -> Params:
    """The inverse of `subset`."""
    return {f"{start}.{name}": tensor for name, tensor in tensors.items()}
