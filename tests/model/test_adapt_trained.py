"""Models that were trained in episodes: new tasks in the user's units get what the trainer gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from autometa.errors import UserError
from autometa.model import Model
from autometa.tasks import EpisodeShape, EpisodicSuite, TaskSuite, catalog
from autometa.tasks.encoder import TableEncoder
from autometa.tasks.images import ImageEncoder
from autometa.tasks.sinusoid import draw_sinusoids, sinusoid_episodes
from autometa.training.budget import epochs_in_steps
from autometa.training.population import Run, Trainer
from autometa.training.state import PopulationState
from tests.small import make_config


def train(
    suite: EpisodicSuite, epochs: int = 1, **values: Any
) -> tuple[Model, Trainer, Run, PopulationState]:
    flat = {"optimizer.lr": 1e-2, **values}
    if values["adaptation.kind"] == "amortized":
        flat["conditioning.kind"] = "multiplicative"
    run = Run(make_config(flat), 0)
    length = epochs_in_steps(suite, epochs)
    trainer = Trainer(suite, length, torch.device("cpu"))
    _, state = trainer.train([run], trainer.start([run]), length)
    return Model.of(suite, run.config, state, {"suite": suite.name}), trainer, run, state


def tables(tasks: int = 12, rows: int = 30, seed: int = 0) -> pd.DataFrame:
    """Tasks of their own slopes: `price` (far from 0), and `good`, its sign in words."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(tasks), rows)
    x = rng.normal(3.0, 2.0, (len(site), 2))
    price = (x * rng.normal(size=(tasks, 2))[site]).sum(1)
    good = np.where(
        x[:, 0] * rng.normal(size=tasks)[site] + rng.normal(size=len(x)) > 0, "good", "bad"
    )
    columns = {"a": x[:, 0], "b": x[:, 1] * 100, "site": [f"s{n}" for n in site]}
    return pd.DataFrame(columns).assign(price=500 + 80 * price, good=good)


