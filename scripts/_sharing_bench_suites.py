"""The suites of SharingBench: real data sets, some as several suites of tasks or groups.

The *family* of a suite is the data set that its rows come from. Suites of one family share rows,
inputs or handwriting, so whatever is left out for a test is left out by family.

Not here: andro, edm, sf1, sf2 and slump of the data folder, iris and wine of scikit-learn. They are
too small or degenerate: their validation scores are noise. Nor are two that were trained and teach
nothing: classes 8 to 14 of yeast, of which no configuration predicts anything (best score 0.001),
and scpf, whose few popular issues decide its scores, so that validation and test rows order
configurations independently (rank correlation 0.06).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from autometa.tasks import TaskSuite, catalog, load_suite
from autometa.tasks.build import numeric_first
from autometa.tasks.npz import read_npz
from autometa.tasks.reading import as_text, read_table

ALIGNED_ROWS = 2000
GROUPED_ROWS = 4000
"""Training rows that are kept at most. A step of a grouped suite takes several tasks' rows."""
SPLIT_SEED = 0


@dataclass(frozen=True)
class Entry:
    """A suite of the benchmark.

    Attributes:
        source: the suite of the catalog that it is made of; None: of scikit-learn.
        make: builds it, with all its training rows.
        what: its tasks, in a few words.
    """

    name: str
    family: str
    source: str | None
    make: Callable[[], TaskSuite]
    what: str

    def load(self) -> TaskSuite:
        """The suite as the benchmark trains it, test rows sealed.

        Raises:
            DataError: its data are not there (`AUTOMETA_DATA`).
        """
        suite = replace(self.make(), name=self.name)
        return keep_training_rows(suite, GROUPED_ROWS if suite.is_grouped else ALIGNED_ROWS)

    def origin(self) -> dict[str, str]:
        """Where the data come from, and their licence."""
        if self.source is None:
            return {"origin": DIABETES_ORIGIN, "licence": "no explicit data licence"}
        facts = catalog.describe(self.source)
        return {"origin": facts["origin"], "licence": facts["licence"]}


def keep_training_rows(suite: TaskSuite, limit: int) -> TaskSuite:
    """At most `limit` of the training rows, drawn at random; the other splits stay whole."""
    train = torch.nonzero(suite.split == 0).squeeze(1)
    if len(train) <= limit:
        return suite
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    keep = suite.split != 0
    keep[train[order[:limit]]] = True
    return replace(
        suite,
        x=suite.x[keep],
        y=suite.y[keep],
        mask=suite.mask[keep],
        task=None if suite.task is None else suite.task[keep],
        split=suite.split[keep],
    )


def _whole(name: str, family: str, what: str) -> Entry:
    return Entry(name, family, name, lambda: load_suite(name, seed=SPLIT_SEED), what)


def _targets(source: str, suffix: str, first: int, last: int, what: str) -> Entry:
    """Targets `first` to `last` (counted from 1) of an aligned suite; the others are no inputs."""

    def make() -> TaskSuite:
        names = load_suite(source, seed=SPLIT_SEED).task_names
        return catalog.load(source, seed=SPLIT_SEED, targets=names[first - 1 : last])

    return Entry(f"{source}-{suffix}", source, source, make, what)


def _groups(
    source: str, suffix: str, tasks: slice, what: str, *, by_size: bool = False, **options: Any
) -> Entry:
    """Some tasks of a grouped suite, in the order of their names or the largest first."""

    def make() -> TaskSuite:
        entry = catalog._entry(source)
        table, column = read_table(entry.path), str(entry.task_column)
        names = as_text(table.frame[column].to_numpy(dtype=object))
        count = pd.Series(names).value_counts()
        # equally large ones by name
        order = (
            count.loc[sorted(count.index, key=numeric_first)]
            if not by_size
            else count.loc[sorted(count.index, key=numeric_first)].sort_values(
                ascending=False, kind="stable"
            )
        )
        return TaskSuite.from_frame(
            table._replace(frame=table.frame[np.isin(names, order.index[tasks])]),
            target=entry.target,
            task_column=column,
            kinds=entry.kind,
            seed=SPLIT_SEED,
            **options,
        )

    return Entry(f"{source}-{suffix}", source, source, make, what)


def _alphabets(number: int) -> Entry:
    """Every fifth alphabet of Omniglot, drawings as 14×14 pixels."""

    def make() -> TaskSuite:
        arrays = read_npz(catalog._entry("omniglot_background").path)
        mine = arrays["alphabet"] % 5 == number
        images = arrays["images"][mine].astype(np.float32).reshape(-1, 14, 2, 14, 2)
        return TaskSuite.from_arrays(
            images.mean((2, 4)),
            arrays["character"][mine],
            names=["character"],
            kinds="multiclass",
            task=arrays["alphabet_names"][arrays["alphabet"][mine]],
            task_column="alphabet",
            seed=SPLIT_SEED,
        )

    what = f"characters of alphabets {number + 1}, {number + 6}, … {number + 26}, 14×14 pixels"
    return Entry(f"omniglot-{number + 1}", "omniglot", "omniglot_background", make, what)


DIABETES_ORIGIN = "Efron et al. (2004), Least Angle Regression, as shipped with scikit-learn"


def _diabetes() -> TaskSuite:
    from sklearn.datasets import load_diabetes

    frame: pd.DataFrame = load_diabetes(as_frame=True, scaled=False).frame
    return TaskSuite.from_frame(
        frame.rename(columns={"target": "progression"}),
        targets=["progression", "bp", "s5", "s6"],
        kinds="regression",
        seed=SPLIT_SEED,
    )


SUITES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _whole("multidigits", "digits", "the left and the right of two overlaid digits"),
        _whole("breast-cancer", "breast-cancer", "diagnosis and ten worst measurements"),
        Entry("diabetes", "diabetes", None, _diabetes,
              "progression, blood pressure and two blood values"),
        _whole("atp1d", "atp1d", "next day's lowest price of six kinds of flights"),
        _targets("oes97", "1", 1, 8, "employment in eight occupations"),
        _targets("oes97", "2", 9, 16, "employment in eight other occupations"),
        _targets("osales", "1", 1, 6, "sales in months 1 to 6"),
        _targets("osales", "2", 7, 12, "sales in months 7 to 12"),
        _targets("wq", "plants", 1, 7, "abundance of seven plants in rivers"),
        _targets("wq", "animals", 8, 14, "abundance of seven animals in rivers"),
        _targets("yeast", "1", 1, 7, "functional classes 1 to 7 of genes"),
        _whole("emotions", "emotions", "six emotions that music evokes"),
        _whole("scene", "scene", "six contents of pictures"),
        _targets("sarcos", "1", 1, 3, "torques 1 to 3 of a robot arm"),
        _targets("sarcos", "2", 4, 7, "torques 4 to 7 of a robot arm"),
        _groups("school", "1", slice(0, 32, 2), "exam scores of 16 large schools", by_size=True),
        _groups("school", "2", slice(1, 32, 2), "of 16 other large schools", by_size=True),
        _groups("landmine", "foliated", slice(0, 15), "mines in 15 fields under foliage",
                metrics="auc"),
        _groups("landmine", "bare", slice(15, 29), "mines in 14 fields of bare ground",
                metrics="auc"),
        _alphabets(0),
    )
}  # fmt: skip
