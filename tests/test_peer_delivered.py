"""A search whose recommended method is no network, as users see it, to its deletion."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import autometa
from autometa.cli import app
from autometa.model import Model, PeerModel
from tests.searching.support import SPACE

pytestmark = [
    pytest.mark.usefixtures("short_judgement"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
]


def run(home: Path, *words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--home", str(home)])


def write_table(path: Path, seed: int) -> Path:
    """Three sums of four columns: what ridge regression is made for."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(120, 4))
    y = x @ rng.normal(size=(4, 3)) + 0.05 * rng.normal(size=(120, 3))
    pd.DataFrame(np.c_[x, y], columns=list("abcduvw")).to_csv(path, index=False)
    return path


def search(home: Path, table: Path, study: str, *more: object) -> Result:
    space = home / "space.yaml"
    space.write_text(SPACE)
    return run(
        home, "search", table, "--targets", "u,v,w", "--space", space, "--study-name", study,
        "--n-trials", 2, "--max-steps", 4, "--workers", 0, "--device", "cpu", "--no-diagnosis",
        "--prior", "off", "--json", *more,
    )  # fmt: skip


def test_from_search_to_delete(tmp_path: Path) -> None:
    table, home = write_table(tmp_path / "sums.csv", 0), tmp_path
    done = search(home, table, "linear")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)

    assert found["delivered"]["method"] == "ridge"
    methods = {row["name"]: row for row in found["methods"]}
    assert set(methods) == {"ridge", "sharing", "independent"}
    assert methods["ridge"]["score"] == found["delivered"]["score"] > 0.95
    assert all(len(row["interval"]) == 2 for row in methods.values())
    assert all(row["seconds"] >= 0 and row["tuned"] >= 1 for row in methods.values())
    assert "ridge regression" in found["test"]["verdict"].split(".")[0]

    model = autometa.load_model(found["model"])
    assert isinstance(model, PeerModel)
    assert model.facts["method"] == "ridge"
    predicted = run(home, "predict", "linear", table)
    assert predicted.exit_code == 0, predicted.stderr
    frame, own = pd.read_csv(StringIO(predicted.stdout)), pd.read_csv(table)
    assert list(frame) == ["u", "v", "w"]
    assert all(frame[name].corr(own[name]) > 0.99 for name in frame)
    between = run(home, "predict", "linear", table, "--interval", 0.8)
    assert "u_lower" in between.stdout.splitlines()[0], between.stderr

    client = mlflow.MlflowClient(found["mlflow"]["tracking_uri"])
    logged = client.get_run(found["mlflow"]["run_id"])
    assert logged.info.status == "FINISHED"
    for name, row in methods.items():
        assert logged.data.metrics[f"test/{name}/score"] == pytest.approx(row["score"])
    assert logged.data.tags["verdict"].startswith(found["test"]["verdict"][:100])
    kept = {item.path for item in client.list_artifacts(logged.info.run_id, "linear")}
    assert {"linear/model.json", "linear/estimators.skops"} <= kept

    doctor = run(home, "doctor")
    assert doctor.exit_code == 0, doctor.stdout
    deleted = run(home, "delete", "linear", "--yes")
    assert deleted.exit_code == 0, deleted.stderr
    assert not Path(found["model"]).exists()
    assert run(home, "predict", "linear", table).exit_code == 2


def test_the_best_way_to_share_is_kept_beside_it_to_start_from(tmp_path: Path) -> None:
    off = ("--mlflow-tracking-uri", "off")
    first = search(tmp_path, write_table(tmp_path / "first.csv", 0), "first", *off)
    assert first.exit_code == 0, first.stderr
    beside = autometa.load_model(Path(json.loads(first.stdout)["model"]) / "network")
    assert isinstance(beside, Model)
    assert beside.facts["method"] == "sharing"
    table = write_table(tmp_path / "second.csv", 1)
    for asked in ("first", "auto"):
        done = search(tmp_path, table, f"from-{asked}", *off, "--init-from", asked)
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["init"]["model"] == "first"
    shutil.rmtree(Path(json.loads(first.stdout)["model"]) / "network")
    named = search(tmp_path, table, "named", *off, "--init-from", "first")
    assert named.exit_code == 2
    assert "nothing of model `first` fits here: it is no network (ridge regression" in named.stderr


def test_deliver_network_keeps_to_networks(tmp_path: Path) -> None:
    table = write_table(tmp_path / "sums.csv", 0)
    done = search(
        tmp_path, table, "net", "--mlflow-tracking-uri", "off", "--deliver", "network",
        "--ensemble", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["delivered"]["method"] in ("sharing", "independent")
    assert found["test"]["best"]["name"] == "ridge"
    model = autometa.load_model(found["model"])
    assert isinstance(model, Model)
    assert model.members == 1
