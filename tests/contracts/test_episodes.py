"""Contract of every learner that takes episodes: one model, float64, and K models as one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.testing import assert_close

from autometa.learners import Batch, Episode, Learner
from autometa.networks import Step
from autometa.networks.keys import new_key
from autometa.sharing import Params
from tests.contracts.variants import Variant, episode_variants
from tests.small import draw, make_episode, trainable

VARIANTS = episode_variants()
EXACT = {"rtol": 1e-9, "atol": 1e-11}
TRAIN, EVALUATE = Step(train=True), Step()
#: nothing is learned from other tasks: no leaf has a gradient
FROM_SCRATCH = {"adaptation.kind": "finetune", "sharing.kind": "independent"}

pytestmark = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def objective(
    learner: Learner, params: Params, buffers: Params, episode: Episode, step: Step = TRAIN
) -> tuple[Tensor, Tensor, Params]:
    """As the trainer computes it."""
    phi = learner.adapt(params, buffers, episode.support, step)
    return learner.loss(phi, buffers, episode.query, step)


def predict(learner: Learner, params: Params, buffers: Params, episode: Episode) -> Tensor:
    phi = learner.adapt(params, buffers, episode.support, EVALUATE)
    return learner.predict(phi, buffers, episode.query.x, episode.query.tasks)


def moments(learner: Learner, params: Params, buffers: Params, episode: Episode) -> list[Tensor]:
    """Mean and variance, of a learner that has them here."""
    if not (type(learner).has_variance and learner.problem.kinds == ("regression",)):
        return []
    phi = learner.adapt(params, buffers, episode.support, EVALUATE)
    return list(learner.moments(phi, buffers, episode.query.x, episode.query.tasks))


def pick(batch: Batch, tasks: Any) -> Batch:
    return Batch(*(rows[tasks] for rows in batch))


def rows(batch: Batch, at: Any) -> Batch:
    """The same tasks with some of their rows."""
    return batch._replace(x=batch.x[:, at], y=batch.y[:, at], mask=batch.mask[:, at])


def pad(batch: Batch, n: int = 3) -> Batch:
    """With `n` more rows that carry no label."""
    x = torch.randn(len(batch.x), n, *batch.x.shape[2:], dtype=batch.x.dtype) * 10.0
    none = torch.zeros(len(batch.x), n)
    return batch._replace(
        x=torch.cat([batch.x, x], 1),
        y=torch.cat([batch.y, none.to(batch.y)], 1),
        mask=torch.cat([batch.mask, none.bool()], 1),
    )


def test_shapes(variant: Variant):
    learner, problem = variant.learner(), variant.problem
    params, buffers = draw(learner)
    episode = make_episode(problem, tasks=4)
    out = predict(learner, params, buffers, episode)
    assert out.shape[:2] == episode.query.y.shape
    assert out.shape[2] >= problem.width
    assert out[..., : problem.width].isfinite().all()
    assert out.dtype == torch.float64
    for step in (TRAIN, EVALUATE):
        total, losses, after = objective(learner, params, buffers, episode, step)
        assert total.shape == ()
        assert total.isfinite()
        assert losses.shape == (4,)
        assert {n: b.shape for n, b in after.items()} == {n: b.shape for n, b in buffers.items()}
    for found in moments(learner, params, buffers, episode):
        assert found.shape == episode.query.y.shape
        assert found.isfinite().all()


def test_gradients_are_finite_and_reach_every_leaf(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    params = trainable(params)
    total, _, _ = objective(learner, params, buffers, make_episode(variant.problem))
    # no `allow_unused`: the trainer asks for the gradient of every leaf
    found = torch.autograd.grad(total, list(params.values()))
    scratch = FROM_SCRATCH.items() <= variant.values.items()
    for name, grad in zip(params, found, strict=True):
        assert grad.isfinite().all(), name
        assert bool(grad.any()) != scratch, f"{name} has {'an' if scratch else 'no'} influence"


def test_roles_name_every_leaf(variant: Variant):
    learner = variant.learner()
    params, _ = learner.init(torch.Generator().manual_seed(0))
    roles = learner.roles()
    assert set(roles) == set(params)
    assert set(roles.values()) <= {"shared", "task"}
    for name, role in roles.items():
        if role == "task":
            assert params[name].shape[0] == 1, name


def test_adapt_leaves_what_it_is_given_alone(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    episode = make_episode(variant.problem)
    before = {name: leaf.clone() for name, leaf in params.items()}
    values = [part.clone() for part in episode.support]
    for step in (TRAIN, EVALUATE):
        phi = learner.adapt(params, buffers, episode.support, step)
        assert set(params) == set(before)
        assert all(torch.equal(params[name], leaf) for name, leaf in before.items())
        assert all(torch.equal(phi[name], leaf) for name, leaf in before.items())
    # after evaluation's adaptation every task has something of its own
    adapted = {name: leaf for name, leaf in phi.items() if name.startswith("adapted.")}
    assert adapted
    assert all(leaf.shape[0] == len(episode.support.tasks) for leaf in adapted.values())
    assert all(torch.equal(a, b) for a, b in zip(values, episode.support, strict=True))


def test_a_task_is_adapted_to_its_own_support_rows_alone(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    episode = make_episode(variant.problem, tasks=4)
    out = predict(learner, params, buffers, episode)
    _, losses, _ = objective(learner, params, buffers, episode, EVALUATE)
    order = torch.tensor([2, 0, 3, 1])
    moved = Episode(pick(episode.support, order), pick(episode.query, order))
    assert_close(predict(learner, params, buffers, moved), out[order], **EXACT)
    total, found, _ = objective(learner, params, buffers, moved, EVALUATE)
    assert_close(found, losses[order], **EXACT)
    assert_close(total, objective(learner, params, buffers, episode, EVALUATE)[0], **EXACT)
    alone = Episode(pick(episode.support, slice(2, 3)), pick(episode.query, slice(2, 3)))
    assert_close(predict(learner, params, buffers, alone), out[2:3], **EXACT)
    # other labels, other predictions
    y = episode.support.y.clone()
    y[0] = 1.0 - y[0] if variant.problem.width == 1 else (y[0] + 1.0) % variant.problem.width
    other = Episode(episode.support._replace(y=y), episode.query)
    found = predict(learner, params, buffers, other)
    assert not torch.allclose(found[0], out[0], atol=1e-6)
    assert_close(found[1:], out[1:], **EXACT)


def test_a_query_rows_output_does_not_depend_on_other_query_rows(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    episode = make_episode(variant.problem)
    out = predict(learner, params, buffers, episode)
    more = moments(learner, params, buffers, episode)
    n = out.shape[1]
    order = torch.arange(n).flip(0)
    permuted = Episode(episode.support, rows(episode.query, order))
    assert_close(predict(learner, params, buffers, permuted), out[:, order], **EXACT)
    x = episode.query.x.clone()
    x[:, 1:].mul_(-100.0).add_(1.0)
    replaced = Episode(episode.support, episode.query._replace(x=x))
    assert_close(predict(learner, params, buffers, replaced)[:, :1], out[:, :1], **EXACT)
    alone = Episode(episode.support, rows(episode.query, slice(0, 1)))
    assert_close(predict(learner, params, buffers, alone), out[:, :1], **EXACT)
    for found, whole in zip(moments(learner, params, buffers, alone), more, strict=True):
        assert_close(found, whole[:, :1], **EXACT)


def test_order_of_support_rows_does_not_matter(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    episode = make_episode(variant.problem)
    order = torch.arange(episode.support.y.shape[1]).flip(0)
    moved = Episode(rows(episode.support, order), episode.query)
    expected = predict(learner, params, buffers, episode)
    assert_close(predict(learner, params, buffers, moved), expected, **EXACT)


def test_rows_without_label_change_nothing(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    episode = make_episode(variant.problem)
    padded = Episode(pad(episode.support), pad(episode.query))
    n = episode.query.y.shape[1]
    out = predict(learner, params, buffers, episode)
    assert_close(predict(learner, params, buffers, padded)[:, :n], out, **EXACT)
    for step in (TRAIN, EVALUATE):
        total, losses, _ = objective(learner, params, buffers, episode, step)
        found, each, _ = objective(learner, params, buffers, padded, step)
        assert_close(found, total, **EXACT)
        assert_close(each, losses, **EXACT)


def test_a_task_without_support_or_query_rows(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    params = trainable(params)
    episode = make_episode(variant.problem)
    support, query = episode.support.mask.clone(), episode.query.mask.clone()
    support[0], query[1] = False, False
    bare = Episode(episode.support._replace(mask=support), episode.query._replace(mask=query))
    out = predict(learner, params, buffers, bare)
    assert out[..., : variant.problem.width].isfinite().all()
    assert_close(out[1:], predict(learner, params, buffers, episode)[1:], **EXACT)
    total, losses, _ = objective(learner, params, buffers, bare)
    assert losses.isfinite().all()
    for grad in torch.autograd.grad(total, list(params.values())):
        assert grad.isfinite().all()


def test_runs_as_one_are_runs_one_by_one(variant: Variant):
    """In losses, gradients and predictions, each with rates, a random stream and dropout."""
    learners = [variant.learner() for _ in range(3)]
    drawn = [draw(learner, seed) for seed, learner in enumerate(learners)]
    episodes = [make_episode(variant.problem, seed=seed) for seed in range(3)]
    names = learner_rates(variant)
    rates = {name: torch.tensor([0.05, 0.01, 0.1], dtype=torch.float64) for name in names}
    rates["dropout"] = torch.tensor([0.3, 0.0, 0.5])
    keys = torch.stack([new_key(seed) for seed in range(3)])
    params = {n: torch.stack([p[n] for p, _ in drawn]).requires_grad_() for n in drawn[0][0]}
    buffers = {n: torch.stack([b[n] for _, b in drawn]) for n in drawn[0][1]}
    support = Batch(
        *(torch.stack(part) for part in zip(*(e.support for e in episodes), strict=True))
    )
    query = Batch(*(torch.stack(part) for part in zip(*(e.query for e in episodes), strict=True)))
    learner = learners[0]

    def one(p: Params, b: Params, s: Batch, q: Batch, key: Tensor, own: Params) -> Any:
        total, losses, _ = objective(learner, p, b, Episode(s, q), Step(True, key, own))
        phi = learner.adapt(p, b, s, Step(rates=own))
        return total, losses, learner.predict(phi, b, q.x, q.tasks)

    totals, losses, out = vmap(one)(params, buffers, support, query, keys, rates)
    found = torch.autograd.grad(totals.sum(), list(params.values()))
    for k, (p, b) in enumerate(drawn):
        p = trainable(p)
        own = {name: rate[k] for name, rate in rates.items()}
        total, each, alone = one(p, b, *episodes[k], keys[k], own)
        assert_close(totals[k], total, **EXACT)
        assert_close(losses[k], each, **EXACT)
        assert_close(out[k], alone, **EXACT)
        grads = torch.autograd.grad(total, list(p.values()))
        for name, grad, stacked in zip(p, grads, found, strict=True):
            assert_close(stacked[k], grad, **EXACT, msg=lambda text, n=name: f"{n}: {text}")


def learner_rates(variant: Variant) -> list[str]:
    """Numbers of the learner that may differ between runs."""
    config = variant.config().adaptation
    fields = type(config).model_fields
    return [n for n, f in fields.items() if (f.json_schema_extra or {}).get("per_run")]


def test_same_seed_same_start(variant: Variant):
    first, second, other = (
        variant.learner().init(torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_is_for_training_only_and_follows_the_key(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    episode = make_episode(variant.problem)
    rates = {"dropout": torch.tensor(0.5)}

    def loss(train: bool, seed: int | None) -> Tensor:
        key = None if seed is None else new_key(seed)
        return objective(learner, params, buffers, episode, Step(train, key, rates))[1]

    assert torch.equal(loss(False, 1), loss(False, None))
    assert torch.equal(loss(True, 1), loss(True, 1))
    if FROM_SCRATCH.items() <= variant.values.items():
        return  # nothing is trained
    assert not torch.equal(loss(True, 1), loss(True, 2))
