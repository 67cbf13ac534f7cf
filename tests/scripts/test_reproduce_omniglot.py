"""scripts/reproduce_omniglot.py measures what it says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from scripts import reproduce_omniglot as script

needs_data = pytest.mark.skipif(
    not os.environ.get("AUTOMETA_DATA"), reason="AUTOMETA_DATA names no folder with Omniglot"
)


@needs_data
def test_a_quick_run_beats_chance_and_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--quick", "--workers", "0", "--shots", "1", "--out", str(tmp_path)]
    script.main([*args, "--methods", "nearest neighbour,protonet"])
    first = capsys.readouterr().out
    found = json.loads(first.splitlines()[-1])
    assert list(found) == ["nearest neighbour, 1-shot", "protonet, 1-shot"]
    for row in found.values():
        for where in ("mixed", "one_alphabet"):
            low, high = row[where]["interval"]
            assert low < row[where]["accuracy"] < high
            assert row[where]["episodes"] == 20
            assert row[where]["accuracy"] > 100 / script.WAYS
    assert found["protonet, 1-shot"]["ways_in_training"] == 20
    assert len(found["protonet, 1-shot"]["curve"]) == 1
    script.main([*args, "--methods", "protonet"])  # taken from the folder: no line of a curve
    assert "validation" not in capsys.readouterr().out


def test_an_unknown_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--methods", "protonets"])
    assert "protonets" in capsys.readouterr().err
