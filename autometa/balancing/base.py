"""The contract of a balancer, and what several of them use.

A balancer is written for one run. What it learns with the network are *parameters* (`init`), what
it keeps from step to step is *state* (`state`, among the run's buffers), so a run that is stopped
and resumed goes on as if it never was.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autometa.config import Config
from autometa.errors import ConfigError
from autometa.networks import Step

Params = dict[str, Tensor]
Needs = Literal["losses", "gramian", "jacobian"]
#: keeps logarithms and quotients of losses finite (FAMO's constant)
EPSILON = 1e-8


class Unsolvable(Exception):
    """A method's optimization problem was not solved; the step takes equal weights."""


class View(NamedTuple):
    """What a gradient method sees of one run at one step: the m tasks that have labels in it.

    Attributes:
        losses: [task], their losses.
        tasks: [task], which tasks they are, ascending.
        gradients: [task, task], inner products of their gradients on the shared parameters; or
            [task, parameter], the gradients themselves, for a method that needs them.
        rates: the run's own numbers.
        seed: of the run's random numbers in this step.
    """

    losses: Float[Tensor, " task"]
    tasks: Int[Tensor, " task"]
    gradients: Float[Tensor, "task other"]
    rates: dict[str, float]
    seed: int


class Balancer(ABC):
    """Task losses to one update."""

    Config: ClassVar[type[Config]]
    #: what it looks at; more than `losses` costs a backward pass a task, and works on parameters
    #: that tasks share
    needs: ClassVar[Needs] = "losses"
    #: `combine` draws random numbers from the step's key
    draws: ClassVar[bool] = False
    #: `after_step` needs the losses of the same batch after the step (one more forward pass)
    looks_back: ClassVar[bool] = False
    #: its result depends on the order of the tasks
    orders_tasks: ClassVar[bool] = False
    #: modules of the extra `balancing` that it imports
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def check(cls) -> None:
        """Raise ConfigError where a package that it needs is not installed."""
        missing = [name for name in cls.packages if find_spec(name) is None]
        if missing:
            kind = cls.Config.model_fields["kind"].default
            raise ConfigError(
                f"Parameter `balancing.kind = {kind}` needs {' and '.join(missing)}, which "
                f"{'is' if len(missing) == 1 else 'are'} not installed. Install "
                "autometa-hpo[balancing] or choose another `balancing.kind`."
            )

    @classmethod
    def is_stateless(cls) -> bool:
        """Whether `combine` is all there is to it."""
        return cls.needs == "losses" and cls.state is Balancer.state

    @classmethod
    def merges(cls) -> bool:
        """Whether runs with it are trained as one with those that have another for which this
        holds: `combine` is all there is to it, and it has no number of its own."""
        return cls.is_stateless() and not cls.draws and set(cls.Config.model_fields) == {"kind"}

    def init(self, n_tasks: int) -> Params:
        """Parameters of the balancer, trained with the network: one entry a task."""
        return {}

    def state(self, n_tasks: int) -> Params:
        """What it keeps from step to step, as it is before the first."""
        return {}

    @abstractmethod
    def combine(
        self,
        params: Params,
        losses: Float[Tensor, " task"],
        present: Bool[Tensor, " task"],
        tasks: Int[Tensor, " task"],
        step: Step | None = None,
    ) -> Float[Tensor, ""]:
        """One loss from the losses of the tasks in a batch.

        Args:
            params: what `init` returned, and the state.
            losses: mean loss over each task's labelled rows; 0 where there are none.
            present: which tasks have a labelled row in the batch.
            tasks: which tasks they are.
            step: the run's rates and random stream.
        """

    def after_step(
        self,
        state: Params,
        losses: Float[Tensor, " task"],
        after: Float[Tensor, " task"],
        present: Bool[Tensor, " task"],
        tasks: Int[Tensor, " task"],
        step: Step,
    ) -> Params:
        """The state after an optimizer step, without gradient.

        Args:
            losses: those that the step was computed from.
            after: those of the same batch after it, if the balancer looks back; else `losses`.
        """
        return state

    def after_epoch(self, state: Params) -> Params:
        """The state after an epoch."""
        return state


def masked_mean(
    values: Float[Tensor, " task"], present: Bool[Tensor, " task"]
) -> Float[Tensor, ""]:
    """Mean of `values` where `present`; 0 if nothing is."""
    weight = present.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def masked_softmax(
    logits: Float[Tensor, " task"], present: Bool[Tensor, " task"]
) -> Float[Tensor, " task"]:
    """Softmax over the entries that are `present`; 0 for the others."""
    top = torch.where(present, logits, -torch.inf).amax()
    raised = torch.where(present, (logits - top).exp(), 0.0)
    return torch.where(present, raised / raised.sum().clamp(min=1e-30), 0.0)


def by_task(values: Float[Tensor, " slot"], tasks: Int[Tensor, " slot"], n: int) -> Tensor:
    """Sums over the slots of each of `n` tasks."""
    return values.new_zeros(n).index_add(0, tasks, values)


def rate(config: Config, step: Step | None, name: str) -> Tensor | float:
    """A number that may differ between fused runs: the run's own, or that of the config."""
    own = None if step is None else step.rate(name)
    return float(getattr(config, name)) if own is None else own


def adam_state(n: int) -> Params:
    return {"mean": torch.zeros(n), "square": torch.zeros(n), "count": torch.zeros(())}


def adam(state: Params, values: Tensor, grad: Tensor, lr: Any, decay: Any = 0.0) -> Params:
    """One step of Adam (Kingma & Ba 2015) with torch's constants; decay is added to the gradient.

    torch's own keeps its state outside of the run's buffers and does not run under vmap.

    Returns:
        The new `values`, `mean`, `square` and `count`.
    """
    grad = grad + decay * values
    count = state["count"] + 1
    mean = 0.9 * state["mean"] + 0.1 * grad
    square = 0.999 * state["square"] + 0.001 * grad**2
    scale = (square / (1 - 0.999**count)).sqrt() + 1e-8
    moved = values - lr * (mean / (1 - 0.9**count)) / scale
    return {"values": moved, "mean": mean, "square": square, "count": count}


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """torch's global random numbers start from `seed` inside, and are as before outside."""
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
