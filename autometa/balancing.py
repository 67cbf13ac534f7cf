"""How the losses of the tasks become one loss. Formulas are TorchJD's scalarizers.

A scalarizer is applied task by task and averaged over the tasks that have a labelled row in the
batch, so that a task without labels neither pulls on the network nor on its own weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import functional_call, vmap
from torchjd.scalarization import UW

from autometa.config import Config

Params = dict[str, Tensor]


class Balancer(ABC):
    """Task losses to one loss; may have parameters of its own, one entry a task."""

    Config: ClassVar[type[Config]]

    def init(self, n_tasks: int) -> Params:
        """Parameters of the balancer, trained with the network."""
        return {}

    @abstractmethod
    def combine(
        self,
        params: Params,
        losses: Float[Tensor, " task"],
        present: Bool[Tensor, " task"],
        tasks: Int[Tensor, " task"],
    ) -> Float[Tensor, ""]:
        """One loss from the losses of the tasks in a batch.

        Args:
            params: what `init` returned.
            losses: mean loss over each task's labelled rows; 0 where there are none.
            present: which tasks have a labelled row in the batch.
            tasks: which tasks they are.
        """


def masked_mean(
    values: Float[Tensor, " task"], present: Bool[Tensor, " task"]
) -> Float[Tensor, ""]:
    """Mean of `values` where `present`; 0 if nothing is."""
    weight = present.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


class EqualConfig(Config):
    """Every task weighs the same."""

    kind: Literal["equal"] = "equal"


class Equal(Balancer):
    """L = mean_t L_t."""

    Config = EqualConfig

    def __init__(self, config: EqualConfig) -> None:
        pass

    def combine(
        self,
        params: Params,
        losses: Float[Tensor, " task"],
        present: Bool[Tensor, " task"],
        tasks: Int[Tensor, " task"],
    ) -> Float[Tensor, ""]:
        return masked_mean(losses, present)


class UncertaintyConfig(Config):
    """Learned homoscedastic uncertainty (Kendall et al. 2018)."""

    kind: Literal["uncertainty"] = "uncertainty"


class Uncertainty(Balancer):
    """L = mean_t ½ exp(−s_t) L_t + ½ s_t with learned log-variances s_t, 0 at the start."""

    Config = UncertaintyConfig

    def __init__(self, config: UncertaintyConfig) -> None:
        self._scalarizer = UW(())

    def init(self, n_tasks: int) -> Params:
        return {"log_variance": torch.zeros(n_tasks)}

    def combine(
        self,
        params: Params,
        losses: Float[Tensor, " task"],
        present: Bool[Tensor, " task"],
        tasks: Int[Tensor, " task"],
    ) -> Float[Tensor, ""]:
        def weigh(log_variance: Tensor, loss: Tensor) -> Tensor:
            out: Tensor = functional_call(self._scalarizer, {"log_var": log_variance}, (loss,))
            return out

        return masked_mean(vmap(weigh)(params["log_variance"][tasks], losses), present)


BALANCING: dict[str, type[Balancer]] = {"equal": Equal, "uncertainty": Uncertainty}
