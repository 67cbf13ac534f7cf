"""scripts/bench_init.py: two halves of a suite's tasks, three starts, kept split by split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scripts import bench_init as script

PARTS = "0.3,1"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with one suite of eight tasks that are all alike."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(480, 3))
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=480)
    table = pd.DataFrame(x, columns=["a", "b", "c"]).assign(y=y, site=np.arange(480) % 8)
    table.to_parquet(tmp_path / "sites.parquet")
    entry = {"file": "sites.parquet", "kind": "regression", "target": "y", "task_column": "site"}
    (tmp_path / "datasets.json").write_text(json.dumps({"sites": entry}))
    monkeypatch.setenv("AUTOMETA_DATA", str(tmp_path))
    monkeypatch.setattr(script, "STEPS", 5)
    monkeypatch.setattr(script, "EPOCHS", 2)
    monkeypatch.setattr(script, "RATES", (1e-12, 1e-3))
    return tmp_path


def test_a_small_study_compares_all_starts_and_is_kept(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--suite", "sites", "--splits", "2", "--parts", PARTS, "--out", str(data / "out")]
    script.main(args)
    first = capsys.readouterr().out
    kept = [json.loads((data / "out" / f"sites-{k}.json").read_text()) for k in (0, 1)]
    for split in kept:
        assert [row["part"] for row in split["rows"]] == [0.3, 1.0]
        assert split["rows"][0]["rows"] < split["rows"][1]["rows"] <= 0.4 * 240
        for row in split["rows"]:
            for arm in script.ARMS:
                assert set(row[arm]) == set(script.STARTS)
                assert len(set(row[arm].values())) == 3, "each start leads elsewhere"
    assert kept[0]["rows"] != kept[1]["rows"]
    assert len([line for line in first.splitlines() if line.startswith("| ")]) == 1 + 2 * 2
    script.main(args)
    assert capsys.readouterr().out == first
