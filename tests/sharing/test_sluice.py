"""Sluice networks: the paper's matrices by hand, and as cross-stitch and independent networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Batch
from autometa.networks import Problem, Step
from autometa.networks.mlp import MLP, MLPConfig
from autometa.sharing import Params
from autometa.sharing.sluice import Sluice, SluiceConfig
from autometa.trial import check
from tests.backbones import BACKBONES, block, leaves, read
from tests.sharing.test_identities import EXACT, LAYOUTS, assert_same, measure
from tests.small import (
    draw,
    gradients,
    make_batch,
    make_config,
    make_learner,
    make_problem,
    same_kind,
    trainable,
)

SLUICE = {"sharing.kind": "sluice"}


def last_block_only(params: Params) -> Params:
    """The leaves with β one-hot on the last block."""
    beta = torch.zeros_like(params["mixing.beta"])
    beta[:, -1] = 1.0
    return {**params, "mixing.beta": beta}


def penalty(strength: float) -> Step:
    return Step(rates={"orthogonality": torch.tensor(strength, dtype=torch.float64)})


def paper_loop(kind: str, params: Params, batch: Batch, problem: Problem) -> Tensor:
    """Outputs from the paper's matrices: α [TG, TG] times the subspaces of all towers, stacked."""
    n, outs = problem.n_tasks, []
    for place, task in enumerate(batch.tasks.tolist()):
        x = batch.x if problem.layout == "aligned" else batch.x[place]
        inputs, layers = [x] * n, []
        for i in range(2):
            own = [block(kind, leaves(params, f"blocks.{i}", j), h) for j, h in enumerate(inputs)]
            alpha = params[f"mixing.alpha.{i}"]
            g = alpha.shape[1]
            pieces = torch.stack([piece for h in own for piece in h.chunk(g, dim=1)])  # [TG, …]
            mixed = alpha.reshape(n * g, n * g) @ pieces.flatten(1)
            mixed = mixed.view_as(pieces)
            inputs = [torch.cat(list(mixed[t * g : (t + 1) * g]), dim=1) for t in range(n)]
            layers.append(inputs[task])
        if kind == "conv":  # 3×2 after the first block, 1×1 after the second
            layers = [h.mean((2, 3), keepdim=True) for h in layers]
        beta = params["mixing.beta"][task]
        h = read(kind, beta[0] * layers[0] + beta[1] * layers[1])
        outs.append(F.linear(h, params["head.weight"][task], params["head.bias"][task]))
    return torch.stack(outs)


@LAYOUTS
@BACKBONES
def test_one_subspace_and_the_last_block_is_cross_stitch(layout, backbone, shape):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone}
    sluice = make_learner(problem, {**how, **SLUICE, "sharing.subspaces": 1})
    stitch = make_learner(problem, {**how, "sharing.kind": "cross_stitch"})
    params = last_block_only(draw(sluice)[0])
    other = {name: leaf for name, leaf in params.items() if not name.startswith("mixing.")}
    for number in range(2):
        other[f"mixing.{number}"] = params[f"mixing.alpha.{number}"].reshape(3, 3)
    batch = make_batch(problem)
    assert_same(sluice, stitch, params, other, batch)
    grads, expected = measure(sluice, params, batch)[2], measure(stitch, other, batch)[2]
    for number in range(2):
        found = grads[f"mixing.alpha.{number}"].reshape(3, 3)
        assert_close(found, expected[f"mixing.{number}"], **EXACT)


@LAYOUTS
@BACKBONES
@pytest.mark.parametrize("subspaces", [1, 2, 8])
def test_without_mixing_it_is_independent(layout, backbone, shape, subspaces):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone}
    sluice = make_learner(problem, {**how, **SLUICE, "sharing.subspaces": subspaces})
    independent = make_learner(problem, {**how, "sharing.kind": "independent"})
    params = last_block_only(draw(sluice)[0])
    for name in ("mixing.alpha.0", "mixing.alpha.1"):
        size = 3 * subspaces
        params[name] = torch.eye(size, dtype=torch.float64).view_as(params[name])
    other = {name: leaf for name, leaf in params.items() if not name.startswith("mixing.")}
    assert_same(sluice, independent, params, other, make_batch(problem))


@LAYOUTS
@BACKBONES
@pytest.mark.parametrize("subspaces", [1, 2, 4])
def test_is_the_papers_matrices(layout, backbone, shape, subspaces):
    problem = make_problem(layout, shape, ("regression",) * 3)
    how = {"backbone.kind": backbone, **SLUICE, "sharing.subspaces": subspaces}
    learner = make_learner(problem, how)
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)
    out = paper_loop(backbone, params, batch, problem)
    losses = ((out[..., 0] - batch.y) ** 2 * batch.mask).sum(1) / batch.mask.sum(1)
    expected = gradients(losses.mean(), params)
    found_out, found_losses, found = measure(learner, params, batch)
    assert_close(found_out, out.detach(), **EXACT)
    assert_close(found_losses, losses.detach(), **EXACT)
    for name, grad in expected.items():
        assert_close(found[name], grad, **EXACT)


def hand_made(layout: str) -> tuple[Any, Params]:
    """Two tasks, one input, one block: towers give (x, 2x) and (3x, 4x), a subspace a channel."""
    problem = same_kind(layout, (1,), n_tasks=2)
    how = {"backbone.width": 2, "backbone.depth": 1, "backbone.norm": "none", **SLUICE}
    params = {
        "blocks.0.weight": torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]),
        "blocks.0.bias": torch.zeros(2, 2),
        "mixing.alpha.0": torch.zeros(2, 2, 2, 2),
        "mixing.beta": torch.tensor([[1.0], [0.5]]),  # a plain factor: no softmax
        "head.weight": torch.tensor([[[1.0, 10.0]], [[1.0, 10.0]]]),
        "head.bias": torch.zeros(2, 1),
    }
    return make_learner(problem, how), {name: leaf.double() for name, leaf in params.items()}


