"""scripts/bench_merging.py measures what it says."""

from __future__ import annotations

import json

import pytest
import torch

from autometa.tasks import load_suite
from autometa.training.population import Trainer
from scripts import bench_merging as script


@pytest.mark.slow
@pytest.mark.timeout(300)  # recording imports much of torch
def test_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--quick"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["kinds"] for row in rows] == [2, 3]
    assert all(0.01 < row[way] < 1000 for row in rows for way in ("merged", "alone", "four"))


def test_every_set_is_of_different_networks_with_one_shape_key() -> None:
    for networks in script.SETS.values():
        configs = [script.config(32, *network) for network in networks]
        assert len({config.graph_key() for config in configs}) == len(networks)
        assert len({config.shape_key() for config in configs}) == 1


def test_other_networks_are_refused() -> None:
    trainer = Trainer(load_suite("multidigits").without_test(), 1, torch.device("cpu"))
    wide, narrow = (script.config(w, 3, "none", "head", "multi_head", "equal") for w in (4, 8))
    with pytest.raises(ValueError, match="should have one shape key"):
        script.compare(trainer, "two widths", [wide, narrow], 1)
