"""Runs that leave out a fold each, stacked: what they see, and where they are scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.baselines import PEERS, tune
from autometa.metrics import evaluate
from autometa.networks import Problem
from autometa.searching.finalists import Runs
from autometa.searching.units import run_unit
from autometa.tasks import TaskSuite
from autometa.tasks.folds import fold_numbers
from autometa.training.data import TrainingRows
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import PopulationState, Run, load_run
from tests.small import make_config
from tests.tasks.test_folds import FOLDS, aligned, grouped

CPU = torch.device("cpu")
CONFIG = make_config()


@pytest.mark.parametrize("make", [aligned, grouped])
def test_a_run_never_sees_its_fold(make) -> None:
    suite = make()
    fold = fold_numbers(suite, FOLDS)
    rows = TrainingRows(suite.merged().rows("train"), Problem.of(suite), CPU, fold)
    runs = [Run(CONFIG, 3, k) for k in range(FOLDS)]
    seen: list[set[int]] = [set() for _ in runs]
    for epoch in range(40):
        plan = rows.epoch(CONFIG.optimizer, runs, epoch)
        for k in range(FOLDS):
            seen[k] |= set(plan.rows[:, k][plan.valid[:, k]].flatten().tolist())
    for k in range(FOLDS):
        assert seen[k] == set(torch.nonzero(fold != k).flatten().tolist())


@pytest.mark.parametrize("make", [aligned, grouped])
def test_a_run_is_what_it_is_alone_on_a_suite_of_its_rows(make) -> None:
    """The same rows in the same order: a stack of folds is not another training."""
    suite: TaskSuite = make()
    fold = fold_numbers(suite, FOLDS)
    together = Trainer(suite, 40, CPU, fold=fold)
    runs = [Run(CONFIG, seed, k) for k, seed in enumerate([5, 6, 7, 8, 9])]
    results, state = together.train(runs, together.start(runs), 40)
    sizes = np.bincount(fold.numpy())
    k = int(sizes.argmax())  # of the fewest rows: those that say how long an epoch is
    split = torch.where(fold == k, 1, 0).to(torch.int8)
    own = replace(suite, split=split, _test=None)
    alone = Trainer(own, 40, CPU)
    one = [Run(CONFIG, runs[k].seed)]
    _, found = alone.train(one, alone.start(one), 40)
    torch.testing.assert_close(found.values[0], state.values[k], rtol=1e-4, atol=1e-5)
    specs = task_specs(suite)  # constants and units are those of the suite's own training rows
    rows = own.rows("val")
    task = None if rows.task is None else rows.task.numpy()
    outputs = alone.predict(one, found, rows)
    expected = evaluate(outputs, rows.y.numpy(), specs, mask=rows.mask.numpy(), task=task)
    assert results[k].value == pytest.approx(float(expected.value()[0]), abs=1e-4)


def test_a_unit_trains_each_seed_without_its_fold(tmp_path: Path) -> None:
    suite = aligned().without_test()
    suite.save(tmp_path / "suite")
    runs = Runs(tmp_path, suite.fingerprint, 30, "cpu", tuple(range(FOLDS)))
    unit = runs.unit("final", CONFIG.flat(), [4, 5, 6, 7, 8], keep=True)
    assert type(unit).from_json(unit.to_json()) == unit
    result = run_unit(unit)
    trainer = Trainer(suite, 30, CPU, fold=fold_numbers(suite, FOLDS))
    alike = [Run(CONFIG, seed, k) for k, seed in enumerate(unit.seeds)]
    expected, state = trainer.train(alike, trainer.start(alike), 30)
    assert [one.value for one in result.results] == [one.value for one in expected]
    kept = PopulationState.join([load_run(unit.checkpoint(n, 30)) for n in unit.names])
    assert torch.equal(kept.values, state.values)


@pytest.mark.parametrize("make", [aligned, grouped])
def test_a_peer_predicts_every_row_without_having_seen_it(make) -> None:
    suite = make()
    fold = fold_numbers(suite, FOLDS)
    tuned = tune("ridge", suite, seed=0, seconds=None, fold=fold)
    rows = suite.merged().rows("train")
    task = None if rows.task is None else rows.task.numpy()
    for one in range(FOLDS):
        left = fold == one
        fitted = PEERS["ridge"].fit(suite, tuned.setting, seed=0, rows=rows.take(~left))
        some = rows.take(left)
        own = None if some.task is None else some.task.numpy()
        expected = fitted.predict(some.x.numpy(), own)
        np.testing.assert_allclose(tuned.outputs[..., left.numpy(), :], expected, rtol=1e-5)
    whole = PEERS["ridge"].fit(suite, tuned.setting, seed=0, rows=rows)
    np.testing.assert_allclose(
        tuned.fitted.predict(rows.x.numpy(), task), whole.predict(rows.x.numpy(), task), rtol=1e-5
    )
    specs = task_specs(suite)
    found = evaluate(tuned.outputs, rows.y.numpy(), specs, mask=rows.mask.numpy(), task=task)
    assert tuned.value == pytest.approx(float(found.value()))
