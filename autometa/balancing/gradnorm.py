"""GradNorm: weights on the losses, moved so that all tasks learn at one rate."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from autometa.balancing.base import EPSILON, Params, View, adam, adam_state, masked_mean
from autometa.balancing.gradients import GradientBalancer
from autometa.config import Config, per_run
from autometa.networks import Step


class GradNormConfig(Config):
    """Gradient normalisation (Chen et al. 2018).

    `asymmetry`: α, how strongly tasks that learn slowly are favoured; with 0 all gradients get one
    norm. `weight_lr`: rate of the logits of the weights.
    """

    kind: Literal["gradnorm"] = "gradnorm"
    asymmetry: float = per_run(1.5, ge=0.0)
    weight_lr: float = per_run(0.025, ge=0.0)


class GradNorm(GradientBalancer):
    """L = mean_t w_t L_t, w = T softmax(s), s moved along the gradient of Σ_t |N_t − N̄ r_t^α|.

    N_t = w_t ‖∇L_t‖ on the shared parameters, N̄ their mean; r_t = L̃_t / mean L̃ with L̃_t = L_t /
    L_t(0) is the relative inverse training rate, L_t(0) the first loss seen of the task; N̄ r_t^α is
    held constant. The weights apply to the whole network.

    Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
    Multitask Networks". They move w, rescale it to sum T after each step, and take the last shared
    layer; here w is T softmax(s), which is positive with sum T by itself, s is moved by Adam, which
    knows no scale, and all shared parameters count.
    """

    Config = GradNormConfig

    def state(self, n_tasks: int) -> Params:
        return {
            "logits": torch.zeros(n_tasks),
            "first": torch.zeros(n_tasks),
            **adam_state(n_tasks),
        }

    def combine(
        self,
        params: Params,
        losses: Tensor,
        present: Tensor,
        tasks: Tensor,
        step: Step | None = None,
    ) -> Tensor:
        weights = params["logits"].softmax(0) * len(params["logits"])
        return masked_mean(weights[tasks] * losses, present)

    def balance(self, view: View, state: Params) -> tuple[Tensor | None, Params]:
        at, logits = view.tasks, state["logits"]
        first = state["first"].clone()
        first[at] = torch.where(first[at] > 0, first[at], view.losses.to(first.dtype))
        share = logits.softmax(0)
        norms = view.gradients.diagonal().clamp(min=0.0).sqrt().to(logits.dtype)
        norms = norms * share[at] * len(logits)
        ratio = view.losses.to(logits.dtype) / (first[at] + EPSILON)
        speed = ratio / (ratio.mean() + EPSILON)
        target = norms.mean() * speed ** view.rates["asymmetry"]
        pull = torch.zeros_like(logits)
        pull[at] = (norms - target).sign() * norms  # ∂/∂ log w
        moved = adam(state, logits, pull - share * pull.sum(), view.rates["weight_lr"])
        return None, {"logits": moved.pop("values"), "first": first, **moved}
