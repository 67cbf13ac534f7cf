"""The table of SharingBench that the package ships."""

from __future__ import annotations

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest

from autometa.priors import sharing_bench
from autometa.priors.probes import PROBES
from autometa.priors.sharing_bench import COLUMNS, TABLE, SharingBench
from autometa.trial import TrialConfig, check
from scripts._sharing_bench_pack import nearest_says

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason="scripts/build_sharing_bench.py --pack")

CONFIGS, SEEDS, RUNGS = 256, 2, 3


@pytest.fixture(scope="module")
def bench() -> SharingBench:
    return sharing_bench.load()


def test_at_most_5_mb_and_a_card_that_names_every_suite(bench: SharingBench) -> None:
    assert TABLE.stat().st_size <= 5_000_000
    card = TABLE.with_suffix(".md").read_text(encoding="utf-8")
    for suite in bench.suites.values():
        assert f"| {suite.name} | {suite.family} |" in card
        assert suite.origin in card
        assert suite.licence in card
    assert all(f"| `{column}` |" in card for column in COLUMNS)


def test_suites_and_families_are_complete(bench: SharingBench) -> None:
    assert len(bench.suites) >= 20
    assert len(bench.families) >= 12
    assert sorted(bench.runs["suite"].unique()) == sorted(bench.suites)
    counts = bench.runs.groupby("suite", observed=True)[["config", "seed", "rung"]].nunique()
    assert (counts == [CONFIGS, SEEDS, RUNGS]).all(axis=None)
    assert len(bench.runs) == len(bench.suites) * CONFIGS * SEEDS * RUNGS
    for name, suite in bench.suites.items():
        assert suite.problem.n_tasks <= 16
        assert all(bench.suites[other].family != suite.family for other in bench.others(name))


def test_scores_only(bench: SharingBench) -> None:
    """Nothing in it is as long as a split: no rows, labels or predictions of any data set."""
    assert list(bench.runs) == list(COLUMNS)
    assert set(pq.read_schema(TABLE).metadata) <= {sharing_bench.METADATA, b"pandas"}
    for name, suite in bench.suites.items():
        runs = bench.runs[bench.runs["suite"] == name]
        for split in ("val", "test"):
            scores = runs[split].dropna()
            assert scores.between(-1, 1).all()
            assert {len(tasks) for tasks in runs[f"{split}_tasks"].dropna()} == {
                suite.problem.n_tasks
            }
        assert set(suite.tasks[0]) == {"name", "kind", "metric"}
        assert set(suite.probes) == set(PROBES)
        assert len(suite.groups) <= 8
        assert all(len(group) == suite.problem.n_tasks for group in suite.groups)


def test_the_core_is_common_and_nothing_else(bench: SharingBench) -> None:
    first = bench.runs[(bench.runs["seed"] == 0) & (bench.runs["rung"] == 0)]
    core = first[first["core"]].groupby("config")
    assert len(core) == 32
    assert (core["params"].nunique() == 1).all()
    assert (core["suite"].nunique() == len(bench.suites)).all()
    others = first[~first["core"]]["params"]
    assert others.nunique() == len(others)
    assert not set(others) & set(first[first["core"]]["params"])
    assert np.mean(first[first["core"]]["config"] % 2) == 0.5


def test_configurations_can_be_built_and_searched(bench: SharingBench) -> None:
    for name, suite in bench.suites.items():
        for arm in ("sharing", "independent"):
            table = bench.lookup(name, arm)
            for row in range(0, len(table), 7):
                answers = optuna.trial.FixedTrial(table.params(row))
                check(TrialConfig.from_flat(table.suggest(answers)), suite.problem)
                assert answers.params == table.params(row)
            assert table.nearest(table.params(0)) == 0


def test_near_configurations_reach_much_the_same(bench: SharingBench) -> None:
    """What the data card says of the distance that was learned."""
    learned = nearest_says(bench, bench.relevance)
    plain = nearest_says(bench, dict.fromkeys(bench.relevance, 1.0))
    assert learned > 0.6 > 0.4 > plain
    card = TABLE.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{plain:.2f} (mean over" in card
    assert f"metadata, {learned:.2f}" in card


def test_it_says_nothing_of_the_width(bench: SharingBench) -> None:
    assert not bench.runs["params"].str.contains("backbone.width").any()


def test_scores_say_something(bench: SharingBench) -> None:
    """Something is learned, configurations differ, and validation ranks them as the test does."""
    for name in bench.suites:
        table = bench.lookup(name)
        assert table.val[:, -1].max() > 0.05, name
        assert np.ptp(table.val[:, -1]) > 0.02, name
        order = np.argsort(np.argsort(np.stack([table.val[:, -1], table.test[:, -1]])))
        assert np.corrcoef(order)[0, 1] > 0.2, name
