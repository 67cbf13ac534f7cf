"""How a population is cut where the task gradients of all runs would not fit."""

from __future__ import annotations

import pytest
import torch

from autometa.learners import Batch
from autometa.training import balancing
from autometa.training.balancing import Balancing
from autometa.training.state import Run
from autometa.trial import TrialConfig, build
from tests.small import make_problem


@pytest.mark.parametrize(("n_runs", "fit"), [(3, 2), (7, 3), (5, 1), (2, 1), (1, 1), (6, 9)])
def test_no_part_has_one_run_beside_others(
    n_runs: int, fit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem("aligned")
    config = TrialConfig.from_flat({"backbone.width": 8, "balancing.kind": "mgda"})
    learner = build(config, problem)
    leaves = {n: v[None] for n, v in learner.init(torch.Generator())[0].items()}
    found = Balancing(learner, [Run(config, k) for k in range(n_runs)], leaves)
    tasks = torch.arange(problem.n_tasks).expand(n_runs, -1)
    batch = Batch(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), tasks)
    monkeypatch.setattr(balancing, "MAX_BYTES", fit * found._bytes * problem.n_tasks)
    sizes = [part.stop - part.start for part in found.parts(batch)]
    assert sum(sizes) == n_runs
    assert min(sizes) >= min(2, n_runs)
    assert max(sizes) <= max(fit, 3)
