"""Balancers that look at the gradients of the tasks on the parameters they share.

With J the tasks' gradients as rows and G = J Jᵀ, a method gives weights w or a direction d; shared
parameters move along Jᵀw (or d) where `equal` would take mean_t J_t. Parameters that belong to one
task, and penalties, keep their ordinary gradients. Weights and directions are TorchJD's; those that
it adds up over tasks are divided by their number, so that without conflict they are `equal`.

A method works on one run at a time: solvers branch on their values, which vmap cannot. A step whose
problem a solver gives up on takes equal weights.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from autometa.balancing.base import Balancer, Needs, Params, View, masked_mean, seeded
from autometa.config import Config, per_run
from autometa.networks import Step


def aggregation() -> Any:
    """TorchJD's module. Its import takes a second (cvxpy), which every process would wait for."""
    from torchjd import aggregation

    return aggregation


class GradientBalancer(Balancer):
    """Balances gradients; the losses are averaged."""

    needs: ClassVar[Needs] = "gramian"

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        return masked_mean(losses, present)

    @abstractmethod
    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        """What the shared parameters of one run follow, and the state after it.

        Args:
            state: that of all tasks of the suite.

        Returns:
            With `needs = "gramian"` weights [task]; with `"jacobian"` a direction [parameter];
            None for the gradient of what `combine` returned.

        Raises:
            Unsolvable: the solver gives up.
        """


class PCGradConfig(Config):
    """Projects conflicting gradients (Yu et al. 2020)."""

    kind: Literal["pcgrad"] = "pcgrad"


class PCGrad(GradientBalancer):
    """d = mean_t g_t', g_t' being g_t without its component along every g_j it conflicts with.

    The others are taken in random order, j after j: if ⟨g_t', g_j⟩ < 0 then
    g_t' ← g_t' − ⟨g_t', g_j⟩ g_j / ‖g_j‖². Yu et al. 2020, "Gradient Surgery for Multi-Task
    Learning" (they sum).
    """

    Config = PCGradConfig
    orders_tasks = True

    def __init__(self, config: PCGradConfig) -> None:
        super().__init__(config)
        self._weighting = aggregation().PCGradWeighting()

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        with seeded(view.seed):
            return self._weighting(view.gradients) / len(view.tasks), state


class GradVacConfig(Config):
    """Raises the cosines between gradients to their usual values (Wang et al. 2021).

    `vaccine_rate`: how fast the usual values follow what is seen.
    """

    kind: Literal["gradvac"] = "gradvac"
    vaccine_rate: float = per_run(0.5, ge=0.0, le=1.0)


class GradVac(GradientBalancer):
    """As PCGrad, but a gradient is turned until its cosine with g_j is φ̂_tj where it is below it.

    φ̂_tj ← (1 − β) φ̂_tj + β φ_tj after each step, 0 at the start. Wang et al. 2021, "Gradient
    Vaccine" (they sum).
    """

    Config = GradVacConfig
    orders_tasks = True

    def __init__(self, config: GradVacConfig) -> None:
        super().__init__(config)
        self._weighting = aggregation().GradVacWeighting()

    def state(self, n_tasks: int) -> Params:
        return {"cosines": torch.zeros(n_tasks, n_tasks)}

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        G, at = view.gradients, (view.tasks[:, None], view.tasks[None])
        self._weighting.beta = view.rates["vaccine_rate"]
        # TorchJD keeps φ̂ in the module; here the module is lent to one run after the other
        self._weighting.register_buffer("_phi_t", state["cosines"][at].to(G.dtype))
        self._weighting._state_key = (len(G), G.dtype)
        with seeded(view.seed):
            weights = self._weighting(G) / len(G)
        cosines = state["cosines"].clone()
        cosines[at] = self._weighting.get_buffer("_phi_t").to(cosines.dtype)
        return weights, {**state, "cosines": cosines}


class MGDAConfig(Config):
    """The shortest combination of the gradients (Désidéri 2012)."""

    kind: Literal["mgda"] = "mgda"


class MGDA(GradientBalancer):
    """w = argmin over the simplex of ‖Jᵀw‖².

    Désidéri 2012, "Multiple-gradient descent algorithm"; Frank-Wolfe solver of Sener & Koltun 2018.
    """

    Config = MGDAConfig

    def __init__(self, config: MGDAConfig) -> None:
        super().__init__(config)
        self._weighting = aggregation().MGDAWeighting()

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        return self._weighting(view.gradients), state


class IMTLGConfig(Config):
    """Equal projections on all gradients (Liu et al. 2021)."""

    kind: Literal["imtl_g"] = "imtl_g"


class ImtlG(GradientBalancer):
    """w = v / Σv, v = G⁺ √diag(G): d has the same component along every g_t / ‖g_t‖.

    Liu et al. 2021, "Towards Impartial Multi-task Learning".
    """

    Config = IMTLGConfig

    def __init__(self, config: IMTLGConfig) -> None:
        super().__init__(config)
        self._weighting = aggregation().IMTLGWeighting()

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        return self._weighting(view.gradients), state


class AlignedMTLConfig(Config):
    """Aligns the principal components of the gradients (Senushkin et al. 2023).

    `scale`: the common size of the components: of the smallest, the median or the root mean square.
    """

    kind: Literal["aligned_mtl"] = "aligned_mtl"
    scale: Literal["min", "median", "rmse"] = "min"


class AlignedMTL(GradientBalancer):
    """w = σ V Σ⁻¹ Vᵀ 1/T with J = V Σ Uᵀ: the gradients' matrix with condition number 1.

    Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning".
    """

    Config = AlignedMTLConfig

    def __init__(self, config: AlignedMTLConfig) -> None:
        super().__init__(config)
        self._weighting = aggregation().AlignedMTLWeighting(scale_mode=config.scale)

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        return self._weighting(view.gradients), state


class ConFIGConfig(Config):
    """Equal cosines with all gradients (Liu et al. 2024)."""

    kind: Literal["config"] = "config"


class ConFIG(GradientBalancer):
    """d = (mean_t ⟨g_t, u⟩) u, u the unit vector along [g_t/‖g_t‖]⁺ 1.

    Liu et al. 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks"
    (they sum).
    """

    Config = ConFIGConfig
    needs = "jacobian"

    def __init__(self, config: ConFIGConfig) -> None:
        super().__init__(config)
        self._aggregator = aggregation().ConFIG()

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        return self._aggregator(view.gradients) / len(view.tasks), state


class GradDropConfig(Config):
    """Keeps one sign of each entry of the gradients (Chen et al. 2020)."""

    kind: Literal["graddrop"] = "graddrop"


class GradDrop(GradientBalancer):
    """Entry by entry, the positive g_t with probability p, else the negative ones, over T.

    p = ½ (1 + Σ_t g_t / Σ_t |g_t|). Chen et al. 2020, "Just Pick a Sign: Optimizing Deep Multitask
    Models with Gradient Sign Dropout" (they sum).
    """

    Config = GradDropConfig
    needs = "jacobian"

    def __init__(self, config: GradDropConfig) -> None:
        super().__init__(config)
        self._aggregator = aggregation().GradDrop()

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        with seeded(view.seed, view.gradients.device):
            return self._aggregator(view.gradients) / len(view.tasks), state
