"""Balancers that weigh the losses of the tasks. Formulas are those of TorchJD's scalarizers,
whose import takes a second.

All are scaled so that equal weights are the mean over the tasks that have a labelled row in the
batch (TorchJD and the papers often sum), so a learning rate means the same for each; a task without
labels neither pulls on the network nor on its own weight.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from autometa.balancing.base import (
    EPSILON,
    Balancer,
    Params,
    adam,
    adam_state,
    by_task,
    masked_mean,
    masked_softmax,
    rate,
)
from autometa.config import Config, per_run
from autometa.networks import Step
from autometa.networks.keys import normal

_DRAW = -1  # the stream of a step's key that weights are drawn from; dropout has those from 0


class EqualConfig(Config):
    """Every task weighs the same."""

    kind: Literal["equal"] = "equal"


class Equal(Balancer):
    """L = mean_t L_t."""

    Config = EqualConfig

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        return masked_mean(losses, present)


class RandomConfig(Config):
    """New random weights in every step (Lin et al. 2022)."""

    kind: Literal["random"] = "random"


class Random(Balancer):
    """L = Σ_t softmax(n)_t L_t, n ~ N(0, I) drawn anew in every step.

    Lin et al. 2022, "Reasonable Effectiveness of Random Weighting". TorchJD draws from torch's
    global stream; here the numbers are the run's own. Without a key the weights are equal.
    """

    Config = RandomConfig
    draws = True

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        if step is None or not step.train or step.key is None:
            return masked_mean(losses, present)
        drawn = normal(step.key, _DRAW, losses.shape, losses.dtype)
        return (masked_softmax(drawn, present) * losses).sum()


class LearnedScalarizer(Balancer):
    """The mean over the tasks that are present of a loss and one trained number a task, 0 at the
    start; a task without labels does not move its own number."""

    #: the number's name in our parameters
    leaf: ClassVar[str]

    def init(self, n_tasks: int) -> Params:
        return {self.leaf: torch.zeros(n_tasks)}

    @staticmethod
    @abstractmethod
    def weigh(
        numbers: Float[Tensor, " task"], losses: Float[Tensor, " task"]
    ) -> Float[Tensor, " task"]:
        """What is averaged."""

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        return masked_mean(self.weigh(params[self.leaf][tasks], losses), present)


class UncertaintyConfig(Config):
    """Learned homoscedastic uncertainty (Kendall et al. 2018)."""

    kind: Literal["uncertainty"] = "uncertainty"


class Uncertainty(LearnedScalarizer):
    """L = mean_t ½ exp(−s_t) L_t + ½ s_t with learned log-variances s_t."""

    Config = UncertaintyConfig
    leaf = "log_variance"

    @staticmethod
    def weigh(numbers: Tensor, losses: Tensor) -> Tensor:
        return 0.5 * torch.exp(-numbers) * losses + 0.5 * numbers


class IMTLLConfig(Config):
    """Learned scales that bring the losses to one size (Liu et al. 2021)."""

    kind: Literal["imtl_l"] = "imtl_l"


class ImtlL(LearnedScalarizer):
    """L = mean_t exp(s_t) L_t − s_t with learned s_t.

    Liu et al. 2021, "Towards Impartial Multi-task Learning".
    """

    Config = IMTLLConfig
    leaf = "log_scale"

    @staticmethod
    def weigh(numbers: Tensor, losses: Tensor) -> Tensor:
        return torch.exp(numbers) * losses - numbers


class GeometricMeanConfig(Config):
    """The geometric mean of the losses (Chennupati et al. 2019)."""

    kind: Literal["geometric_mean"] = "geometric_mean"


class GeometricMean(Balancer):
    """L = exp(mean_t log L_t); losses below 1e-12 count as that, without gradient.

    Chennupati et al. 2019, "MultiNet++". TorchJD's module branches on the values, which vmap
    cannot; the losses here are never negative.
    """

    Config = GeometricMeanConfig

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        logs = torch.where(present, losses, 1.0).clamp(min=1e-12).log()
        return torch.where(present.any(), masked_mean(logs, present).exp(), 0.0)


class STCHConfig(Config):
    """Smooth Tchebycheff scalarization (Lin et al. 2024).

    `smoothing`: μ; near 0 the largest loss counts alone, with a large one it is the mean.
    """

    kind: Literal["stch"] = "stch"
    smoothing: float = per_run(0.5, gt=0.0)


class Stch(Balancer):
    """L = μ log mean_t exp(L_t / μ): between the mean (μ → ∞) and the largest loss (μ → 0).

    Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", with ideal
    point 0 and preferences 1 (theirs sum to 1, so their μ is 1/T of this one).
    """

    Config = STCHConfig

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        mu = rate(self.config, step, "smoothing")
        smooth = torch.where(present, losses / mu, torch.finfo(losses.dtype).min).logsumexp(0)
        n = present.sum().clamp(min=1).to(losses.dtype)
        return torch.where(present.any(), mu * (smooth - n.log()), 0.0)


class Either(Balancer):
    """For runs of one population whose balancers differ: each run's is the one that its rate
    `balancer` names, by its place among `ways`.

    A run has zeros for the parameters of the others, which stay as they are.

    Args:
        ways: kind → balancer, all of which merge; their parameters have different names.
    """

    Config = EqualConfig

    def __init__(self, ways: Mapping[str, Balancer]) -> None:
        super().__init__(EqualConfig())
        self._kinds = tuple(ways)
        self._ways = tuple(ways.values())

    def place(self, kind: str) -> float:
        """The rate `balancer` of a run with this one."""
        return float(self._kinds.index(kind))

    def init(self, n_tasks: int) -> Params:
        return {name: leaf for way in self._ways for name, leaf in way.init(n_tasks).items()}

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        chosen = None if step is None else step.rate("balancer")
        if chosen is None:
            raise ValueError("Runs whose balancers differ are told apart by the rate `balancer`.")
        found, *others = [w.combine(params, losses, present, tasks, step) for w in self._ways]
        for number, other in enumerate(others, 1):
            found = torch.where(chosen == number, other, found)
        return found


class DWAConfig(Config):
    """Dynamic weight average (Liu et al. 2019).

    `weight_temperature`: larger ones make the weights more alike.
    """

    kind: Literal["dwa"] = "dwa"
    weight_temperature: float = per_run(2.0, gt=0.0)


class Dwa(Balancer):
    """L = mean_t λ_t L_t, λ = T softmax(r / τ), r_t = L̄_t(e−1) / L̄_t(e−2).

    L̄(e) is the mean loss of epoch e; λ = 1 in the first two epochs. A task that was not seen in an
    epoch keeps what is known of it. TorchJD keeps the means in Python, here they are state.

    Liu et al. 2019, "End-to-End Multi-Task Learning with Attention".
    """

    Config = DWAConfig

    def state(self, n_tasks: int) -> Params:
        return {name: torch.zeros(n_tasks) for name in ("sum", "count", "newer", "older")}

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        older, newer = params["older"], params["newer"]
        known = older > 0
        ratio = torch.where(known, newer / torch.where(known, older, 1.0), 1.0)
        weights = (ratio / rate(self.config, step, "weight_temperature")).softmax(0) * len(older)
        return masked_mean(weights[tasks] * losses, present)

    def after_step(
        self,
        state: Params,
        losses: Tensor,
        after: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step,
    ) -> Params:
        n = len(state["sum"])
        return {
            **state,
            "sum": state["sum"] + by_task(torch.where(present, losses, 0.0), tasks, n),
            "count": state["count"] + by_task(present.to(losses.dtype), tasks, n),
        }

    def after_epoch(self, state: Params) -> Params:
        seen = state["count"] > 0
        mean = state["sum"] / state["count"].clamp(min=1.0)
        return {
            "sum": torch.zeros_like(mean),
            "count": torch.zeros_like(mean),
            "newer": torch.where(seen, mean, state["newer"]),
            "older": torch.where(seen, state["newer"], state["older"]),
        }


class FAMOConfig(Config):
    """Fast adaptive multitask optimization (Liu et al. 2023).

    `weight_lr`, `weight_pull`: rate and decay of the logits of the weights.
    """

    kind: Literal["famo"] = "famo"
    weight_lr: float = per_run(0.025, ge=0.0)
    weight_pull: float = per_run(1e-3, ge=0.0)


class Famo(Balancer):
    """L = c Σ_t z_t log L_t, z = softmax(w), c = 1 / Σ_t (z_t / L_t) held constant.

    After each step, Adam moves w along the gradient of Σ_t z_t δ_t with δ_t = log L_t before −
    log L_t after it on the same rows: tasks that fell fastest lose weight. TorchJD's module keeps
    losses and optimizer in Python; here they are state.

    Liu et al. 2023, "FAMO: Fast Adaptive Multitask Optimization".
    """

    Config = FAMOConfig
    looks_back = True

    def state(self, n_tasks: int) -> Params:
        return {"logits": torch.zeros(n_tasks), **adam_state(n_tasks)}

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        z = masked_softmax(params["logits"][tasks], present)
        shifted = torch.where(present, losses, 1.0) + EPSILON
        normalizer = (z / shifted).sum().detach()
        return (z / normalizer.clamp(min=1e-30) * shifted.log()).sum()

    def after_step(
        self,
        state: Params,
        losses: Tensor,
        after: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step,
    ) -> Params:
        z = masked_softmax(state["logits"][tasks], present)
        change = torch.where(present, (losses + EPSILON).log() - (after + EPSILON).log(), 0.0)
        slope = z * (change - (z * change).sum())
        moved = adam(
            state,
            state["logits"],
            by_task(slope, tasks, len(state["logits"])),
            rate(self.config, step, "weight_lr"),
            rate(self.config, step, "weight_pull"),
        )
        return {"logits": moved.pop("values"), **moved}
