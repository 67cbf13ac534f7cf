"""Named suites: those inside the package, and those of the folder `AUTOMETA_DATA` names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from autometa.errors import DataError, nearest
from autometa.tasks.npz import read_npz, suite_from_npz
from autometa.tasks.reading import read_table
from autometa.tasks.sinusoid import ROWS as SINUSOID_ROWS
from autometa.tasks.sinusoid import TASKS as SINUSOIDS
from autometa.tasks.sinusoid import load_sinusoid
from autometa.tasks.suite import TaskSuite

DATA_VARIABLE = "AUTOMETA_DATA"
MULTIDIGITS_PAIRS = {"train": 6000, "val": 1000, "test": 2000}


def names() -> list[str]:
    """Names of all suites: embedded ones first, then those of the data folder."""
    return [*EMBEDDED, *(n for n in _data_entries() if n not in EMBEDDED)]


def describe(name: str) -> dict[str, Any]:
    """Facts of one suite, without loading its rows: name, layout, kind, tasks, rows, origin,
    licence; `tasks` is None where its file is not there.

    Raises:
        DataError: no such suite.
    """
    if name in EMBEDDED:
        suite = EMBEDDED[name]
        return {
            "name": name, "layout": suite.layout, "kind": suite.kind, "tasks": suite.tasks,
            "rows": suite.rows, "origin": suite.origin, "licence": suite.licence,
        }  # fmt: skip
    entry = _entry(name)
    return {
        "name": name,
        "layout": "aligned" if entry.layout == "multi_target" else "grouped",
        "kind": entry.kind,
        "tasks": _count_tasks(entry),
        "rows": entry.images[0] if entry.images else entry.rows,
        "origin": entry.origin,
        "licence": entry.licence,
    }


def load(name: str, *, seed: int = 0, **options: Any) -> TaskSuite:
    """Load a suite by name; `options` go to `TaskSuite.from_frame` and replace the entry's own.

    A subset of a suite's targets may be chosen (`targets=`); the others are left out then, not
    made features.

    Raises:
        DataError: no such suite, its file is missing, or an option cannot be used.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if name in EMBEDDED:
        if options:
            raise DataError(
                f"Suite `{name}` is fixed but for its seed. Found option `{next(iter(options))}`."
            )
        return EMBEDDED[name].load(seed)
    entry = _entry(name)
    roles = entry.roles
    if entry.layout == "images":
        return suite_from_npz(
            entry.path, **{**roles, "kinds": entry.kind, "name": name, "seed": seed, **options}
        )
    frame = read_table(entry.path)
    if "targets" in options or "target" in options:
        chosen = options.get("targets") or [options["target"]]
        for column in map(str, chosen):
            if entry.targets and column not in entry.targets:
                raise DataError(
                    f"Target `{column}` is not one of suite `{name}`."
                    f"{nearest(column, entry.targets)}"
                )
        unused = [t for t in entry.targets if t not in set(map(str, chosen))]
        options["drop"] = [*options.get("drop", ()), *unused]
        roles.pop("targets", None)
        roles.pop("target", None)
    kinds = entry.kind if entry.kind != "mixed" else None
    return TaskSuite.from_frame(
        frame, **{**roles, "kinds": kinds, "name": name, "seed": seed, **options}
    )


@dataclass(frozen=True)
class Embedded:
    """A suite that needs no file: its data ship with scikit-learn."""

    load: Callable[[int], TaskSuite]
    layout: str
    kind: str
    tasks: int
    rows: int
    origin: str
    licence: str


def load_multidigits(seed: int = 0) -> TaskSuite:
    """Two handwritten digits overlaid on 11×11 pixels; tasks `left` and `right` name them.

    After MultiMNIST (Sabour et al., 2017). The source images are split 60/20/20 by class before
    they are paired, so no handwriting of a test pair was ever seen in training.
    """
    from sklearn.datasets import load_digits  # a second to import, so only when asked for

    digits = load_digits()
    pairs = multidigits_pairs(digits.target, seed)
    images, labels, splits = [], [], []
    for split, (left, right) in pairs.items():
        canvas = np.zeros((len(left), 11, 11), dtype=np.float32)
        canvas[:, :8, :8] = digits.images[left]
        canvas[:, 3:, 3:] = np.maximum(canvas[:, 3:, 3:], digits.images[right])
        images.append(canvas)
        labels.append(np.stack([digits.target[left], digits.target[right]], axis=1))
        splits += [split] * len(left)
    return TaskSuite.from_arrays(
        np.concatenate(images),
        np.concatenate(labels),
        names=["left", "right"],
        kinds="multiclass",
        splits=splits,
        name="multidigits",
    )


