"""GradNorm's equations by hand, and the two toys of `scripts/reproduce_balancing.py` in short."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from autometa.balancing import BALANCING, View
from autometa.learners import LEARNERS

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce_balancing.py"


def make(**settings: float) -> Any:
    entry = BALANCING["gradnorm"]
    return entry(entry.Config(**settings))


def view(balancer: Any, losses: Tensor, norms: Tensor) -> View:
    rates = {"asymmetry": balancer.config.asymmetry, "weight_lr": balancer.config.weight_lr}
    return View(losses, torch.arange(len(losses)), norms.square().diag(), rates, 0)


def test_weights_move_along_the_gradient_of_the_papers_loss():
    balancer = make(asymmetry=0.7, weight_lr=0.1)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.Adam([logits], lr=0.1)
    state = {n: s.double() for n, s in balancer.state(3).items()}
    generator = torch.Generator().manual_seed(0)
    first = None
    for _ in range(5):
        losses, norms = torch.rand(2, 3, generator=generator, dtype=torch.float64) + 0.2
        first = losses if first is None else first
        weights = 3 * logits.softmax(0)
        G = weights * norms
        inverse_rate = losses / first
        relative = inverse_rate / inverse_rate.mean()
        target = (G.mean() * relative**0.7).detach()
        theirs.zero_grad()
        (G - target).abs().sum().backward()
        theirs.step()
        found, state = balancer.balance(view(balancer, losses, norms), state)
        assert found is None
        assert_close(state["logits"], logits.detach(), rtol=1e-6, atol=1e-7)
        assert_close(state["first"], first)


def test_combines_with_its_weights():
    balancer = make()
    state = balancer.state(2) | {"logits": torch.tensor([0.0, 1.0])}
    losses = torch.tensor([1.0, 2.0])
    total = balancer.combine(state, losses, losses > 0, torch.arange(2))
    share = torch.tensor([0.0, 1.0]).softmax(0)
    assert_close(total, (share * losses).sum())


def test_steep_and_fast_tasks_lose_weight():
    balancer = make(asymmetry=1.0)
    state = balancer.state(3)
    same = torch.ones(3)
    for _ in range(200):  # equal rates: norms alone
        _, state = balancer.balance(view(balancer, same, torch.tensor([9.0, 3.0, 1.0])), state)
    weights = 3 * state["logits"].softmax(0)
    assert_close(weights * torch.tensor([9.0, 3.0, 1.0]), weights[2].expand(3), rtol=0.1, atol=0)
    state = balancer.state(2)
    _, state = balancer.balance(view(balancer, same[:2], same[:2]), state)
    for _ in range(20):  # equal norms: the second task has learned more
        _, state = balancer.balance(view(balancer, torch.tensor([0.9, 0.1]), same[:2]), state)
    assert state["logits"][0] > state["logits"][1]


@pytest.fixture(scope="module")
def script() -> Any:
    before = set(LEARNERS)
    yield runpy.run_path(str(SCRIPT))
    for kind in set(LEARNERS) - before:
        del LEARNERS[kind]


@pytest.mark.slow
def test_gradnorm_toy(script: Any):
    """Ten tasks with loss scales 1 to 100."""
    found = script["gradnorm_toy"](["equal", "gradnorm"], steps=300)
    weights = found["gradnorm"]["weights"]
    assert sum(weights) == pytest.approx(10.0, rel=1e-4)
    assert weights == sorted(weights, reverse=True), "weights move against the scales"
    assert weights[0] > 20 * weights[-1]
    assert found["gradnorm"]["mean"] < 0.8 * found["equal"]["mean"]


@pytest.mark.slow
def test_two_quadratics_in_conflict(script: Any):
    """One task 100 times as steep: equal weights end at its optimum."""
    toy = script["quadratic_conflict"]
    equal, upgrad, fairgrad = (toy(kind, 140) for kind in ("equal", "upgrad", "fairgrad"))
    assert equal["off_pareto"] < 0.01
    assert equal["regret"][0] < 0.001
    assert equal["regret"][1] > 0.9
    assert upgrad["off_pareto"] < 0.1
    assert upgrad["regret"][1] < 0.8
    assert upgrad["rise"] < 1e-3 < equal["rise"], "no task's loss rises"
    assert fairgrad["off_pareto"] < 0.1
    assert max(fairgrad["regret"]) < 0.5
