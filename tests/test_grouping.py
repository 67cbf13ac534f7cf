"""Trees in a search: groups of tasks found before it, kept by the study, for every sampler."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import adjusted_rand_score

import autometa
from autometa.api import SearchResult, prepare
from autometa.api.grouping import cut, nested_groups
from autometa.home import Home
from autometa.searching.loop import SearchSettings
from autometa.searching.progress import Progress
from autometa.sharing.tree import TreeConfig
from autometa.space import Space
from autometa.study import make_sampler, open_study, read_study, trial_rows
from autometa.tasks import TaskSuite, load_suite
from tests.small import same_kind

DATA = os.environ.get("AUTOMETA_DATA")  # read now: every test starts without it
CPU = torch.device("cpu")
SPACE = """
parameters:
  backbone.width: 8
  backbone.depth: 2
  sharing.kind: {type: categorical, choices: [tree]}
  sharing.partitions: {type: partitions, when: {sharing.kind: tree}}
  optimizer.lr: {type: float, low: 1.0e-3, high: 3.0e-2, log: true}
"""
GROUP = np.array([0, 0, 1, 0, 1, 1, 1])


def planted(layout: str, rows: int = 800, seed: int = 0) -> TaskSuite:
    """Seven tasks that are two functions and noise; aligned ones of either sign."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 8))
    functions = np.tanh(x @ rng.normal(size=(2, 8, 3))).sum(2)
    y = functions[GROUP].T + 0.3 * rng.normal(size=(rows, 7))
    if layout == "aligned":
        return TaskSuite.from_arrays(x, y * [1, -1, 1, 1, -1, 1, 1], name="planted")
    task = np.arange(rows) % 7
    return TaskSuite.from_arrays(x, y[np.arange(rows), task], task=task, name="planted")


def small(n_tasks: int) -> TaskSuite:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    y = np.tanh(x @ rng.normal(size=(4, n_tasks))) + 0.1 * rng.normal(size=(90, n_tasks))
    return TaskSuite.from_arrays(x, y, name="small")


# --- the dendrogram


@pytest.mark.parametrize("n_tasks", [2, 6, 8, 9, 25])
def test_cuts_are_those_of_the_average_linkage(n_tasks: int) -> None:
    points = np.random.default_rng(n_tasks).normal(size=(n_tasks, 3))
    distance = squareform(pdist(points))
    skew = np.triu(np.ones_like(distance)) - np.tril(np.ones_like(distance))
    found = cut(distance + 0.1 * skew, 8)  # made symmetric
    assert len(found) == min(n_tasks, 8)
    TreeConfig(partitions="/".join(found))  # canonical, each refining the one before
    merges = linkage(pdist(points), "average")
    for k, partition in enumerate(found, start=1):
        assert len(set(partition)) == k
        expected = fcluster(merges, k, "maxclust")
        assert adjusted_rand_score(expected, list(partition)) == 1.0


