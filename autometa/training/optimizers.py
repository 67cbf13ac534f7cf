"""AdamW and SGD over stacked parameters: one row a run, rates and decay per run.

The leaves of a run are one row of a matrix [run, P] in up to three segments, so torch's fused
kernels update a run in two or three calls whatever the number of leaves: one pass over memory,
where the same arithmetic written with tensor operations takes about ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

Matrix = Float[Tensor, "run parameter"]


@dataclass(frozen=True)
class Rates:
    """The numbers of one run at one step.

    Attributes:
        lr: includes the schedule.
        mixing: multiplies `lr` for the leaves that mix towers.
    """

    lr: float
    weight_decay: float
    momentum: float
    mixing: float = 1.0


class Segments(NamedTuple):
    """How many of a row's numbers have weight decay, none, and none but a rate of their own."""

    decayed: int
    plain: int
    mixing: int


class Optimizer(Protocol):
    """A pure update rule; its state is a dict of [run, parameter] matrices."""

    slots: tuple[str, ...]

    def update(
        self,
        values: Matrix,
        grads: Matrix,
        state: dict[str, Matrix],
        rates: Sequence[Rates],
        segments: Segments,
        step: int,
    ) -> None:
        """Update `values` and `state` in place.

        Args:
            rates: one a run.
            segments: what lies where in a row.
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
        segments: Segments,
        step: int,
    ) -> None:
        taken = torch.tensor(float(step), device=values.device)
        values_of, grads_of, mean_of, square_of = (
            _rows(matrix, segments) for matrix in (values, grads, state["mean"], state["square"])
        )
        for k, run in enumerate(rates):
            for part, lr, decay in _parts(segments, run):
                # torch's `adamw` calls the same kernel, after sorting what it is given by device
                torch._fused_adamw_(
                    [values_of[part][k]],
                    [grads_of[part][k]],
                    [mean_of[part][k]],
                    [square_of[part][k]],
                    [],
                    [taken],
                    lr=lr,
                    beta1=0.9,
                    beta2=0.999,
                    weight_decay=decay,
                    eps=1e-8,
                    amsgrad=False,
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
        segments: Segments,
        step: int,
    ) -> None:
        values_of, grads_of, momentum_of = (
            _rows(matrix, segments) for matrix in (values, grads, state["momentum"])
        )
        for k, run in enumerate(rates):
            for part, lr, decay in _parts(segments, run):
                torch._fused_sgd_(  # torch's `sgd` calls the same kernel
                    [values_of[part][k]],
                    [grads_of[part][k]],
                    [momentum_of[part][k]] if run.momentum else [],
                    weight_decay=decay,
                    momentum=run.momentum,
                    lr=lr,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                    is_first_step=False,
                )


def _rows(matrix: Matrix, segments: Segments) -> list[tuple[Tensor, ...]]:
    """Views of the segments of every run: [segment][run]."""
    return [piece.unbind() for piece in matrix.split(list(segments), dim=1)]


def _parts(segments: Segments, run: Rates) -> list[tuple[int, float, float]]:
    """Number, learning rate and weight decay of every segment that is not empty."""
    how = ((run.lr, run.weight_decay), (run.lr, 0.0), (run.lr * run.mixing, 0.0))
    return [(k, lr, decay) for k, (lr, decay) in enumerate(how) if segments[k]]


OPTIMIZERS: dict[str, type[AdamW] | type[SGD]] = {"adamw": AdamW, "sgd": SGD}
