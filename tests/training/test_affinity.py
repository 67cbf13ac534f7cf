"""Gradients of tasks compared in training: by hand, on planted tasks, on training rows only."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autometa.errors import ConfigError, UserError
from autometa.networks import Step
from autometa.tasks import TaskSuite
from autometa.training import affinity as module
from autometa.training.affinity import Affinity, _Probe, task_affinity
from autometa.training.population import Run, Trainer
from tests.small import (
    double_precision,
    draw,
    in_double,
    in_steps,
    make_config,
    make_learner,
    make_suite,
)

CPU = torch.device("cpu")
DROPOUT = {"backbone.dropout": 0.3, "sharing.split_at": 1}


ONE_HEAD = {
    "head": "single_head",
    "conditioning.kind": "additive",
    "conditioning.at": "head",
}


def measured(suite: TaskSuite, **options: Any) -> Affinity:
    settings: dict[str, Any] = {"epochs": 2, "device": CPU} | options
    config = settings.pop("config", make_config(DROPOUT))
    spans = settings.pop("epochs")
    length = in_steps(suite, config, spans)
    return task_affinity(suite, config, max_steps=length, spans=spans, **settings)


def probe_of(suite: TaskSuite, values: dict[str, object]) -> _Probe:
    problem = Trainer(suite, 1, CPU).problem
    return _Probe(suite.rows("train"), problem, make_config(values), 0, {1: [0]}, True, CPU)


# --- one measurement, by hand


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
@pytest.mark.parametrize(
    "values",
    [
        {"sharing.split_at": 1},
        {"conditioning.kind": "multiplicative"},
        {"sharing.kind": "mtan"},
        {"sharing.kind": "deep_relation"},
    ],
    ids=["hard", "film", "mtan", "deep_relation"],
)
def test_a_measurement_is_what_autograd_gives_task_by_task(
    layout: str, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CELLS", 150)  # several chunks of lookahead points
    with double_precision():
        suite = in_double(make_suite(layout))
        probe = probe_of(suite, values)
        batch = probe.batch()
        learner = make_learner(probe_problem(suite), values)
        params, buffers = draw(learner)
        buffers = learner.init(torch.Generator().manual_seed(0))[1]
        cosine, change, loss = probe.measure(params, buffers, batch, 0.1)

        shared = [name for name, role in learner.roles().items() if role == "shared"]

        def losses(at: dict[str, Tensor]) -> Tensor:
            return learner.loss(at, buffers, batch, Step())[1]

        before = losses(params)
        torch.testing.assert_close(loss, before)
        n_tasks = suite.n_tasks
        grads = []
        for task in range(n_tasks):
            leaves = {n: p.clone().requires_grad_(n in shared) for n, p in params.items()}
            found = torch.autograd.grad(losses(leaves)[task], [leaves[n] for n in shared])
            grads.append(dict(zip(shared, found, strict=True)))
        flat = [torch.cat([g[n].flatten() for n in shared]) for g in grads]
        for i in range(n_tasks):
            ahead = {n: p - 0.1 * grads[i][n] if n in shared else p for n, p in params.items()}
            torch.testing.assert_close(change[i], 1 - losses(ahead) / before)
            for j in range(n_tasks):
                expected = torch.cosine_similarity(flat[i], flat[j], dim=0)
                torch.testing.assert_close(cosine[i, j], expected)


def probe_problem(suite: TaskSuite) -> Any:
    return Trainer(suite, 1, CPU).problem


def test_a_task_without_a_labelled_row_is_undefined() -> None:
    suite = make_suite("aligned")
    probe = probe_of(suite, {})
    params, buffers = draw(make_learner(probe_problem(suite)))
    batch = probe.batch()
    absent = batch._replace(mask=batch.mask & torch.tensor([[True], [False], [True]]))
    params = {name: leaf.float() for name, leaf in params.items()}
    cosine, change, loss = probe.measure(params, buffers, absent, 0.1)
    assert loss.isnan().tolist() == [False, True, False]
    for table in (cosine, change):
        assert table[1].isnan().all()
        assert table[:, 1].isnan().all()
        assert table[[0, 0, 2, 2], [0, 2, 0, 2]].isfinite().all()


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_a_measuring_batch_has_rows_of_every_task(layout: str) -> None:
    suite = make_suite(layout, rows=400)
    probe = probe_of(suite, {})
    rows = suite.rows("train")
    drawn = [probe.batch() for _ in range(2)]
    for batch in drawn:
        labelled = batch.mask.sum(1)
        assert labelled.min() >= module.ROWS
        assert labelled.max() < 2 * module.ROWS
        for task in range(suite.n_tasks):
            mine = rows.mask if rows.task is None else rows.task == task
            x = rows.x if rows.task is None else rows.x[mine]
            found = batch.x if rows.task is None else batch.x[task][batch.mask[task]]
            assert len(torch.unique(found, dim=0)) == len(found)  # without replacement
            assert all((row == x).all(1).any() for row in found)
    assert not torch.equal(drawn[0].x, drawn[1].x)


# --- through a training


def planted(layout: str, seed: int = 0, rows: int = 600) -> TaskSuite:
    """Two tasks that are nearly one, and one whose labels are permuted."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    signal = np.tanh(x @ rng.normal(size=4)) + x[:, 0] * x[:, 1]
    y = np.stack([signal, signal + 0.1 * rng.normal(size=rows), rng.permutation(signal)], 1)
    if layout == "aligned":
        return TaskSuite.from_arrays(x, y)
    task = np.arange(rows) % 3
    return TaskSuite.from_arrays(x, y[np.arange(rows), task], task=task)


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_related_tasks_help_each_other_more_than_an_adversary(layout: str) -> None:
    told: dict[str, dict[str, object]] = {"aligned": {}, "grouped": ONE_HEAD}
    found = measured(
        planted(layout),
        epochs=8,
        config=make_config({"backbone.width": 32, "optimizer.lr": 1e-2, **told[layout]}),
    )
    z, cosine = found.affinity, found.cosine[2:].mean(0)
    assert min(z[0, 1], z[1, 0]) > max(z[0, 2], z[2, 0], z[1, 2], z[2, 1])
    assert cosine[0, 1] > max(cosine[0, 2], cosine[1, 2]) + 0.1
    assert (np.diag(z) > 0).all()
    assert (found.loss[-1, :2] < 0.5 * found.loss[0, :2]).all()
    assert found.loss[-1, 2] > 0.5


