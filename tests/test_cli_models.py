"""`train --ensemble`, and `predict` with what it leaves and with scikit-learn models."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import autometa
from autometa.cli import app
from autometa.errors import UserError
from autometa.model import Model, PeerModel
from tests.small import make_suite, make_table
from tests.stub_peer import MODULES, StubPeer

CONFIG = {"backbone.width": 8, "backbone.depth": 2, "optimizer.lr": 0.01}


def run(home: Path, *words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--home", str(home)])


def refused(result: Result) -> str:
    """The one sentence of an error."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    make_table(300)[["a", "b", "c", "size", "sold"]].to_csv(path, index=False)
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    make_table(12, seed=5).to_csv(path, index=False)
    return path


def test_an_ensemble_and_its_intervals(tmp_path: Path, table: Path, new: Path) -> None:
    words = ["train", table, "--targets", "size,sold", "--max-epochs", 2, "--device", "cpu"]
    words += [part for name, value in CONFIG.items() for part in ("--set", f"{name}={value}")]
    out = tmp_path / "model"
    result = run(tmp_path, *words, "--ensemble", 3, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    model = autometa.load_model(out)
    assert isinstance(model, Model)
    assert model.members == 3
    assert model.facts["validation_score"] == json.loads(result.stdout)["value"]
    printed = run(tmp_path, "predict", out, new, "--interval", "0.8")
    found = pd.read_csv(StringIO(printed.stdout))
    assert list(found) == ["size", "size_lower", "size_upper", "sold"]
    pd.testing.assert_frame_equal(found, model.predict(pd.read_csv(new), interval=0.8))
    told = refused(run(tmp_path, "predict", out, new, "--tasks", "sold", "--interval", "0.8"))
    assert told == (
        "Error: Parameter `interval` is for numbers; `sold` has classes, use `proba`. "
        "Found `interval = 0.8`."
    )
    told = refused(run(tmp_path, *words, "--ensemble", 0, "--out", out))
    assert "`--ensemble` should be at least 1. Found `0`." in told


def test_members_are_the_next_seeds(tmp_path: Path) -> None:
    suite, options = make_suite(rows=200), {"max_epochs": 2, "home": tmp_path, "device": "cpu"}
    both = autometa.train(suite, CONFIG, seed=4, ensemble=2, **options)
    singles = [autometa.train(suite, CONFIG, seed=4 + n, **options) for n in range(2)]
    model, *alone = (autometa.load_model(found.model) for found in (both, *singles))
    table = make_table(30, seed=9)
    means = [one.predict(table, proba=True) for one in alone]
    np.testing.assert_allclose(
        model.predict(table, proba=True), (means[0] + means[1]) / 2, rtol=1e-4, atol=1e-5
    )
    assert model.facts["seed"] == 4
    assert set(both.tasks) == {"size", "species", "sold"}
    with pytest.raises(UserError, match=rf"between 0 and {2**32 - 2}. Found `seed = {2**32 - 1}`"):
        autometa.train(suite, CONFIG, seed=2**32 - 1, ensemble=2, **options)
    with pytest.raises(UserError, match=r"`ensemble` should be at least 1. Found `ensemble = 0`"):
        autometa.train(suite, CONFIG, ensemble=0, **options)


def test_an_ensemble_of_episodes_is_scored_together(tmp_path: Path) -> None:
    options = {"episodic": True, "shots": 5, "max_epochs": 1, "home": tmp_path, "device": "cpu"}
    config = {**CONFIG, "adaptation.kind": "bayesian"}
    one = autometa.train("sinusoid", config, **options)
    two = autometa.train("sinusoid", config, ensemble=2, **options)
    other = autometa.train("sinusoid", config, seed=1, **options)
    model = autometa.load_model(two.model)
    assert isinstance(model, Model)
    assert model.members == 2
    assert set(two.tasks) == set(one.tasks)
    # the error of a mean is at most the mean of the errors
    assert two.value > (one.value + other.value) / 2


def test_a_scikit_learn_model(
    tmp_path: Path, table: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)
    suite = make_suite()
    made = PeerModel.of(suite, StubPeer.fit(suite), {"suite": suite.name, "study": "trees"})
    made.save(tmp_path / "models" / "trees")
    printed = run(tmp_path, "predict", "trees", new)
    assert printed.exit_code == 0, printed.stderr
    found = pd.read_csv(StringIO(printed.stdout))
    pd.testing.assert_frame_equal(found, made.predict(pd.read_csv(new)))
    told = refused(run(tmp_path, "adapt", "trees", table, "--out", tmp_path / "m"))
    assert "cannot take a new task: it is no network (ridge regression, one a task)" in told
    words = ["train", table, "--targets", "size,sold", "--max-epochs", 1, "--device", "cpu"]
    told = refused(run(tmp_path, *words, "--init-from", "trees"))
    assert "`--init-from`" in told
    assert "is no network (ridge regression, one a task)" in told
    told = refused(run(tmp_path, *words, "--out", tmp_path / "models" / "trees"))
    assert "should not be the folder of a model of a search" in told
