"""What `search` and `train` are given, as plain values; and names that they do not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import autometa
from autometa.api.arguments import plain_arguments
from autometa.errors import UserError
from autometa.home import Home
from autometa.study import list_studies, read_study
from tests.searching.support import run, small_suite


@plain_arguments
def given(
    suite: object,
    n: int = 1,
    steps: int | None = None,
    share: float = 0.5,
    flag: bool | None = None,
    name: str | None = None,
    path: str | Path | None = None,
    **suite_options: Any,
) -> dict[str, Any]:
    return {key: value for key, value in locals().items() if key != "suite"}


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("n", np.int64(3), 3),
        ("n", np.array(3), 3),
        ("n", 3.0, 3),
        ("n", np.float64(3.0), 3),
        ("n", True, 1),
        ("steps", np.uint8(3), 3),
        ("steps", None, None),
        ("share", np.float32(0.25), 0.25),
        ("share", 1, 1.0),
        ("share", np.int64(1), 1.0),
        ("flag", np.bool_(False), False),
        ("flag", 1, True),
        ("flag", None, None),
        ("name", np.str_("a"), "a"),
        ("path", Path("a"), Path("a")),
    ],
)
def test_values_become_plain(name: str, value: Any, plain: Any) -> None:
    found = given(None, **{name: value})[name]
    assert found == plain
    assert type(found) is type(plain)
    if name == "n":
        assert given(None, value)["n"] == plain, "by position, too"


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("n", 2.5, "a whole number"),
        ("n", "3", "a whole number"),
        ("n", float("nan"), "a whole number"),
        ("n", np.array([1, 2]), "a whole number"),
        ("share", "0.5", "a number"),
        ("share", [0.5], "a number"),
        ("flag", "no", "True or False"),
        ("flag", 2, "True or False"),
        ("flag", np.array([True, False]), "True or False"),
        ("name", 3, "a text"),
    ],
)
def test_values_of_another_kind_are_refused(name: str, value: Any, what: str) -> None:
    with pytest.raises(UserError, match=rf"Parameter `{name}` should be {what}\. Found `{name} = "):
        given(None, **{name: value})


def test_names_of_columns_may_be_an_index() -> None:
    columns = pd.DataFrame(columns=["a", "b"]).columns
    options = given(None, targets=columns, drop=np.array(["c"]), seed=np.int64(1))["suite_options"]
    assert options == {"targets": ["a", "b"], "drop": ["c"], "seed": 1}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("diagnosis", "diagnose"),
        ("trials", "n_trials"),
        ("max_epoch", "max_epochs"),
        ("tracking_uri", "mlflow_tracking_uri"),
        ("task_colum", "task_column"),
        ("target_s", "targets"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(40), "y": range(40)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    for suite in (small_suite(), tmp_path / "t.csv"):  # a suite takes no options, a file some
        with pytest.raises(
            UserError, match=rf"Parameter `{name}` is not known\. Did you mean `{near}`"
        ):
            autometa.search(suite, home=tmp_path / "home", **{name: False})
    assert not (tmp_path / "home").exists()
    with pytest.raises(UserError, match="Did you mean `max_epochs`"):
        autometa.train(small_suite(), {}, max_epoch=3)


def test_an_unknown_name_that_nothing_is_near_to() -> None:
    with pytest.raises(UserError, match=r"Parameter `zzz` is not known\. Found `zzz = 1`"):
        autometa.search(small_suite(), zzz=1)


@pytest.mark.usefixtures("short_judgement")
def test_a_search_with_numbers_of_numpy_for_every_option(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        small_suite(),
        study_name=np.str_("npn"),
        n_trials=np.int64(2),
        max_epochs=np.int32(2),
        timeout=np.float64(600),
        independent_share=np.float32(0.5),
        ensemble=np.int64(1),
        seed=np.uint32(3),
        workers=np.int64(0),
        cpus_per_worker=np.int64(1),
        gpus_per_worker=np.float64(0),
        resume=np.bool_(False),
        diagnose=np.bool_(False),
    )
    assert result.study == "npn"
    assert json.dumps(result.to_json())
    home = Home.find(tmp_path)
    assert list_studies(home) == ["npn"]
    assert read_study(home, "npn").user_attrs["settings"]["seed"] == 3
