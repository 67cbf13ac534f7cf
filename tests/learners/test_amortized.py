"""Neural processes: what their predictions may depend on, and golden values of the parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Batch, Episode, Learner
from autometa.learners.encoder import attend, mean_rows
from autometa.networks import Step
from tests.small import (
    IMAGE,
    draw,
    gradients,
    make_episode,
    make_episode_problem,
    make_learner,
    trainable,
)

VALUES = {
    "adaptation.kind": "amortized",
    "adaptation.encoder_width": 8,
    "adaptation.encoder_depth": 2,
    "conditioning.kind": "concat",
}
ATTENTION = {"adaptation.aggregation": "attention"}
EXACT = {"rtol": 1e-9, "atol": 1e-10}
both = pytest.mark.parametrize("aggregation", ["mean", "attention"])


def build(kind: str = "regression", how: dict[str, Any] | None = None, **shape: Any) -> Learner:
    return make_learner(make_episode_problem(kind, **shape), {**VALUES, **(how or {})})


def predict(learner: Learner, params: dict[str, Tensor], episode: Episode) -> Tensor:
    phi = learner.adapt(params, {}, episode.support, Step())
    return learner.predict(phi, {}, episode.query.x, episode.query.tasks)


def rows(batch: Batch, at: Any) -> Batch:
    return batch._replace(x=batch.x[:, at], y=batch.y[:, at], mask=batch.mask[:, at])


@both
def test_an_empty_support_is_a_fixed_prediction(aggregation):
    """z = a, the representation's bias, whatever the task."""
    learner = build(how={"adaptation.aggregation": aggregation})
    params, _ = draw(learner)
    episode = make_episode(learner.problem)
    x = episode.query.x[:1].expand_as(episode.query.x)
    query = episode.query._replace(x=x)
    empty = episode.support._replace(mask=torch.zeros_like(episode.support.mask))
    params = trainable(params)
    out = predict(learner, params, Episode(empty, query))
    assert_close(out, out[:1].expand_as(out), **EXACT)
    own = learner.network.forward(
        params,
        {},
        query.x[:1],
        tasks=torch.zeros(1, dtype=torch.int64),
        z=params["representation.bias"][None],
        step=Step(),
    )[0]
    assert_close(out[:1], own[..., :1], **EXACT)
    assert all(g.isfinite().all() for g in gradients(out.sum(), params).values())
    # and some rows say more than none
    assert not torch.allclose(predict(learner, params, Episode(episode.support, query)), out)


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_attention_to_one_row_is_its_mean(kind):
    """Attention has leaves of its own for where rows are, and no others."""
    attentive, mean = build(kind, ATTENTION), build(kind)
    params, _ = draw(attentive)
    episode = make_episode(attentive.problem)
    alone = torch.zeros_like(episode.support.mask)
    alone[:, 2] = True
    support = episode.support._replace(mask=alone)
    extra = {name for name in params if name.startswith("encoder.place.")}
    assert extra == set(params) - set(draw(mean)[0])
    left = {name: leaf for name, leaf in params.items() if name not in extra}
    found = predict(attentive, params, Episode(support, episode.query))
    assert_close(found, predict(mean, left, Episode(support, episode.query)), **EXACT)
    # with several rows they differ
    whole = predict(attentive, params, episode)
    assert not torch.allclose(whole, predict(mean, left, episode), atol=1e-6)


def test_attention_by_hand():
    rng = torch.Generator().manual_seed(0)
    queries, keys, values = (
        torch.randn(2, n, 6, generator=rng, dtype=torch.float64) for n in (3, 5, 5)
    )
    mask = torch.tensor([[True, True, False, True, True], [False] * 5])
    out = attend(queries, keys, values, mask, heads=2)
    for query in range(3):
        for head in (slice(0, 3), slice(3, 6)):
            weights = [
                math.exp((queries[0, query, head] @ keys[0, row, head]).item() / math.sqrt(3))
                if mask[0, row]
                else 0.0
                for row in range(5)
            ]
            expected = sum(w * values[0, row, head] for row, w in enumerate(weights)) / sum(weights)
            assert_close(out[0, query, head], expected, **EXACT)
    assert not out[1].any()
    found = mean_rows(values, mask)
    assert_close(found[0], values[0, [0, 1, 3, 4]].mean(0), **EXACT)
    assert not found[1].any()


