"""scripts/build_sharing_bench.py: what is trained, resuming, and the table."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import torch

from autometa.networks import Problem
from autometa.priors import sharing_bench
from autometa.priors.prior_file import read_prior
from autometa.priors.probes import PROBES
from autometa.priors.shelf import SHIPPED
from autometa.space import Space
from autometa.training.population import Trainer
from autometa.training.state import Run
from autometa.trial import TrialConfig
from scripts import build_sharing_bench as script
from tests.small import make_suite, same_kind

plans = sys.modules["_sharing_bench_plan"]
packing = sys.modules["_sharing_bench_pack"]
suites = sys.modules["_sharing_bench_suites"]

needs_data = pytest.mark.skipif(
    not os.environ.get("AUTOMETA_DATA"), reason="AUTOMETA_DATA names no folder with the data"
)


def quick(out: Path, *more: str) -> None:
    script.main(["--quick", "--out", str(out), *more])


def cells(out: Path) -> dict[str, Any]:
    """What was reached; not how long it took."""
    found = {}
    for path in sorted((out / "cells").rglob("*.json")):
        content = json.loads(path.read_text())
        for run in content["runs"]:
            for rung in run["rungs"]:
                assert rung.pop("seconds") > 0
        found[path.name] = content
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench")
    quick(out)
    return out


# --- what is trained ------------------------------------------------------------------------------


def bound(n_tasks: int) -> Space:
    return sharing_bench.bench_space(
        Space.load("sharing").text, same_kind("aligned", (5,), n_tasks)
    )


def test_a_suite_has_every_kind_and_256_configurations() -> None:
    space = bound(3)
    found = plans.plan_cells(space, "some", 8)
    assert Counter(cell.kind for cell in found) == plans.QUOTA
    assert len(found) == 32
    configs = [json.dumps(config, sort_keys=True) for cell in found for config in cell.configs]
    assert len(set(configs)) == 256
    for cell in found:
        assert len({TrialConfig.from_flat(c).shape_key() for c in cell.configs}) == 1
        for params, config in zip(cell.params, cell.configs, strict=True):
            answers = optuna.trial.FixedTrial(params)
            assert TrialConfig.from_flat(space.suggest(answers, cell.arm)).flat() == config
            assert all(
                d._contains(d.to_internal_repr(params[n])) for n, d in answers.distributions.items()
            )
            assert set(answers.distributions) == set(params)
            assert config["backbone.width"] <= 64
    # both structures of the independent arm, and no structure twice where there are enough
    weights = Counter(c.configs[0]["balancing.kind"] for c in found if c.kind == "independent")
    assert weights == {"equal": 2, "uncertainty": 2}
    shapes = [
        plans._shape(cell.configs[0]) for cell in found if cell.kind in ("hard", "tree", "mtan")
    ]
    assert len(set(shapes)) == len(shapes)


def test_only_the_core_is_common() -> None:
    first, other = (plans.plan_cells(bound(n), name, 8) for n, name in ((3, "one"), (4, "other")))
    core = [
        (cell.core, tuple(c.params[: c.core] for c in (cell, twin)))
        for cell, twin in zip(first, other, strict=True)
    ]
    assert [n for n, _ in core] == [4] * 8 + [0] * 24
    assert all(mine == theirs for _, (mine, theirs) in core)
    mine, theirs = (
        {json.dumps(p, sort_keys=True) for cell in found for p in cell.params[cell.core :]}
        for found in (first, other)
    )
    assert not mine & theirs
    # as many on either side
    assert sum(draw % 2 for cell in first for draw in range(cell.core)) == 16
    # the same call plans the same
    assert plans.plan_cells(bound(3), "one", 8) == first


def test_numbers_of_a_structure_are_a_latin_hypercube() -> None:
    cell = plans.plan_cells(bound(3), "some", 8)[-1]
    for name, low, high in (("optimizer.lr", 3e-4, 2e-2), ("optimizer.weight_decay", 1e-6, 1e-1)):
        place = [np.log(p[name] / low) / np.log(high / low) for p in cell.params]
        assert sorted(int(8 * u) for u in place) == list(range(8))


def test_suites_and_families() -> None:
    found = suites.SUITES.values()
    assert len(found) >= 20
    assert len({entry.family for entry in found}) >= 12
    # one family a data set, whatever the suite is called
    by_source: dict[str | None, set[str]] = {}
    for entry in found:
        by_source.setdefault(entry.source, set()).add(entry.family)
    assert all(len(families) == 1 for families in by_source.values())
    assert not {"andro", "edm", "sf1", "sf2", "slump"} & {e.source for e in found}


def test_training_rows_are_cut_and_no_others() -> None:
    suite = make_suite()
    counts = suite.counts
    cut = suites.keep_training_rows(suite, counts["train"] - 7)
    assert cut.counts == {**counts, "train": counts["train"] - 7}
    assert torch.equal(cut.rows("val").x, suite.rows("val").x)
    assert torch.equal(cut.open_test().x, suite.open_test().x)
    rows = {tuple(row) for row in suite.rows("train").x.tolist()}
    assert {tuple(row) for row in cut.rows("train").x.tolist()} <= rows
    assert suites.keep_training_rows(suite, counts["train"]) is suite


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", list(suites.SUITES))
def test_suites_can_be_loaded(name: str) -> None:
    entry = suites.SUITES[name]
    suite = entry.load()
    assert suite.name == name
    assert 2 <= suite.n_tasks <= 16
    assert suite.counts["train"] <= (4000 if suite.is_grouped else 2000)
    assert min(suite.counts.values()) >= 60
    assert set(entry.origin()) == {"origin", "licence"}


# --- training -------------------------------------------------------------------------------------


def test_a_cell_is_what_its_runs_reach_alone(built: Path) -> None:
    plan = script.read(script.plan_path(built, "diabetes"))
    assert plan["epochs"] == [1, 3, 9]
    suite = suites.SUITES["diabetes"].load()
    number, draw, seed = 1, 1, 1
    run = script.read(script.cell_path(built, "diabetes", number))["runs"][2 * draw + seed]
    flat = plan["cells"][number]["configs"][draw]
    config = TrialConfig.from_flat({**flat, "optimizer.batch_size": 64})
    alone = [Run(config, script.run_seed(script._STREAM, 2 * number + draw, seed))]
    an_epoch = plan["steps_per_epoch"]
    trainer = Trainer(suite.without_test(), 9 * an_epoch, torch.device("cpu"))
    state = trainer.start(alone)
    for record, epoch in zip(run["rungs"], plan["epochs"], strict=True):
        (result,), state = trainer.train(alone, state, epoch * an_epoch)
        assert record["val"] == pytest.approx(result.value, abs=1e-4)
        assert record["val_tasks"] == pytest.approx(list(result.tasks.values()), abs=1e-4)
    test = suite.open_test()
    pred = trainer.predict(alone, state, test)[0, :, :, 0]
    error = np.square(pred - test.y.numpy().T)
    score = 1 - error.sum() / np.square(test.y.numpy()).sum()
    assert run["rungs"][-1]["test"] == pytest.approx(score, abs=1e-4)
    assert len(run["rungs"][-1]["test_tasks"]) == suite.n_tasks
    assert Problem.model_validate(plan["problem"]) == Problem.of(suite)


def test_stopped_between_cells_it_goes_on(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    run_cell = script.run_cell

    def stopped(name: str, plan: dict[str, Any], number: int) -> dict[str, Any]:
        if len(trained) == 2:
            trained.append(-1)
            raise KeyboardInterrupt
        trained.append(number)
        return run_cell(name, plan, number)

    monkeypatch.setattr(script, "run_cell", stopped)
    with pytest.raises(KeyboardInterrupt):
        quick(tmp_path)
    # what a killed process may leave behind is no cell
    (tmp_path / "cells" / "diabetes" / "02.1.part").write_text("{")
    quick(tmp_path)
    assert trained == [0, 1, -1, 2, 3]
    assert cells(tmp_path) == cells(built)
    quick(tmp_path)
    assert trained == [0, 1, -1, 2, 3]


def test_parts_share_a_folder(built: Path, tmp_path: Path) -> None:
    quick(tmp_path, "--only-part", "2/2")
    assert list(cells(tmp_path)) == ["01.json", "03.json"]
    with pytest.raises(SystemExit, match=r"00.json is missing: the suite is not finished"):
        quick(tmp_path, "--pack", "--table", str(tmp_path / "table.parquet"))
    quick(tmp_path, "--only-part", "1/2")
    assert cells(tmp_path) == cells(built)


@pytest.mark.slow
def test_processes_train_what_one_trains(built: Path, tmp_path: Path) -> None:
    quick(tmp_path, "--workers", "2")
    assert cells(tmp_path) == cells(built)


def test_a_run_that_failed_stays_failed(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = script.read(script.plan_path(built, "diabetes"))
    train = Trainer.train

    def lost(self: Trainer, runs: Any, state: Any, to_step: int) -> Any:
        results, state = train(self, runs, state, to_step)
        if to_step == 3 * plan["steps_per_epoch"]:
            results[0] = type(results[0])(to_step, None, reason="lost")
        return results, state

    monkeypatch.setattr(Trainer, "train", lost)
    first, second, *_ = script.run_cell("diabetes", plan, 0)["runs"]
    assert [rung["val"] is None for rung in first["rungs"]] == [False, True, True]
    assert [rung["test"] is None for rung in first["rungs"]] == [False, True, True]
    assert [rung["val"] is None for rung in second["rungs"]] == [False] * 3


def test_other_settings_or_data_are_refused(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="was made with .*'draws': 2.* Choose another --out"):
        script.main(["--out", str(built), "--suites", "diabetes"])
    plan = script.read(script.plan_path(built, "diabetes"))
    with pytest.raises(SystemExit, match="are not those that its plan was made with"):
        script.run_cell("diabetes", {**plan, "fingerprint": "0"}, 0)
    for wrong in (["--suites", "diabets"], ["--only-part", "3/2"], ["--steps", "0"]):
        with pytest.raises(SystemExit):
            script.main(["--out", str(built), *wrong])
    assert "diabets is not one of multidigits" in capsys.readouterr().err


# --- the table ------------------------------------------------------------------------------------


def test_the_table_holds_the_cells(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    quick(built, "--pack", "--table", str(path))
    assert pq.read_schema(path).names == list(sharing_bench.COLUMNS)
    bench = sharing_bench.load(path)
    runs = bench.runs
    assert len(runs) == 4 * 2 * 2 * 3
    row = runs[(runs["config"] == 3) & (runs["seed"] == 1) & (runs["rung"] == 2)].iloc[0]
    cell = script.read(script.cell_path(built, "diabetes", 1))
    rung = cell["runs"][3]["rungs"][2]
    for name in ("val", "test"):
        assert row[name] == pytest.approx(rung[name], abs=1e-5)
        assert row[f"{name}_tasks"] == pytest.approx(rung[f"{name}_tasks"], abs=1e-4)
    assert row["parameters"] == cell["runs"][3]["parameters"]
    plan = script.read(script.plan_path(built, "diabetes"))
    assert json.loads(row["params"]) == plan["cells"][1]["params"][1]
    assert runs.groupby("config")["core"].all().tolist() == [True, False] * 3 + [False] * 2
    probes = bench.suite("diabetes").probes
    assert set(probes) == set(PROBES)
    assert probes["tasks"] == pytest.approx(np.log10(4))
    # the loader rebuilds the space of the suite
    table = bench.lookup("diabetes")
    configs = [c for cell in plan["cells"] if cell["arm"] == "sharing" for c in cell["configs"]]
    for place, config in enumerate(configs):
        answers = optuna.trial.FixedTrial(table.params(place))
        assert TrialConfig.from_flat(table.suggest(answers)).flat() == config
    # and so does whoever learns from the prior beside it
    (record,) = read_prior(tmp_path / SHIPPED.name).records
    assert record.facts.probes == probes
    assert len(record.of_arm("sharing")) == len(configs)
    best = runs[(runs["rung"] == 2)].groupby("config")["val"].mean().max()
    assert record.best() == pytest.approx(best)
    card = path.with_suffix(".md").read_text()
    assert "| diabetes | diabetes | progression" in card
    assert "{" not in card


def test_a_table_that_is_too_large_is_not_written(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LARGEST", 100)
    with pytest.raises(SystemExit, match="at most 100 are shipped"):
        quick(built, "--pack", "--table", str(tmp_path / "table.parquet"))
    assert list(tmp_path.glob("table*")) == []
