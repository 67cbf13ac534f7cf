"""scripts/null_verdict.py: two searches of one arm, judged as if they were two arms."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import null_verdict


def test_quick_prints_shares_and_goes_on_from_its_pool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        null_verdict.main(["--quick", "--pool", str(tmp_path)])
    first, again = (json.loads(line) for line in capsys.readouterr().out.splitlines()[-2:])
    assert first == again
    assert first["n"] == 12
    assert 0.0 <= first["false_findings"] <= first["without_luck"] <= 1.0
    assert list(first["power"]) == ["1", "2", "4"]
    assert len(list((tmp_path / "planted").glob("sharing-*.npz"))) == 8


def test_searches_of_a_pair_have_nothing_in_common() -> None:
    values = np.arange(10.0)
    outputs = np.arange(10.0)[:, None, None, None, None]
    pool = null_verdict.Pool(values, values[:, None], outputs)
    for pair in null_verdict.draw_pairs(pool, 20, 5, 3):
        seen = [set(one.trials.tolist()) for one in pair]
        assert not seen[0] & seen[1]
        for one in pair:
            assert one.values.tolist() == sorted(one.trials.tolist())[:-4:-1]


def test_clustered_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = null_verdict.clustered(40, 150)
    assert found["false_findings"] <= 0.15
    assert found["without_groups"] >= 0.3
