"""Identities of gradient-based meta-learning, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from autometa.balancing import Equal, EqualConfig
from autometa.learners import Episode, Learner, losses
from autometa.learners.gradient import Gradient, GradientConfig
from autometa.networks import ConditioningConfig, Parts, Step
from autometa.networks.head import Head
from autometa.sharing import Params
from autometa.sharing.hard import Hard, HardConfig
from autometa.training.optimizers import PLAIN, segment
from autometa.training.state import Layout
from tests.backbones import block, leaves, read
from tests.learners.support import (
    BACKBONES,
    EXACT,
    KINDS,
    adapted_losses,
    descend,
    joint_gradient,
    task_loss,
)
from tests.small import (
    TABLE,
    draw,
    make_episode,
    make_episode_problem,
    make_learner,
    trainable,
)

TRAIN = Step(train=True)
ALPHA = 0.05
CAVIA = {"head": "single_head", "conditioning.kind": "additive", "conditioning.dim": 3}


def make(backbone: str, shape: tuple[int, ...], kind: str, **values: Any) -> Learner:
    """The learner `gradient`; names of `adaptation` without their section."""
    own = {n if "." in n or n == "head" else f"adaptation.{n}": v for n, v in values.items()}
    flat = {"backbone.kind": backbone, "adaptation.kind": "gradient", "adaptation.inner_lr": ALPHA}
    return make_learner(make_episode_problem(kind, shape), {**flat, **own})


def meta(
    learner: Learner, params: Params, episode: Episode, step: Step = TRAIN
) -> tuple[Tensor, Params]:
    """Losses of the tasks, and the gradient of the objective."""
    phi = learner.adapt(params, {}, episode.support, step)
    total, each, _ = learner.loss(phi, {}, episode.query, step)
    found = torch.autograd.grad(total, list(params.values()))
    return each, dict(zip(params, found, strict=True))


def assert_same(found: Params, expected: Params) -> None:
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert_close(found[name], grad, **EXACT, msg=lambda text, n=name: f"{n}: {text}")


@BACKBONES
@KINDS
@pytest.mark.parametrize(
    "how",
    [
        {"sharing.split_at": 0, "steps": 3},
        {"sharing.split_at": 0, "steps": 2, "first_order": True},
        {"sharing.split_at": 1, "steps": 2},
        {"steps": 3},
    ],
    ids=["maml", "fomaml", "upper", "anil"],
)
def test_it_is_a_loop_over_tasks(backbone, shape, kind, how):
    """ANIL over all parameters ≡ MAML, and every split between them and the head alone."""
    learner = make(backbone, shape, kind, **how)
    params = trainable(draw(learner)[0])
    episode = make_episode(learner.problem)  # labels are missing in both parts
    each, found = meta(learner, params, episode)
    first_order = how.get("first_order", False)
    expected = adapted_losses(
        backbone, learner, params, episode, rate=ALPHA, steps=how["steps"], first_order=first_order
    )
    assert_close(each, expected, **EXACT)
    grads = torch.autograd.grad(expected.mean(), list(params.values()))
    assert_same(found, dict(zip(params, grads, strict=True)))


@BACKBONES
def test_learned_rates_are_a_loop_with_a_rate_a_parameter(backbone, shape):
    learner = make(backbone, shape, "multiclass", learned_rates=True, steps=2)
    params = draw(learner)[0]
    rates = {n: leaf for n, leaf in params.items() if n.startswith("inner_lr.")}
    params |= {n: 0.1 * leaf for n, leaf in rates.items()}  # some negative
    params = trainable(params)
    episode = make_episode(learner.problem)
    each, found = meta(learner, params, episode)
    own = {n: params[f"inner_lr.{n}.rate"][0] for n in ("head.weight", "head.bias")}
    expected = adapted_losses(backbone, learner, params, episode, rate=own, steps=2)
    assert_close(each, expected, **EXACT)
    grads = torch.autograd.grad(expected.mean(), list(params.values()))
    assert_same(found, dict(zip(params, grads, strict=True)))


@BACKBONES
@KINDS
@pytest.mark.parametrize("split_at", [0, 2])
def test_rate_0_or_no_steps_is_joint_training(backbone, shape, kind, split_at):
    how = {"sharing.split_at": split_at, "steps": 2}
    learner = make(backbone, shape, kind, **how, test_steps=0)
    params = trainable(draw(learner)[0])
    episode = make_episode(learner.problem, missing=False)
    total, expected = joint_gradient(backbone, learner, params, episode.query, split_at)
    none = Step(train=True, rates={"inner_lr": torch.tensor(0.0)})
    for step in (none, Step()):
        each, found = meta(learner, params, episode, step)
        assert_close(each.mean(), total, **EXACT)
        assert_same(found, expected)
    # and with a rate it is not
    assert not torch.allclose(meta(learner, params, episode)[0].mean(), total, rtol=1e-4)


@BACKBONES
def test_learned_rates_of_0_have_a_gradient(backbone, shape):
    """It is −∇L_support ∘ ∇L_query, and that of θ is joint training's."""
    learner = make(backbone, shape, "regression", **{"sharing.split_at": 0, "learned_rates": True})
    params = trainable(
        {n: 0 * p if n.startswith("inner_lr.") else p for n, p in draw(learner)[0].items()}
    )
    episode = make_episode(learner.problem, missing=False)
    _, found = meta(learner, params, episode)
    theta = {n: leaf for n, leaf in params.items() if not n.startswith("inner_lr.")}
    _, expected = joint_gradient(backbone, learner, theta, episode.query, 0)
    assert_same({n: found[n] for n in theta}, expected)
    products = []
    for task in range(len(episode.query.x)):
        both = [
            joint_gradient(
                backbone, learner, theta, type(part)(*(rows[task : task + 1] for rows in part)), 0
            )[1]
            for part in episode
        ]
        products.append({n: -both[0][n] * both[1][n] for n in theta})
    for name in theta:
        expected = torch.stack([product[name] for product in products]).mean(0)
        assert_close(found[f"inner_lr.{name}.rate"], expected, **EXACT)
        if not name.endswith("bias"):  # a bias may vanish in the normalisation
            assert expected.any()