@LAYOUTS
def test_planted_alpha_mixes_tasks(layout):
    # seen in public code: a column-major reshape that mixes subspaces of one task only
    learner, params = hand_made(layout)
    alpha = params["mixing.alpha.0"]
    alpha[0, 0, 1, 1] = 1.0  # task 0's first subspace reads task 1's second
    alpha[0, 1, 0, 0] = 1.0  # task 0's second its own first
    alpha[1, 1, 0, 1] = 1.0  # task 1's second task 0's second; its first reads nothing
    x = torch.ones(1, 1, dtype=torch.float64)
    x = x if layout == "aligned" else x.expand(2, 1, 1)
    out = learner.predict(params, {}, x, torch.arange(2))
    # task 0 reads (4, 1), task 1 (0, 2) times ½
    assert out[:, 0, 0].tolist() == [4 + 10, 10]
    flat = alpha.reshape(4, 4)  # rows t·G + g, columns j·G + k
    assert flat[0].tolist() == [0, 0, 0, 1]
    assert flat[3].tolist() == [0, 1, 0, 0]


def test_start():
    learner = make_learner(make_problem(), SLUICE)
    params, _ = learner.init(torch.Generator().manual_seed(0))
    for number in range(2):
        alpha = params[f"mixing.alpha.{number}"].reshape(6, 6)
        assert_close(alpha, torch.full((6, 6), 0.02).fill_diagonal_(0.9))
    assert_close(params["mixing.beta"], torch.tensor([[0.1, 0.9]]).expand(3, 2))
    sharp, _ = make_learner(make_problem(), {**SLUICE, "sharing.init_same": 1.0}).init(
        torch.Generator().manual_seed(0)
    )
    assert torch.equal(sharp["mixing.alpha.1"].reshape(6, 6), torch.eye(6))
    assert sharp["mixing.beta"].tolist() == [[0.0, 1.0]] * 3
    alone, _ = make_learner(
        same_kind("aligned", n_tasks=1),
        {**SLUICE, "sharing.subspaces": 1, "backbone.depth": 1},
    ).init(torch.Generator())
    assert alone["mixing.alpha.0"].flatten().tolist() == [1.0]
    assert alone["mixing.beta"].tolist() == [[1.0]]


class TestPenalty:
    def test_by_hand(self):
        problem = same_kind("aligned", (2,), n_tasks=2)
        learner = make_learner(problem, {"backbone.width": 4, "backbone.depth": 1, **SLUICE})
        params, _ = draw(learner)
        params["blocks.0.weight"] = torch.tensor(
            [
                # W₁ = [[1, 0], [0, 2]], W₂ = [[3, 1], [0, −1]]: W₁W₂ᵀ = [[3, 0], [2, −2]], 17
                [[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [0.0, -1.0]],
                # orthogonal subspaces
                [[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 4.0]],
            ],
            dtype=torch.float64,
        )
        found = learner.network.penalty(params, {}, penalty(0.01))
        assert found.item() == pytest.approx(0.17)
        paper = params["blocks.0.weight"][0].T  # its layout: [in, out]
        first, second = paper[:, :2], paper[:, 2:]
        assert (first.T @ second).square().sum().item() == pytest.approx(17.0)
        assert learner.network.penalty(params, {}, Step()) is None

    @BACKBONES
    def test_sums_over_tasks_blocks_and_pairs(self, backbone, shape):
        how = {"backbone.kind": backbone, **SLUICE, "sharing.subspaces": 4}
        learner = make_learner(make_problem(shape=shape), how)
        params = trainable(draw(learner)[0])
        expected = torch.zeros((), dtype=torch.float64)
        produce = ("weight",)  # the block's channels
        if backbone == "transformer":
            produce = ("project.weight", "reduce.weight")
        for name in (f"blocks.{i}.{leaf}" for i in range(2) for leaf in produce):
            for weight in params[name]:
                rows = weight.flatten(1).chunk(4)
                for g in range(4):
                    for h in range(g + 1, 4):
                        expected = expected + (rows[g] @ rows[h].T).square().sum()
        batch = make_batch(learner.problem)
        plain, losses, _ = learner.loss(params, {}, batch, penalty(0.0))
        total, losses_2, _ = learner.loss(params, {}, batch, penalty(0.1))
        assert torch.equal(losses, losses_2)
        assert_close(total - plain, 0.1 * expected)
        found, wanted = gradients(total - plain, params), gradients(0.1 * expected, params)
        for name in params:
            assert_close(found[name], wanted[name], rtol=1e-7, atol=1e-9)

    def test_one_subspace_has_none(self):
        learner = make_learner(make_problem(), {**SLUICE, "sharing.subspaces": 1})
        assert learner.network.penalty(draw(learner)[0], {}, penalty(1.0)) is None


class TestRefused:
    def test_subspaces_that_do_not_divide_the_width(self):
        config = make_config({**SLUICE, "sharing.subspaces": 3})
        with pytest.raises(ConfigError, match=r"divide the blocks' width \(8\).*subspaces = 3"):
            check(config, make_problem())

    def test_blocks_of_different_width(self):
        backbone, narrow = (MLP(MLPConfig(width=width), make_problem()) for width in (8, 4))
        backbone.blocks = (*backbone.blocks[:1], *narrow.blocks[1:2])
        with pytest.raises(ConfigError, match="differ in width.*8, 4 channels"):
            Sluice.check_backbone(SluiceConfig(), backbone)
