"""The contract of a learner: how task parameters are obtained, scored and used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autometa.balancing import Balancer, Equal, EqualConfig
from autometa.config import Config
from autometa.networks import Problem, Step
from autometa.sharing import Params, Role


class Batch(NamedTuple):
    """Rows of one step of one run.

    Attributes:
        x: aligned [row, *feature]; grouped and in episodes [task, row, *feature].
        y: [task, row]; standardised values or class indices; 0 where missing.
        mask: [task, row]; True where a label is present.
        tasks: [task]; which tasks these are. In episodes with classes [task, way]: which of the
            training tasks' classes each class of the episode is.
    """

    x: Float[Tensor, "*rows"]
    y: Float[Tensor, "task row"]
    mask: Bool[Tensor, "task row"]
    tasks: Int[Tensor, "task *way"]


class Episode(NamedTuple):
    """Episodes of several tasks: what each adapts to, and what it is then judged on."""

    support: Batch
    query: Batch


class Learner(ABC):
    """One model: θ and buffers are passed in, nothing is kept.

    The trainer calls `adapt` on the support rows and `loss` on the query rows. Without episodes
    both are the same rows, and there is nothing to adapt.

    In episodes the network is that of one task which stands for all (`Problem.episode`): `adapt`
    is given θ and the support rows of T tasks and returns φ, which is θ with what was adapted
    beside it, as leaves `adapted.…` [task, …].
    """

    Config: ClassVar[type[Config]]
    problem: Problem
    #: takes episodes, and nothing else
    episodic: ClassVar[bool] = False
    #: kinds of sharing that it takes in episodes, beside those that serve new tasks
    also_shares: ClassVar[tuple[str, ...]] = ()
    #: predicts episodes of another number of classes than it was trained on
    any_ways: ClassVar[bool] = False
    #: `moments` says how sure a prediction is
    has_variance: ClassVar[bool] = False
    #: towers that a row of a grouped suite passes through (all, where towers mix)
    towers_per_row: int = 1
    #: the most numbers that a row becomes in one of them
    row_size: int = 256
    #: every balancer works with it: it sets `balancer`, keeps its state in the buffers (as
    #: `balancing.…`) and gives `combine` that state with the balancer's parameters; a learner that
    #: does not takes stateless balancers only
    balances: ClassVar[bool] = False
    #: encodes the rows (`backbone.inputs`) and has a path past the network (`backbone.linear`)
    reads_rows: ClassVar[bool] = False
    #: runs that differ in conditioning or balancing may be trained as one
    merges: ClassVar[bool] = False
    #: what the trainer asks to balance gradients and to renew the state
    balancer: Balancer = Equal(EqualConfig())

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        """Raise ConfigError where it cannot be built; nothing by default.

        Args:
            config: of the whole trial.
            n_blocks: of its backbone.
        """

    @abstractmethod
    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        """Draw θ and buffers."""

    def fit(self, x: Float[Tensor, "row *feature"]) -> Params:
        """Buffers that the training rows give, which take the place of those of `init`.

        They are alike for all runs of one shape key.
        """
        return {}

    @abstractmethod
    def roles(self) -> dict[str, Role]:
        """The role of every leaf of θ."""

    @abstractmethod
    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        """Task parameters φ from θ and the support rows."""

    @abstractmethod
    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " task"], Params]:
        """Objective of a batch, the loss of each task in it, and the buffers after it.

        Args:
            params: φ.
        """

    @property
    def update_every(self) -> int:
        """Optimizer steps between calls of `after_step`; 0 where there is nothing to renew."""
        return 0

    def after_step(self, params: Params, buffers: Params) -> Params:
        """Buffers renewed from θ after an optimizer step, without gradient."""
        return buffers

    @abstractmethod
    def predict(
        self,
        params: Params,
        buffers: Params,
        x: Tensor,
        tasks: Int[Tensor, "task *way"],
    ) -> Float[Tensor, "task row output"]:
        """Outputs in evaluation: standardised values, logits (−∞ beyond a task's classes).

        Args:
            params: φ.
            x, tasks: as in `Batch`.
        """

    def moments(
        self, params: Params, buffers: Params, x: Tensor, tasks: Int[Tensor, "task *way"]
    ) -> tuple[Float[Tensor, "task row"], Float[Tensor, "task row"]]:
        """Mean and variance, noise included, of the standardised values of a regression."""
        raise NotImplementedError(f"{type(self).__name__} gives no variance.")
