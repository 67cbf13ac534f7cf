"""The balancer inside the trainer: parts of a population, slots of one task, failing runs."""

from __future__ import annotations

import pytest
import torch

from autometa.balancing import BALANCING, GradientBalancer, Unsolvable
from autometa.training import balancing
from autometa.training.balancing import balance_gradients
from autometa.training.population import Run, Trainer
from tests.small import make_config, make_suite


def make(kind: str) -> GradientBalancer:
    entry = BALANCING[kind]
    found = entry(entry.Config())
    assert isinstance(found, GradientBalancer)
    return found


def change(kind: str, jacobian: torch.Tensor, present: torch.Tensor, tasks: torch.Tensor):
    """Of one run."""
    ones, keys = torch.ones(1, len(tasks), dtype=jacobian.dtype), torch.zeros(1, dtype=torch.int32)
    found, _ = balance_gradients(
        make(kind), jacobian[None], ones, present[None], tasks[None], {}, keys, [{}]
    )
    return found[0]


def rows(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["mgda", "upgrad", "config"])
def test_slots_of_one_task_are_one_task(kind):
    J = rows(4)
    tasks = torch.tensor([5, 2, 5, 7])
    merged = torch.stack([J[1], (J[0] + J[2]) / 2, J[3]])
    here = torch.ones(4, dtype=torch.bool)
    found = change(kind, J, here, tasks) + J.mean(0)
    expected = change(kind, merged, here[:3], torch.arange(3)) + merged.mean(0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["mgda", "upgrad", "config"])
def test_a_task_without_labels_is_not_seen(kind):
    J = rows(3)
    J[1] = 0.0
    here = torch.tensor([True, False, True])
    found = change(kind, J, here, torch.arange(3))
    expected = change(kind, J[[0, 2]], here[[0, 2]], torch.arange(2))
    torch.testing.assert_close(found, expected)
    assert not change(kind, J * 0, ~here & here, torch.arange(3)).any()


def test_gradients_that_are_not_finite_are_one_runs_matter():
    J = torch.stack([rows(2), rows(2) * torch.inf, rows(2, seed=1)])
    here = torch.ones(3, 2, dtype=torch.bool)
    tasks = torch.arange(2).expand(3, -1)
    keys = torch.zeros(3, dtype=torch.int32)
    ones = torch.ones(3, 2, dtype=torch.float64)
    found, _ = balance_gradients(make("upgrad"), J, ones, here, tasks, {}, keys, [{}] * 3)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_a_problem_that_is_not_solved_takes_equal_weights(monkeypatch):
    def give_up(*args: object) -> None:
        raise Unsolvable

    monkeypatch.setattr(BALANCING["mgda"], "balance", give_up)
    assert not change("mgda", rows(2), torch.ones(2, dtype=torch.bool), torch.arange(2)).any()


@pytest.mark.parametrize("kind", ["upgrad", "gradvac", "graddrop"])
def test_a_population_in_parts_is_the_population(kind, monkeypatch):
    suite = make_suite()
    runs = [Run(make_config({"balancing.kind": kind}), seed) for seed in range(5)]
    trainer = Trainer(suite, 6, torch.device("cpu"))
    whole, state = trainer.train(runs, trainer.start(runs), 6)
    seen = []
    real = balancing.task_gradients
    monkeypatch.setattr(balancing, "MAX_BYTES", 3000)
    monkeypatch.setattr(
        balancing, "task_gradients", lambda *a: (seen.append(len(a[0])), real(*a))[1]
    )
    found, cut = trainer.train(runs, trainer.start(runs), 6)
    assert 1 <= max(seen) < 5
    torch.testing.assert_close(cut.values, state.values)
    assert cut.buffers.keys() == state.buffers.keys()
    assert [r.value for r in found] == pytest.approx([r.value for r in whole], abs=1e-4)