def test_equal_learned_rates_are_one_rate():
    plain = make("mlp", TABLE, "regression", steps=2)
    learned = make("mlp", TABLE, "regression", steps=2, learned_rates=True)
    params, _ = learned.init(torch.Generator().manual_seed(1))
    assert all((p == ALPHA).all() for n, p in params.items() if n.startswith("inner_lr."))
    theta = plain.init(torch.Generator().manual_seed(1))[0]
    assert all(torch.equal(params[name], leaf) for name, leaf in theta.items())
    episode = make_episode(plain.problem)
    episode = Episode(*(part._replace(x=part.x.float(), y=part.y.float()) for part in episode))
    each, grads = meta(plain, trainable(theta), episode)
    found, more = meta(learned, trainable(params), episode)
    assert_close(found, each)
    assert all(torch.allclose(more[name], grad, atol=1e-6) for name, grad in grads.items())
    # no weight decay on rates
    more = params.keys() - theta.keys()
    assert more
    assert all(segment(name) == PLAIN for name in more)


class Nothing:
    """A backbone without blocks, which makes the network linear."""

    blocks: tuple[Any, ...] = ()
    row_size = out_features = TABLE[0]

    def enter(self, x: Tensor) -> Tensor:
        return x

    def leave(self, h: Tensor) -> Tensor:
        return h


def make_linear(**config: Any) -> Gradient:
    problem = make_episode_problem("regression", shots=8)
    parts = Parts(problem, Nothing(), Head(TABLE[0], 1), True, {})
    return Gradient(
        GradientConfig(inner_lr=ALPHA, **config),
        problem,
        Hard(HardConfig(), parts),
        ConditioningConfig(),
        Equal(EqualConfig()),
    )


