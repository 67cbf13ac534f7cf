"""Fitted peers in files: the same predictions to the last bit, and nothing loaded blindly."""

from __future__ import annotations

import datetime
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import Lasso, Ridge
from sklearn.tree import DecisionTreeRegressor

from autometa.baselines import PEERS, FittedPeer
from autometa.baselines.storing import (
    TRUSTED,
    read_estimators,
    read_peer,
    write_estimators,
    write_peer,
)
from autometa.errors import DataError
from tests.baselines.suites import SUITES, aligned
from tests.baselines.test_peers import pairs, predict


def fit(name: str, kind: str) -> FittedPeer:
    suite = SUITES[kind]()
    return PEERS[name].fit(suite, PEERS[name].settings(suite)[0], seed=0)


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_predictions_are_the_same_to_the_last_bit(name: str, kind: str, tmp_path: Path) -> None:
    fitted = fit(name, kind)
    path = write_peer(fitted, tmp_path / "new" / "peer.skops")
    again = read_peer(path)
    assert again.to_json() == fitted.to_json()
    assert [p.name for p in path.parent.iterdir()] == ["peer.skops"]
    np.testing.assert_array_equal(
        predict(again, SUITES[kind]())[0], predict(fitted, SUITES[kind]())[0]
    )


def test_files_are_compressed(tmp_path: Path) -> None:
    path = write_peer(fit("trees", "regression"), tmp_path / "peer.skops")
    with zipfile.ZipFile(path) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}


def test_estimators_alone(tmp_path: Path) -> None:
    fitted = fit("boosting", "mixed with gaps")
    path = write_estimators(fitted.estimators, tmp_path / "estimators.skops")
    again = FittedPeer.from_parts(fitted.to_json(), read_estimators(path))
    suite = SUITES["mixed with gaps"]()
    np.testing.assert_array_equal(predict(again, suite)[0], predict(fitted, suite)[0])


class Foreign:
    """A type that no file of ours has."""

    def __init__(self) -> None:
        self.harm = 1


@pytest.mark.parametrize("strange", [Foreign(), os.system, datetime.timedelta(1)])
def test_other_types_are_refused_by_name(strange: object, tmp_path: Path) -> None:
    path = tmp_path / "strange.skops"
    model = Ridge().fit(np.eye(3), np.arange(3.0))
    model.extra_ = strange
    skops.io.dump({"0": model}, path)
    unknown = set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED)
    assert unknown
    with pytest.raises(DataError, match=f"holds `{sorted(unknown)[0]}`, which is not loaded"):
        read_estimators(path)


def test_a_type_that_was_changed_in_the_file_is_refused(tmp_path: Path) -> None:
    path = write_peer(fit("ridge", "binary with gaps"), tmp_path / "peer.skops")
    changed = tmp_path / "changed.skops"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.namelist():
            body = old.read(entry)
            if entry == "schema.json":
                text = body.decode()
                assert '"LogisticRegression"' in text
                text = text.replace('"sklearn.linear_model._logistic"', '"subprocess"')
                body = text.replace('"LogisticRegression"', '"Popen"').encode()
            new.writestr(entry, body)
    with pytest.raises(DataError, match="holds `subprocess.Popen`, which is not loaded"):
        read_peer(changed)


def test_estimators_that_no_peer_is_made_of_are_refused(tmp_path: Path) -> None:
    path = write_estimators({"0": Lasso().fit(np.eye(3), np.arange(3.0))}, tmp_path / "a.skops")
    with pytest.raises(DataError, match=r"`sklearn.linear_model._coordinate_descent.Lasso`"):
        read_estimators(path)
    forest = fit("trees", "regression").estimators["0"]
    forest.estimators_[0] = Lasso()
    with pytest.raises(DataError, match="a `ExtraTreesRegressor` whose trees are broken"):
        read_estimators(write_estimators({"0": forest}, tmp_path / "b.skops"))


@pytest.mark.parametrize("wrong", ["beyond", "back", "feature"])
def test_trees_that_point_elsewhere_are_refused(wrong: str, tmp_path: Path) -> None:
    tree = DecisionTreeRegressor().fit(np.arange(6.0)[:, None], np.arange(6.0))
    forest = fit("trees", "regression").estimators["0"]
    state = tree.tree_.__getstate__()
    nodes = state["nodes"].copy()
    field, value = {
        "beyond": ("left_child", 99), "back": ("right_child", 0), "feature": ("feature", 99),
    }[wrong]  # fmt: skip
    nodes[field][0] = value
    tree.tree_.__setstate__({**state, "nodes": nodes})
    forest.estimators_[0] = tree
    path = write_estimators({"0": forest}, tmp_path / "a.skops")
    with pytest.raises(DataError, match="a `ExtraTreesRegressor` whose trees are broken"):
        read_estimators(path)
    boosted = fit("boosting", "multiclass").estimators["0"]
    field, value = {"beyond": ("left", 99), "back": ("right", 0), "feature": ("feature_idx", 99)}[
        wrong
    ]
    boosted._predictors[0][0].nodes[field][0] = value
    path = write_estimators({"0": boosted}, tmp_path / "b.skops")
    with pytest.raises(DataError, match="whose trees are broken"):
        read_estimators(path)


def test_files_that_are_no_peer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_peer(tmp_path / "none.skops")
    text = tmp_path / "text.skops"
    text.write_text("not a zip")
    with pytest.raises(DataError, match="holds no estimators that can be read"):
        read_peer(text)
    fitted = PEERS["ridge"].fit(aligned(("regression",)), {"alpha": 1.0}, seed=0)
    alone = write_estimators(fitted.estimators, tmp_path / "alone.skops")
    with pytest.raises(DataError, match="does not hold a fitted peer"):
        read_peer(alone)
    facts = json.dumps({**fitted.to_json(), "parts": 3})
    skops.io.dump({"facts": facts, "estimators": fitted.estimators}, tmp_path / "facts.skops")
    with pytest.raises(DataError, match="not the facts of a fitted peer"):
        read_peer(tmp_path / "facts.skops")
    skops.io.dump([1, 2], tmp_path / "list.skops")
    with pytest.raises(DataError, match="does not hold estimators by name"):
        read_estimators(tmp_path / "list.skops")
