"""Fitted estimators in files, through skops: types are checked on load, nothing is unpickled.

What is trusted: scikit-learn's public types, as skops knows them, and the two compiled tree types
in `TRUSTED`. What is refused, by name: any other type, and any estimator that no peer is made of.
Trees hold numbers that compiled code follows without looking, so features and children of every
node are checked before anything predicts. A file can still hold wrong numbers; it cannot run code.

Two files of one model differ (skops writes addresses and times), so files are no fingerprint.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from autometa.baselines.fitted import FittedPeer
from autometa.errors import DataError

TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
"""Types that are loaded beside those that skops trusts itself."""

_LINEAR = ("LogisticRegression", "Ridge", "RidgeCV")
_FORESTS = (
    "ExtraTreesClassifier",
    "ExtraTreesRegressor",
    "RandomForestClassifier",
    "RandomForestRegressor",
)
_TREES = (
    "DecisionTreeClassifier",
    "DecisionTreeRegressor",
    "ExtraTreeClassifier",
    "ExtraTreeRegressor",
)
_BOOSTED = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")


def write_peer(peer: FittedPeer, path: Path) -> Path:
    """Write a fitted peer into one file; `read_peer` is the inverse."""
    return _write({"facts": json.dumps(peer.to_json()), "estimators": peer.estimators}, path)


def read_peer(path: Path) -> FittedPeer:
    """Read what `write_peer` wrote.

    Raises:
        DataError: no such file, not a peer's, or it holds what is not trusted.
    """
    found = _read(path)
    if not isinstance(found, dict) or set(found) != {"facts", "estimators"}:
        raise DataError(f"File `{path}` does not hold a fitted peer.")
    try:
        facts = json.loads(found["facts"])
    except (TypeError, ValueError) as exc:
        raise DataError(f"File `{path}` does not hold a fitted peer ({exc}).") from None
    return FittedPeer.from_parts(facts, _checked(found["estimators"], path))


def write_estimators(estimators: Mapping[str, Any], path: Path) -> Path:
    """Write estimators alone, where the facts are kept elsewhere."""
    return _write(dict(estimators), path)


def read_estimators(path: Path) -> dict[str, Any]:
    """Read what `write_estimators` wrote.

    Raises:
        DataError: no such file, or it holds what is not trusted.
    """
    return _checked(_read(path), path)


def _write(data: dict[str, Any], path: Path) -> Path:
    """In a file beside it first: a worker that dies leaves no half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    skops.io.dump(data, part, compression=zipfile.ZIP_DEFLATED)  # forests: a quarter of the size
    os.replace(part, path)
    return path


def _read(path: Path) -> Any:
    try:
        return skops.io.load(path, trusted=list(TRUSTED))
    except UntrustedTypesFoundException:
        unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED))
        names = ", ".join(f"`{name}`" for name in unknown)
        raise DataError(f"File `{path}` holds {names}, which is not loaded.") from None
    except FileNotFoundError:
        raise DataError(f"File `{path}` does not exist.") from None
    except Exception as exc:  # skops, zip and scikit-learn name no base of what they raise
        reason = f"{type(exc).__name__}: {exc}"[:200]
        raise DataError(f"File `{path}` holds no estimators that can be read ({reason}).") from None


def _checked(estimators: Any, path: Path) -> dict[str, Any]:
    if not isinstance(estimators, dict):
        raise DataError(f"File `{path}` does not hold estimators by name.")
    for estimator in estimators.values():
        if reason := _why_not(estimator):
            raise DataError(f"File `{path}` holds {reason}, which is not loaded.")
    return estimators


def _why_not(estimator: Any) -> str | None:
    """What is wrong with an estimator; None if nothing is."""
    name = _name(estimator)
    if name in _LINEAR:
        return None
    if name not in (*_FORESTS, *_BOOSTED):
        return f"`{type(estimator).__module__}.{type(estimator).__qualname__}`"
    try:
        sound = _forest_is_sound(estimator) if name in _FORESTS else _boosted_is_sound(estimator)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        sound = False
    return None if sound else f"a `{name}` whose trees are broken"


def _name(estimator: Any) -> str | None:
    """The class's name, if it is scikit-learn's."""
    kind = type(estimator)
    return kind.__name__ if kind.__module__.startswith("sklearn.") else None


def _forest_is_sound(forest: Any) -> bool:
    for one in forest.estimators_:
        if _name(one) not in _TREES:
            return False
        tree = one.tree_
        leaf = tree.children_left == -1
        inner = ~leaf
        if not (
            tree.node_count > 0
            and (tree.children_right[leaf] == -1).all()
            and _point_on(tree.children_left[inner], np.flatnonzero(inner), tree.node_count)
            and _point_on(tree.children_right[inner], np.flatnonzero(inner), tree.node_count)
            and _are_features(tree.feature[inner], forest.n_features_in_)
        ):
            return False
    return True


def _boosted_is_sound(model: Any) -> bool:
    if model._preprocessor is not None or model.is_categorical_ is not None:  # none of ours has it
        return False
    for one in (tree for iteration in model._predictors for tree in iteration):
        nodes = one.nodes
        inner = np.flatnonzero(nodes["is_leaf"] == 0)
        if not (
            len(nodes) > 0
            and not nodes["is_categorical"].any()
            and _point_on(nodes["left"][inner], inner, len(nodes))
            and _point_on(nodes["right"][inner], inner, len(nodes))
            and _are_features(nodes["feature_idx"][inner], model.n_features_in_)
        ):
            return False
    return True


def _point_on(children: np.ndarray, nodes: np.ndarray, count: int) -> bool:
    """Whether every child is a later node that exists, so that a walk ends."""
    at = children.astype(np.int64)
    return bool(((at > nodes) & (at < count)).all())


def _are_features(features: np.ndarray, count: int) -> bool:
    return bool(((features >= 0) & (features < count)).all())