def multidigits_pairs(digit: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per split the source image numbers of the left and of the right digit of each pair."""
    rng = np.random.default_rng(seed)
    sources: dict[str, list[np.ndarray]] = {"train": [], "val": [], "test": []}
    for value in range(10):
        mine = rng.permutation(np.flatnonzero(digit == value))
        cuts = [round(0.6 * len(mine)), round(0.8 * len(mine))]
        for split, part in zip(sources, np.split(mine, cuts), strict=True):
            sources[split].append(part)
    out = {}
    for split, count in MULTIDIGITS_PAIRS.items():
        pool = np.concatenate(sources[split])
        out[split] = (rng.choice(pool, count), rng.choice(pool, count))
    return out


def load_breast_cancer_parts(seed: int = 0) -> TaskSuite:
    """Wisconsin diagnostic data: from the means and standard errors of ten measurements of the
    cell nuclei, predict the diagnosis (binary) and the worst value of each measurement (ten
    regressions).
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.copy()
    frame["diagnosis"] = bunch.target_names[bunch.target.to_numpy()].astype(str)
    worst = [column for column in frame.columns if column.startswith("worst ")]
    return TaskSuite.from_frame(
        frame, targets=["diagnosis", *worst], name="breast-cancer", seed=seed
    )


EMBEDDED: dict[str, Embedded] = {
    "multidigits": Embedded(
        load_multidigits, "aligned", "multiclass", 2, sum(MULTIDIGITS_PAIRS.values()),
        "pairs of scikit-learn's digits (UCI optical recognition of handwritten digits)",
        "CC BY 4.0",
    ),
    "breast-cancer": Embedded(
        load_breast_cancer_parts, "aligned", "mixed", 11, 569,
        "UCI Breast Cancer Wisconsin (Diagnostic), as shipped with scikit-learn", "CC BY 4.0",
    ),
    "sinusoid": Embedded(
        load_sinusoid, "grouped", "regression", SINUSOIDS, SINUSOIDS * SINUSOID_ROWS,
        "computed: A sin(x − φ), the regression tasks of Finn et al. (2017)", "none needed",
    ),
}  # fmt: skip


class _Entry(BaseModel):
    """One entry of datasets.json; what is not listed here is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    file: str
    layout: Literal["multi_target", "grouped", "images"]
    kind: Literal["regression", "binary", "multiclass", "mixed"] = "multiclass"
    targets: tuple[str, ...] = ()
    target: str | None = None
    task_column: str | None = None
    rows: int | None = None
    images: tuple[int, ...] = ()
    alphabets: int | None = None
    origin: str = ""
    licence: str = ""
    folder: Path = Path()

    @property
    def roles(self) -> dict[str, Any]:
        """Targets and task column; drawings by alphabet (Omniglot) are known without them."""
        if self.layout == "multi_target":
            return {"targets": self.targets}
        if self.layout == "images" and self.alphabets is not None and self.target is None:
            return {"target": "character", "task_column": "alphabet"}
        return {"target": self.target, "task_column": self.task_column}

    @property
    def path(self) -> Path:
        path = self.folder / self.file
        if not path.is_file():
            raise DataError(f"File `{path}`, listed in datasets.json, does not exist.")
        return path


def data_folder() -> Path | None:
    """The folder that `$AUTOMETA_DATA` names; None where it is not set, or set to nothing."""
    folder = os.environ.get(DATA_VARIABLE)
    return Path(folder).expanduser() if folder else None


def _data_entries() -> dict[str, Any]:
    """The raw entries of `$AUTOMETA_DATA/datasets.json`; none where the variable is not set."""
    folder = data_folder()
    if folder is None:
        return {}
    index = folder / "datasets.json"
    try:
        data = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as exc:
        raise DataError(
            f"{DATA_VARIABLE} should name a folder with a readable datasets.json. "
            f"Found `{DATA_VARIABLE}={folder}` ({' '.join(str(exc).split())})."
        ) from None
    if not isinstance(data, dict):
        raise DataError(f"File `{index}` should map names to entries. Found a JSON list.")
    return data


def _entry(name: str) -> _Entry:
    entries, folder = _data_entries(), data_folder()
    if folder is None or name not in entries:
        known = names()
        unset = (
            ""
            if folder is not None
            else (
                f" More suites are found where {DATA_VARIABLE} names a folder with a datasets.json."
            )
        )
        raise DataError(
            f"Suite `{name}` is neither a known name nor a file.{nearest(name, known)} "
            f"Known: {', '.join(known)}.{unset}"
        )
    try:
        return _Entry.model_validate({**entries[name], "folder": folder})
    except (ValidationError, TypeError) as exc:
        why = "it should be a mapping"
        if isinstance(exc, ValidationError):
            first = exc.errors()[0]
            why = f"`{'.'.join(map(str, first['loc']))}`: {first['msg'].lower()}"
        raise DataError(
            f"Entry `{name}` of {folder / 'datasets.json'} is not valid ({why})."
        ) from None


def _count_tasks(entry: _Entry) -> int | None:
    if entry.layout == "multi_target":
        return len(entry.targets)
    if entry.alphabets is not None:
        return entry.alphabets
    column = str(entry.task_column)
    try:
        if entry.layout == "images":
            return len(np.unique(read_npz(entry.path)[column]))
        if entry.path.suffix == ".parquet":
            return int(pd.read_parquet(entry.path, columns=[column])[column].nunique())
        return int(read_table(entry.path).frame[column].nunique())
    except (DataError, KeyError, OSError, ValueError):
        return None  # the listing of all suites should not fail for one missing file
