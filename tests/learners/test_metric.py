"""Prototypes: golden logits, the linear classifier that they are, and absent classes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Batch, Episode, Learner
from autometa.networks import Problem, Step
from tests.small import draw, gradients, make_episode, make_episode_problem, make_learner, trainable

VALUES = {"adaptation.kind": "metric"}
EXACT = {"rtol": 1e-10, "atol": 1e-11}


def learner_for(problem: Problem) -> Learner:
    return make_learner(problem, VALUES)


def features(learner: Learner, params: dict[str, Tensor], x: Tensor) -> Tensor:
    """By the network itself, task by task."""
    one = torch.zeros(1, dtype=torch.int64)
    network = learner.network
    return torch.stack(
        [network.features(params, rows, tasks=one, z=None, step=Step())[0] for rows in x]
    )


def test_logits_are_scaled_distances_to_the_means():
    problem = make_episode_problem("multiclass", ways=3, shots=4)
    learner = learner_for(problem)
    params, buffers = draw(learner)
    support, query = make_episode(problem)
    phi = learner.adapt(params, buffers, support, Step())
    out = learner.predict(phi, buffers, query.x, query.tasks)
    s, q = features(learner, params, support.x), features(learner, params, query.x)
    scale = math.exp(params["distance.log_scale"])
    for t in range(3):
        for n in range(3):
            members = [
                s[t, i]
                for i in range(s.shape[1])
                if support.mask[t, i] and support.y[t, i].item() == n
            ]
            mean = torch.stack(members).mean(0)
            for i in range(q.shape[1]):
                expected = -scale * (q[t, i] - mean).pow(2).sum()
                assert_close(out[t, i, n], expected, **EXACT)


def test_it_is_a_linear_classifier():
    """w = 2c, b = −‖c‖², up to −‖f(x)‖² in each row: log-softmax, loss and gradients."""
    problem = make_episode_problem("multiclass", ways=4, shots=3)
    learner = learner_for(problem)
    params, buffers = draw(learner)
    params["distance.log_scale"] = torch.tensor(0.0, dtype=torch.float64)
    support, query = make_episode(problem, missing=False)

    def linear(params: dict[str, Tensor]) -> Tensor:
        s, q = features(learner, params, support.x), features(learner, params, query.x)
        members = F.one_hot(support.y.long(), 4).double()
        c = torch.einsum("tsn,tsf->tnf", members, s) / members.sum(1)[..., None]
        return q @ (2.0 * c).mT - c.square().sum(-1)[:, None]

    phi = learner.adapt(params, buffers, support, Step())
    out = learner.predict(phi, buffers, query.x, query.tasks)
    other = linear(params)
    own = features(learner, params, query.x).square().sum(-1, keepdim=True)
    assert_close(out, other - own, **EXACT)
    assert_close(out.log_softmax(-1), other.log_softmax(-1), **EXACT)

    params = trainable(params)
    phi = learner.adapt(params, buffers, support, Step())
    total, losses, _ = learner.loss(phi, buffers, query, Step())
    rows = F.cross_entropy(linear(params).flatten(0, 1), query.y.flatten().long())
    assert_close(total, rows, **EXACT)
    assert_close(total, losses.mean(), **EXACT)
    found = gradients(total, params)
    expected = gradients(rows, params)
    for name in set(params) - {"distance.log_scale"}:
        assert_close(found[name], expected[name], **EXACT)
        assert found[name].any()


def test_binary_logit_is_the_difference_of_the_two_class_problem():
    two = make_episode_problem("multiclass", ways=2, shots=4)
    binary = make_episode_problem("binary", shots=8, queries=6)
    params, buffers = draw(learner_for(two))
    support, query = make_episode(two)
    out = {}
    for name, problem in (("two", two), ("binary", binary)):
        learner = learner_for(problem)
        own = Episode(*(b._replace(tasks=torch.arange(3)) for b in (support, query)))
        s, q = (support, query) if name == "two" else own
        phi = learner.adapt(params, buffers, s, Step())
        out[name] = learner.predict(phi, buffers, q.x, q.tasks)
        out[name + " loss"] = learner.loss(phi, buffers, q, Step())[1]
    assert out["binary"].shape == (3, 6, 1)
    assert_close(out["binary"][..., 0], out["two"][..., 1] - out["two"][..., 0], **EXACT)
    assert_close(out["binary loss"], out["two loss"], **EXACT)


@pytest.mark.parametrize("ways", [2, 6])
def test_another_number_of_ways_than_trained(ways):
    learner = learner_for(make_episode_problem("multiclass", ways=3))
    params, buffers = draw(learner)
    problem = make_episode_problem("multiclass", ways=ways)
    support, query = make_episode(problem)
    phi = learner.adapt(params, buffers, support, Step())
    out = learner.predict(phi, buffers, query.x, query.tasks)
    own = learner_for(problem)
    expected = own.predict(
        own.adapt(params, buffers, support, Step()), buffers, query.x, query.tasks
    )
    assert out.shape == (3, query.y.shape[1], ways)
    assert torch.equal(out, expected)


def absent(batch: Batch, n: int) -> Batch:
    return batch._replace(mask=batch.mask & (batch.y != n))


def test_a_class_without_support_rows():
    problem = make_episode_problem("multiclass", ways=3)
    learner = learner_for(problem)
    params, buffers = draw(learner)
    params = trainable(params)
    support, query = make_episode(problem, missing=False)
    phi = learner.adapt(params, buffers, absent(support, 1), Step())
    out = learner.predict(phi, buffers, query.x, query.tasks)
    assert (out[..., 1] == -torch.inf).all()
    whole = learner.adapt(params, buffers, support, Step())
    others = [0, 2]
    expected = learner.predict(whole, buffers, query.x, query.tasks)[..., others]
    assert_close(out[..., others], expected, **EXACT)
    # what cannot be predicted is not in the loss
    total, losses, _ = learner.loss(phi, buffers, query, Step())
    _, expected, _ = learner.loss(phi, buffers, absent(query, 1), Step())
    assert_close(losses, expected, **EXACT)
    assert losses.min() > 0
    assert all(g.isfinite().all() for g in gradients(total, params).values())


def test_a_binary_task_with_rows_of_one_class_has_no_opinion():
    problem = make_episode_problem("binary", shots=5)
    learner = learner_for(problem)
    params, buffers = draw(learner)
    support, query = make_episode(problem)
    phi = learner.adapt(params, buffers, absent(support, 0), Step())
    assert not learner.predict(phi, buffers, query.x, query.tasks).any()
    losses = learner.loss(phi, buffers, query, Step())[1]
    assert_close(losses, torch.full_like(losses, math.log(2.0)), **EXACT)


def test_there_is_no_head():
    learner = learner_for(make_episode_problem("multiclass"))
    params, _ = learner.init(torch.Generator().manual_seed(0))
    assert not [name for name in params if name.startswith("head")]
    assert set(params) == set(learner.roles())


def test_its_memory_grows_with_the_classes():
    """A row has a difference to every prototype, in episodes of held-out tasks, too."""
    few = make_episode_problem("multiclass", ways=3)
    assert few.episode is not None
    many = few.model_copy(update={"test_episode": few.episode.model_copy(update={"ways": 40})})
    assert learner_for(few).row_size == 3 * 8  # of 8 features
    assert learner_for(many).row_size == 40 * 8


def test_the_scale_starts_where_it_is_told():
    learner = make_learner(
        make_episode_problem("multiclass"), {**VALUES, "adaptation.distance_scale": 0.25}
    )
    params, _ = learner.init(torch.Generator().manual_seed(0))
    assert params["distance.log_scale"].exp().item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        ("regression", {}, "`adaptation.kind` should be other than `metric` for regression"),
        ("binary", {"conditioning.kind": "concat"}, "`conditioning.kind` should be `none`"),
        ("binary", {"sharing.kind": "soft"}, "`sharing.kind` should be `hard`"),
        ("binary", {"balancing.kind": "dwa"}, "`balancing.kind` should be `equal`"),
    ],
)
def test_what_is_refused(kind, values, text):
    with pytest.raises(ConfigError, match=text):
        make_learner(make_episode_problem(kind), {**VALUES, **values})