def test_first_order_is_exact_where_the_support_loss_is_linear(monkeypatch):
    second, first = make_linear(steps=3), make_linear(steps=3, first_order=True)
    params = trainable(draw(second)[0])
    episode = make_episode(second.problem)
    curved = meta(second, params, episode)[1], meta(first, params, episode)[1]
    assert not torch.allclose(curved[0]["head.weight"], curved[1]["head.weight"], rtol=1e-3)
    # absolute errors are linear in θ where no residual changes its sign
    monkeypatch.setitem(losses._LOSS, "regression", lambda out, y: (out[..., 0] - y).abs())
    each, expected = meta(second, params, episode)
    found_each, found = meta(first, params, episode)
    assert_close(found_each, each, **EXACT)
    assert_same(found, expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_of_a_linear_model_with_squared_loss(steps):
    """∇MAML = (I − αH)ᵏ ∇FOMAML, H = 2/n XᵀX of the support rows."""
    second, first = make_linear(steps=steps), make_linear(steps=steps, first_order=True)
    params = trainable(draw(second)[0])
    whole = make_episode(second.problem)
    for task in range(3):
        episode = Episode(*(type(p)(*(r[task : task + 1] for r in p)) for p in whole))
        maml, fomaml = (meta(learner, params, episode)[1] for learner in (second, first))
        rows = episode.support.x[0][episode.support.mask[0]]
        design = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
        hessian = 2.0 / len(rows) * design.T @ design
        power = torch.linalg.matrix_power(torch.eye(6).double() - ALPHA * hessian, steps)
        flat = [
            torch.cat([g["head.weight"].flatten(), g["head.bias"].flatten()])
            for g in (maml, fomaml)
        ]
        assert_close(flat[0], power @ flat[1], rtol=1e-12, atol=1e-13)


@BACKBONES
@KINDS
def test_a_context_added_to_the_head_is_its_bias(backbone, shape, kind):
    """CAVIA whose context enters the head as +c ≡ adaptation of the head's bias."""
    width = make_episode_problem(kind).width
    how = {**CAVIA, "conditioning.at": "head", "conditioning.dim": width}
    learner = make(backbone, shape, kind, **how, steps=3)
    params = draw(learner)[0] | {"conditioning.2.weight": torch.eye(width).double()}
    params = trainable(params)
    episode = make_episode(learner.problem)
    each, found = meta(learner, params, episode)
    expected = []
    for task in range(len(episode.query.x)):

        def loss(p: Params, batch: Any = episode.support, task: int = task) -> Tensor:
            h = batch.x[task]
            for number in range(2):
                h = block(backbone, leaves(params, f"blocks.{number}"), h)
            out = F.linear(read(backbone, h), params["head.weight"], p["bias"])
            return task_loss(learner.problem, out, batch, task)

        phi = descend(loss, {"bias": params["head.bias"] * 1.0}, ["bias"], ALPHA, 3)
        expected.append(loss(phi, episode.query))
    assert_close(each, torch.stack(expected), **EXACT)
    theta = {n: leaf for n, leaf in params.items() if not n.startswith("conditioning.")}
    grads = torch.autograd.grad(torch.stack(expected).mean(), list(theta.values()))
    assert_same({n: found[n] for n in theta}, dict(zip(theta, grads, strict=True)))
    assert found["conditioning.2.weight"].any()


@pytest.mark.parametrize("kind", ["additive", "multiplicative", "concat"])
@pytest.mark.parametrize("at", ["input", "every", "last", "head"])
def test_a_context_changes_predictions_from_the_start(kind, at):
    """Conditioning is drawn: at V = 0 and z = 0 neither would ever move."""
    how = {**CAVIA, "conditioning.kind": kind, "conditioning.at": at, "test_steps": 3}
    learner = make("mlp", TABLE, "regression", **how)
    params, _ = learner.init(torch.Generator().manual_seed(0))
    params = {name: leaf.double() for name, leaf in params.items()}
    assert "context" not in params
    episode = make_episode(learner.problem)
    phi = learner.adapt(params, {}, episode.support, Step())
    assert {n for n in phi if n.startswith("adapted.")} == {"adapted.context"}
    assert phi["adapted.context"].abs().min() > 0
    before = learner.loss(params, {}, episode.support, Step())[1]
    after = learner.loss(phi, {}, episode.support, Step())[1]
    assert (after < before).all()


CHECKS = {
    "maml": {"sharing.split_at": 0, "steps": 2},
    "anil": {"steps": 2},
    "rates": {"sharing.split_at": 1, "learned_rates": True},
    "cavia": {**CAVIA, "steps": 2},
}


@pytest.mark.parametrize("how", CHECKS.values(), ids=CHECKS)
@BACKBONES
def test_gradients_are_those_of_finite_differences(backbone, shape, how):
    learner = make(backbone, shape, "multiclass", **how)
    params = draw(learner, seed=3)[0]
    episode = make_episode(learner.problem, tasks=2)
    layout = Layout(params)

    def objective(row: Tensor) -> Tensor:
        theta = layout.unpack(row)
        phi = learner.adapt(theta, {}, episode.support, TRAIN)
        return learner.loss(phi, {}, episode.query, TRAIN)[0]

    # `fast_mode`: along a random direction. No kink of the ReLUs is as near as 1e-6.
    row = layout.pack(params).requires_grad_()
    assert torch.autograd.gradcheck(objective, (row,), fast_mode=True, eps=1e-6, atol=1e-6)


def test_more_steps_in_evaluation_than_in_training():
    learner = make("mlp", TABLE, "regression", steps=1, test_steps=4)
    longer = make("mlp", TABLE, "regression", steps=4)
    params, _ = draw(learner)
    episode = make_episode(learner.problem)
    found = learner.adapt(params, {}, episode.support, Step())
    expected = longer.adapt(params, {}, episode.support, TRAIN)
    assert_same(found, expected)
    shorter = learner.adapt(params, {}, episode.support, TRAIN)
    assert not torch.allclose(shorter["adapted.head.bias"], found["adapted.head.bias"])


def test_a_runs_own_rate_comes_with_the_step():
    learner = make("mlp", TABLE, "regression")
    other = make("mlp", TABLE, "regression", inner_lr=0.5)
    params, _ = draw(learner)
    episode = make_episode(learner.problem)
    step = Step(rates={"inner_lr": torch.tensor(0.5, dtype=torch.float64)})
    found = learner.adapt(params, {}, episode.support, step)
    assert_same(found, other.adapt(params, {}, episode.support, Step()))
