"""Several networks as one model: what they predict together, in the user's labels and units."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from autometa.ensembles import combine
from autometa.errors import DataError
from autometa.model import Model, calibrate, inference_seconds, load_model
from autometa.tasks import TaskSuite
from autometa.training.population import Run, Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import PopulationState
from tests.meta_models import SURE_OF_NUMBERS, make_images, make_meta
from tests.small import IMAGE, make_config, make_suite, make_table

DATA = Path(__file__).with_name("data")


def train_ensemble(
    suite: TaskSuite, members: int = 3, **values: object
) -> tuple[Model, Trainer, list[Run], PopulationState]:
    flat = {name.replace("__", "."): value for name, value in values.items()}
    config = make_config({"optimizer.lr": 1e-2, **flat})
    runs = [Run(config, seed) for seed in range(members)]
    trainer = Trainer(suite, 2, torch.device("cpu"))
    _, state = trainer.train(runs, trainer.start(runs), 2)
    rows = suite.rows("val")
    calibration = calibrate(
        trainer.predict(runs, state, rows),
        rows.y.numpy(),
        task_specs(suite),
        mask=rows.mask.numpy(),
        task=None if rows.task is None else rows.task.numpy(),
    )
    made = Model.of(suite, config, state, {"suite": suite.name}, calibration)
    return made, trainer, runs, state


def only(model: Model, number: int) -> Model:
    """One member as a model of its own."""
    return dataclasses.replace(
        model,
        params={name: leaf[[number]] for name, leaf in model.params.items()},
        buffers={name: leaf[[number]] for name, leaf in model.buffers.items()},
    )


KINDS = {
    "aligned": ("aligned", {"conditioning__kind": "concat"}),
    "grouped": ("grouped", {}),
    "images": ("image", {"backbone__kind": "conv"}),
    "tokens": ("aligned", {"backbone__kind": "transformer", "sharing__kind": "mtan"}),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest) -> tuple[str, Model, Trainer, list[Run], object]:
    kind, values = KINDS[request.param]
    return (request.param, *train_ensemble(make_suite(kind), **values))


def table_for(kind: str, rows: int = 20) -> pd.DataFrame | np.ndarray:
    if kind == "images":
        return np.random.default_rng(0).normal(size=(rows, *IMAGE)).astype(np.float32)
    return make_table(rows, seed=9)


def test_every_run_is_a_member(trained):
    kind, model, trainer, _, state = trained
    assert model.members == model.facts["members"] == 3
    one = trainer.start([Run(model.config, 0)])
    assert model.n_parameters == model.facts["parameters"] == 3 * one.values.shape[1]
    assert model.facts["inference_seconds_per_1000_rows"] > 0
    single = Model.of(make_suite(KINDS[kind][0]), model.config, state.select([0]), {})
    assert single.members == 1


def test_members_predict_as_the_population_that_was_trained(trained):
    kind, model, trainer, runs, state = trained
    suite = make_suite(KINDS[kind][0])
    rows = suite.rows("val")
    task = None if rows.task is None else rows.task.numpy()
    together = combine(trainer.predict(runs, state, rows), task_specs(suite), task)
    found = model.outputs(rows.x, rows.task)
    np.testing.assert_allclose(found, together, rtol=1e-4, atol=1e-5)


def test_outputs_need_the_rows_that_the_model_knows(trained):
    kind, model, *_ = trained
    x = torch.zeros(3, *model.feature_shape)
    task = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(DataError, match=r"`x` should have rows of shape .* shape \(2, 2, 2\)"):
        model.outputs(torch.zeros(3, 2, 2, 2), task if kind == "grouped" else None)
    if kind == "grouped":
        with pytest.raises(DataError, match="`task` should say the task of each row"):
            model.outputs(x)
    else:
        with pytest.raises(DataError, match="`task` should be left out"):
            model.outputs(x, task)


def test_means_of_the_members(trained):
    kind, model, *_ = trained
    table = table_for(kind)
    found = model.predict(table, proba=True)
    singles = [only(model, number).predict(table, proba=True) for number in range(3)]
    assert not singles[0].equals(singles[1])
    for name in found:
        if name != "site":
            mean = np.mean([one[name] for one in singles], axis=0)
            np.testing.assert_allclose(found[name], mean, rtol=1e-4, atol=1e-5)


def test_save_and_load(trained, tmp_path):
    kind, model, *_ = trained
    table = table_for(kind)
    again = load_model(model.save(tmp_path / "model"))
    assert isinstance(again, Model)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "model.json",
        "weights.safetensors",
    ]
    assert (again.members, again.facts, again.calibration) == (3, model.facts, model.calibration)
    pd.testing.assert_frame_equal(again.predict(table), model.predict(table))
    if kind != "grouped":
        pd.testing.assert_frame_equal(
            again.predict(table, interval=0.5), model.predict(table, interval=0.5)
        )


def test_module_is_predict(trained):
    kind, model, *_ = trained
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(9, *model.feature_shape))).float()
    module = model.module()
    grouped = kind == "grouped"
    numbers = torch.full((9,), 1) if grouped else None
    out = module(x[None], torch.tensor([1]))[0] if grouped else module(x)
    found = model._read(x, numbers, range(len(model.tasks)), None).out
    np.testing.assert_allclose(out.detach().numpy(), found, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in module.parameters()) == model.n_parameters
    out[out.isfinite()].sum().backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    again = model.module()
    again.load_state_dict(module.state_dict())


@pytest.mark.parametrize("kind", ["aligned", "grouped"])
def test_a_row_does_not_depend_on_the_others(kind):
    """But for the last bits, which matrix products of another size may change; and is the same
    when it is asked for again."""
    suite = make_suite(kind)
    model, *_ = train_ensemble(suite)
    table = make_table(64, seed=3)
    every = model.predict(table, proba=True)
    some = model.predict(table.iloc[:24], proba=True)
    for name in some:
        if name != "site":
            np.testing.assert_allclose(some[name], every[name][:24], rtol=1e-5)
    pd.testing.assert_frame_equal(model.predict(table, proba=True), every)


def test_five_members_cost_no_more_than_five_times_one():
    suite = make_suite()
    five, *_ = train_ensemble(suite, members=5, backbone__width=64)
    one = only(five, 0)
    x = 3000
    # in turns, so that what else the machine does meets both
    times = [[inference_seconds(model, x) for model in (five, one)] for _ in range(10)]
    fastest = np.min(times, axis=0)
    assert fastest[0] <= 5 * fastest[1] + 0.02
    began = time.perf_counter()
    five.predict(make_table(x))
    assert time.perf_counter() - began < 5


class TestFormat1:
    """Models that were written before a model had members."""

    def test_many_tasks(self):
        model = load_model(DATA / "format1")
        assert isinstance(model, Model)
        assert json.loads((DATA / "format1" / "model.json").read_text())["format"] == 1
        assert (model.members, model.calibration) == (1, None)
        expected = pd.read_csv(DATA / "format1" / "predictions.csv")
        found = model.predict(make_table(6, seed=9), proba=True)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5)

    def test_an_adapted_task(self, tmp_path):
        model = Model.load(DATA / "format1_adapted")
        expected = pd.read_csv(DATA / "format1_adapted" / "predictions.csv")
        found = model.predict(make_table(6, seed=9), interval=0.9)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5)
        again = Model.load(model.save(tmp_path))
        assert json.loads((tmp_path / "model.json").read_text())["format"] == 2
        pd.testing.assert_frame_equal(again.predict(make_table(6), interval=0.9),
                                      model.predict(make_table(6), interval=0.9))  # fmt: skip


class TestEpisodes:
    @pytest.mark.parametrize("kind", SURE_OF_NUMBERS)
    def test_every_member_adapts_and_intervals_are_of_their_mixture(self, kind, tmp_path):
        model = make_meta(kind, members=3)
        rows, new = make_table(14)[["a", "b", "c", "size"]].dropna(), make_table(9, seed=5)
        adapted = model.adapt(rows)
        assert adapted.members == 3
        singles = [only(model, number).adapt(rows) for number in range(3)]
        level = 2 * norm.cdf(1) - 1  # one standard deviation
        found = adapted.predict(new, interval=level)
        alone = [one.predict(new, interval=level) for one in singles]
        means = np.stack([one["size"] for one in alone])
        np.testing.assert_allclose(found["size"], means.mean(0), rtol=1e-5)
        variance = np.stack([(one["size_upper"] - one["size"]) ** 2 for one in alone])
        reach = np.sqrt(variance.mean(0) + means.var(0))
        np.testing.assert_allclose(found["size_upper"] - found["size"], reach, rtol=1e-4)
        np.testing.assert_allclose(found["size"] - found["size_lower"], reach, rtol=1e-4)
        again = Model.load(adapted.save(tmp_path))
        pd.testing.assert_frame_equal(again.predict(new, interval=0.9),
                                      adapted.predict(new, interval=0.9))  # fmt: skip
        fit = adapted.facts["adapted"]["fit"]["rmse"]
        error = adapted.predict(rows)["size"] - rows["size"]
        assert fit == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
        out = adapted.module()(adapted.encoder.encode(new)).detach().numpy()
        np.testing.assert_allclose(adapted.tasks[0].restore(out[0, :, 0]), found["size"], rtol=1e-5)

    def test_classes(self):
        model = make_meta("metric", "species", images=True, members=2)
        x, y = make_images()
        new = make_images(7, seed=1)[0]
        found = model.adapt(x, labels=y).predict(new, proba=True)
        alone = [only(model, n).adapt(x, labels=y).predict(new, proba=True) for n in range(2)]
        np.testing.assert_allclose(found, (alone[0] + alone[1]) / 2, rtol=1e-5, atol=1e-7)
