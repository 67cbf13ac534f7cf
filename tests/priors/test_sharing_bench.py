"""autometa.priors.sharing_bench: a small made-up table, and the one of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from autometa.errors import DataError
from autometa.priors import sharing_bench
from autometa.priors.sharing_bench import BenchSuite, Lookup, SharingBench
from autometa.space import Space
from autometa.trial import TrialConfig
from tests.small import same_kind

EPOCHS = (1, 3, 9)
SUITES = {"a-1": "a", "a-2": "a", "b": "b"}
NONE = {"conditioning.kind": "none", "balancing.kind": "equal"}
OWN: list[dict[str, Any]] = [
    {"sharing.kind": "hard", "sharing.split_at": 1, **NONE},
    {"sharing.kind": "hard", "sharing.split_at": 3, **NONE},
    {"sharing.kind": "soft", "sharing.tie": 1e-2, "balancing.kind": "equal"},
    {"sharing.kind": "tree", "sharing.partitions.1": "001", "sharing.partitions.2.001": "012",
     **NONE},
    {"balancing.kind": "equal"},
]  # fmt: skip
RATES = {
    "backbone.dropout": 0.25,
    "optimizer.lr": 1e-3,
    "optimizer.weight_decay": 1e-4,
    "optimizer.schedule": "cosine",
}
RELEVANCE = {
    **dict.fromkeys([name for own in OWN for name in own] + list(RATES), 1.0),
    "optimizer.lr": 2.0,
    "sharing.tie": 0.5,
}
VAL = {0: (0.1, 0.2, 0.3), 1: (0.2, 0.3, 0.7), 2: (0.1, 0.1, 0.1), 3: (0.3, 0.4, 0.5),
       4: (0.0, 0.1, 0.2)}  # fmt: skip


def facts(name: str, family: str) -> dict[str, Any]:
    return {
        "name": name, "family": family, "what": "made up", "origin": "made up", "licence": "none",
        "problem": same_kind("aligned").model_dump(mode="json"),
        "tasks": [{"name": n, "kind": "regression", "metric": "rmse"} for n in "xyz"],
        "rows": {"train": 60, "val": 20, "test": 20}, "epochs": EPOCHS, "steps_per_epoch": 1,
        "groups": [], "probes": {"rows": 1.8}, "fingerprint": "0",
    }  # fmt: skip


def made_runs(lost: tuple[tuple[int, int], ...] = ()) -> pd.DataFrame:
    """Five configurations a suite, two seeds 0.02 apart; `lost`: (configuration, seed) diverged
    after the first rung."""
    rows = []
    for suite in SUITES:
        for config, own in enumerate(OWN):
            for seed in (0, 1):
                for rung, epoch in enumerate(EPOCHS):
                    gone = rung > 0 and (config, seed) in lost
                    value = None if gone else VAL[config][rung] + 0.02 * seed
                    rows.append({
                        "suite": suite, "config": config,
                        "arm": "sharing" if "sharing.kind" in own else "independent",
                        "kind": own.get("sharing.kind", "independent"), "core": config == 0,
                        "params": json.dumps({**own, **RATES}), "parameters": 10, "seed": seed,
                        "rung": rung, "epoch": epoch, "val": value, "test": value,
                        "val_tasks": None, "test_tasks": None, "seconds": epoch * 0.5,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def made(lost: tuple[tuple[int, int], ...] = ()) -> SharingBench:
    suites = {name: BenchSuite.from_json(facts(name, family)) for name, family in SUITES.items()}
    return SharingBench(suites, made_runs(lost), Space.load("sharing").text, RELEVANCE)


def test_suites_are_left_out_by_family() -> None:
    bench = made()
    assert bench.families == {"a": ("a-1", "a-2"), "b": ("b",)}
    assert bench.others("a-1") == ["b"]
    assert bench.others("b") == ["a-1", "a-2"]
    with pytest.raises(DataError, match="has no suite `a-3`. Did you mean `a-"):
        bench.suite("a-3")


def test_values_are_means_over_seeds_of_one_arm() -> None:
    table = made().lookup("a-1")
    assert table.numbers.tolist() == [0, 1, 2, 3]
    assert table.val[1] == pytest.approx((0.21, 0.31, 0.71))
    assert table.loss == pytest.approx([-0.31, -0.71, -0.11, -0.51])
    assert table.runtime == pytest.approx([4.5] * 4)
    assert made().lookup("a-1", "independent").val[:, -1] == pytest.approx([0.21])
    # 0 is the best even row, and its median is between the two
    assert table.regret() == pytest.approx([0.0, -4.0, 2.0, -2.0])


def test_runs_that_diverged() -> None:
    table = made(lost=((0, 0), (1, 0), (1, 1))).lookup("b")
    assert table.val[0] == pytest.approx((0.11, (-1 + 0.22) / 2, (-1 + 0.32) / 2))
    assert table.failed.tolist() == [False, True, False, False]
    trials = made(lost=((1, 0), (1, 1))).trials("b")
    states = [trial.state for trial in trials]
    assert states == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]
    assert trials[1].values is None
    assert trials[1].intermediate_values == {}


def test_trials_are_what_a_search_leaves() -> None:
    bench = made()
    trials = bench.trials("a-1")
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert trials[1].value == pytest.approx(0.71)
    assert trials[1].intermediate_values == pytest.approx({1: 0.21, 3: 0.31, 9: 0.71})
    assert trials[2].params == {**OWN[2], **RATES}
    assert trials[2].user_attrs == {"arm": "sharing", "suite": "a-1"}
    # conditional parameters are there with the distributions they were asked with
    tree = trials[3].distributions
    assert tree["sharing.partitions.2.001"].choices == ("001", "012")  # type: ignore[attr-defined]
    assert "sharing.split_at" not in tree
    assert set(tree) == set(trials[3].params)
    assert [t.number for t in bench.trials("a-1", side=1)] == [1, 3]
    study = optuna.create_study(
        direction="maximize", sampler=TPESampler(n_startup_trials=1, seed=0)
    )
    study.add_trials(trials)
    table = bench.lookup("a-1")
    study.optimize(table.objective, 3)
    assert len(study.trials) == 7


def test_params_are_points_of_the_space() -> None:
    table = made().lookup("a-1")
    for row in range(len(table)):
        trial = optuna.trial.FixedTrial(table.params(row))
        config = TrialConfig.from_flat(table.suggest(trial))
        assert config.flat()["backbone.width"] == sharing_bench.WIDTH
        assert trial.params == table.params(row)
        assert set(table.params(row)) <= set(table.space)


def test_distance_counts_parameters_by_their_relevance() -> None:
    table = made().lookup("a-1")
    same = table.params(0)
    assert table.distances(same)[0] == 0
    # split 1 and 3 of 1 to 3 are a whole range apart
    assert table.distances(same)[1] == pytest.approx(1.0)
    # another kind; `split_at` and `conditioning.kind` are missing, `tie` is added and counts half
    assert table.distances(same)[2] == pytest.approx(np.sqrt(3 + 0.5**2))
    # by ratio: 1e-3 to 2e-2 on 3e-4 to 2e-2, and twice as relevant
    moved = {**same, "optimizer.lr": 2e-2}
    assert table.distances(moved)[0] == pytest.approx(2 * np.log(20) / np.log(2e-2 / 3e-4))
    assert table.nearest({**table.params(3), "backbone.dropout": 0.5}) == 3
    # what no configuration has, and nothing is known of, moves none of them away
    other = {**table.params(3), "sharing.partitions.2.010": "012"}
    assert table.distances(other)[3] == 0


def test_a_search_on_the_table_reports_rungs_and_is_pruned() -> None:
    table = made().lookup("a-1")

    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.last_step == 3

    study = optuna.create_study(
        direction="maximize", sampler=RandomSampler(seed=0), pruner=Pruner()
    )
    study.optimize(table.objective, 2)
    assert [t.state for t in study.trials] == [TrialState.PRUNED] * 2
    row = table.nearest(study.trials[0].params)
    assert study.trials[0].intermediate_values == pytest.approx(
        dict(zip((1, 3), table.val[row][:2], strict=True))
    )
    free = optuna.create_study(
        direction="maximize", sampler=RandomSampler(seed=0), pruner=optuna.pruners.NopPruner()
    )
    free.optimize(table.objective, 2)
    assert free.trials[0].value == pytest.approx(table.val[row, -1])


class OnTable(BaseSampler):
    """Moves what another sampler proposes to the nearest configuration that was not tried."""

    def __init__(self, inner: BaseSampler, table: Lookup) -> None:
        self.inner, self.table = inner, table
        self.rows: list[int] = []

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        space = self.inner.infer_relative_search_space(study, trial)
        found = self.inner.sample_relative(study, trial, space)
        proposal = _Proposal(found, lambda n, d: self.inner.sample_independent(study, trial, n, d))
        self.table.suggest(proposal)
        distance = self.table.distances(proposal.params)
        distance[self.rows] = np.inf
        self.rows.append(int(np.argmin(distance)))
        return self.table.distributions(self.rows[-1])

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return self.table.params(self.rows[-1])

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        raise AssertionError(f"{name} is a parameter that the row has not")


class _Proposal:
    def __init__(self, given: dict[str, Any], ask: Any) -> None:
        self.params: dict[str, Any] = {}
        self._given, self._ask = given, ask

    def suggest_float(self, name: str, low: float, high: float, **more: Any) -> float:
        return float(self._suggest(name, FloatDistribution(low, high, **more)))

    def suggest_int(self, name: str, low: int, high: int, **more: Any) -> int:
        return int(self._suggest(name, IntDistribution(low, high, **more)))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._suggest(name, CategoricalDistribution(choices))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        value = self._given[name] if name in self._given else self._ask(name, distribution)
        self.params[name] = value
        return value


@pytest.mark.parametrize("inner", [RandomSampler(seed=0), TPESampler(seed=0, n_startup_trials=1)])
def test_a_search_that_sees_the_rows_it_is_moved_to(inner: BaseSampler) -> None:
    table = made().lookup("a-1")
    sampler = OnTable(inner, table)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(len(table)):
        trial = study.ask()
        table.suggest(trial)
        assert trial.params == table.params(sampler.rows[-1])
        study.tell(trial, float(-table.loss[sampler.rows[-1]]))
    assert sorted(sampler.rows) == [0, 1, 2, 3]
    assert study.best_value == pytest.approx(0.71)


def test_errors_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    with pytest.raises(DataError, match="is not a readable table of SharingBench"):
        sharing_bench.load(path)
    plain = pa.table({"x": [1]})
    pq.write_table(plain, path)
    with pytest.raises(DataError, match="is not a readable table of SharingBench"):
        sharing_bench.load(path)
    metadata = {sharing_bench.METADATA: json.dumps({"format": 0}).encode()}
    pq.write_table(plain.replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match="should have format 2. Found 0"):
        sharing_bench.load(path)
