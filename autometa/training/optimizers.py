"""AdamW and SGD over stacked parameters: each run has rates and decay of its own.

torch's fused kernels take all leaves of a run that are treated alike in one call, so a step is one
pass over memory, where the same arithmetic written with tensor operations takes about ten.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from autometa.sharing import Params


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


#: leaves that are treated alike: with weight decay, without, and without but with a rate of their
#: own
DECAYED, PLAIN, MIXING = 0, 1, 2


def segment(name: str) -> int:
    """How a leaf is treated: weight matrices have weight decay; biases, embeddings and what belongs
    to the balancer have none."""
    if name.startswith("mixing."):
        return MIXING
    return DECAYED if name.endswith(".weight") and not name.startswith("embedding.") else PLAIN


class Optimizer(ABC):
    """An update rule of the leaves of a population, bound to their memory.

    Args:
        values: leaf → [run, …], contiguous; changed in place.
        state: a mapping like `values` for each of `slots`; changed in place.
        absent: leaf → [run], whether a run is without it, of leaves that not all runs have. What is
            absent is left as it is.
    """

    slots: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        values: Params,
        state: Mapping[str, Params],
        absent: Mapping[str, Sequence[bool]] | None = None,
    ) -> None:
        absent = absent or {}
        parts = [[n for n in values if segment(n) == part] for part in range(3)]
        self._order = [
            [[n for n in part if n not in absent or not absent[n][k]] for part in parts]
            for k in range(len(next(iter(values.values()))))
        ]
        self._values = self._by_run(values)
        self._state = [self._by_run(state[slot]) for slot in self.slots]

    def step(self, grads: Params, rates: Sequence[Rates], number: int) -> None:
        """Update in place.

        Args:
            grads: like `values`.
            rates: one a run.
            number: of this step, from 1.
        """
        of_runs = self._by_run(grads)
        for k, run in enumerate(rates):
            plain = replace(run, weight_decay=0.0)
            how = {DECAYED: run, PLAIN: plain, MIXING: replace(plain, lr=run.lr * run.mixing)}
            for part, own in how.items():
                if self._order[k][part]:
                    state = [slot[k][part] for slot in self._state]
                    self.update(self._values[k][part], of_runs[k][part], state, own, number)

    @abstractmethod
    def update(
        self,
        values: list[Tensor],
        grads: list[Tensor],
        state: list[list[Tensor]],
        rates: Rates,
        number: int,
    ) -> None:
        """Update one run's leaves that are treated alike.

        Args:
            state: a list for each of `slots`.
            rates: those of these leaves.
        """

    def _by_run(self, leaves: Params) -> list[list[list[Tensor]]]:
        """Views of each run's leaves [run][segment][leaf]."""
        runs = {name: leaf.unbind() for name, leaf in leaves.items()}
        return [
            [[runs[name][k] for name in part] for part in order]
            for k, order in enumerate(self._order)
        ]


class AdamW(Optimizer):
    """Loshchilov & Hutter 2019, with β = (0.9, 0.999) and ε = 1e-8.

    θ ← θ − lr·λ·θ; m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²;
    θ ← θ − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε).
    """

    slots = ("mean", "square")

    def update(
        self,
        values: list[Tensor],
        grads: list[Tensor],
        state: list[list[Tensor]],
        rates: Rates,
        number: int,
    ) -> None:
        mean, square = state
        taken = torch.full((), float(number), device=values[0].device)
        # torch's `adamw` calls the same kernel, after sorting what it is given by device
        torch._fused_adamw_(
            values,
            grads,
            mean,
            square,
            [],
            [taken] * len(values),
            lr=rates.lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=rates.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class SGD(Optimizer):
    """g ← g + λθ; b ← μb + g; θ ← θ − lr·b (torch's form, momentum without dampening)."""

    slots = ("momentum",)

    def update(
        self,
        values: list[Tensor],
        grads: list[Tensor],
        state: list[list[Tensor]],
        rates: Rates,
        number: int,
    ) -> None:
        torch._fused_sgd_(  # torch's `sgd` calls the same kernel
            values,
            grads,
            state[0] if rates.momentum else [],
            weight_decay=rates.weight_decay,
            momentum=rates.momentum,
            lr=rates.lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {"adamw": AdamW, "sgd": SGD}
