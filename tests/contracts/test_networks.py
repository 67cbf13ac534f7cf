"""Contract of every network and learner: one model, float64, evaluation and one loss."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from autometa.networks import Problem, Step
from autometa.networks.keys import new_key
from tests.contracts.variants import Variant, permuted_tasks, variants
from tests.small import draw, gradients, make_batch, trainable

VARIANTS = variants()
EXACT = {"rtol": 1e-9, "atol": 1e-11}

pytestmark = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def test_shapes(variant: Variant):
    learner, problem = variant.learner(), variant.problem
    params, buffers = draw(learner)
    batch = make_batch(problem, rows=4)
    out = learner.predict(params, buffers, batch.x, batch.tasks)
    assert out.shape == (problem.n_tasks, 4, problem.width)
    assert out.dtype == torch.float64
    total, losses, after = learner.loss(params, buffers, batch, Step())
    assert total.shape == ()
    assert losses.shape == (problem.n_tasks,)
    assert {name: b.shape for name, b in after.items()} == {
        name: b.shape for name, b in buffers.items()
    }


def test_outputs_beyond_a_tasks_classes_are_minus_infinity(variant: Variant):
    learner, problem = variant.learner(), variant.problem
    batch = make_batch(problem)
    out = learner.predict(*draw(learner), batch.x, batch.tasks)
    for place, task in enumerate(batch.tasks.tolist()):
        n = problem.n_outputs[task]
        assert out[place, :, :n].isfinite().all()
        assert (out[place, :, n:] == -torch.inf).all()


def test_gradients_are_finite_and_reach_every_leaf(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    params = trainable(params)
    batch = make_batch(variant.problem, rows=6)
    total, _, _ = learner.loss(params, buffers, batch, Step())
    # no `allow_unused`: the trainer asks for the gradient of every leaf
    found = torch.autograd.grad(total, list(params.values()))
    for name, grad in zip(params, found, strict=True):
        assert grad.isfinite().all(), name
        assert grad.abs().max() > 0, f"{name} has no influence"


def test_roles_name_every_leaf(variant: Variant):
    learner = variant.learner()
    params, _ = learner.init(torch.Generator().manual_seed(0))
    roles = learner.roles()
    assert set(roles) == set(params)
    assert set(roles.values()) <= {"shared", "task", "mixing"}
    for name, role in roles.items():
        if role == "task":
            assert params[name].shape[0] == variant.problem.n_tasks, name
        # the trainer knows by the name which leaves have `mixing_lr`
        assert (role == "mixing") == name.startswith("mixing."), name


def test_a_task_does_not_touch_the_parameters_of_others(variant: Variant):
    learner = variant.learner()
    if type(learner.network).mixes_tasks:
        pytest.skip("each task passes through all towers")
    params, buffers = draw(learner)
    params = trainable(params)
    batch = make_batch(variant.problem)
    _, losses, _ = learner.loss(params, buffers, batch, Step())
    private = [name for name, role in learner.roles().items() if role == "task"]
    for place, task in enumerate(batch.tasks.tolist()):
        found = gradients(losses[place], params)
        others = [t for t in range(variant.problem.n_tasks) if t != task]
        for name in private:
            assert not found[name][others].any(), f"{name} of another task"
        shared = [n for n, role in learner.roles().items() if role == "shared"]
        # every task trains what is shared (a bias may vanish in the normalisation)
        assert not shared or any(found[name].any() for name in shared)


def test_permuting_tasks_permutes_outputs(variant: Variant):
    problem = variant.problem
    order = torch.randperm(problem.n_tasks, generator=torch.Generator().manual_seed(5))
    if problem.n_tasks == 3:
        order = torch.tensor([1, 2, 0])
    moved = Problem(
        layout=problem.layout,
        feature_shape=problem.feature_shape,
        kinds=tuple(problem.kinds[t] for t in order),
        n_outputs=tuple(problem.n_outputs[t] for t in order),
    )
    learner = variant.learner()
    params, buffers = draw(learner)
    roles = learner.roles()
    values, permuted = permuted_tasks(variant.values, params, roles, order.tolist())
    other = Variant(moved, values).learner()
    other_buffers = draw(other)[1]
    for name in (n for n, role in roles.items() if role == "mixing"):
        for dim, size in enumerate(params[name].shape):
            if size == problem.n_tasks:  # 3: no other dimension here is
                permuted[name] = permuted[name].index_select(dim, order)
    batch = make_batch(problem)
    if problem.layout == "grouped":  # the same slots, under their tasks' new numbers
        batch = batch._replace(tasks=order.argsort()[batch.tasks])
        original = batch._replace(tasks=order[batch.tasks])
        pick = torch.arange(problem.n_tasks)
    else:
        original = batch
        batch = batch._replace(y=batch.y[order], mask=batch.mask[order])
        pick = order
    expected = learner.predict(params, buffers, original.x, original.tasks)
    found = other.predict(permuted, other_buffers, batch.x, batch.tasks)
    assert_close(found, expected[pick], **EXACT)
    total, losses, _ = learner.loss(params, buffers, original, Step())
    total_2, losses_2, _ = other.loss(permuted, other_buffers, batch, Step())
    assert_close(losses_2, losses[pick], **EXACT)
    assert_close(total_2, total, **EXACT)


def test_order_of_slots_does_not_matter(variant: Variant):
    if variant.problem.layout == "aligned":
        return  # such batches have all tasks, in order
    learner = variant.learner()
    params, buffers = draw(learner)
    batch = make_batch(variant.problem, slots=7)  # a task may have several slots, or none
    out = learner.predict(params, buffers, batch.x, batch.tasks)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    found = learner.predict(params, buffers, batch.x[order], batch.tasks[order])
    assert_close(found, out[order], **EXACT)
    one = learner.predict(params, buffers, batch.x[2:3], batch.tasks[2:3])
    assert_close(one[0], out[2], **EXACT)


def test_a_rows_output_does_not_depend_on_other_rows(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    batch = make_batch(variant.problem, rows=5)
    out = learner.predict(params, buffers, batch.x, batch.tasks)
    dim = 0 if variant.problem.layout == "aligned" else 1
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = learner.predict(params, buffers, batch.x.index_select(dim, order), batch.tasks)
    assert_close(permuted, out[:, order], **EXACT)
    replaced = batch.x.clone()
    replaced.narrow(dim, 1, 4).mul_(-100.0).add_(1.0)
    again = learner.predict(params, buffers, replaced, batch.tasks)
    assert_close(again[:, :1], out[:, :1], **EXACT)
    alone = learner.predict(params, buffers, batch.x.narrow(dim, 0, 1), batch.tasks)
    assert_close(alone, out[:, :1], **EXACT)


def test_same_seed_same_start(variant: Variant):
    first, second, other = (
        variant.learner().init(torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_is_for_training_only_and_follows_the_key(variant: Variant):
    learner = variant.learner()
    params, buffers = draw(learner)
    batch = make_batch(variant.problem)
    rates = {"dropout": torch.tensor(0.5)}

    def loss(train: bool, seed: int | None) -> torch.Tensor:
        key = None if seed is None else new_key(seed)
        return learner.loss(params, buffers, batch, Step(train, key, rates))[0]

    assert torch.equal(loss(False, 1), loss(False, None))
    assert torch.equal(loss(True, 1), loss(True, 1))
    assert not torch.equal(loss(True, 1), loss(True, 2))
    assert not torch.equal(loss(True, 1), loss(False, 1))
