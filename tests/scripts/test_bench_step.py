"""scripts/bench_step.py measures what it says."""

from __future__ import annotations

import json
import time

import pytest
import torch

from scripts import bench_step as script


@pytest.mark.slow
@pytest.mark.timeout(300)  # recording imports much of torch
def test_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads(lines[-1])["rows"]
    assert [(row["runs"], row["step"]) for row in rows] == [(2, "as it is"), (2, "recorded")]
    assert all(0.1 < row["ms_a_step"] < 1000 for row in rows)
    assert rows[1]["cpu_s"] > rows[0]["cpu_s"] > 0
    assert sum(text.startswith("| 2 |") for text in lines) == 2


def test_it_pays_where_the_savings_reach_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    takes = {"as it is": 0.02, "recorded": 0.005, "compiled": 0.03}

    def make(way: str, function: object, inputs: object) -> object:
        busy(0.1)
        return lambda: busy(takes[way])

    monkeypatch.setattr(script, "make", make)
    rows = {r["step"]: r for r in script.measure(torch.sin, [], script.WAYS, 5)}
    assert rows["recorded"]["ms_a_step"] == pytest.approx(5, rel=0.3)
    assert rows["recorded"]["cpu_s"] == pytest.approx(0.105, rel=0.3)
    assert rows["recorded"]["pays_from"] == pytest.approx(7, abs=2)
    assert rows["recorded"]["pays_from_s"] == pytest.approx(0.14, rel=0.4)
    assert rows["compiled"]["pays_from"] is None
    assert rows["as it is"]["pays_from"] is None
    assert script.line({"runs": 1, **rows["compiled"]}).endswith("– | – |")