def suite_of(kind: str) -> EpisodicSuite:
    shape = EpisodeShape(shots=6, queries=5)
    if kind == "sinusoid":
        return EpisodicSuite.from_suite(catalog.load("sinusoid"), shape)
    if kind == "columns":
        rng = np.random.default_rng(1)
        x = rng.normal(size=(60, 3))
        values = 10.0 ** np.arange(-3, 6) * (x @ rng.normal(size=(3, 9)) + 4)
        return EpisodicSuite.from_suite(TaskSuite.from_arrays(x, values), shape)
    if kind == "images":
        rng = np.random.default_rng(1)
        y = np.arange(240) % 12
        x = rng.normal(size=(240, 6, 5)) * 30 + 100 + 10 * y[:, None, None]
        whole = TaskSuite.from_arrays(x, y, kinds="multiclass", task=y // 4)
        return EpisodicSuite.from_suite(
            whole, EpisodeShape(ways=3, shots=2, queries=4), one_task=True
        )
    target, other = ("price", "good") if kind == "grouped" else ("good", "price")
    table = tables().drop(columns=other)
    return EpisodicSuite.from_suite(
        TaskSuite.from_frame(table, target=target, task_column="site"), shape
    )


def as_given(suite: EpisodicSuite, x: torch.Tensor) -> Any:
    """Encoded rows as the user has them."""
    encoder = suite.encoder
    if isinstance(encoder, ImageEncoder):
        return x.numpy() * encoder.std + encoder.mean
    assert isinstance(encoder, TableEncoder)
    raw = x.double().numpy() * encoder.scale + encoder.mean
    return pd.DataFrame(raw, columns=[column.name for column in encoder.columns])


@pytest.mark.parametrize(
    ("kind", "learner"),
    [
        ("sinusoid", "gradient"),
        ("grouped", "bayesian"),
        ("grouped", "finetune"),
        ("columns", "amortized"),
        ("columns", "reptile"),
        ("binary", "metric"),
        ("binary", "gradient"),
        ("images", "metric"),
        ("images", "finetune"),
    ],
)
def test_the_users_rows_give_what_the_trainer_gives(kind: str, learner: str, tmp_path) -> None:
    suite = suite_of(kind)
    values: dict[str, Any] = {"adaptation.kind": learner, "optimizer.batch_tasks": 100}
    if kind == "images":
        values["backbone.kind"] = "conv"
    trained, trainer, run, state = train(suite, **values)
    model = Model.load(trained.save(tmp_path))
    episodes = suite.episodes("val")
    wanted = trainer.predict_episodes([run], state, episodes)[0]
    for number in range(4):
        support, query = episodes.support, episodes.query
        y = support.y[number].double().numpy()
        if suite.kind == "regression":
            unit = float(episodes.std[number] * episodes.scale[number])
            mean = 7.0 if kind == "columns" else suite.target_mean
            labels: Any = y * unit + mean
        else:
            names = np.array(suite.labels or ("x", "y", "z"), dtype=object)
            labels = names[y.astype(int)]
        adapted = model.adapt(as_given(suite, support.x[number]), labels=labels)
        assert adapted.facts["adapted"]["notes"] == []
        mask = query.mask[number].numpy()
        rows = as_given(suite, query.x[number][query.mask[number]])
        out = wanted[number][mask]
        if suite.kind == "regression":
            found = adapted.predict(rows).iloc[:, 0]
            np.testing.assert_allclose((found - mean) / unit, out[:, 0], rtol=1e-3, atol=1e-4)
        elif suite.kind == "binary":
            found = adapted.predict(rows, proba=True).iloc[:, 1]
            np.testing.assert_allclose(found, 1 / (1 + np.exp(-out[:, 0])), atol=1e-4)
        else:
            found = adapted.predict(rows, proba=True).to_numpy()
            shares = torch.softmax(torch.from_numpy(out), 1).numpy()
            np.testing.assert_allclose(found, shares, atol=1e-4)


def test_what_a_grouped_suite_knows_of_every_task() -> None:
    suite = suite_of("grouped")
    model, *_ = train(suite, **{"adaptation.kind": "bayesian"})
    new = tables(1, 40, seed=9)
    adapted = model.adapt(new.head(10).drop(columns="good"))
    facts = adapted.facts["adapted"]
    assert (facts["target"], facts["task"], facts["rows"]) == ("price", "s0", 10)
    assert (adapted.tasks[0].mean, adapted.tasks[0].std) == (suite.target_mean, suite.target_std)
    assert list(adapted.predict(new, interval=0.8)) == ["price", "price_lower", "price_upper"]
    with pytest.raises(UserError, match="adapt it to a few labelled rows first"):
        model.predict(new)


@pytest.mark.slow
def test_ten_rows_say_more_than_training_did() -> None:
    """On tasks that were never seen, better than their mean; more rows than in training help."""
    suite = EpisodicSuite.from_suite(catalog.load("sinusoid"), EpisodeShape(shots=10, queries=10))
    config = {"adaptation.kind": "bayesian", "backbone.width": 40, "optimizer.batch_tasks": 25}
    model, *_ = train(suite, 6, **config)
    x, y = draw_sinusoids(20, 80, 0.0, np.random.default_rng(5))
    errors = {}
    for rows in (3, 10, 40):
        error = []
        for xs, ys in zip(x, y, strict=True):
            adapted = model.adapt(pd.DataFrame({"x0": xs[:rows], "y": ys[:rows]}))
            found = adapted.predict(pd.DataFrame({"x0": xs[40:]}))["y"]
            error.append(np.mean((found - ys[40:]) ** 2))
        errors[rows] = np.mean(error)
    assert errors[40] < errors[10] < errors[3]
    assert errors[10] < 0.5 * y.var()


@pytest.mark.slow
def test_intervals_hold_what_they_say() -> None:
    """Under noise that the model was trained on; the suite has no encoder."""
    shape = EpisodeShape(shots=10, queries=10)
    suite = sinusoid_episodes(2500, noise=0.3, shape=shape, held_out=(20, 20))
    config = {"adaptation.kind": "bayesian", "backbone.width": 40, "optimizer.batch_tasks": 25}
    model, *_ = train(suite, 4, **config)
    x, y = draw_sinusoids(60, 60, 0.3, np.random.default_rng(6))
    inside = {0.5: [], 0.9: []}
    for xs, ys in zip(x, y, strict=True):
        adapted = model.adapt(xs[:10, None], labels=ys[:10])
        for level, found in inside.items():
            ends = adapted.predict(xs[10:, None], interval=level)
            found.append((ends["y_lower"] < ys[10:]) & (ys[10:] < ends["y_upper"]))
    coverage = {level: float(np.mean(found)) for level, found in inside.items()}
    assert 0.85 < coverage[0.9] < 0.96, coverage
    assert 0.40 < coverage[0.5] < 0.65, coverage
