"""A scikit-learn model as a delivered model: what networks do with tables, it does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autometa.api.earlier import Unfit, read_model
from autometa.errors import UserError
from autometa.metrics import evaluate
from autometa.model import Model, PeerModel, calibrate, load_model
from autometa.tasks import TaskSuite
from autometa.training.scoring import task_specs
from tests.model.test_conformal import numbers_suite
from tests.model.test_model import train
from tests.small import make_suite, make_table
from tests.stub_peer import MODULES, StubPeer


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)


def make_peer(suite: TaskSuite) -> PeerModel:
    rows, fitted = suite.rows("val"), StubPeer.fit(suite)
    task = None if rows.task is None else rows.task.numpy()
    calibration = calibrate(
        fitted.predict(rows.x.numpy(), task)[None],
        rows.y.numpy(),
        task_specs(suite),
        mask=rows.mask.numpy(),
        task=task,
    )
    return PeerModel.of(suite, fitted, {"suite": suite.name, "study": "s"}, calibration)


@pytest.mark.parametrize("kind", ["aligned", "grouped"])
def test_the_frames_are_those_of_a_network(kind):
    suite = make_suite(kind)
    table = make_table(20, seed=9).set_index(pd.Index(range(100, 120)))
    peer, network = make_peer(suite), train(suite)
    for options in ({}, {"proba": True}):
        found, expected = peer.predict(table, **options), network.predict(table, **options)
        assert list(found) == list(expected)
        assert found.index.equals(expected.index)
        assert (found.dtypes == expected.dtypes).all()
        pd.testing.assert_frame_equal(found.isna(), expected.isna())


def test_values_are_the_estimators():
    suite = make_suite()
    peer, table = make_peer(suite), make_table(20, seed=9)
    x = peer.encoder.encode(table).numpy()
    found = peer.predict(table)
    standardised = peer.fitted.estimators["task-0"].predict(x)
    np.testing.assert_allclose(found["size"], peer.tasks[0].restore(standardised), rtol=1e-5)
    nearest = peer.fitted.estimators["task-1"].predict(x).round().clip(0, 2).astype(int)
    assert found["species"].tolist() == [peer.tasks[1].classes[n] for n in nearest]


@pytest.mark.parametrize("kind", ["aligned", "grouped"])
def test_outputs_are_those_that_metrics_are_computed_from(kind):
    suite = make_suite(kind)
    rows, peer = suite.rows("val"), make_peer(suite)
    task = None if rows.task is None else rows.task.numpy()
    own = peer.fitted.predict(rows.x.numpy(), task)
    found, y, mask = peer.outputs(rows.x, rows.task), rows.y.numpy(), rows.mask.numpy()
    assert found.shape == own.shape
    specs = task_specs(suite)
    values = [evaluate(o, y, specs, mask=mask, task=task).value() for o in (found, own)]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


@pytest.mark.parametrize("kind", ["aligned", "grouped"])
def test_save_and_load(kind, tmp_path):
    peer, table = make_peer(make_suite(kind)), make_table(20, seed=9)
    again = load_model(peer.save(tmp_path / "new" / "peer"))
    assert isinstance(again, PeerModel)
    assert sorted(p.name for p in (tmp_path / "new" / "peer").iterdir()) == [
        "estimators.skops",
        "model.json",
    ]
    facts = json.loads((tmp_path / "new" / "peer" / "model.json").read_text())
    assert (facts["format"], facts["kind"], facts["words"]) == (2, "peer", StubPeer.words)
    assert (again.tasks, again.facts, again.inputs) == (peer.tasks, peer.facts, peer.inputs)
    assert again.facts["inference_seconds_per_1000_rows"] > 0
    assert again.calibration == peer.calibration
    for options in ({}, {"proba": True}):
        pd.testing.assert_frame_equal(
            again.predict(table, **options), peer.predict(table, **options)
        )


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals(grouped):
    suite, new = numbers_suite(grouped)
    found = make_peer(suite).predict(new, interval=0.9)
    name = "prediction" if grouped else "price"
    assert [c for c in found if c.startswith(name)] == [name, f"{name}_lower", f"{name}_upper"]
    inside = new["price"].between(found[f"{name}_lower"], found[f"{name}_upper"])
    assert abs(inside.mean() - 0.9) < 0.05


def test_what_takes_a_network(tmp_path):
    peer = make_peer(make_suite())
    with pytest.raises(UserError, match=r"cannot take a new task: it is no network \(ridge"):
        peer.adapt(make_table(5))
    with pytest.raises(UserError, match=r"no `nn.Module`: it is no network \(ridge"):
        peer.module()
    path = peer.save(tmp_path / "peer")
    with pytest.raises(UserError, match="is no network .*ridge.*network is needed here"):
        Model.load(path)
    with pytest.raises(Unfit, match=r"^it is no network \(ridge regression, one a task\)$"):
        read_model(path)


class TestLoadErrors:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        return make_peer(make_suite()).save(tmp_path / "peer")

    def test_a_kind_of_later_versions(self, saved: Path):
        facts = json.loads((saved / "model.json").read_text())
        (saved / "model.json").write_text(json.dumps({**facts, "kind": "forest"}))
        with pytest.raises(UserError, match="of kind `forest`; this version reads network, peer"):
            load_model(saved)

    def test_what_is_missing(self, saved: Path):
        facts = json.loads((saved / "model.json").read_text())
        del facts["layout"]
        (saved / "model.json").write_text(json.dumps(facts))
        with pytest.raises(UserError, match="no layout in"):
            load_model(saved)
