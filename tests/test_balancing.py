"""Balancers: golden values, and tasks without labels in a batch."""

from __future__ import annotations

import math

import pytest
import torch

from autometa.balancing import Equal, EqualConfig, Uncertainty, UncertaintyConfig

LOSSES = torch.tensor([1.0, 2.0, 6.0])
ALL = torch.tensor([True, True, True])
TASKS = torch.arange(3)


def test_equal_is_the_mean_over_present_tasks():
    equal = Equal(EqualConfig())
    assert equal.init(3) == {}
    assert equal.combine({}, LOSSES, ALL, TASKS).item() == pytest.approx(3.0)
    some = torch.tensor([True, False, True])
    assert equal.combine({}, LOSSES, some, TASKS).item() == pytest.approx(3.5)
    assert equal.combine({}, LOSSES, ~ALL, TASKS).item() == 0.0


def test_uncertainty_golden_value():
    balancer = Uncertainty(UncertaintyConfig())
    assert torch.equal(balancer.init(3)["log_variance"], torch.zeros(3))
    # ½·e^{−s}·L + ½·s: s = 0, ln 2, −1
    s = torch.tensor([0.0, math.log(2), -1.0], requires_grad=True)
    total = balancer.combine({"log_variance": s}, LOSSES, ALL, TASKS)
    terms = [0.5, 0.5 * 0.5 * 2 + 0.5 * math.log(2), 0.5 * math.e * 6 - 0.5]
    assert total.item() == pytest.approx(sum(terms) / 3, rel=1e-6)
    (grad,) = torch.autograd.grad(total, s)
    # d/ds = ½ − ½·e^{−s}·L
    expected = [0.5 - 0.5, 0.5 - 0.5 * 0.5 * 2, 0.5 - 0.5 * math.e * 6]
    assert grad.tolist() == pytest.approx([g / 3 for g in expected], abs=1e-6)


def test_a_task_without_labels_does_not_pull_on_its_weight():
    s = torch.zeros(3, requires_grad=True)
    present = torch.tensor([True, False, True])
    total = Uncertainty(UncertaintyConfig()).combine({"log_variance": s}, LOSSES, present, TASKS)
    (grad,) = torch.autograd.grad(total, s)
    assert grad[1] == 0
    assert grad[2] != 0


def test_weights_follow_the_task_numbers_of_the_batch():
    s = torch.tensor([0.0, 1.0, 2.0])
    total = Uncertainty(UncertaintyConfig()).combine(
        {"log_variance": s}, torch.tensor([1.0, 1.0]), ALL[:2], torch.tensor([2, 2])
    )
    assert total.item() == pytest.approx(0.5 * math.exp(-2) + 1.0, rel=1e-6)
