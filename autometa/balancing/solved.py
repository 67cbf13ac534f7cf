"""Balancers of gradients that solve an optimization problem beyond torch; see `gradients`."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from autometa.balancing.base import Params, Unsolvable, View
from autometa.balancing.gradients import GradientBalancer, aggregation
from autometa.config import Config, per_run

#: of the longest gradient: shorter ones are what float32 leaves of a sum
_ROUNDING = 1e-7
#: of Σ v: shorter combinations of unit vectors are what float32 leaves of G, whose root is taken
_CANCELLED = 1e-3


class FairGradConfig(Config):
    """α-fair division of the loss decrease (Ban & Ji 2024).

    `fairness`: α; 1 is proportional fairness, which is Nash-MTL's solution.
    """

    kind: Literal["fairgrad"] = "fairgrad"
    fairness: float = per_run(1.0, gt=0.0)


class FairGrad(GradientBalancer):
    """G w = w^(−1/α), w > 0, by least squares.

    Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning". With α = 1, ‖Jᵀw‖ = √T
    whatever the sizes of the gradients. G/s is solved, s its trace, and its w multiplied by
    s^(−α/(1+α)), which is the same w: the solver starts from 1/T and does not reach far.
    """

    Config = FairGradConfig

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        alpha = view.rates["fairness"]
        weighting = aggregation().FairGradWeighting(alpha=alpha)
        trace = view.gradients.diagonal().sum().item()
        try:
            with np.errstate(all="ignore"):
                weights = weighting(unit_trace(view.gradients))
            return weights * (trace or 1.0) ** (-alpha / (1 + alpha)), state
        except ValueError as exc:  # residuals overflow
            raise Unsolvable from exc


class UPGradConfig(Config):
    """The mean of the gradients, each projected so that it hurts no task (Quinton & Rey 2024)."""

    kind: Literal["upgrad"] = "upgrad"


class UPGrad(GradientBalancer):
    """d = mean_t π(g_t), π the projection onto the cone of directions that agree with every g_j.

    Quinton & Rey 2024, "Jacobian Descent for Multi-Objective Optimization".
    """

    Config = UPGradConfig

    def __init__(self, config: UPGradConfig) -> None:
        super().__init__(config)
        self._weighting = aggregation().UPGradWeighting(projector=projector())

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        return self._weighting(view.gradients), state


class DualProjConfig(Config):
    """The mean gradient, projected so that it hurts no task (Lopez-Paz & Ranzato 2017)."""

    kind: Literal["dualproj"] = "dualproj"


class DualProj(GradientBalancer):
    """d = π(mean_t g_t), π the projection onto the cone of directions that agree with every g_j.

    Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning".
    """

    Config = DualProjConfig

    def __init__(self, config: DualProjConfig) -> None:
        super().__init__(config)
        self._weighting = aggregation().DualProjWeighting(projector=projector())

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        return self._weighting(view.gradients), state


class CAGradConfig(Config):
    """The best step for the task that gains least, near the mean (Liu et al. 2021).

    `radius`: c, how far from the mean gradient, in lengths of it; 0 is `equal`.
    """

    kind: Literal["cagrad"] = "cagrad"
    radius: float = per_run(0.4, ge=0.0)


class CAGrad(GradientBalancer):
    """d = argmax min_t ⟨g_t, d⟩ over ‖d − ḡ‖ ≤ c ‖ḡ‖, ḡ = mean_t g_t.

    Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning": d = ḡ + c ‖ḡ‖ a/‖a‖
    with a = Jᵀw, w = argmin ⟨a, ḡ⟩ + c ‖ḡ‖ ‖a‖ on the simplex. It is solved for v_t = w_t ‖g_t‖, of
    a combination of unit vectors, so that a task that is finished may have gradients of any length.
    TorchJD solves for w, and takes all weights for 0 where a is shorter than 10⁻⁴ √trace G: as soon
    as one task's gradients are, no shared parameter moves.

    Tasks whose gradients are rounding beside the longest have no say beyond their part of ḡ. Where
    unit vectors cancel to rounding, no task can gain without another's loss, and there is no a.
    """

    Config = CAGradConfig
    packages = ("cvxpy", "clarabel")

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        G, radius = view.gradients.double(), view.rates["radius"]
        n_tasks, lengths = len(G), G.diagonal().clamp(min=0.0).sqrt()
        heard = lengths > _ROUNDING * lengths.max()
        if not heard.any():
            raise Unsolvable
        lengths = lengths[heard] / lengths.max()
        across = root(G[heard][:, heard] / torch.outer(lengths, lengths) / G.diagonal().max())
        mean = across.T @ lengths / n_tasks
        v = _most_averse(across.numpy(), mean.numpy(), lengths.numpy(), radius)
        size = (across.T @ v).norm()
        if size <= _CANCELLED * v.sum():
            raise Unsolvable
        weights = torch.full((n_tasks,), 1.0 / n_tasks, dtype=G.dtype)
        weights[heard] += radius * mean.norm() / size * v / lengths
        return weights.to(view.gradients.dtype), state


def _most_averse(
    across: NDArray[np.float64],
    mean: NDArray[np.float64],
    lengths: NDArray[np.float64],
    radius: float,
) -> Float[Tensor, " task"]:
    """CAGrad's v: unit vectors `across` [task, dimension], ḡ, ‖g_t‖ and c."""
    import cvxpy

    v = cvxpy.Variable(shape=len(lengths), nonneg=True)
    combined = across.T @ v
    cost = mean @ combined + radius * np.linalg.norm(mean) * cvxpy.norm(combined, 2)
    problem = cvxpy.Problem(cvxpy.Minimize(cost), [(lengths.min() / lengths) @ v == 1])
    try:
        problem.solve(cvxpy.CLARABEL)
    except cvxpy.SolverError as exc:
        raise Unsolvable from exc
    if v.value is None:
        raise Unsolvable
    return torch.as_tensor(v.value).clamp(min=0.0)


