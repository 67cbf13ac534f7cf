"""scripts/bench_throughput.py measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from autometa.metrics import evaluate
from autometa.space import Space
from autometa.tasks import load_suite
from autometa.training.scoring import task_specs
from scripts import bench_throughput as script


@pytest.mark.slow
@pytest.mark.timeout(600)  # three searches on Ray, each in a process of its own
def test_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    rows = {row["search"]: row for row in found["rows"]}
    assert set(rows) == set(script.CONTENDERS)
    assert sum(line.startswith("| 0 |") for line in lines) == 3
    for row in rows.values():
        assert (row["trials"], row["trial_epochs"]) == (2, 2)
        assert row["trials_a_minute"] == pytest.approx(120 / row["seconds"])
        assert row["startup_seconds"] > 0.1
        assert row["cpu_seconds"] > 1.0  # the actors import torch
        assert row["peak_memory_mb"] > 200
        assert 0.5 < row["best"] < 1.0  # 0 is the constant
        assert row["curve"][-1][0] <= row["seconds"]
    assert rows["autometa"]["units"]["runs"] == 2
    mine = rows["autometa"]["trials_a_minute"]
    assert found["ratio_default"] == pytest.approx(mine / rows["default"]["trials_a_minute"])
    assert found["ratio_reused"] == pytest.approx(mine / rows["reused"]["trials_a_minute"])


def test_without_a_gpu_its_benchmark_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.has_cuda() == torch.cuda.is_available()

    def never(*args: Any) -> Any:
        raise AssertionError("it was run")

    monkeypatch.setattr(script, "run", never)
    monkeypatch.setattr(script, "has_cuda", lambda: False)
    script.main(["--device", "cuda"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == "no CUDA device"


def row(search: str, seconds: float, curve: list[tuple[float, float]], seed: int = 0) -> Any:
    return {
        "search": search,
        "seed": seed,
        "seconds": seconds,
        "trials_a_minute": 600 / seconds,
        "curve": curve,
        "units": {"units": 2, "runs": 10} if search == "autometa" else None,
    }


def test_scores_are_compared_when_the_quickest_has_ended() -> None:
    rows = script.with_equal_time(
        [
            row("autometa", 10, [(1.0, 0.5), (9.0, 0.8)]),
            row("default", 40, [(5.0, 0.4), (30.0, 0.95)]),
            row("reused", 20, [(3.0, 0.6), (10.0, 0.7), (10.1, 0.9)]),
        ]
    )
    assert [r["best_at_equal_time"] for r in rows] == [0.8, 0.4, 0.7]
    found = script.summary(rows)
    assert (found["ratio_default"], found["ratio_reused"]) == (4.0, 2.0)
    assert found["score_difference"] == pytest.approx(0.1)
    assert found["mean_bundle"] == 5


def test_medians_are_over_the_seeds_and_what_was_not_run_is_none() -> None:
    rows = []
    for seed, seconds in enumerate((10, 20, 80)):
        pair = [row("autometa", 10, [(1, 0.5)], seed), row("default", seconds, [(60, 1.0)], seed)]
        rows += script.with_equal_time(pair)
    found = script.summary(rows)
    assert found["ratio_default"] == 2.0
    assert found["ratio_reused"] is None
    assert found["score_difference"] is None  # the peer had found nothing by then


def test_a_tree_of_processes_counts_the_dead_too() -> None:
    busy = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.6: pass\n"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])\ninput()"
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
    tree = script.ProcessTree(process.pid)
    began, end = time.time(), time.monotonic() + 60
    while tree.cpu_until(time.time()) < 0.5 and time.monotonic() < end:
        tree.look()
        time.sleep(0.05)
    process.communicate(b"\n")
    tree.look()
    assert 0.5 <= tree.cpu_until(time.time()) < 5.0
    assert tree.cpu_until(began) < 0.2
    assert tree.peak_bytes > 1e6


def test_the_peer_searches_the_same_space_and_scores_the_same() -> None:
    """In a process of its own: Ray is not wanted in this one."""
    code = """
import json, sys, torch
sys.path.insert(0, "scripts")
import ray_tune_peer as peer
data = peer.digits()
config = dict(width=32, split_at=1, dropout=0.1, lr=3e-3, weight_decay=1e-4, schedule="cosine",
              epochs=1, device="cpu", seed=0, batch_size=256)
training = peer.Training(config, data)
score = training.epoch()
training.model.eval()
with torch.no_grad():
    out = torch.stack(training.model(data["val_x"]))
space = {
    name: list(getattr(domain, "categories", [])) or [domain.lower, domain.upper]
    for name, domain in peer.space([32, 48, 64]).items()
}
rate = training.optimizer.param_groups[0]["lr"]
print(json.dumps({"score": score, "out": out.tolist(), "lr": rate, "space": space}))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    suite = load_suite("multidigits")
    rows = suite.rows("val")
    judged = evaluate(
        torch.tensor(found["out"])[None].numpy(),
        rows.y.numpy(),
        task_specs(suite),
        mask=rows.mask.numpy(),
    )
    assert found["score"] == pytest.approx(float(judged.value()[0]), abs=1e-6)
    assert found["lr"] == pytest.approx(0.0, abs=1e-9)  # the cosine ends with the last epoch
    space = Space.from_yaml(script.space_text("small")).bind(suite).distributions("sharing")
    mine: dict[str, Any] = {name.rpartition(".")[2]: domain for name, domain in space.items()}
    assert mine.pop("kind").choices == ("hard",)
    low, high = found["space"].pop("split_at")  # up to and without the upper bound
    split_at = mine.pop("split_at")
    assert (low, high) == (split_at.low, split_at.high + 1)
    assert found["space"] == {
        name: list(getattr(domain, "choices", [])) or [domain.low, domain.high]
        for name, domain in mine.items()
    }


def test_help_and_bad_contenders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert "python scripts/bench_throughput.py --n-trials 128" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script.main(["--contenders", "nobody"])
    assert "found nobody" in capsys.readouterr().err
