"""Identities that tie the mechanisms to each other and to hand-written torch; exact in float64.

Leaves are copied across; outputs, losses and the corresponding gradients are compared.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Batch, Learner
from autometa.networks import Step
from autometa.sharing import Params
from autometa.trial import build
from tests.backbones import BACKBONES, EVERY_BACKBONE
from tests.small import (
    IMAGE,
    draw,
    gradients,
    make_batch,
    make_config,
    make_learner,
    make_problem,
    same_kind,
    trainable,
)

EXACT = {"rtol": 1e-10, "atol": 1e-12}
LAYOUTS = pytest.mark.parametrize("layout", ["aligned", "grouped"])


def measure(learner: Learner, params: Params, batch: Batch) -> tuple[Tensor, Tensor, Params]:
    """Outputs, task losses and gradients of the total loss."""
    params = trainable(params)
    out = learner.predict(params, {}, batch.x, batch.tasks)
    total, losses, _ = learner.loss(params, {}, batch, Step())
    return out.detach(), losses.detach(), gradients(total, params)


def assert_same(first: Learner, second: Learner, params: Params, other: Params, batch: Batch):
    """Equal outputs, losses, and gradients of the leaves that both have."""
    out, losses, grads = measure(first, params, batch)
    out_2, losses_2, grads_2 = measure(second, other, batch)
    assert_close(out_2, out, **EXACT)
    assert_close(losses_2, losses, **EXACT)
    assert set(grads) & set(grads_2)
    for name in set(grads) & set(grads_2):
        assert_close(grads_2[name], grads[name], **EXACT)


@LAYOUTS
@EVERY_BACKBONE
@pytest.mark.parametrize("conditioning", ["none", "multiplicative"])
def test_hard_split_0_is_independent(layout, backbone, shape, conditioning):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone, "conditioning.kind": conditioning}
    hard = make_learner(problem, {**how, "sharing.split_at": 0})
    independent = make_learner(problem, {**how, "sharing.kind": "independent"})
    params, _ = draw(hard)
    assert hard.roles() == independent.roles()
    assert_same(hard, independent, params, params, make_batch(problem))


@LAYOUTS
@BACKBONES
def test_hard_at_full_depth_is_the_default(layout, backbone, shape):
    problem, how = make_problem(layout, shape), {"backbone.kind": backbone}
    full, default = (
        make_learner(problem, {**how, "sharing.split_at": 2}),
        make_learner(problem, how),
    )
    params, _ = draw(full)
    assert_same(full, default, params, params, make_batch(problem))


@LAYOUTS
@EVERY_BACKBONE
def test_independent_is_single_task_networks(layout, backbone, shape):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone}
    together = make_learner(problem, {**how, "sharing.kind": "independent"})
    params, _ = draw(together)
    batch = make_batch(problem)
    out, losses, grads = measure(together, params, batch)
    for place, task in enumerate(batch.tasks.tolist()):
        n = problem.n_outputs[task]
        single = make_problem(layout, shape, (problem.kinds[task],), (n,))
        alone = make_learner(single, how)
        own = {}
        for name, leaf in params.items():
            piece = leaf[task]
            if name.startswith("head."):
                piece = piece[:n]  # channels beyond the task's classes are masked
            own[name] = piece[None] if name.startswith("head.") else piece
        x = batch.x if layout == "aligned" else batch.x[place][None]
        one = Batch(x, batch.y[place][None], batch.mask[place][None], torch.zeros(1).long())
        out_1, losses_1, grads_1 = measure(alone, own, one)
        assert_close(out_1[0], out[place, :, :n], **EXACT)
        assert_close(losses_1[0], losses[place], **EXACT)
        for name, grad in grads_1.items():
            expected = grads[name][task] * problem.n_tasks  # the mean over tasks has T terms
            if name.startswith("head."):
                assert not expected[n:].any()
                grad, expected = grad[0], expected[:n]
            assert_close(grad, expected, **EXACT)


@LAYOUTS
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_hard_is_a_hand_written_multi_head_network(layout, norm):
    problem = same_kind(layout)
    learner = make_learner(problem, {"backbone.norm": norm})
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)
    h = batch.x if layout == "grouped" else batch.x.expand(3, -1, -1)
    for block in ("blocks.0", "blocks.1"):
        h = h @ params[f"{block}.weight"].T + params[f"{block}.bias"]
        if norm == "layer":
            h = (h - h.mean(-1, keepdim=True)) / (
                h.var(-1, keepdim=True, correction=0) + 1e-5
            ).sqrt()
        h = h.clamp(min=0)
    outs = []
    for place, task in enumerate(batch.tasks.tolist()):
        outs.append(h[place] @ params["head.weight"][task].T + params["head.bias"][task])
    out = torch.stack(outs)
    losses = torch.stack(
        [((o[:, 0] - y)[m] ** 2).mean() for o, y, m in zip(out, batch.y, batch.mask, strict=True)]
    )
    expected = gradients(losses.mean(), params)
    found_out, found_losses, found = measure(learner, params, batch)
    assert_close(found_out, out.detach(), **EXACT)
    assert_close(found_losses, losses.detach(), **EXACT)
    for name, grad in expected.items():
        assert_close(found[name], grad, **EXACT)


@LAYOUTS
@pytest.mark.parametrize("kind", ["additive", "multiplicative"])
@EVERY_BACKBONE
@pytest.mark.parametrize("at", ["every", "head"])
def test_conditioning_starts_as_the_plain_network(layout, kind, backbone, shape, at):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone}
    plain = make_learner(problem, how)
    told = make_learner(problem, {**how, "conditioning.kind": kind, "conditioning.at": at})
    start, _ = told.init(torch.Generator().manual_seed(1))
    params, _ = draw(plain)
    other = {name: params.get(name, leaf.double()) for name, leaf in start.items()}
    assert set(params) < set(other)
    assert_same(plain, told, params, other, make_batch(problem))


@pytest.mark.parametrize("backbone", ["mlp", "transformer"])
def test_concat_differs_from_additive_in_its_start_only(backbone):
    problem, how = make_problem(), {"backbone.kind": backbone}
    concat = make_learner(problem, {**how, "conditioning.kind": "concat"})
    additive = make_learner(problem, {**how, "conditioning.kind": "additive"})
    params, _ = draw(concat)
    assert_same(concat, additive, params, params, make_batch(problem))
    start, _ = concat.init(torch.Generator().manual_seed(0))
    v = start["conditioning.1.weight"]
    bound = (8 + 8) ** -0.5  # fan-in of the joint matrix: width 8 and z of 8
    assert bound * 0.8 < v.abs().max() <= bound


@LAYOUTS
def test_concat_is_concatenation_then_linear(layout):
    problem = same_kind(layout)
    learner = make_learner(problem, {"conditioning.kind": "concat"})
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)
    outs = []
    for place, task in enumerate(batch.tasks.tolist()):
        h = batch.x if layout == "aligned" else batch.x[place]
        z = params["embedding.weight"][task]
        for i in range(2):
            joint = torch.cat([params[f"blocks.{i}.weight"], params[f"conditioning.{i}.weight"]], 1)
            h = F.linear(torch.cat([h, z.expand(len(h), -1)], 1), joint, params[f"blocks.{i}.bias"])
            h = F.relu(F.layer_norm(h, (8,)))
        outs.append(F.linear(h, params["head.weight"][task], params["head.bias"][task]))
    out = torch.stack(outs)
    losses = ((out[..., 0] - batch.y) ** 2 * batch.mask).sum(1) / batch.mask.sum(1)
    expected = gradients(losses.mean(), params)
    found_out, _, found = measure(learner, params, batch)
    assert_close(found_out, out.detach(), **EXACT)
    for name, grad in expected.items():
        assert_close(found[name], grad, **EXACT)


def test_concat_of_a_constant_map_with_replicate_padding():
    problem = same_kind("aligned", IMAGE)
    learner = make_learner(
        problem,
        {"backbone.kind": "conv", "conditioning.kind": "concat", "backbone.norm": "none"},
    )
    params, _ = draw(learner)
    batch = make_batch(problem)
    kernels = [torch.randn(8, 8, 3, 3, dtype=torch.float64) for _ in range(2)]
    for i, kernel in enumerate(kernels):  # V z is the kernel of z summed over its positions
        params[f"conditioning.{i}.weight"] = kernel.sum((2, 3))
    outs, zero_padded = [], []
    for task in range(3):
        for padding, found in (("replicate", outs), ("constant", zero_padded)):
            h = batch.x
            for i, kernel in enumerate(kernels):
                z = params["embedding.weight"][task][None, :, None, None]
                z = F.pad(z.expand(len(h), -1, *h.shape[2:]), (1, 1, 1, 1), mode=padding)
                joint = torch.cat([F.pad(h, (1, 1, 1, 1)), z], 1)
                weight = torch.cat([params[f"blocks.{i}.weight"], kernel], 1)
                h = F.max_pool2d(F.relu(F.conv2d(joint, weight, params[f"blocks.{i}.bias"])), 2)
            found.append(
                F.linear(h.flatten(1), params["head.weight"][task], params["head.bias"][task])
            )
    out = learner.predict(params, {}, batch.x, batch.tasks)
    assert_close(out, torch.stack(outs), **EXACT)
    assert not torch.allclose(out, torch.stack(zero_padded))  # zero padding differs at the border


@LAYOUTS
def test_one_hot_is_a_fixed_identity_embedding(layout):
    problem = make_problem(layout)
    how = {"conditioning.kind": "multiplicative", "conditioning.dim": 3}
    learned = make_learner(problem, how)
    one_hot = make_learner(problem, {**how, "conditioning.embedding": "one_hot"})
    params, _ = draw(learned)
    params["embedding.weight"] = torch.eye(3, dtype=torch.float64)
    other = {name: leaf for name, leaf in params.items() if name != "embedding.weight"}
    assert_same(learned, one_hot, params, other, make_batch(problem))


@LAYOUTS
def test_additive_at_a_single_head_is_a_bias_for_each_task(layout):
    problem = same_kind(layout)
    how = {"conditioning.kind": "additive", "conditioning.at": "head"}
    one_head = make_learner(
        problem, {**how, "conditioning.embedding": "one_hot", "head": "single_head"}
    )
    heads = make_learner(problem)
    params, _ = draw(one_head)
    bias = params["conditioning.2.weight"].T  # [task, output]
    other = {n: leaf for n, leaf in params.items() if n.startswith("blocks.")}
    other["head.weight"] = params["head.weight"].expand(3, -1, -1).clone()
    other["head.bias"] = params["head.bias"] + bias
    batch = make_batch(problem)
    out, losses, grads = measure(one_head, params, batch)
    out_2, losses_2, grads_2 = measure(heads, other, batch)
    assert_close(out_2, out, **EXACT)
    assert_close(losses_2, losses, **EXACT)
    assert_close(grads["head.weight"], grads_2["head.weight"].sum(0), **EXACT)
    assert_close(grads["conditioning.2.weight"].T, grads_2["head.bias"], **EXACT)


def test_film_is_one_plus_scale_after_the_normalisation():
    problem = same_kind("aligned", n_tasks=2)
    learner = make_learner(
        problem, {"conditioning.kind": "multiplicative", "conditioning.at": "last"}
    )
    params, _ = draw(learner)
    batch = make_batch(problem)
    out = learner.predict(params, {}, batch.x, batch.tasks)
    h = F.linear(batch.x, params["blocks.0.weight"], params["blocks.0.bias"])
    h = F.relu(F.layer_norm(h, (8,)))
    h = F.layer_norm(F.linear(h, params["blocks.1.weight"], params["blocks.1.bias"]), (8,))
    for task in range(2):
        film = params["conditioning.1.weight"] @ params["embedding.weight"][task]
        own = F.relu((1 + film[:8]) * h + film[8:])
        own = F.linear(own, params["head.weight"][task], params["head.bias"][task])
        assert_close(out[task], own, **EXACT)


def test_single_head_without_conditioning_pools_the_tasks():
    problem = same_kind("grouped")
    learner = make_learner(problem, {"head": "single_head"})
    params, _ = draw(learner)
    x = torch.randn(1, 4, 5, dtype=torch.float64).expand(3, -1, -1)
    out = learner.predict(params, {}, x, torch.arange(3))
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


class TestRefused:
    def test_split_beyond_the_last_block(self):
        with pytest.raises(ConfigError, match=r"at most the number of blocks \(2\).*split_at = 3"):
            make_learner(make_problem(), {"sharing.split_at": 3})

    def test_single_head_for_different_kinds(self):
        with pytest.raises(ConfigError, match="multi_head.*differ in kind"):
            make_learner(make_problem(), {"head": "single_head"})

    def test_single_head_that_tells_nothing_apart(self):
        with pytest.raises(ConfigError, match="all predictions are equal"):
            make_learner(same_kind("aligned"), {"head": "single_head"})

    def test_single_head_on_towers_is_fine(self):
        build(make_config({"head": "single_head", "sharing.split_at": 1}), same_kind("aligned"))
