"""AdamW and SGD over stacked parameters: one row a run, rates and decay per run.

The leaves of a run are one row of a matrix [run, P], those with weight decay first, so torch's
fused kernels update a run in two calls whatever the number of leaves: one pass over memory, where
the same arithmetic written with tensor operations takes about ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Matrix = Float[Tensor, "run parameter"]


@dataclass(frozen=True)
class Rates:
    """The numbers of one run at one step; `lr` includes the schedule."""

    lr: float
    weight_decay: float
    momentum: float


class Optimizer(Protocol):
    """A pure update rule; its state is a dict of [run, parameter] matrices."""

    slots: tuple[str, ...]

    def update(
        self,
        values: Matrix,
        grads: Matrix,
        state: dict[str, Matrix],
        rates: Sequence[Rates],
        decayed: int,
        step: int,
    ) -> None:
        """Update `values` and `state` in place.

        Args:
            rates: one a run.
            decayed: how many of the first parameters have weight decay.
            step: counts from 1.
        """


class AdamW:
    """Loshchilov & Hutter 2019, with β = (0.9, 0.999) and ε = 1e-8.

    θ ← θ − lr·λ·θ; m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²;
    θ ← θ − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
    """

    slots = ("mean", "square")

    def update(
        self,
        values: Matrix,
        grads: Matrix,
        state: dict[str, Matrix],
        rates: Sequence[Rates],
        decayed: int,
        step: int,
    ) -> None:
        taken = torch.tensor(float(step - 1), device=values.device)
        for k, run in enumerate(rates):
            for part, decay in _parts(decayed, run.weight_decay):
                adamw(
                    [values[k, part]],
                    [grads[k, part]],
                    [state["mean"][k, part]],
                    [state["square"][k, part]],
                    [],
                    [taken.clone()],
                    fused=True,
                    amsgrad=False,
                    beta1=0.9,
                    beta2=0.999,
                    lr=run.lr,
                    weight_decay=decay,
                    eps=1e-8,
                    maximize=False,
                )


class SGD:
    """g ← g + λθ; b ← μb + g; θ ← θ − lr·b (torch's form, momentum without dampening)."""

    slots = ("momentum",)

    def update(
        self,
        values: Matrix,
        grads: Matrix,
        state: dict[str, Matrix],
        rates: Sequence[Rates],
        decayed: int,
        step: int,
    ) -> None:
        for k, run in enumerate(rates):
            for part, decay in _parts(decayed, run.weight_decay):
                sgd(
                    [values[k, part]],
                    [grads[k, part]],
                    [state["momentum"][k, part]],
                    fused=True,
                    weight_decay=decay,
                    momentum=run.momentum,
                    lr=run.lr,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                )


def _parts(decayed: int, weight_decay: float) -> tuple[tuple[slice, float], ...]:
    return (slice(0, decayed), weight_decay), (slice(decayed, None), 0.0)


OPTIMIZERS: dict[str, type[AdamW] | type[SGD]] = {"adamw": AdamW, "sgd": SGD}