def test_ties_are_cut_into_every_number_of_clusters() -> None:
    assert [len(set(p)) for p in cut(np.ones((9, 9)), 8)] == list(range(1, 9))


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_tasks_of_one_function_are_grouped(layout: str) -> None:
    suite = planted(layout)
    found = nested_groups(suite, 0, CPU)
    assert found == nested_groups(suite, 0, CPU)
    assert [len(set(partition)) for partition in found] == list(range(1, 8))
    assert found[1] == "0010111"


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_groups_come_from_training_rows(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autometa.api.grouping.EPOCHS", 1)
    suite = planted(layout, rows=200)
    val, test = suite.split == 1, suite.open_test()
    poisoned = dataclasses.replace(
        suite,
        x=suite.x.masked_fill(val[:, None], torch.nan),
        y=suite.y.masked_fill(val if suite.is_grouped else val[:, None], torch.nan),
        _test=test._replace(x=test.x * torch.nan, y=test.y * torch.nan),
    )
    assert nested_groups(poisoned, 0, CPU) == nested_groups(suite, 0, CPU)


def test_suites_of_images_and_of_mixed_kinds_have_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autometa.api.grouping.EPOCHS", 1)
    rng = np.random.default_rng(0)
    y = rng.normal(size=(40, 6))
    y[:, 3:] = y[:, 3:] > 0
    kinds = {f"y{t}": "binary" if t > 2 else "regression" for t in range(6)}
    for x in (rng.normal(size=(40, 3)), rng.normal(size=(40, 1, 20, 20)).astype(np.float32)):
        suite = TaskSuite.from_arrays(x, y, names=list(kinds), kinds=kinds)
        assert len(nested_groups(suite, 0, CPU)) == 6


@pytest.mark.skipif(not DATA, reason="AUTOMETA_DATA names no folder of data sets")
def test_kinds_of_ground_are_found_in_landmine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMETA_DATA", str(DATA))
    suite = load_suite("landmine")
    assert suite.task_names[15] == "field_15"
    found = nested_groups(suite, 0, CPU)[1]
    # 0 to 14 are fields with plants, the others are bare
    assert adjusted_rand_score([field > 14 for field in range(29)], list(found)) > 0.5


# --- a search


def search(home: Path, suite: TaskSuite, **options: Any) -> SearchResult:
    home.mkdir(parents=True, exist_ok=True)
    (home / "space.yaml").write_text(SPACE)
    settings: dict[str, Any] = {"n_trials": 8, "max_epochs": 3, "study_name": "trees"} | options
    return autometa.search(
        suite,
        space=home / "space.yaml",
        home=home,
        mlflow_tracking_uri="off",
        diagnose=False,
        workers=0,
        device="cpu",
        **settings,
    )


def suggested(home: Path) -> list[Any]:
    study = read_study(Home.find(home), "trees")
    return [(t.params, t.user_attrs["config"], t.values) for t in study.trials]


@pytest.mark.slow
@pytest.mark.usefixtures("short_judgement")
@pytest.mark.parametrize("n_tasks", [3, 6])
def test_a_search_over_trees_that_dies_goes_on_with_the_same_trees(
    n_tasks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*args: Any) -> tuple[str, ...]:
        calls.append(args)
        return nested_groups(*args)

    monkeypatch.setattr(prepare, "nested_groups", counted)
    whole = search(tmp_path / "whole", small(n_tasks))
    assert len(calls) == (n_tasks > 5)

    def die(progress: Progress) -> None:
        if progress.done >= 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        search(tmp_path / "killed", small(n_tasks), progress=die)
    assert len(calls) == 2 * (n_tasks > 5)
    search(tmp_path / "killed", small(n_tasks), resume=True)
    assert len(calls) == 2 * (n_tasks > 5)  # the study knows the groups
    assert suggested(tmp_path / "killed") == suggested(tmp_path / "whole")

    study = read_study(Home.find(tmp_path / "whole"), "trees")
    rows = [row for row in trial_rows(study) if row["arm"] == "sharing"]
    assert len(rows) == 4
    trees = [row["config"]["sharing.partitions"] for row in rows]
    assert len(set(trees)) > 1
    for row, tree in zip(rows, trees, strict=True):
        assert row["params"].keys() == {"sharing.kind", "sharing.partitions", "optimizer.lr"}
        assert row["params"]["sharing.partitions"] == tree
    if n_tasks > 5:
        groups = study.user_attrs["task_groups"]
        assert tuple(groups) == nested_groups(small(n_tasks), 0, CPU)
        assert {part for tree in trees for part in tree.split("/")} <= set(groups)
    else:
        assert "task_groups" not in study.user_attrs
    assert whole.best is not None


def test_groups_are_measured_only_where_trees_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> tuple[str, ...]:
        raise AssertionError("measured")

    monkeypatch.setattr(prepare, "nested_groups", refuse)
    said: list[Progress] = []

    def choose(space: str, n_tasks: int, earlier: dict[str, Any]) -> Space:
        settings = SearchSettings(n_trials=4, max_steps=2)
        return prepare.choose_space(space, small(n_tasks), "s", earlier, settings, said.append)

    choose("hard", 6, {})
    choose("sharing", 5, {})
    cuts = cut(np.ones((6, 6)), 8)
    assert choose("sharing", 6, {"task_groups": list(cuts)}).cuts == cuts
    assert said == []
    with pytest.raises(AssertionError, match="measured"):
        choose("sharing", 6, {})
    assert "6 tasks" in str(said[0].message)


@pytest.mark.parametrize("n_tasks", [3, 6, 20])
@pytest.mark.parametrize(("sampler", "n"), [("tpe", 30), ("random", 8), ("cmaes", 30), ("gp", 14)])
def test_every_sampler_suggests_trees_and_repeats_itself(
    sampler: str, n: int, n_tasks: int, tmp_path: Path
) -> None:
    space = Space.from_yaml(SPACE).bind(same_kind("aligned", n_tasks=n_tasks))

    def searched(name: str) -> list[dict[str, Any]]:
        found = []
        with open_study(Home.find(tmp_path), name, fingerprint="f", attrs={}) as handle:
            for _ in range(n):
                trial = handle.ask("sharing", partial(make_sampler, sampler, 0))
                found.append(space.suggest(trial, "sharing"))
                tree = found[-1]["sharing.partitions"].split("/")
                handle.tell(
                    trial, len(set(tree[-1])) - len(set(tree[0])) - found[-1]["optimizer.lr"]
                )
                handle.commit()
        return found

    first = searched("one")
    assert first == searched("two")
    trees = [values["sharing.partitions"] for values in first]
    assert len(set(trees)) > 2
    for tree in trees:
        TreeConfig(partitions=tree)
