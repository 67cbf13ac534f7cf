"""Learned features, and Bayesian linear regression on them in closed form."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from autometa.balancing import Balancer
from autometa.config import Config, per_run
from autometa.learners import embedding
from autometa.learners.base import Batch, Learner
from autometa.learners.inner import stream
from autometa.learners.losses import mean_over_tasks, row_losses, task_losses
from autometa.networks import ConditioningConfig, Problem, Step
from autometa.sharing import Params, Role, Sharing


class BayesianConfig(Config):
    """`basis`: features D of the linear regression. `noise`: where the learned standard deviation
    σ of the (standardised) labels starts; regression only."""

    kind: Literal["bayesian"] = "bayesian"
    basis: int = Field(32, ge=1, le=1024)
    noise: float = per_run(0.3, ge=1e-4, le=100.0)


class Bayesian(Learner):
    """ALPaCA (Harrison et al. 2018): a prior learned from many tasks, a posterior from a few rows.

        y = wᵀφ(x) + ε,   ε ~ N(0, σ²),   w ~ N(m₀, σ²Λ₀⁻¹)
        Λ = Λ₀ + ΦᵀΦ,   m = m₀ + Λ⁻¹Φᵀ(y − Φm₀)
        y* ~ N(mᵀφ*, σ²(1 + φ*ᵀΛ⁻¹φ*))

    φ is the network with D outputs, its head linear; Λ₀ is diagonal, which is no restriction,
    since the head can turn and mix the features. The loss is the negative log density of the
    query rows. All of it is in float64: Λ is as badly conditioned as the labels are free of noise,
    and it is small.

    Classes are regressed (Bertinetto et al. 2019, R2-D2) and the loss is cross-entropy. N-way:
    one-hot labels, logits s·m_nᵀφ*, m₀ = 0, as what all classes have in common does not change the
    probabilities. Binary: labels −1 and 1, logit s·mᵀφ* + b. s and b are learned.

    φ = θ with `adapted.weights` m [task, D, class or 1] and, for regression, `adapted.factor`, the
    Cholesky factor of Λ [task, D, D]. An episode may have any number of classes.
    """

    Config = BayesianConfig
    episodic = True
    any_ways = True
    has_variance = True

    def __init__(
        self,
        config: BayesianConfig,
        problem: Problem,
        network: Sharing,
        conditioning: ConditioningConfig,
        balancer: Balancer,
    ) -> None:
        self.problem = problem
        self.network = embedding.shared_network(network, conditioning, "aligned", config.basis)
        shape, size = problem.episode, config.basis
        rows = shape.n_support + shape.n_query if shape else 1
        # a row's basis functions and its share of Λ, in float64
        own = 2 * (size + math.ceil(size**2 / rows))
        self.row_size = max(self.network.parts.backbone.row_size, own)
        self._kind = problem.kinds[0]
        self._config = config

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        embedding.check_unconditioned(config)

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self.network.init(generator)
        size = self._config.basis
        # with D basis functions of size one, w is to explain labels of size one: w² about 1/D
        weight = self._config.noise**2 if self._kind == "regression" else 1.0
        params["prior.log_precision"] = torch.full((size,), math.log(size * weight))
        if self._kind == "regression":
            params["noise.log_variance"] = torch.tensor(2.0 * math.log(self._config.noise))
        else:
            params["logits.log_scale"] = torch.tensor(math.log(_SCALE[self._kind]))
        if self._kind != "multiclass":
            params["prior.mean"] = torch.zeros(size)
        if self._kind == "binary":
            params["logits.offset"] = torch.tensor(0.0)
        return params, buffers

    def roles(self) -> dict[str, Role]:
        return embedding.all_shared(self.init(torch.Generator())[0])

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        h = self._basis(params, support.x, stream(step, 1))
        labels = self._labels(support)
        precision = params["prior.log_precision"].double().exp().diag()
        prior = torch.zeros(h.shape[-1], 1, dtype=h.dtype, device=h.device)
        if "prior.mean" in params:
            prior = params["prior.mean"].double()[:, None]
        weights, factor = posterior(h, labels, support.mask, prior, precision)
        phi = params | {"adapted.weights": weights}
        return phi | {"adapted.factor": factor} if self._kind == "regression" else phi

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        h = self._basis(params, batch.x, step)
        if self._kind == "regression":
            mean, variance = self._moments(params, h)
            rows = gaussian_losses(mean, variance, batch.y)
        else:
            rows = row_losses(self.problem, self._logits(params, h), batch.y)
        dtype = params["prior.log_precision"].dtype
        losses, present = task_losses(rows.to(dtype), batch.mask)
        return mean_over_tasks(losses, present), losses, buffers

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        h = self._basis(params, x, Step())
        if self._kind == "regression":
            out = h @ params["adapted.weights"]
        else:
            out = self._logits(params, h)
        return out.to(params["prior.log_precision"].dtype)

    def moments(
        self, params: Params, buffers: Params, x: Tensor, tasks: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self._kind != "regression":
            return super().moments(params, buffers, x, tasks)
        dtype = params["prior.log_precision"].dtype
        mean, variance = self._moments(params, self._basis(params, x, Step()))
        return mean.to(dtype), variance.to(dtype)

    def _basis(self, params: Params, x: Tensor, step: Step) -> Tensor:
        """φ(x) [task, row, D]."""
        return embedding.fold_rows(self.network, params, x, step, head=True).double()

    def _labels(self, batch: Batch) -> Tensor:
        """What is regressed [task, row, class or 1]."""
        if self._kind == "multiclass":
            n = embedding.n_classes(self.problem, batch.tasks)
            return embedding.one_hot(batch.y, batch.mask, n, torch.float64)
        y = batch.y.double()[..., None]
        return 2.0 * y - 1.0 if self._kind == "binary" else y

    def _logits(self, params: Params, h: Tensor) -> Tensor:
        out = params["logits.log_scale"].double().exp() * (h @ params["adapted.weights"])
        return out + params["logits.offset"] if "logits.offset" in params else out

    def _moments(self, params: Params, h: Tensor) -> tuple[Tensor, Tensor]:
        spread = torch.linalg.solve_triangular(params["adapted.factor"], h.mT, upper=False)
        noise = params["noise.log_variance"].double().exp()
        mean = (h @ params["adapted.weights"])[..., 0]
        return mean, noise * (1.0 + spread.square().sum(-2))


def posterior(
    features: Float[Tensor, "task row basis"],
    labels: Float[Tensor, "task row output"],
    mask: Bool[Tensor, "task row"],
    mean: Float[Tensor, "*tasks basis outputs"],
    precision: Float[Tensor, "*tasks basis basis"],
) -> tuple[Float[Tensor, "task basis output"], Float[Tensor, "task basis basis"]]:
    """m and the lower Cholesky factor of Λ, from the prior's m₀ and Λ₀ and the rows with a label.

    The outputs have a common Λ. A matrix that is not positive definite gives undefined numbers
    and no error, so that a run that diverges leaves those beside it alone.
    """
    design = features * mask[..., None]
    rest = (labels - features @ mean) * mask[..., None]
    factor = torch.linalg.cholesky_ex(precision + design.mT @ design).L
    return mean + torch.cholesky_solve(design.mT @ rest, factor), factor


def gaussian_losses(
    mean: Float[Tensor, "task row"],
    variance: Float[Tensor, "task row"],
    y: Float[Tensor, "task row"],
) -> Float[Tensor, "task row"]:
    """−log N(y; mean, variance), in nats."""
    return 0.5 * (torch.log(2.0 * math.pi * variance) + (y - mean).square() / variance)


#: where the logits' learned scale starts: one-hot regression keeps labels near 0 and 1
_SCALE = {"multiclass": 10.0, "binary": 2.0}
