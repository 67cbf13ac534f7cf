"""AdamW and SGD over stacked parameters: one row a run, rates and decay per run.

The leaves of K runs live in one matrix [K, P], so a step is a handful of operations whatever the
number of leaves and runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

Matrix = Float[Tensor, "run parameter"]
Column = Float[Tensor, "run one"]


@dataclass(frozen=True)
class Rates:
    """Per-run numbers of one step, each [run, 1].

    Attributes:
        lr: learning rate of this step, schedule included.
        weight_decay: decay of the parameters that `decays` marks.
        momentum: SGD's momentum.
    """

    lr: Column
    weight_decay: Column
    momentum: Column


class Optimizer(Protocol):
    """A pure update rule; its state is a dict of [run, parameter] matrices."""

    slots: tuple[str, ...]

    def update(
        self,
        values: Matrix,
        grads: Matrix,
        state: dict[str, Matrix],
        rates: Rates,
        decays: Float[Tensor, " parameter"],
        step: int,
    ) -> None: ...


class AdamW:
    """Loshchilov & Hutter 2019, with β = (0.9, 0.999) and ε = 1e-8 as in torch.

    θ ← θ − lr·λ·θ; m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²;
    θ ← θ − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
    """

    slots = ("mean", "square")
    beta1, beta2, eps = 0.9, 0.999, 1e-8

    def update(
        self,
        values: Matrix,
        grads: Matrix,
        state: dict[str, Matrix],
        rates: Rates,
        decays: Float[Tensor, " parameter"],
        step: int,
    ) -> None:
        """Update `values` and `state` in place; `step` counts from 1."""
        mean, square = state["mean"], state["square"]
        mean.lerp_(grads, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(grads, grads, value=1 - self.beta2)
        correct1, correct2 = 1 - self.beta1**step, 1 - self.beta2**step
        direction = mean / square.sqrt().div_(correct2**0.5).add_(self.eps)
        values.mul_(1 - rates.lr * rates.weight_decay * decays)
        values.addcmul_(direction, rates.lr / -correct1)


class SGD:
    """g ← g + λθ; b ← μb + g; θ ← θ − lr·b (torch's form, momentum without dampening)."""

    slots = ("momentum",)

    def update(
        self,
        values: Matrix,
        grads: Matrix,
        state: dict[str, Matrix],
        rates: Rates,
        decays: Float[Tensor, " parameter"],
        step: int,
    ) -> None:
        """Update `values` and `state` in place."""
        buffer = state["momentum"]
        buffer.mul_(rates.momentum).add_(grads).addcmul_(values, rates.weight_decay * decays)
        values.addcmul_(buffer, -rates.lr)


OPTIMIZERS: dict[str, type[AdamW] | type[SGD]] = {"adamw": AdamW, "sgd": SGD}
