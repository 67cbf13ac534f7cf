"""Deep relation network (Long et al. 2017): a prior learned from how the tasks' layers resemble.

Long, Cao, Wang & Yu, "Learning Multiple Tasks with Multilinear Relationship Networks",
arXiv:1506.02117.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from autometa.config import Config, per_run
from autometa.errors import ConfigError
from autometa.networks import Parts, Problem, Step
from autometa.sharing.base import Params, Role, Sharing, is_weight
from autometa.sharing.hard import Hard, HardConfig

RIDGE = 1e-3
"""Added to every estimate, in units of its trace: a factor's condition is at most 1 + 1/RIDGE."""

MODES = ("input", "output", "task")
"""Names of the dimensions of W [D1, D2, T]."""


class DeepRelationConfig(Config):
    """`split_at`: number of shared blocks; the later ones and the heads belong to tasks and have
    the prior; all but the last block if not given. `relation`: strength λ/N of the prior, 0
    without. `update_every`: optimizer steps between estimates of the covariances.
    """

    kind: Literal["deep_relation"] = "deep_relation"
    split_at: int | None = Field(None, ge=0)
    relation: float = per_run(1e-3, ge=0.0)
    update_every: int = Field(10, ge=1)


class DeepRelation(Sharing):
    """`Hard` with a tensor-normal prior TN(0, Σ1 ⊗ Σ2 ⊗ Σ3) on every layer that belongs to tasks.

    The weights of a layer in all tasks are stacked, W [D1, D2, T] = [input, output, task] (of a
    convolution, the input is channel × height × width of the kernel; a transformer's block has
    several layers, of which that for queries, keys and values is one), and

        loss += (λ/N) · ½ [vec(W)ᵀ (Σ1 ⊗ Σ2 ⊗ Σ3)⁻¹ vec(W)
                           + D2·T·logdet Σ1 + D1·T·logdet Σ2 + D1·D2·logdet Σ3].

    Every `update_every` steps the covariances, the identity at first, are estimated by one sweep of
    flip-flop, Σ3 ← W₍₃₎ (Σ1 ⊗ Σ2)⁻¹ W₍₃₎ᵀ / (D1·D2) + ε·tr·I and likewise for the others, each
    with the latest of the rest. Each is scaled to a mean eigenvalue of 1: only the product of their
    scales means anything, and if it were free, shrinking W and Σ together would lower the loss
    without end; λ stands for it. Σ1 is diagonal where D1 ≥ D2·T/4, and Σ2 where D2 ≥ D1·T/4: there
    are too few numbers for a full one, which would degenerate. Biases and embeddings of tokens have
    no prior, nor have heads where tasks differ in their number of outputs or there is a single
    head.

    Buffers are Cholesky factors L, Σ = L Lᵀ (of diagonal ones the root of the diagonal).

    Raises:
        ConfigError: no layer is left for the prior.
    """

    Config = DeepRelationConfig
    updates_buffers = True

    def __init__(self, config: DeepRelationConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        split_at = _split_at(config, parts.n_blocks)
        self._network = Hard(HardConfig(split_at=split_at), parts)
        self._every = config.update_every
        self._layers = [
            f"blocks.{number}.{leaf}".removesuffix(".weight")
            for number, block in enumerate(parts.backbone.blocks)
            for leaf in block.init(torch.Generator().manual_seed(0))
            if number >= split_at and is_weight(leaf)
        ]
        if parts.head_per_task and _equal_outputs(parts.problem):
            self._layers.append("head")
        if not self._layers:
            raise _nothing_left(config, parts.n_blocks)

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        if config.split_at is not None:
            Hard.check(config, problem, n_blocks)
            if config.split_at == n_blocks and not _equal_outputs(problem):
                raise _nothing_left(config, n_blocks)

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self._network.init(generator)
        for layer in self._layers:
            shape = stacked(params[f"{layer}.weight"]).shape
            for mode, diagonal in enumerate(diagonal_modes(shape)):
                start = torch.ones(shape[mode])
                buffers[_buffer(layer, mode)] = start if diagonal else torch.diag(start)
        return params, buffers

    def forward(
        self,
        params: Params,
        buffers: Params,
        x: Tensor,
        *,
        tasks: Tensor,
        z: Tensor | None,
        step: Step,
    ) -> tuple[Tensor, Params]:
        return self._network.forward(params, buffers, x, tasks=tasks, z=z, step=step)

    def roles(self) -> dict[str, Role]:
        return self._network.roles()

    def penalty(self, params: Params, buffers: Params, step: Step) -> Float[Tensor, ""] | None:
        rate = step.rate("relation")
        if rate is None:
            return None
        terms = [
            negative_log_prior(stacked(params[f"{layer}.weight"]), self._factors(buffers, layer))
            for layer in self._layers
        ]
        return rate * torch.stack(terms).sum()

    @property
    def update_every(self) -> int:
        return self._every

    def after_step(self, params: Params, buffers: Params) -> Params:
        out = dict(buffers)
        for layer in self._layers:
            factors = flip_flop(
                stacked(params[f"{layer}.weight"]), self._factors(buffers, layer), RIDGE
            )
            out.update({_buffer(layer, mode): factor for mode, factor in enumerate(factors)})
        return out

    def _factors(self, buffers: Params, layer: str) -> list[Tensor]:
        return [buffers[_buffer(layer, mode)] for mode in range(3)]


def stacked(weight: Float[Tensor, "task output *input"]) -> Float[Tensor, "input output task"]:
    """The weights of a layer in all tasks as W [D1, D2, T]."""
    return weight.flatten(2).permute(2, 1, 0)


def diagonal_modes(shape: tuple[int, ...]) -> tuple[bool, bool, bool]:
    """Which of the three covariances of W [D1, D2, T] are diagonal."""
    d1, d2, n_tasks = shape
    return 4 * d1 >= d2 * n_tasks, 4 * d2 >= d1 * n_tasks, False


def negative_log_prior(
    w: Float[Tensor, "input output task"], factors: list[Tensor]
) -> Float[Tensor, ""]:
    """−log TN(W; 0, Σ1 ⊗ Σ2 ⊗ Σ3) without its constant, from the Cholesky factors of the Σ."""
    white = w
    total = torch.zeros((), dtype=w.dtype, device=w.device)
    for mode, factor in enumerate(factors):
        white = _whiten(white, factor, mode)
        diagonal = factor if factor.ndim == 1 else factor.diagonal()
        logdet = 2.0 * diagonal.log().sum()
        total = total + (w.numel() // w.shape[mode]) * logdet
    return 0.5 * (white.square().sum() + total)


def flip_flop(
    w: Float[Tensor, "input output task"], factors: list[Tensor], ridge: float
) -> list[Tensor]:
    """One sweep: each covariance from W whitened by the latest of the other two.

    Args:
        factors: Cholesky factors [D, D], or roots of diagonals [D].
        ridge: ε.
    """
    factors = list(factors)
    for mode, factor in enumerate(factors):
        white = w
        for other in range(3):
            if other != mode:
                white = _whiten(white, factors[other], other)
        rows = white.movedim(mode, 0).flatten(1)  # W₍mode₎ (Σ ⊗ Σ)^(−½)
        size = len(rows)
        variances = rows.square().sum(1)
        # the trace is fixed, so the number of columns drops out; weights of 0 give the identity
        share = 1.0 / variances.sum().clamp(min=torch.finfo(w.dtype).tiny)
        variances = variances * share * size + ridge * size
        again = size / variances.sum()
        if factor.ndim == 1:
            factors[mode] = (variances * again).sqrt()
        else:
            eye = torch.eye(size, dtype=w.dtype, device=w.device)
            covariance = (rows @ rows.T * share * size + ridge * size * eye) * again
            # without the check for success, which waits for the device; row-major as in a
            # checkpoint, so that a resumed run sums in the same order
            factors[mode] = torch.linalg.cholesky_ex(covariance)[0].contiguous()
    return factors


def _whiten(w: Tensor, factor: Tensor, mode: int) -> Tensor:
    """L⁻¹ applied along one dimension of W."""
    if factor.ndim == 1:
        return w / factor.reshape([-1 if dim == mode else 1 for dim in range(3)])
    moved = w.movedim(mode, 0)
    solved = torch.linalg.solve_triangular(factor, moved.flatten(1), upper=False)
    return solved.reshape(moved.shape).movedim(0, mode)


def _buffer(layer: str, mode: int) -> str:
    return f"relation.{layer}.{MODES[mode]}"


def _split_at(config: DeepRelationConfig, n_blocks: int) -> int:
    return n_blocks - 1 if config.split_at is None else config.split_at


def _equal_outputs(problem: Problem) -> bool:
    return len(set(problem.n_outputs)) == 1


def _nothing_left(config: DeepRelationConfig, n_blocks: int) -> ConfigError:
    return ConfigError(
        f"Parameter `sharing.split_at` should be at most {n_blocks - 1} where heads have no prior, "
        "because tasks differ in their number of classes or there is a single head: one block at "
        f"least must belong to tasks. Found `sharing.split_at = {config.split_at}`."
    )
