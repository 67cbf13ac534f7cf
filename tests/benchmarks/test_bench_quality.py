"""benchmarks/: rivals of other libraries on a tiny suite, and the table of made-up cells."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import bench_quality
import numpy as np
import outside_peers
import pandas as pd
import pytest
import torch

import autometa
from autometa.metrics import evaluate
from autometa.tasks import TaskSuite
from autometa.training.scoring import task_specs
from tests.small import make_suite


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with one suite of two targets, nearly linear."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    table = pd.DataFrame(x, columns=["a", "b", "c"])
    table["u"] = x @ [1.0, -1.0, 0.5] + 0.1 * rng.normal(size=200)
    table["v"] = x @ [0.5, 1.0, 0.0] + 0.1 * rng.normal(size=200)
    table.to_parquet(tmp_path / "sums.parquet")
    entry = {"file": "sums.parquet", "kind": "regression", "targets": ["u", "v"]}
    entry["layout"] = "multi_target"
    (tmp_path / "datasets.json").write_text(json.dumps({"sums": entry}))
    monkeypatch.setenv("AUTOMETA_DATA", str(tmp_path))
    return tmp_path


def score(suite: TaskSuite, outputs: np.ndarray) -> float:
    rows = suite.open_test()
    task = None if rows.task is None else rows.task.numpy()
    specs = task_specs(suite.without_test())
    return float(
        evaluate(outputs, rows.y.numpy(), specs, mask=rows.mask.numpy(), task=task).value()
    )


def found(name: str, suite: TaskSuite) -> outside_peers.Found:
    return outside_peers.find(name, suite, task_specs(suite.without_test()), suite.open_test())


def test_ridge_is_tuned_and_predicts_the_test_rows(data: Path) -> None:
    suite = autometa.load_suite("sums")
    one = found("ridge", suite)
    assert one.tried == len(outside_peers.METHODS["ridge"][1])
    assert one.setting["alpha"] <= 10.0
    assert one.outputs.shape == (2, suite.counts["test"], 1)
    assert one.value > 0.97
    assert score(suite, one.outputs) > 0.97


@pytest.mark.parametrize("name", ["lightgbm", "catboost"])
def test_rivals_that_are_installed_for_the_benchmark_alone(name: str, data: Path) -> None:
    pytest.importorskip(name)
    suite = autometa.load_suite("sums")
    assert score(suite, found(name, suite).outputs) > 0.7


@pytest.mark.parametrize("kind", ["aligned", "grouped"])
def test_labels_that_miss_and_classes_that_differ(kind: str) -> None:
    suite = make_suite(kind, rows=120)
    one = found("ridge", suite)
    width = max(task.n_outputs for task in suite.tasks)
    assert one.outputs.shape[-1] == width
    assert np.isfinite(score(suite, one.outputs))
    if kind == "grouped":  # one model of all rows is tried, too
        assert one.tried == 2 * len(outside_peers.METHODS["ridge"][1])
        assert one.setting["models"] in ("pooled", "each")


def test_a_method_out_of_time_keeps_its_first_setting(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside_peers, "SECONDS", -1.0)
    assert found("ridge", autometa.load_suite("sums")).tried == 1


def test_the_untuned_network(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_quality, "full_length", lambda suite: 200)
    suite = autometa.load_suite("sums")
    outputs = bench_quality.untuned(suite, suite.open_test(), 0)
    assert score(suite, outputs) > 0.8


def cells(out: Path, splits: int, ours: float) -> None:
    """Finished cells: outputs that miss the truth by noise of these sizes."""
    names = (bench_quality.OURS, bench_quality.UNTUNED, *bench_quality.METHODS)
    for split in range(splits):
        suite = autometa.load_suite("sums", seed=split)
        truth = suite.open_test().y.numpy().T[:, :, None]
        for place, name in enumerate(names):
            noise = ours if name == bench_quality.OURS else 0.2 + 0.1 * place
            rng = np.random.default_rng([split, place])
            outputs = (truth + noise * rng.normal(size=truth.shape)).astype(np.float32)
            facts = {"score": score(suite, outputs), "seconds": 1.0 + place}
            if name == bench_quality.OURS:
                facts |= {
                    "delivered": {"method": "sharing"},
                    "outcome": "helps",
                    "methods": [
                        {"name": "sharing", "score": 0.9},
                        {"name": "independent", "score": 0.8},
                        {"name": "ridge", "score": 0.99},
                    ],
                }
            np.save(out / f"sums.{split}.{name}.npy", outputs)
            (out / f"sums.{split}.{name}.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(("ours", "place"), [(0.05, 1), (2.0, 8)])
def test_the_table_of_finished_cells(
    ours: float, place: int, data: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(bench_quality, "HELD_OUT", ("sums",))
    cells(data, 2, ours)
    (data / "sums.1.catboost.json").unlink()  # a split that is not complete does not count
    summary = bench_quality.summary(data, ["sums", "absent"])
    (row,) = summary["suites"]
    assert row["splits"] == [0]
    assert row["best_peer"] == "ridge"
    assert row["best_network"] == 0.9
    assert row["delivered"] == ["sharing"]
    assert summary["mean_rank"][bench_quality.OURS] == place
    gap = row["against_best"]
    assert gap["gap"] == pytest.approx(row["scores"][bench_quality.OURS] - row["scores"]["ridge"])
    assert gap["low"] < gap["gap"] < gap["high"]
    worse = place != 1
    assert (gap["high"] < 0) is worse
    assert (gap["low"] > 0) is not worse
    assert summary["below"] == {"chosen_on": [], "held_out": ["sums"] if worse else []}
    bench_quality.print_table(summary)
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("| sums | ")
    assert printed[0].count("|") == printed[1].count("|") == printed[2].count("|")
    assert printed[-1].startswith("Mean rank: ")


def test_scores_are_means_over_the_splits(data: Path) -> None:
    cells(data, 3, 0.2)
    (row,) = bench_quality.summary(data, ["sums"])["suites"]
    assert row["splits"] == [0, 1, 2]
    assert row["outcomes"] == ["helps"] * 3
    kept = [json.loads((data / f"sums.{k}.ridge.json").read_text())["score"] for k in range(3)]
    assert row["scores"]["ridge"] == pytest.approx(np.mean(kept))


def test_a_finished_cell_is_not_computed_again(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = SimpleNamespace(n_trials=2, workers=0)
    for _ in range(2):
        bench_quality.cell(data, "sums", 0, "ridge", args)  # type: ignore[arg-type]  # a stub
        monkeypatch.setattr(bench_quality, "find", None)
    assert capsys.readouterr().out.count("sums 0 ridge: 0.9") == 1
    kept = json.loads((data / "sums.0.ridge.json").read_text())
    outputs = np.load(data / "sums.0.ridge.npy")
    assert kept["score"] == pytest.approx(score(autometa.load_suite("sums"), outputs), abs=1e-6)
    assert torch.from_numpy(outputs).isfinite().all()
