"""Costs as they are counted and measured, and the fronts that scores and costs form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autometa.networks import Problem
from autometa.searching.costs import costs_of, parameter_count
from autometa.searching.units import UnitResult, WorkUnit, run_unit
from autometa.study import (
    pareto_front,
    visible_trials,
)
from autometa.training import scoring
from autometa.training.population import Trainer
from autometa.training.state import Run
from autometa.trial import TrialConfig
from tests.searching.support import finished, small_suite


def test_front_is_what_nothing_beats() -> None:
    rng = np.random.default_rng(0)
    points = [(float(a), float(b)) for a, b in rng.integers(0, 12, (60, 2))]
    trials = [finished(n, a, None, b) for n, (a, b) in enumerate(points)]
    trials.append(finished(60, 99.0, 0.1, -1.0))  # breaks its bound
    beaten = {
        n
        for n, (a, b) in enumerate(points)
        for c, d in points
        if c >= a and d <= b and (c, d) != (a, b)
    }
    front = pareto_front(trials)
    assert {t.number for t in front} == set(range(60)) - beaten
    assert [t.values[1] for t in front] == sorted(t.values[1] for t in front)
    equal = finished(61, *front[0].values[:1], None, *front[0].values[1:])
    assert {t.number for t in pareto_front([*trials, equal])} == {t.number for t in front} | {61}


def test_samplers_are_shown_whole_fronts_first() -> None:
    trials = [finished(n, float(n), None, float(n)) for n in range(6)]  # one front
    trials += [finished(n, n - 100.0, None, n + 100.0) for n in range(6, 40)]
    trials += [finished(40, 200.0, 0.5, 0.0)]  # best of all, but breaks a bound
    shown = [t.number for t in visible_trials(trials, "sharing", 12)]
    assert shown == [*range(6), *range(35, 41)]


def test_parameters_counted_by_hand() -> None:
    problem = Problem(
        layout="aligned",
        feature_shape=(4,),
        kinds=("regression", "regression", "binary"),
        n_outputs=(1, 1, 1),
    )
    first, block, head = 4 * 8 + 8, 8 * 8 + 8, 8 + 1
    plain = {"backbone.width": 8, "backbone.depth": 2, "backbone.norm": "none"}

    def count(**values: Any) -> int:
        return parameter_count(TrialConfig.from_flat({**plain, **values}), problem)

    assert count(**{"sharing.split_at": 2}) == first + block + 3 * head
    assert count(**{"sharing.split_at": 1}) == first + 3 * block + 3 * head
    assert count(**{"sharing.kind": "independent"}) == 3 * (first + block + head)
    # weights of the losses are trained, but are no part of the network
    assert count(**{"sharing.split_at": 2, "balancing.kind": "uncertainty"}) == (
        first + block + 3 * head
    )


def test_units_say_the_cost_of_what_is_trained_to_the_end(tmp_path: Path) -> None:
    suite = small_suite()
    suite.without_test().save(tmp_path / "suite")
    configs = tuple(
        TrialConfig.from_flat({"backbone.width": 4, "optimizer.lr": lr}).flat() for lr in (1e-3, 1)
    )
    unit = WorkUnit(
        ("0", "1"), configs, (0, 1), 0, 1, 2, str(tmp_path / "suite"), suite.fingerprint,
        str(tmp_path), cost="parameters",
    )  # fmt: skip
    assert [r.cost for r in run_unit(unit).results] == [None, None]
    full = WorkUnit.from_json({**unit.to_json(), "from_step": 0, "to_step": 2})
    result = UnitResult.from_json(run_unit(full).to_json())
    expected = parameter_count(TrialConfig.from_flat(configs[0]), Problem.of(suite))
    assert [r.cost for r in result.results] == [expected, expected]


@pytest.mark.parametrize("rows", [60, 9000])
def test_inference_time_is_of_a_thousand_rows(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(small_suite(rows=rows).without_test(), 1, torch.device("cpu"))
    runs = [Run(TrialConfig.from_flat({"backbone.width": 4}), seed) for seed in (0, 1)]
    state, seen = trainer.start(runs), []
    predict = scoring.predict

    def spy(learner: Any, params: Any, buffers: Any, x: Any, *more: Any) -> Any:
        seen.append((len(next(iter(params.values()))), len(x)))
        return predict(learner, params, buffers, x, *more)

    monkeypatch.setattr(scoring, "predict", spy)
    found = costs_of("inference-time", trainer, runs, state)
    assert set(seen) == {(1, 1000)}
    assert all(0 < ms < 1000 for ms in found)
