"""Reptile: the displacement of the inner loop is the gradient of what adapts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from autometa.learners import Learner
from autometa.networks import Step
from tests.learners.support import BACKBONES, EXACT, KINDS, joint_gradient
from tests.small import draw, make_episode, make_episode_problem, make_learner, trainable

TRAIN = Step(train=True)
ALPHA = 0.05


def make(backbone: str, shape: tuple[int, ...], kind: str, **values: Any) -> Learner:
    flat = {"backbone.kind": backbone, "adaptation.kind": "reptile", "adaptation.inner_lr": ALPHA}
    return make_learner(make_episode_problem(kind, shape), {**flat, **values})


@BACKBONES
@KINDS
def test_one_inner_step_is_joint_sgd_on_the_support_rows(backbone, shape, kind):
    """At rate ε·α, ε being the outer rate."""
    learner = make(backbone, shape, kind, **{"sharing.split_at": 0, "adaptation.steps": 1})
    params = trainable(draw(learner)[0])
    episode = make_episode(learner.problem, missing=False)
    phi = learner.adapt(params, {}, episode.support, TRAIN)
    total, losses, _ = learner.loss(phi, {}, episode.query, TRAIN)
    found = torch.autograd.grad(total, list(params.values()))
    _, expected = joint_gradient(backbone, learner, params, episode.support, 0)
    epsilon = 0.3
    for leaf, grad, (name, joint) in zip(params.values(), found, expected.items(), strict=True):
        moved = leaf - epsilon * ALPHA * joint
        assert_close(leaf - epsilon * grad, moved, **EXACT, msg=lambda text, n=name: f"{n}: {text}")
    # what is reported are the query losses after adaptation
    assert_close(total, losses.mean())
    assert not losses.requires_grad
    assert not torch.allclose(losses, learner.loss(params, {}, episode.query, TRAIN)[1])


@BACKBONES
@pytest.mark.parametrize("split_at", [0, 1, 2])
def test_gradient_is_the_mean_displacement_and_the_query_gradient(backbone, shape, split_at):
    values = {"sharing.split_at": split_at, "adaptation.steps": 3}
    learner = make(backbone, shape, "multiclass", **values)
    params = trainable(draw(learner)[0])
    episode = make_episode(learner.problem)
    phi = learner.adapt(params, {}, episode.support, TRAIN)
    total, _, _ = learner.loss(phi, {}, episode.query, TRAIN)
    found = dict(zip(params, torch.autograd.grad(total, list(params.values())), strict=True))
    # the query losses as a function of what is shared, φ held fixed
    fixed = {n: leaf.detach() for n, leaf in phi.items() if n.startswith("adapted.")}
    evaluated = make(
        backbone, shape, "multiclass", **values, **{"adaptation.kind": "gradient"}
    ).loss(params | fixed, {}, episode.query, TRAIN)[0]
    roles = learner.roles()
    for name, role in roles.items():
        if role == "task":
            expected = (params[name] - phi[f"adapted.{name}"]).mean(0, keepdim=True)
        else:
            (expected,) = torch.autograd.grad(evaluated, params[name], retain_graph=True)
        assert_close(found[name], expected, **EXACT)
    assert ("shared" in roles.values()) == (split_at > 0)
