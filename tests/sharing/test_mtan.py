"""Attention on a shared trunk: the identity with hard sharing, and the equations by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.networks import MLP, Parts, Step
from autometa.networks.conditioning import ConditioningConfig
from autometa.networks.mlp import MLPConfig
from autometa.sharing.mtan import MTAN, MTANConfig
from tests.backbones import BACKBONES, EVERY_BACKBONE, first_half, leaves, read, second_half
from tests.small import (
    IMAGE,
    TABLE,
    draw,
    gradients,
    make_batch,
    make_learner,
    make_problem,
    same_kind,
    trainable,
)

EXACT = {"rtol": 1e-10, "atol": 1e-12}
MTAN_KIND = {"sharing.kind": "mtan"}
LAYOUTS = pytest.mark.parametrize("layout", ["aligned", "grouped"])


def settings(backbone: str, depth: int = 3) -> dict[str, object]:
    return {"backbone.kind": backbone, "backbone.depth": depth}


@LAYOUTS
@EVERY_BACKBONE
@pytest.mark.parametrize("conditioning", ["none", "multiplicative"])
def test_with_masks_of_one_it_is_hard(layout, backbone, shape, conditioning, monkeypatch):
    problem = make_problem(layout, shape)
    how = {**settings(backbone), "conditioning.kind": conditioning}
    hard, attends = make_learner(problem, how), make_learner(problem, {**how, **MTAN_KIND})
    other = trainable(draw(attends)[0])
    params = {name: leaf.detach().requires_grad_() for name, leaf in other.items()}
    params = {name: params[name] for name in hard.roles()}
    batch = make_batch(problem)
    total, losses, _ = hard.loss(params, {}, batch, Step())
    assert not torch.allclose(attends.loss(other, {}, batch, Step())[1], losses)
    monkeypatch.setattr(torch, "sigmoid", torch.ones_like)
    total_2, losses_2, _ = attends.loss(other, {}, batch, Step())
    assert_close(losses_2, losses, **EXACT)
    assert_close(total_2, total, **EXACT)
    out = hard.predict(params, {}, batch.x, batch.tasks)
    assert_close(attends.predict(other, {}, batch.x, batch.tasks), out, **EXACT)
    grads = gradients(total_2, other)
    for name, grad in gradients(total, params).items():
        assert_close(grads[name], grad, **EXACT)
    attention = [name for name in other if name not in params]
    assert attention
    assert not any(grads[name].any() for name in attention)


@LAYOUTS
def test_equations_on_vectors(layout):
    problem = same_kind(layout)
    learner = make_learner(problem, {**MTAN_KIND, "backbone.norm": "none"})
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)

    def norm(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / (
            h.var(-1, keepdim=True, correction=0) + 1e-5
        ).sqrt()

    def layer(name: str, h: Tensor, task: int | None = None) -> Tensor:
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        if task is not None:
            weight, bias = weight[task], bias[task]
        return h @ weight.T + bias

    outs = []
    for place, task in enumerate(batch.tasks.tolist()):
        x = batch.x if layout == "aligned" else batch.x[place]
        p1 = layer("blocks.0", x).clamp(min=0)
        a1 = layer("masks.0.outer", norm(layer("masks.0.inner", x, task)).clamp(min=0), task)
        attended = norm(a1).sigmoid() * p1
        p2 = layer("blocks.1", p1).clamp(min=0)
        f = norm(layer("links.1", attended)).clamp(min=0)
        joint = torch.cat([p1, f], 1)
        a2 = layer("masks.1.outer", norm(layer("masks.1.inner", joint, task)).clamp(min=0), task)
        outs.append(layer("head", norm(a2).sigmoid() * p2, task))
    out = torch.stack(outs)
    losses = ((out[..., 0] - batch.y) ** 2 * batch.mask).sum(1) / batch.mask.sum(1)
    assert_close(learner.predict(params, {}, batch.x, batch.tasks), out, **EXACT)
    total, found, _ = learner.loss(params, {}, batch, Step())
    assert_close(found, losses, **EXACT)
    grads = gradients(total, params)
    for name, grad in gradients(losses.mean(), params).items():
        assert_close(grads[name], grad, **EXACT)


@LAYOUTS
def test_equations_on_images(layout):
    problem = same_kind(layout, IMAGE)
    learner = make_learner(problem, {**MTAN_KIND, **settings("conv", 2)})
    params, _ = draw(learner)
    batch = make_batch(problem)
    outs = []
    for place, task in enumerate(batch.tasks.tolist()):
        u = batch.x if layout == "aligned" else batch.x[place]
        attended = None
        for i in range(2):
            p = F.conv2d(u, params[f"blocks.{i}.weight"], params[f"blocks.{i}.bias"], padding=1)
            p = F.max_pool2d(F.relu(F.group_norm(p, 2)), 2)
            pool = ((2, 2), (3, 2))[i]  # from 6 × 5 to 3 × 2 to 1 × 1
            features = [F.max_pool2d(u, pool)]
            if attended is not None:
                f = F.conv2d(attended, params["links.1.weight"], params["links.1.bias"], padding=1)
                features.append(F.max_pool2d(F.relu(F.group_norm(f, 1)), pool))
            h = torch.cat(features, 1)
            for name in ("inner", "outer"):
                weight = params[f"masks.{i}.{name}.weight"][task]
                assert weight.shape[2:] == (1, 1)
                h = F.group_norm(F.conv2d(h, weight, params[f"masks.{i}.{name}.bias"][task]), 1)
                h = F.relu(h) if name == "inner" else h.sigmoid()
            attended, u = h * p, p
        flat = attended.flatten(1)
        outs.append(F.linear(flat, params["head.weight"][task], params["head.bias"][task]))
    found = learner.predict(params, {}, batch.x, batch.tasks)
    assert_close(found, torch.stack(outs), **EXACT)


@LAYOUTS
@pytest.mark.parametrize("shape", [TABLE, IMAGE])
def test_equations_on_tokens(layout, shape):
    """u is what leaves the first half of a block; all layers see one token at a time."""
    problem = same_kind(layout, shape)
    learner = make_learner(problem, {**MTAN_KIND, **settings("transformer", 2)})
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)

    def layer(name: str, h: Tensor, task: int | None = None) -> Tensor:
        own = leaves(params, name, task)
        each = [F.linear(token, own["weight"], own["bias"]) for token in h.unbind(2)]
        return torch.stack([F.layer_norm(token, (8,)) for token in each], 2)

    outs = []
    for place, task in enumerate(batch.tasks.tolist()):
        p = batch.x if layout == "aligned" else batch.x[place]
        features: list[Tensor] = []  # f(â), from the second block on
        for i in range(2):
            u = first_half(leaves(params, f"blocks.{i}"), p)
            p = second_half(leaves(params, f"blocks.{i}"), u)
            inner = layer(f"masks.{i}.inner", torch.cat([u, *features], 1), task).relu()
            attended = layer(f"masks.{i}.outer", inner, task).sigmoid() * p
            features = [layer("links.1", attended).relu()]
        own = leaves(params, "head", task)
        outs.append(F.linear(read("transformer", attended), own["weight"], own["bias"]))
    out = torch.stack(outs)
    losses = ((out[..., 0] - batch.y) ** 2 * batch.mask).sum(1) / batch.mask.sum(1)
    assert_close(learner.predict(params, {}, batch.x, batch.tasks), out, **EXACT)
    total, found, _ = learner.loss(params, {}, batch, Step())
    assert_close(found, losses, **EXACT)
    grads = gradients(total, params)
    for name, grad in gradients(losses.mean(), params).items():
        assert_close(grads[name], grad, **EXACT)


def test_by_hand():
    # two features, two units, one block: U keeps or swaps them, V is the identity, p = relu(x)
    problem = same_kind("aligned", (2,), n_tasks=2)
    how = {"backbone.depth": 1, "backbone.width": 2, "backbone.norm": "none"}
    learner = make_learner(problem, {**MTAN_KIND, **how})
    params, _ = learner.init(torch.Generator().manual_seed(0))
    eye = torch.eye(2)
    values = {
        "blocks.0.weight": eye,
        "masks.0.inner.weight": torch.stack([eye, eye.flip(0)]),
        "masks.0.outer.weight": torch.stack([eye, eye]),
        "head.weight": torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]]]),
    }
    params = {n: values[n] if n in values else torch.zeros_like(leaf) for n, leaf in params.items()}
    out = learner.predict(params, {}, torch.tensor([[3.0, 1.0]]), torch.arange(2))
    # normalised ±1, relu (1, 0), normalised ±1 again: masks (σ(1), σ(−1)) = (.73106, .26894)
    # task 0: .73106·3 + .26894·1 = 2.46212; task 1 the other way round: 1.53788
    assert out[:, 0, 0].tolist() == pytest.approx([2.46212, 1.53788], abs=1e-4)


@LAYOUTS
@BACKBONES
def test_attention_modules_are_different_leaves(layout, backbone, shape):
    problem = make_problem(layout, shape)
    learner = make_learner(problem, {**settings(backbone), **MTAN_KIND})
    roles = learner.roles()
    start, _ = learner.init(torch.Generator().manual_seed(0))
    masks = [name for name in roles if name.startswith("masks.")]
    assert len(masks) == 3 * 2 * 2
    assert {roles[name] for name in masks} == {"task"}
    assert {n for n in roles if n.startswith("links.")} == {
        f"links.{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")
    }
    assert all(role == "shared" for n, role in roles.items() if n.startswith(("links.", "blocks.")))
    for name in masks:
        if name.endswith("weight"):
            assert not torch.equal(start[name][0], start[name][1])
            assert not torch.equal(start[name][1], start[name][2])
    # a step on one task's loss moves its own masks and what is shared, and nobody else's
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)
    _, losses, _ = learner.loss(params, {}, batch, Step())
    before = learner.predict(params, {}, batch.x, batch.tasks).detach()
    place = 1
    task = int(batch.tasks[place])
    grads = gradients(losses[place], params)
    for name in masks:
        reached = grads[name].flatten(1).any(1).tolist()
        assert reached == [t == task for t in range(3)]
    assert all(grads[name].any() for name in roles if name.startswith(("links.", "blocks.")))
    moved = {n: p - 0.1 * grads[n] if n in masks else p for n, p in params.items()}
    after = learner.predict(moved, {}, batch.x, batch.tasks)
    for other in range(3):
        finite = before[other].isfinite()
        same = torch.equal(after[other][finite], before[other][finite])
        assert same == (other != place)


def test_aligned_trunk_is_computed_once(monkeypatch):
    seen = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda h, *p: seen.append(h) or linear(h, *p))
    learner = make_learner(same_kind("aligned", n_tasks=6), MTAN_KIND)
    params, _ = draw(learner)
    learner.predict(params, {}, torch.randn(4, 5).double(), torch.arange(6))
    plain = [h for h in seen if not torch._C._functorch.is_batchedtensor(h)]
    assert len(plain) == 3  # both blocks, and the first mask, whose leaves differ and rows do not


def test_one_head_is_told_apart_by_the_masks():
    problem = same_kind("aligned")
    learner = make_learner(problem, {**MTAN_KIND, "head": "single_head"})
    params, _ = draw(learner)
    out = learner.predict(params, {}, torch.randn(4, 5).double(), torch.arange(3))
    assert not torch.allclose(out[0], out[1])


def test_other_activations_are_refused():
    class Sequences(MLP):
        def enter(self, x: Tensor) -> Tensor:
            return x[:, :, None]

    problem = same_kind("aligned")
    backbone = Sequences(MLPConfig(), problem)
    parts = Parts.assemble(problem, backbone, [ConditioningConfig()], "multi_head", 0)
    with pytest.raises(ConfigError, match=r"neither vectors nor images, nor.*Found.*\(5, 1\)"):
        MTAN(MTANConfig(), parts)
