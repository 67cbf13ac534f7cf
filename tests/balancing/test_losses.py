"""Balancers of losses: golden values, TorchJD's modules stepped by hand, tasks without labels."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close
from torchjd import scalarization

from autometa.balancing import BALANCING, Balancer, Equal, EqualConfig
from autometa.balancing.losses import Uncertainty, UncertaintyConfig
from autometa.networks import Step
from autometa.networks.keys import fold, new_key

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


def make(kind: str, **settings: float) -> Balancer:
    entry = BALANCING[kind]
    return entry(entry.Config(**settings))


def sequence(steps: int, n_tasks: int = 3) -> torch.Tensor:
    """Positive losses [step, task]."""
    generator = torch.Generator().manual_seed(4)
    return torch.rand(steps, n_tasks, generator=generator, dtype=torch.float64) * 3 + 0.1


def slopes(total: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(total, losses)[0]


LOSS_METHODS = [kind for kind, entry in BALANCING.items() if entry.needs == "losses"]


@pytest.mark.parametrize(
    ("kind", "module", "scale"),
    [
        ("geometric_mean", scalarization.GeometricMean(), 1.0),
        ("imtl_l", scalarization.IMTLL(3).double(), 3.0),
        ("uncertainty", scalarization.UW(3).double(), 3.0),
        ("equal", scalarization.Mean(), 1.0),
    ],
)
def test_values_and_slopes_are_torchjds(kind, module, scale):
    balancer = make(kind)
    params = {n: p.double() + 0.3 for n, p in balancer.init(3).items()}
    for own, theirs in zip(params.values(), module.parameters(), strict=True):
        theirs.data.copy_(own)
    losses = sequence(1)[0].requires_grad_()
    found = balancer.combine(params, losses, ALL, TASKS)
    expected = module(losses) / scale
    assert_close(found, expected)
    assert_close(slopes(found, losses), slopes(expected, losses))


def test_stch_is_torchjds_up_to_a_constant_and_lies_between_mean_and_largest():
    losses = sequence(1)[0].requires_grad_()
    found = make("stch", smoothing=0.3).combine({}, losses, ALL, TASKS)
    module = scalarization.STCH(0.3, weights=torch.ones(3, dtype=torch.float64))
    expected = module(losses) - 0.3 * math.log(3)
    assert_close(found, expected)
    assert_close(slopes(found, losses), slopes(expected, losses))
    mean = make("stch", smoothing=1e6).combine({}, losses, ALL, TASKS)
    assert mean.item() == pytest.approx(losses.mean().item(), rel=1e-5)
    largest = make("stch", smoothing=1e-3).combine({}, losses, ALL, TASKS)
    assert largest.item() == pytest.approx(losses.max().item(), abs=2e-3)


def test_dwa_is_torchjds_over_epochs():
    balancer, module = make("dwa", weight_temperature=0.7), scalarization.DWA(0.7)
    state = {n: s.double() for n, s in balancer.state(3).items()}
    seen = []
    for epoch in range(4):
        for losses in sequence(5).roll(epoch, 0) * torch.tensor([1.0, 1.0, 0.5**epoch]):
            losses = losses.clone().requires_grad_()
            found = balancer.combine(state, losses, ALL, TASKS)
            expected = module(losses) / 3
            assert_close(found, expected)
            seen.append(slopes(found, losses))
            values = losses.detach()
            state = balancer.after_step(state, values, values, ALL, TASKS, Step())
        module.step()
        state = balancer.after_epoch(state)
    assert_close(seen[0], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert seen[-1][2] < seen[-1][0], "the loss that falls fastest has the least weight"


def test_dwa_keeps_what_it_knows_of_a_task_without_labels():
    balancer = make("dwa")
    state = balancer.state(2)
    tasks, here = torch.arange(2), torch.tensor([True, False])
    for losses in (torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0])):
        state = balancer.after_step(state, losses, losses, here | True, tasks, Step())
        state = balancer.after_epoch(state)
    known = dict(state)
    losses = torch.tensor([1.0, 0.0])
    state = balancer.after_epoch(balancer.after_step(state, losses, losses, here, tasks, Step()))
    assert state["newer"][1] == known["newer"][1] == 2.0
    assert state["older"][1] == known["older"][1] == 4.0


def test_famo_is_torchjds_over_steps():
    balancer = make("famo", weight_lr=0.1, weight_pull=0.01)
    module = scalarization.FAMO(3, lr=0.1, weight_decay=0.01).double()
    state = {n: s.double() for n, s in balancer.state(3).items()}
    values = sequence(7)
    for before, after in pairwise(values):
        losses = before.clone().requires_grad_()
        found = balancer.combine(state, losses, ALL, TASKS)
        expected = module(losses)
        assert_close(found, expected)
        assert_close(slopes(found, losses), slopes(expected, losses))
        module.update(after)
        state = balancer.after_step(state, before, after, ALL, TASKS, Step())
        assert_close(state["logits"], module._w.detach())
    assert state["logits"].abs().max() > 0.1


def test_random_weights_are_a_softmax_of_normal_numbers_of_the_run():
    random, keys = make("random"), new_key(3)
    ones = torch.ones(5, requires_grad=True)
    here, tasks = torch.ones(5, dtype=torch.bool), torch.arange(5)

    def weights(step: int, key: torch.Tensor = keys) -> torch.Tensor:
        how = Step(True, fold(key, step))
        return slopes(random.combine({}, ones, here, tasks, how), ones)

    drawn = torch.stack([weights(step) for step in range(400)])
    assert_close(drawn.sum(1), torch.ones(400))
    assert torch.equal(drawn[7], weights(7))
    assert not torch.equal(drawn[7], weights(7, new_key(4)))
    # centred logarithms are centred normal numbers: variance (n − 1) / n
    centred = drawn.log() - drawn.log().mean(1, keepdim=True)
    assert centred.mean(0).abs().max() < 0.15
    assert centred.var().item() == pytest.approx(4 / 5, rel=0.1)
    assert_close(slopes(random.combine({}, ones, here, tasks), ones), torch.full((5,), 0.2))


@pytest.mark.parametrize("kind", LOSS_METHODS)
def test_equal_losses_weigh_alike_at_the_start_and_an_absent_task_not_at_all(kind):
    balancer = make(kind)
    params = balancer.init(3) | balancer.state(3)
    losses = torch.full((3,), 0.7, requires_grad=True)
    found = slopes(balancer.combine(params, losses, ALL, TASKS), losses)
    scale = 0.5 if kind == "uncertainty" else 1.0
    assert_close(found, torch.full((3,), scale / 3))
    some = torch.tensor([True, False, True])
    losses = torch.tensor([0.7, 0.0, 0.7], requires_grad=True)
    found = slopes(balancer.combine(params, losses, some, TASKS), losses)
    assert_close(found, torch.tensor([scale / 2, 0.0, scale / 2]))
    none = balancer.combine(params, losses, ~ALL, TASKS)
    assert none.item() == 0.0
    assert slopes(none, losses).isfinite().all()
