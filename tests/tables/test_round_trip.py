"""A prediction depends neither on the file that a row comes in nor on the rows beside it."""

from __future__ import annotations

import datetime
import string
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autometa import load_model
from autometa.api import train
from autometa.baselines import PEERS
from autometa.errors import DataWarning
from autometa.model import PeerModel
from autometa.tasks import TaskSuite, load_suite

ROWS = 60

_letters = string.ascii_letters + " äß,;'\"#%=-"
_words = st.lists(
    st.one_of(
        st.text(_letters, min_size=1, max_size=6).filter(str.strip),
        st.sampled_from(["NA", "None", "?", "-", "001", "1,5", "yes", "Yes", "true", "nan", "1.0"]),
    ),
    min_size=2,
    max_size=6,
)
_numbers = st.floats(-1e6, 1e6, allow_nan=False)
_moments = st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2100, 1, 1))


def column(draw: st.DrawFn) -> pd.Series:
    """A feature of any type, maybe with empty cells."""
    kind = draw(st.sampled_from(["float", "float32", "int", "bool", "text", "category", "date",
                                 "number category", "decimal commas"]))  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pick = rng.integers(0, 6, ROWS)
    if kind in ("float", "float32", "decimal commas"):
        values = np.array(draw(st.lists(_numbers, min_size=6, max_size=6)))[pick]
        values = values + rng.integers(0, 9, ROWS)
        if kind == "decimal commas":
            out = pd.Series([str(round(float(v), 3)).replace(".", ",") for v in values])
        else:
            out = pd.Series(values, dtype="float32" if kind == "float32" else float)
    elif kind == "int":
        out = pd.Series(rng.integers(-(10 ** draw(st.integers(1, 15))), 10**6, ROWS))
    elif kind == "bool":
        out = pd.Series(pick > 2)
    elif kind == "date":
        days = draw(st.lists(_moments, min_size=6, max_size=6))
        out = pd.Series(pd.to_datetime([days[i] for i in pick]))
    elif kind == "number category":
        out = pd.Series(pd.Categorical(pick))
    else:
        words = draw(_words)
        out = pd.Series([words[i % len(words)] for i in pick], dtype=object)
        out = out.astype("category") if kind == "category" else out
    if draw(st.booleans()):
        out = out.where(pd.Series(rng.random(ROWS) > 0.2))
    return out


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Features of all types, a target that is a number and one with classes, a task column."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frame = pd.DataFrame({f"c{i}": column(draw) for i in range(draw(st.integers(1, 5)))})
    frame["plain"] = rng.normal(size=ROWS)
    frame["number"] = rng.normal(size=ROWS)
    frame["class"] = draw(st.permutations(["yes", "no", "NA"]))[0:2] * (ROWS // 2)
    frame["task"] = ["001", "1", "10"] * (ROWS // 3)
    return frame


@st.composite
def subsets(draw: st.DrawFn) -> np.ndarray:
    """Some rows in any order."""
    return np.array(
        draw(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS, unique=True))
    )


def check(model, frame: pd.DataFrame, subset: np.ndarray, folder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        whole = model.predict(frame).iloc[subset].reset_index(drop=True)
        part = frame.iloc[subset].reset_index(drop=True)
        part.to_csv(folder / "part.csv", index=False)
        part.to_parquet(folder / "part.parquet", index=False)
        for table in (part, folder / "part.csv", folder / "part.parquet"):
            pd.testing.assert_frame_equal(model.predict(table), whole, check_exact=True)


def suite_of(frame: pd.DataFrame, place: str, roles: dict, folder) -> TaskSuite:
    """The suite of the table in memory, in a CSV or in Parquet."""
    if place == "memory":
        return TaskSuite.from_frame(frame, **roles)
    path = folder / f"table.{place}"
    frame.to_csv(path, index=False) if place == "csv" else frame.to_parquet(path, index=False)
    return load_suite(path, **roles)


_SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_SETTINGS
@given(frame=tables(), subset=subsets(), place=st.sampled_from(["memory", "csv", "parquet"]))
def test_of_a_linear_model(frame, subset, place, tmp_path):
    suite = suite_of(frame, place, {"targets": ["number", "class"], "drop": ["task"]}, tmp_path)
    model = PeerModel.of(suite, PEERS["ridge"].fit(suite, {"alpha": 1.0}, seed=0), {})
    check(model, frame, subset, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "roles",
    [
        {"targets": ["number", "class"], "drop": ["task"]},
        {"target": "number", "task_column": "task", "drop": ["class"]},
    ],
    ids=["aligned", "grouped"],
)
@settings(_SETTINGS, max_examples=12)
@given(frame=tables(), subset=subsets(), place=st.sampled_from(["memory", "csv", "parquet"]))
def test_of_networks(roles, frame, subset, place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round")
    suite = suite_of(frame, place, roles, folder)
    found = train(suite, {"sharing.kind": "hard"}, max_steps=3, ensemble=2, out=folder / "model")
    check(load_model(found.model), frame, subset, folder)
