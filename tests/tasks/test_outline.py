"""What is different in other data, in words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.tasks.episodes import EpisodeShape
from autometa.tasks.outline import differences, outline
from tests.episodic import grouped


def frame(rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)) * [1, 100, 1e-3, 1] + [0, 5000, 0, 1]
    table = pd.DataFrame(x, columns=["a", "b", "c", "d"])
    table["colour"] = rng.choice(["red", "green", "blue"], rows)
    table["price"] = 1000 + 50 * rng.normal(size=rows)
    table["sold"] = rng.choice(["yes", "no"], rows)
    return table


def suite(table: pd.DataFrame, targets: tuple[str, ...] = ("price", "sold"), **options: Any) -> Any:
    return TaskSuite.from_frame(table, targets=list(targets), **options)


BASE = frame()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (suite(frame(132).iloc[:132]), ["12 rows more"]),
        (suite(BASE.iloc[:119]), ["1 row fewer"]),
        (
            suite(BASE.sample(frac=1, random_state=1)),
            ["the same rows in another order, or split in another way"],
        ),
        (suite(BASE, seed=3), ["the same rows in another order, or split in another way"]),
        (
            suite(BASE, ("price", "d")),
            ["task `d` is new; task `sold` is gone", "feature `d` is gone"],
        ),
        (suite(BASE.drop(columns="b")), ["feature `b` is gone"]),
        (suite(BASE.assign(e=BASE["a"] ** 2)), ["feature `e` is new"]),
        (suite(BASE.assign(b=BASE["b"] + 30)), ["other values of feature `b`"]),
        (suite(BASE.assign(price=BASE["price"] * 1.1)), ["other values of task `price`"]),
        (
            suite(BASE.assign(sold=BASE["sold"].where(np.arange(120) > 9))),
            ["other values of task `sold`"],
        ),
        (suite(BASE.assign(sold=np.arange(120.0))), ["task `sold` is regression and was binary"]),
        (
            suite(BASE[["d", "c", "b", "a", "colour", "price", "sold"]]),
            ["the features are in another order"],
        ),
    ],
)
def test_what_is_different_is_said(other: TaskSuite, words: list[str]) -> None:
    base = suite(BASE)
    assert other.fingerprint != base.fingerprint
    kept = json.loads(json.dumps(outline(base)))
    told = "; ".join(differences(kept, outline(other)))
    for some in words:
        assert some in told
    if "other values" in told or "order" in told or "rows" in told:
        assert told.count(";") == 0, f"nothing else is: {told}"


def test_of_a_grouped_suite() -> None:
    table = BASE.assign(shop=np.repeat(["n", "s", "w"], 40))
    options: dict[str, Any] = {"task_column": "shop"}
    base = outline(TaskSuite.from_frame(table, target="price", **options))
    other = outline(TaskSuite.from_frame(table, target="a", **options))
    told = differences(base, other)
    assert told[0] == "another target (`a`, it was `price`)"
    moved = table.assign(shop=np.repeat(["n", "s", "e"], 40))
    told = differences(base, outline(TaskSuite.from_frame(moved, target="price", **options)))
    assert told == ["task `e` is new", "task `w` is gone"]
    dearer = table.assign(price=table["price"] + 9 * (table["shop"] == "s"))
    told = differences(base, outline(TaskSuite.from_frame(dearer, target="price", **options)))
    assert told == ["other values of task `s`"]


def test_of_images_and_of_episodes() -> None:
    rng = np.random.default_rng(0)
    images = TaskSuite.from_arrays(rng.normal(size=(60, 1, 5, 5)), rng.normal(size=(60, 2)))
    assert outline(images)["features"] is None
    assert outline(images)["rows"] == sum(images.counts.values())
    one = EpisodicSuite.from_suite(grouped(), EpisodeShape(shots=4, queries=3))
    facts = outline(one)
    assert facts["rows"] == sum(count for (count,) in facts["labels"].values())
    assert list(facts["tasks"]) == list(one.tasks)
    assert len(json.dumps(facts)) < 20_000
