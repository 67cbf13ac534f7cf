"""Joint pretraining with fine-tuning, and from scratch, against loops written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Batch, Learner
from autometa.networks import Step
from autometa.training.optimizers import DECAYED, segment
from autometa.trial import check
from tests.backbones import block, leaves, read
from tests.learners.support import BACKBONES, EXACT, adapted_losses, joint_gradient
from tests.small import (
    TABLE,
    draw,
    make_config,
    make_episode,
    make_episode_problem,
    make_learner,
    trainable,
)

TRAIN, EVALUATE = Step(train=True), Step()
ALPHA = 0.05
SCRATCH = {"sharing.kind": "independent"}


def make(backbone: str, shape: tuple[int, ...], kind: str, **values: Any) -> Learner:
    flat = {"backbone.kind": backbone, "adaptation.kind": "finetune", "adaptation.inner_lr": ALPHA}
    return make_learner(make_episode_problem(kind, shape), {**flat, **values})


def test_it_trains_on_support_and_query_rows_together():
    learner = make("mlp", TABLE, "regression")
    params = trainable(draw(learner)[0])
    episode = make_episode(learner.problem, missing=False)
    phi = learner.adapt(params, {}, episode.support, TRAIN)
    total, losses, _ = learner.loss(phi, {}, episode.query, TRAIN)
    pooled = Batch(
        torch.cat([episode.query.x, episode.support.x], 1),
        torch.cat([episode.query.y, episode.support.y], 1),
        torch.cat([episode.query.mask, episode.support.mask], 1),
        episode.query.tasks,
    )
    expected, grads = joint_gradient("mlp", learner, params, pooled)
    assert_close(total, expected, **EXACT)
    assert_close(losses.mean(), expected, **EXACT)
    for name, grad in zip(params, torch.autograd.grad(total, list(params.values())), strict=True):
        assert_close(grad, grads[name], **EXACT)


@BACKBONES
def test_classes_are_learned_by_a_wide_head(backbone, shape):
    """The label of a row is its class among those of all training tasks."""
    learner = make(backbone, shape, "multiclass")
    params, _ = draw(learner)
    assert params["base_head.weight"].shape == (learner.problem.base_classes, 8)
    assert not [name for name in params if name.startswith("head.")]
    assert learner.roles().keys() == params.keys()
    episode = make_episode(learner.problem)
    phi = learner.adapt(params, {}, episode.support, TRAIN)
    _, losses, _ = learner.loss(phi, {}, episode.query, TRAIN)
    for task in range(3):
        total, count = 0.0, 0
        for part in episode:
            keep = part.mask[task]
            h = part.x[task][keep]
            for number in range(2):
                h = block(backbone, leaves(params, f"blocks.{number}"), h)
            out = F.linear(read(backbone, h), params["base_head.weight"], params["base_head.bias"])
            labels = part.tasks[task][part.y[task][keep].long()]
            total += F.cross_entropy(out, labels, reduction="sum").item()
            count += int(keep.sum())
        assert losses[task].item() == pytest.approx(total / count, rel=1e-12)


@BACKBONES
@pytest.mark.parametrize("split_at", [0, 2])
def test_a_new_task_fine_tunes_what_is_its_own(backbone, shape, split_at):
    values = {"sharing.split_at": split_at, "adaptation.test_steps": 3}
    learner = make(backbone, shape, "regression", **values)
    params = trainable(draw(learner)[0])
    episode = make_episode(learner.problem)
    phi = learner.adapt(params, {}, episode.support, EVALUATE)
    _, found, _ = learner.loss(phi, {}, episode.query, EVALUATE)
    expected = adapted_losses(backbone, learner, params, episode, rate=ALPHA, steps=3)
    assert_close(found, expected, **EXACT)


@BACKBONES
def test_from_scratch_adapts_everything_and_learns_nothing(backbone, shape):
    learner = make(backbone, shape, "multiclass", **SCRATCH, **{"adaptation.test_steps": 3})
    params = trainable(draw(learner)[0])
    episode = make_episode(learner.problem)
    phi = learner.adapt(params, {}, episode.support, EVALUATE)
    _, found, _ = learner.loss(phi, {}, episode.query, EVALUATE)
    like = make(
        backbone, shape, "multiclass", **{"adaptation.kind": "gradient"}, **{"sharing.split_at": 0}
    )
    theta = {name.removesuffix(".start"): leaf for name, leaf in params.items()}
    expected = adapted_losses(backbone, like, theta, episode, rate=ALPHA, steps=3)
    assert_close(found, expected, **EXACT)
    phi = learner.adapt(params, {}, episode.support, TRAIN)
    total, _, _ = learner.loss(phi, {}, episode.query, TRAIN)
    assert not any(g.any() for g in torch.autograd.grad(total, list(params.values())))
    assert not any(segment(name) == DECAYED for name in params)
    assert set(learner.roles().values()) == {"task"}


def test_the_head_of_a_new_task_starts_at_zero():
    """After one step its bias is α (share of the class − 1/N)."""
    learner = make("mlp", TABLE, "multiclass", **{"adaptation.test_steps": 1})
    params, _ = draw(learner)
    support = make_episode(learner.problem, missing=False).support
    y = support.y.clone()
    y[0, y[0] == 2.0] = 0.0  # the first task sees two of the three classes
    phi = learner.adapt(params, {}, support._replace(y=y), EVALUATE)
    bias = phi["adapted.head.bias"]
    assert_close(bias[0], ALPHA * torch.tensor([1.0, 0.0, -1.0]).double() / 3, **EXACT)
    assert_close(bias[1:], torch.zeros(2, 3).double(), **EXACT)
    none = make("mlp", TABLE, "multiclass", **{"adaptation.test_steps": 0})
    phi = none.adapt(params, {}, support, EVALUATE)
    assert not none.predict(phi, {}, support.x, support.tasks).any()


def test_without_steps_it_is_the_pooled_model():
    learner = make("mlp", TABLE, "regression", **{"adaptation.test_steps": 0})
    params, _ = draw(learner)
    episode = make_episode(learner.problem)
    phi = learner.adapt(params, {}, episode.support, EVALUATE)
    found = learner.predict(phi, {}, episode.query.x, episode.query.tasks)
    expected = learner.predict(params, {}, episode.query.x, episode.query.tasks)
    assert_close(found, expected, **EXACT)


REFUSED = [
    ({"sharing.kind": "soft"}, "`sharing.kind` should be `hard` or `independent`"),
    ({"conditioning.kind": "additive"}, "`conditioning.kind` should be `none`"),
    ({"head": "single_head"}, "nothing to adapt"),
    ({"head": "single_head", "sharing.split_at": 1}, "where episodes have classes"),
]


@pytest.mark.parametrize(("values", "text"), REFUSED, ids=[str(v) for v, _ in REFUSED])
def test_what_cannot_be_built_is_refused(values, text):
    config = make_config({"adaptation.kind": "finetune", **values})
    with pytest.raises(ConfigError, match=text.replace("`", ".")):
        check(config, make_episode_problem("multiclass"))


def test_it_does_not_recommend_what_it_refuses():
    config = make_config({"adaptation.kind": "finetune", "head": "single_head"})
    with pytest.raises(ConfigError, match="nothing to adapt") as told:
        check(config, make_episode_problem("regression"))
    assert "conditioning.kind" not in str(told.value)


def test_independent_networks_have_heads_of_their_own():
    config = make_config({"adaptation.kind": "finetune", **SCRATCH, "head": "single_head"})
    check(config, make_episode_problem("multiclass"))
