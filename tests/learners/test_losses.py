"""Losses of rows and tasks: golden values, class masks, missing labels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from autometa.learners.losses import at_least_float32, mask_classes, row_losses, task_losses
from autometa.networks import Step
from tests.small import draw, gradients, make_batch, make_learner, make_problem, trainable


def test_golden_values():
    problem = make_problem()  # regression, 3 classes, binary
    out = torch.tensor([[[2.0, 0, 0]], [[0.0, math.log(2), 0]], [[0.0, 0, 0]]])
    y = torch.tensor([[0.5], [1.0], [1.0]])
    found = row_losses(problem, mask_classes(out, problem.class_mask(), torch.arange(3)), y)
    assert found.flatten().tolist() == pytest.approx([2.25, math.log(2), math.log(2)], rel=1e-6)


def test_grouped_suites_of_one_kind():
    problem = make_problem("grouped", kinds=("binary", "binary"))
    out = torch.tensor([[[1.0], [-2.0]]])
    found = row_losses(problem, out, torch.tensor([[1.0, 0.0]]))
    expected = [math.log1p(math.exp(-1)), math.log1p(math.exp(-2))]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_masked_classes_are_those_of_a_smaller_head():
    problem = make_problem("grouped")  # 3, 2 and 4 classes
    out = torch.randn(3, 5, 4, dtype=torch.float64)
    y = torch.randint(0, 2, (3, 5)).double()
    found = row_losses(problem, mask_classes(out, problem.class_mask(), torch.arange(3)), y)
    for task, n in enumerate(problem.n_outputs):
        expected = F.cross_entropy(out[task, :, :n], y[task].long(), reduction="none")
        assert_close(found[task], expected)


def test_mask_follows_the_task_numbers():
    problem = make_problem("grouped")
    out = mask_classes(torch.zeros(2, 1, 4), problem.class_mask(), torch.tensor([1, 1]))
    assert out.isfinite().sum(-1).flatten().tolist() == [2, 2]


def test_task_losses_are_means_over_labelled_rows():
    rows = torch.tensor([[1.0, 5.0, torch.nan], [torch.inf, 3.0, 2.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    losses, present = task_losses(rows, mask)
    assert losses.tolist() == [3.0, 3.0, 0.0]
    assert present.tolist() == [True, True, False]


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
@pytest.mark.parametrize("balancing", ["equal", "uncertainty"])
def test_missing_labels_do_not_contribute(layout, balancing):
    problem = make_problem(layout)
    learner = make_learner(problem, {"balancing.kind": balancing})
    params = trainable(draw(learner)[0])
    batch = make_batch(problem, rows=8, seed=3)
    assert not batch.mask.all()
    total, losses, _ = learner.loss(params, {}, batch, Step())
    other = batch._replace(y=torch.where(batch.mask, batch.y, torch.ones_like(batch.y)))
    again, losses_2, _ = learner.loss(params, {}, other, Step())
    assert torch.equal(total, again)
    assert torch.equal(losses, losses_2)
    first, second = gradients(total, params), gradients(again, params)
    assert all(torch.equal(first[name], second[name]) for name in params)


def test_a_task_without_any_label_is_left_out_of_the_mean():
    problem = make_problem()
    learner = make_learner(problem, {"sharing.kind": "independent"})
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)
    mask = batch.mask.clone()
    mask[1] = False
    total, losses, _ = learner.loss(params, {}, batch._replace(mask=mask), Step())
    assert losses[1] == 0
    assert_close(total, (losses[0] + losses[2]) / 2)
    assert all(not grad[1].any() for grad in gradients(total, params).values())


def test_half_precision_is_widened_only():
    assert at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_adapting_joint_is_the_identity():
    learner = make_learner(make_problem())
    params, buffers = draw(learner)
    batch = make_batch(learner.problem)
    assert learner.adapt(params, buffers, batch, Step()) is params