@both
@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
@pytest.mark.parametrize("shape", [(5,), IMAGE])
def test_support_rows_are_a_set_and_masked_rows_are_not_in_it(aggregation, kind, shape):
    how = {"adaptation.aggregation": aggregation}
    if shape == IMAGE:
        how["backbone.kind"] = "conv"
    learner = build(kind, how, shape=shape, shots=3)
    params, _ = draw(learner)
    support, query = make_episode(learner.problem)
    out = predict(learner, params, Episode(support, query))
    order = torch.randperm(support.y.shape[1], generator=torch.Generator().manual_seed(1))
    assert_close(predict(learner, params, Episode(rows(support, order), query)), out, **EXACT)
    more = Batch(
        torch.cat([support.x, 9.0 * support.x[:, :2]], 1),
        torch.cat([support.y, support.y[:, :2]], 1),
        torch.cat([support.mask, torch.zeros(3, 2, dtype=torch.bool)], 1),
        support.tasks,
    )
    assert_close(predict(learner, params, Episode(more, query)), out, **EXACT)


@both
def test_log_likelihood_of_the_bounded_gaussian(aggregation):
    learner = build(how={"adaptation.aggregation": aggregation, "adaptation.min_std": 0.2})
    params, _ = draw(learner)
    params["head.bias"][1] = -50.0  # the least that the network can claim
    support, query = make_episode(learner.problem)
    phi = learner.adapt(params, {}, support, Step())
    mean, variance = learner.moments(phi, {}, query.x, query.tasks)
    assert_close(variance, torch.full_like(variance, 0.04), rtol=1e-6, atol=0.0)
    params["head.bias"][1] = 3.0
    phi = learner.adapt(params, {}, support, Step())
    mean, variance = learner.moments(phi, {}, query.x, query.tasks)
    assert_close(mean, learner.predict(phi, {}, query.x, query.tasks)[..., 0], **EXACT)
    assert variance.min() > 0.04
    density = -norm.logpdf(query.y, mean, variance.sqrt())
    _, losses, _ = learner.loss(phi, {}, query, Step())
    for t in range(3):
        assert losses[t].item() == pytest.approx(density[t][query.mask[t].numpy()].mean())


@both
def test_classes_are_interchangeable(aggregation):
    """Renumbering the classes of an episode renumbers the logits."""
    learner = build("multiclass", {"adaptation.aggregation": aggregation}, ways=3)
    params, _ = draw(learner)
    support, query = make_episode(learner.problem)
    out = predict(learner, params, Episode(support, query))
    new = torch.tensor([2, 0, 1])
    moved = support._replace(
        y=new[support.y.long()].double(), tasks=support.tasks[:, new.argsort()]
    )
    found = predict(learner, params, Episode(moved, query))
    assert_close(found[..., new], out, **EXACT)
    # more of them than in training
    four = make_episode(make_episode_problem("multiclass", ways=4))
    assert predict(learner, params, four).shape[-1] == 4
    # and one that is absent
    support = support._replace(mask=support.mask & (support.y != 1))
    phi = learner.adapt(params, {}, support, Step())
    out = learner.predict(phi, {}, query.x, query.tasks)
    assert (out[..., 1] == -torch.inf).all()
    assert out[..., [0, 2]].isfinite().all()
    assert learner.loss(phi, {}, query, Step())[1].isfinite().all()


def test_images_have_a_convolutional_trunk_in_the_encoder():
    how = {"backbone.kind": "conv"}
    learner = build("multiclass", how, shape=IMAGE, shots=2)
    params, _ = learner.init(torch.Generator().manual_seed(0))
    for number in range(2):
        own, trunk = params[f"blocks.{number}.weight"], params[f"encoder.trunk.{number}.weight"]
        assert own.shape == trunk.shape
        assert own.ndim == 4
        assert not torch.equal(own, trunk)
    assert not [n for n in draw(build("multiclass"))[0] if "trunk" in n]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"conditioning.kind": "none"}, "`conditioning.kind` should be `concat`"),
        ({"conditioning.embedding": "one_hot"}, "`conditioning.embedding` should be `learned`"),
        ({"sharing.kind": "independent", "conditioning.kind": "concat"}, "`sharing.kind`"),
        ({**ATTENTION, "adaptation.attention_heads": 3}, "should divide .* Found .* = 3`"),
    ],
)
def test_what_is_refused(values, text):
    with pytest.raises(ConfigError, match=text):
        build(how=values)