class NashMTLConfig(Config):
    """The Nash bargaining solution (Navon et al. 2022).

    `largest`: ‖Jᵀw‖ is at most this; 0 for no limit.
    """

    kind: Literal["nash_mtl"] = "nash_mtl"
    largest: float = per_run(1.0, ge=0.0)


class NashMTL(GradientBalancer):
    """G w = 1/w by successive convex problems, started from the w of the step before.

    Navon et al. 2022, "Multi-Task Learning as a Bargaining Game". `fairgrad` with `fairness = 1`
    solves the same equation directly, in a fraction of the time.
    """

    Config = NashMTLConfig
    packages = ("cvxpy", "ecos")

    def __init__(self, config: NashMTLConfig) -> None:
        super().__init__(config)
        self._problems: dict[int, Any] = {}

    def state(self, n_tasks: int) -> Params:
        return {"weights": torch.ones(n_tasks)}

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        m, before = len(view.tasks), state["weights"]
        if m == 1:  # ECOS takes no scalar problem; the solution is g / ‖g‖
            norm = view.gradients[0].sqrt()
            limit = view.rates["largest"] or 1.0
            return torch.where(norm > 0, min(1.0, limit) / norm.clamp(min=1e-30), 1.0), state
        if m not in self._problems:
            self._problems[m] = aggregation().NashMTL(n_tasks=m).weighting
        problem = self._problems[m]
        problem.max_norm = view.rates["largest"]
        problem.prvs_alpha = before[view.tasks].double().numpy()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # cvxpy on the form of TorchJD's problem
                weights = problem(root(view.gradients))
        except ValueError as exc:  # all gradients are zero
            raise Unsolvable from exc
        after = before.clone()
        after[view.tasks] = torch.as_tensor(problem.prvs_alpha).to(before.dtype)
        return weights, {**state, "weights": after}


def projector() -> Any:
    from autometa.balancing.projector import NonNegativeProjector  # it imports TorchJD

    return NonNegativeProjector()


def unit_trace(G: Float[Tensor, "task task"]) -> Float[Tensor, "task task"]:
    """G over its trace; as it is if that is 0."""
    trace = G.diagonal().sum()
    return torch.where(trace > 0, G / trace.clamp(min=math.ulp(0.0)), G)


def root(G: Float[Tensor, "task task"]) -> Float[Tensor, "task task"]:
    """R with R Rᵀ = G: for weights, as good as J."""
    values, vectors = torch.linalg.eigh(G)
    return vectors * values.clamp(min=0.0).sqrt()