def test_shapes_names_and_json() -> None:
    suite = make_suite("aligned")
    found = measured(suite, epochs=3, per_span=2)
    assert found.tasks == suite.task_names
    assert found.steps == tuple(in_steps(suite, make_config(DROPOUT), n) for n in (1, 2, 3))
    assert found.cosine.shape == (3, 3, 3)
    assert found.affinity.shape == (3, 3)
    assert found.loss.shape == (3, 3)
    np.testing.assert_allclose(found.cosine.diagonal(axis1=1, axis2=2), 1.0, rtol=1e-6)
    holed = dataclasses.replace(found, affinity=np.where(np.eye(3), np.nan, found.affinity))
    text = json.dumps(holed.to_json(), allow_nan=False)
    again = Affinity.from_json(json.loads(text))
    assert (again.tasks, again.steps) == (holed.tasks, holed.steps)
    for name in ("cosine", "affinity", "loss"):
        np.testing.assert_array_equal(getattr(again, name), getattr(holed, name))


@pytest.mark.parametrize("kind", ["hard", "deep_relation"])
@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_training_is_the_same_bit_by_bit_with_and_without_measuring(
    kind: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config({"backbone.dropout": 0.3, "sharing.kind": kind})
    suite = make_suite(layout)
    states = []
    train = Trainer.train

    def spy(self: Trainer, *args: Any, **options: Any) -> Any:
        out = train(self, *args, **options)
        states.append(out[1])
        return out

    monkeypatch.setattr(Trainer, "train", spy)
    measured(suite, config=config, seed=3)
    length = in_steps(suite, config, 2)
    trainer, runs = Trainer(suite, length, CPU), [Run(config, 3)]
    trainer.train(runs, trainer.start(runs), length)
    watched, plain = states
    assert torch.equal(watched.values, plain.values)
    for own, other in ((watched.slots, plain.slots), (watched.buffers, plain.buffers)):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_validation_and_test_rows_are_never_read(layout: str) -> None:
    suite = make_suite(layout)
    clean = measured(suite)
    val = suite.split == 1
    test = suite.open_test()
    poisoned = dataclasses.replace(
        suite,
        x=suite.x.masked_fill(val[:, None], torch.nan),
        y=suite.y.masked_fill(val if suite.is_grouped else val[:, None], torch.nan),
        _test=test._replace(x=test.x * torch.nan, y=test.y * torch.nan),
    )
    found = measured(poisoned)
    assert np.isfinite(clean.cosine).all()
    for name in ("cosine", "affinity", "loss"):
        np.testing.assert_array_equal(getattr(found, name), getattr(clean, name))


def test_cosines_alone_are_the_same_cosines() -> None:
    suite = make_suite("grouped")
    every, alone = measured(suite), measured(suite, lookahead=False)
    np.testing.assert_array_equal(alone.cosine, every.cosine)
    np.testing.assert_array_equal(alone.loss, every.loss)
    assert np.isnan(alone.affinity).all()
    assert np.isfinite(every.affinity).all()


def test_same_seed_same_numbers_and_another_seed_others() -> None:
    suite = make_suite("aligned")
    one, two, other = (measured(suite, seed=s).affinity for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    "values",
    [
        {"sharing.kind": "independent"},
        {"sharing.kind": "hard", "sharing.split_at": 0},
        {"sharing.kind": "soft"},
    ],
)
def test_tasks_that_share_nothing_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"Found `sharing.kind = {values['sharing.kind']}`"):
        measured(make_suite("aligned"), config=make_config(values))


def test_a_run_that_diverges_is_an_error() -> None:
    config = make_config({"optimizer.kind": "sgd", "optimizer.lr": 1e30, "optimizer.clip": 1e30})
    with pytest.raises(UserError, match=r"infinite or undefined.*Lower `optimizer.lr`"):
        measured(make_suite("aligned"), config=config)
