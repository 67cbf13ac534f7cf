"""Gradients task by task, against the same quantities written out by hand."""

from __future__ import annotations

import torch

from autometa.training.gradients import task_gradients


def test_gradients_of_linear_losses_are_their_coefficients() -> None:
    generator = torch.Generator().manual_seed(0)
    n_runs, n_tasks = 3, 4
    a = torch.randn(n_runs, 2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(n_runs, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    on_a = torch.randn(n_runs, n_tasks, 2, 5, generator=generator, dtype=torch.float64)
    on_b = torch.randn(n_runs, n_tasks, 3, generator=generator, dtype=torch.float64)
    losses = torch.einsum("kij,ktij->kt", a, on_a) + torch.einsum("ki,kti->kt", b, on_b)
    found = task_gradients(losses, [a, b])
    expected = torch.cat([on_a.flatten(2), on_b], dim=2)
    torch.testing.assert_close(found, expected)


def test_a_leaf_that_no_loss_reaches_counts_as_zero() -> None:
    used = torch.ones(2, 3, requires_grad=True)
    unused = torch.ones(2, 1, requires_grad=True)
    found = task_gradients(used.sum(1, keepdim=True), [used, unused])
    assert found.tolist() == [[[1.0, 1.0, 1.0, 0.0]]] * 2
