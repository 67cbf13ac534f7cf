"""scripts/bench_prior_benefit.py: what is compared, and that it compares searches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import bench_prior_benefit as script


def keep(
    out: Path, prior: str, seed: int, values: list[float | None], arm: str = "sharing"
) -> None:
    path = script.Search("diabetes", 4, seed, prior, 27).path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"arm": arm, "value": value, "by": None} for value in values]
    path.write_text(json.dumps({"trials": rows, "cpu_seconds": 1.0}))


def test_best_scores_and_trials_saved(tmp_path: Path) -> None:
    keep(tmp_path, "on", 0, [0.1, 0.5, None, 0.2])
    keep(tmp_path, "off", 0, [None, 0.2, 0.1, 0.4])
    keep(tmp_path, "on", 1, [0.1, 0.2, 0.2, None])
    keep(tmp_path, "off", 1, [0.3, 0.1, 0.0, 0.0], arm="independent")
    found = script.compare(tmp_path, "diabetes", 4, 2, 27)
    assert found is not None
    assert (found["on"], found["off"]) == pytest.approx((0.35, 0.35))
    assert (found["wins"], found["losses"]) == (1, 1)
    assert found["difference"] == pytest.approx(0.0)
    assert (found["low"], found["high"]) == pytest.approx((-0.1, 0.1))
    # 0.4 is reached by the second trial instead of the fourth; 0.3 by none of four, not the first
    assert found["saved"] == [2, -4]
    assert found["sharing_difference"] == pytest.approx((0.1 + 1.2) / 2)
    assert script.compare(tmp_path, "diabetes", 4, 3, 27) is None


@pytest.mark.slow
def test_searches_with_and_without_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--suites", "diabetes", "--budgets", "4", "--seeds", "1", "--max-epochs", "1"]
    script.main([*words, "--out", str(tmp_path)])
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["difference"] == pytest.approx(row["on"] - row["off"])
    kept = {path: path.read_text() for path in tmp_path.rglob("*.json")}
    by = {path.stem: [t["by"] for t in json.loads(text)["trials"]] for path, text in kept.items()}
    assert "portfolio" in by["4-0-on"]
    assert set(by["4-0-off"]) == {None}
    script.main([*words, "--out", str(tmp_path)])
    assert {path: path.read_text() for path in tmp_path.rglob("*.json")} == kept
    with pytest.raises(SystemExit):
        script.main(["--suites", "diabets", "--out", str(tmp_path)])
