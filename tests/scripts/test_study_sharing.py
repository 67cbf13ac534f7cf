"""scripts/study_sharing.py: statistics, splits, and a study that goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from autometa.tasks import TaskSuite, load_suite
from scripts import study_sharing as script
from tests.small import make_suite, make_table

pytestmark = pytest.mark.usefixtures("short_judgement")


def made_pairs(differences: list[float]) -> list[dict[str, Any]]:
    return [
        {"split": k, "sharing": 0.5 + d, "independent": 0.5, "diverged": 0, "seconds": 1.0}
        for k, d in enumerate(differences, 1)
    ]


def made_suite(name: str, differences: list[float]) -> dict[str, Any]:
    pairs = made_pairs(differences)
    facts = {"n_train": 600, "n_test": 200, "varies": "the whole split", "verdict": "."}
    return {"suite": name, "pairs": pairs, **facts, **script.summary(pairs)}


def test_corrected_interval_is_that_of_nadeau_and_bengio() -> None:
    d = np.array([0.03, 0.01, 0.02, 0.04])
    found = script.corrected_interval(d, n_train=600, n_test=200)
    t = d.mean() / np.sqrt((1 / 4 + 1 / 3) * d.var(ddof=1))
    assert found.p == pytest.approx(2 * stats.t.sf(t, 3))
    assert found.low < d.mean() < found.high
    # without test rows it is the plain paired t test
    plain = script.corrected_interval(d, n_train=600, n_test=0)
    assert plain.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue)


def test_holm_on_the_textbook_example() -> None:
    assert script.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert script.holm([0.9, 0.8]) == [1.0, 1.0]


def test_outcomes_are_decided_after_the_correction_for_overlap_and_for_suites() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, 16)
    noise -= noise.mean()
    decided = script.decide(
        [
            made_suite("up", list(0.05 + noise)),
            made_suite("down", list(-0.05 + noise)),
            made_suite("near", list(0.007 + noise)),
        ]
    )
    up, down, near = decided["suites"]
    assert (up["outcome"], down["outcome"]) == ("sharing better", "independent better")
    assert near["outcome_plain"] == "sharing better"  # the plain test claims too much
    assert near["outcome"] == "undecided"
    assert (decided["sharing_better"], decided["independent_better"]) == (1, 1)
    assert up["p_holm"] == pytest.approx(3 * up["corrected"]["p"], abs=0)


def test_what_varies_between_pairs() -> None:
    table = make_table(90).drop(columns=["size", "species", "site"])

    def suite(seed: int, **options: Any) -> TaskSuite:
        return TaskSuite.from_frame(table, targets=["sold", "grade"], seed=seed, **options)

    assert script.what_varies(suite(1), suite(2)) == "the whole split"
    own = {"test": table[:30]}
    assert script.what_varies(suite(1, **own), suite(2, **own)) == (
        "the split of training and validation rows"
    )
    assert script.what_varies(make_suite(), make_suite()) == "the seed alone"
    both = [load_suite("multidigits", seed=seed) for seed in (1, 2)]
    assert script.what_varies(*both) == "the whole split"


def test_first_tasks_keep_their_rows_and_splits() -> None:
    suite = make_suite("grouped", rows=80)
    kept = script.first_tasks(suite, 1)
    assert kept.task_names == suite.task_names[:1]
    for split in ("train", "val"):
        rows = suite.rows(split)
        assert rows.task is not None
        assert kept.rows(split).x.tolist() == rows.x[rows.task == 0].tolist()
    test = suite.open_test()
    assert test.task is not None
    assert kept.open_test().y.tolist() == test.y[test.task == 0].tolist()
    assert kept.fingerprint != suite.fingerprint
    with pytest.raises(SystemExit, match="task column"):
        script.first_tasks(make_suite("aligned"), 1)


def test_a_diverged_run_scores_the_least_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "load", lambda name, split, n_tasks: make_suite())
    wild = {"optimizer.kind": "sgd", "optimizer.lr": 1e38, "optimizer.clip": 1e38}
    configs = {"sharing": {"backbone.width": 8}, "independent": {"backbone.width": 8, **wild}}
    pair = script.run_pair("any", 1, 2, configs, 1, None)
    assert pair["independent"] == -1.0
    assert pair["diverged"] == 2
    assert pair["sharing"] > -1.0


@pytest.mark.slow
@pytest.mark.timeout(300)  # a search, or processes that import torch
def test_a_stopped_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--suites", "breast-cancer", "--n-trials", "2", "--max-epochs", "1"]
    options += ["--workers", "0", "--out", str(tmp_path)]
    pairs = script.run_pair

    def dies(name: str, split: int, *rest: Any) -> dict[str, Any]:
        if split == 2:
            raise KeyboardInterrupt
        return pairs(name, split, *rest)

    monkeypatch.setattr(script, "run_pair", dies)
    with pytest.raises(KeyboardInterrupt):
        script.main([*options, "--repeats", "2"])
    kept = json.loads((tmp_path / "breast-cancer.json").read_text())
    assert [pair["split"] for pair in kept["pairs"]] == [1]
    assert kept["winners"]["independent"]["config"]["sharing.kind"] == "independent"
    assert kept["winners"]["sharing"]["config"]["sharing.kind"] != "independent"

    def again(*args: Any, **options: Any) -> None:
        raise AssertionError("searched twice")

    monkeypatch.setattr(script, "run_pair", pairs)
    monkeypatch.setattr(script.autometa, "search", again)
    capsys.readouterr()
    script.main([*options, "--repeats", "2"])
    lines = capsys.readouterr().out.splitlines()
    (found,) = json.loads(lines[-1])["suites"]
    assert [pair["split"] for pair in found["pairs"]] == [1, 2]
    assert found["pairs"][0] == kept["pairs"][0]
    scores = [pair[arm] for pair in found["pairs"] for arm in script.ARMS]
    assert len(set(scores)) == 4  # other splits, other arms: other scores
    assert found["outcome"] in ("sharing better", "independent better", "undecided")
    assert lines[2].startswith("| breast-cancer |")

    with pytest.raises(SystemExit, match="Choose another --out"):
        script.main([*options, "--max-epochs", "2"])


@pytest.mark.slow
@pytest.mark.timeout(300)  # a search, or processes that import torch
def test_pairs_are_the_same_over_processes() -> None:
    configs = {arm: {"sharing.kind": kind, "backbone.width": 8} for arm, kind in
               zip(script.ARMS, ("hard", "independent"), strict=True)}  # fmt: skip
    jobs = [("breast-cancer", split, 1, configs, 1, None) for split in (1, 2)]
    here = {p["split"]: p["sharing"] for p in script.run_pairs(jobs, 0)}
    there = {p["split"]: p["sharing"] for p in script.run_pairs(jobs, 2)}
    assert here == there


def test_numbers_by_suite() -> None:
    assert script.by_suite("") == {}
    assert script.by_suite("a=1,folder/b.suite.yaml=20") == {"a": 1, "folder/b.suite.yaml": 20}
    with pytest.raises(SystemExit, match="SUITE=NUMBER"):
        script.by_suite("a=many")


def test_a_suite_may_have_epochs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def fake(name: str, args: Any, n_tasks: int | None) -> dict[str, Any]:
        seen[name] = (args.max_epochs, n_tasks)
        return {**made_suite(name, [0.1, 0.2]), "search_seconds": 1.0}

    monkeypatch.setattr(script, "run_suite", fake)
    script.main(["--suites", "a,b", "--max-epochs", "5", "--suite-epochs", "b=2", "--tasks", "a=3"])
    assert seen == {"a": (5, 3), "b": (2, None)}


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert "python scripts/study_sharing.py --n-trials 32" in capsys.readouterr().out


def test_table_of_labels_is_read_by_task() -> None:
    frame = pd.DataFrame({"x": range(20), "y": list("ab") * 10, "t": ["p"] * 10 + ["q"] * 10})
    split = pd.Series((["train"] * 3 + ["val", "test"]) * 4)
    suite = TaskSuite.from_frame(
        frame.assign(part=np.roll(split, 1)), target="y", task_column="t", split_column="part"
    )
    assert sorted(set(script.test_labels(suite))) == ["a", "b"]
    assert len(script.test_labels(suite)) == suite.counts["test"]
