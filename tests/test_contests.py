"""The contest on rows: what cannot be judged, and a budget that would have decided the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autometa
from autometa import finals
from autometa.api import SearchResult
from autometa.contests import RowContest
from autometa.finals import Finalist
from autometa.tasks import Rows, TaskSuite
from tests.searching.support import small_suite
from tests.test_judge import run

pytestmark = pytest.mark.usefixtures("short_judgement")

TEST_ROWS = small_suite().counts["test"]


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> set[int | str]:
    """Numbers of trials, and names of methods, whose predictions of the test rows are NaN."""
    wrong: set[int | str] = set()
    predict, peer_outputs = RowContest._predict, RowContest._peer_outputs

    def network(self: RowContest, finalist: Finalist, rows: Rows) -> np.ndarray:
        out = predict(self, finalist, rows)
        if len(rows.x) == TEST_ROWS and {finalist.number, finalist.method} & wrong:
            out[0, 0, 0] = np.nan  # one seed, task and row
        return out

    def peer(self: RowContest, found: Any, rows: Rows) -> np.ndarray:
        out = peer_outputs(self, found, rows)
        return out * np.nan if len(rows.x) == TEST_ROWS and found["name"] in wrong else out

    monkeypatch.setattr(RowContest, "_predict", network)
    monkeypatch.setattr(RowContest, "_peer_outputs", peer)
    return wrong


def test_what_predicts_nan_on_the_test_rows_is_left_out(
    tmp_path: Path, spoilt: set[int | str]
) -> None:
    options: dict[str, Any] = {"n_trials": 8, "pruner": "none", "study_name": "s", "resume": True}
    whole = run(tmp_path, small_suite(), max_epochs=1, **options).test
    assert whole is not None
    first, second = next(row for row in whole["methods"] if row["name"] == "sharing")["finalists"][
        :2
    ]
    assert whole["winners"]["sharing"] == first["number"]
    spoilt |= {first["number"], "ridge"}
    result = run(tmp_path, small_suite(), max_epochs=1, deliver="network", **options)
    test = result.test
    assert test is not None
    assert test["winners"]["sharing"] == second["number"]
    names = {row["name"] for row in test["methods"]}
    assert names == {"sharing", "independent"}
    assert test["left_out"]["ridge"] == "Its predictions of the test rows are not finite."
    assert test["notes"][0] == (
        "1 of 4 finalists of sharing are left out, because their predictions here are not finite"
    )
    spoilt.add("sharing")
    result = run(tmp_path, small_suite(), max_epochs=1, deliver="network", ensemble=3, **options)
    assert result.test is not None
    assert "nothing can be said about sharing" in result.test["verdict"]
    assert result.test["delivered"]["method"] == "independent"
    assert autometa.load_model(result.model).members == 3


# --- a verdict that is not about the budget -------------------------------------------------------

SPACE = """
parameters:
  backbone.width: 6
  backbone.depth: 1
  backbone.norm: none
  sharing.kind: {type: categorical, choices: [hard]}
  optimizer.kind: sgd
  optimizer.lr: {type: float, low: 2.8e-2, high: 3.2e-2, log: true}
  optimizer.batch_size: 64
"""


def turning(seed: int) -> TaskSuite:
    """Six tasks with a part in common, and each with one of its own: six units suffice for the
    former and one of the latter. A shared block has the gradients of six tasks and learns the
    common part first; the rest it has no room for."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(900, 10))
    common = 1.5 * np.tanh(x[:, :4] @ rng.normal(size=4))
    y = np.stack([common + 1.1 * np.abs(x[:, 4 + t]) for t in range(6)], axis=1)
    y += 0.05 * rng.normal(size=y.shape)
    return TaskSuite.from_arrays(x, y, kinds="regression", name="turning")


def judged(home: Path, seed: int) -> SearchResult:
    home.mkdir(parents=True)
    (home / "own.yaml").write_text(SPACE)
    return run(
        home, turning(seed), space=home / "own.yaml", n_trials=8, pruner="none", seed=seed,
        max_steps=100, max_epochs=None, deliver="network",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sharing_that_leads_early_does_not_win_where_independent_networks_overtake_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    early = judged(tmp_path / "early", seed).test
    assert early is not None
    assert early["outcome"] == "sharing"
    assert early["budget"]["steps"] == 100
    assert "whether more would change it was not tried" in early["verdict"]
    monkeypatch.setattr(finals, "CAP", 9)
    late = judged(tmp_path / "late", seed)
    assert late.test is not None
    assert late.test["outcome"] == "independent"
    assert late.test["delivered"]["method"] == "independent"
    assert late.test["budget"]["steps"] == 900
    assert late.test["budget"]["lengths"]["independent"] == {"steps": 900, "budget": 900}
    assert "Independent networks win on turning" in late.test["verdict"]
    assert "It holds for 900 optimizer steps a network" in late.test["verdict"]
    assert autometa.load_model(late.model).facts["budget"] == 900
