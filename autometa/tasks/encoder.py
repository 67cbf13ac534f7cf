"""From what users have (a table, images) to the network's input, fitted on training rows only."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from autometa.errors import DataError, nearest
from autometa.tasks.columns import ColumnKind, read_column
from autometa.tasks.images import ImageEncoder
from autometa.tasks.reading import ColumnType, ReadOptions, Remark, conform, joined
from autometa.tasks.reading.types import Kind
from autometa.tasks.scales import center_and_spread, extremes, in_rows

MAX_LEVELS = 50
"""Most frequent training values of a category that get a column of their own."""

FAR = 1e6
"""Deviations from the training mean beyond which a value is refused: products of it overflow."""

FREE_TEXT_SHARE = 0.2
"""A text column with more than MAX_LEVELS values and this share of unique ones is free text."""


@dataclass(frozen=True)
class Column:
    """How one column of the table is read.

    Attributes:
        median: what a missing number becomes (training median).
        indicator: whether a column "was missing" is added (some training row was missing).
        levels: training values of a category, each a 0/1 column, most frequent first; one more
            column marks other and missing values.
        reading: how its cells are read.
    """

    name: str
    kind: ColumnKind
    median: float = 0.0
    indicator: bool = False
    levels: tuple[str, ...] = ()
    reading: ColumnType = field(default_factory=ColumnType)


@dataclass(frozen=True)
class TableEncoder:
    """Columns of a table to standardised float32 features.

    Each column gives raw features (see `Column`); those listed in `keep` (not constant on the
    training rows) are standardised: x = (raw - mean) / scale. A category value never seen in
    training has every 0/1 column of its category at 0, and "other" at 1 where that was kept.
    `source` names all columns of the training table: what an array's columns are taken for. Those
    that were constant are in `source` only and need not be in a new table.
    """

    source: tuple[str, ...]
    columns: tuple[Column, ...]
    features: tuple[str, ...]
    keep: tuple[int, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def encode(self, table: pd.DataFrame | np.ndarray | Tensor) -> Tensor:
        """Encode new rows.

        Args:
            table: a DataFrame with at least the columns seen in training, in any order, or an
                array [rows, columns] with all columns of the training table in their order.

        Returns:
            float32 [rows, features].

        Raises:
            DataError: columns are missing, a numeric column holds text, or a value is infinite.
        """
        return self.read(table)[0]

    def read(
        self, table: pd.DataFrame | np.ndarray | Tensor, options: ReadOptions | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """What `encode` gives, and what is to be said of the table.

        Args:
            options: what the user says of how its cells are written.
        """
        if not isinstance(table, pd.DataFrame):
            table = self._frame(np.asarray(table))
        frame = table.rename(columns=lambda name: str(name).strip())
        if frame.columns.has_duplicates:
            twice = frame.columns[frame.columns.duplicated()][0]
            raise DataError(f"Column `{twice}` appears twice in the table; rename or remove one.")
        missing = [c.name for c in self.columns if c.name not in frame.columns]
        if missing:
            raise DataError(
                f"The table lacks {_columns(missing)}."
                f"{nearest(missing[0], frame.columns) if len(missing) == 1 else ''} "
                "The model was trained with them."
            )
        remarks: list[Remark] = []
        raw = (_raw(_read_as(frame[c.name], c, options, remarks), c) for c in self.columns)
        return self._standardise(raw, len(frame)), joined(remarks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `encoder_from_json` is the inverse."""
        return {"type": "table", **asdict(self)}

    def _standardise(self, raw: Iterable[np.ndarray], rows: int) -> Tensor:
        """The features of all rows, from the raw features [rows, …] of one column after the other:
        a table of texts is many times as large in 0 and 1 as it is in cells.

        Raises:
            DataError: a value is so far from training that no network can take it.
        """
        x = np.empty((rows, len(self.keep)), dtype=np.float32)
        offset = place = 0
        for part in raw:
            end = offset + part.shape[1]
            here = slice(place, bisect_left(self.keep, end))
            some = part[:, np.array(self.keep[here], dtype=np.int64) - offset]
            with np.errstate(over="ignore"):
                found = (some - np.array(self.mean[here])) / np.array(self.scale[here])
            far = ~(np.abs(found) <= FAR)
            if far.any():
                column = int(np.flatnonzero(far.any(axis=0))[0])
                at = np.flatnonzero(far[:, column])
                raise DataError(
                    f"Column `{self.features[place + column]}` holds {some[at[0], column]:g} in "
                    f"{in_rows(at)}, more than {FAR:g} deviations from what is usual in training; "
                    "correct it or leave the cell empty."
                )
            x[:, here] = found
            offset, place = end, here.stop
        return torch.from_numpy(x)

    def _frame(self, array: np.ndarray) -> pd.DataFrame:
        if array.ndim != 2 or array.shape[1] != len(self.source):
            raise DataError(
                f"Parameter `table` should be an array [rows, {len(self.source)}]. "
                f"Found shape {list(array.shape)}."
            )
        wide = array.astype(np.float64) if array.dtype.kind == "f" else array
        return pd.DataFrame(wide, columns=list(self.source))


Encoder: TypeAlias = TableEncoder | ImageEncoder


def encoder_from_json(data: dict[str, Any]) -> Encoder:
    """Inverse of `to_json` of either encoder."""
    if data["type"] == "image":
        return ImageEncoder(tuple(data["shape"]), data["mean"], data["std"])
    columns = tuple(_column(c) for c in data["columns"])
    rest = {k: tuple(data[k]) for k in ("source", "features", "keep", "mean", "scale")}
    return TableEncoder(columns=columns, **rest)


def _column(data: dict[str, Any]) -> Column:
    """One without `reading` is of an earlier version, which had plain numbers and ISO dates."""
    kinds: dict[str, Kind] = {"numeric": "number", "datetime": "date", "category": "category"}
    stored = data.get("reading")
    reading = ColumnType(kinds[data["kind"]]) if stored is None else ColumnType.from_json(stored)
    return Column(**{**data, "levels": tuple(data["levels"]), "reading": reading})


class Inputs(Protocol):
    """Raw inputs of a suite, before it is known which rows are training rows."""

    kind: str

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Inputs:
        """Only these rows (a bool mask)."""

    def fit(self, train: np.ndarray) -> tuple[Encoder, Tensor]:
        """The encoder fitted on the rows of the bool mask `train`, and all rows encoded."""

    def digest(self) -> bytes:
        """A hash of the raw values, the same in every process."""

    def extremes(self) -> list[str]:
        """Notes on values far beyond the others."""


class TableInputs:
    """Feature columns of a table, already read (`read_column`), and how."""

    kind = "table"

    def __init__(
        self,
        columns: dict[str, tuple[ColumnKind, np.ndarray]],
        rows: int,
        types: Mapping[str, ColumnType],
    ) -> None:
        self.columns = columns
        self.rows = rows
        self.types = types

    @classmethod
    def read(cls, frame: pd.DataFrame, types: Mapping[str, ColumnType]) -> TableInputs:
        """Take every column of `frame`, which has these types, as a feature."""
        return cls({n: read_column(frame[n], n) for n in frame.columns}, len(frame), types)

    def __len__(self) -> int:
        return self.rows

    def take(self, rows: np.ndarray) -> TableInputs:
        columns = {n: (kind, values[rows]) for n, (kind, values) in self.columns.items()}
        return TableInputs(columns, int(rows.sum()), self.types)

    def fit(self, train: np.ndarray) -> tuple[TableEncoder, Tensor]:
        self._refuse_free_text(train)
        columns, features, keep, mean, scale = [], [], [], [], []
        offset = 0
        for name, (kind, values) in self.columns.items():
            column = _fit_column(name, kind, values[train], self.types[name])
            raw = _raw(values, column)
            fitted = raw[train]
            varies = fitted.max(axis=0) > fitted.min(axis=0)
            if not varies.any():
                continue  # constant on the training rows: nothing to learn from
            names = _feature_names(column)
            columns.append(column)
            for i in np.flatnonzero(varies):
                keep.append(offset + int(i))
                features.append(names[i])
                center, spread = _scale(fitted[:, i], name)
                mean.append(center)
                scale.append(spread)
            offset += raw.shape[1]
        if not columns:
            raise DataError(
                "The table has no usable feature column: every column is a target, dropped or "
                "constant on the training rows."
            )
        encoder = TableEncoder(
            tuple(self.columns),
            tuple(columns),
            tuple(features),
            tuple(keep),
            tuple(mean),
            tuple(scale),
        )
        again = (_raw(self.columns[column.name][1], column) for column in columns)
        return encoder, encoder._standardise(again, self.rows)

    def digest(self) -> bytes:
        into = hashlib.sha256()
        for name, (kind, values) in self.columns.items():
            into.update(f"{name}\x1f{kind}\x1e".encode())
            if kind == "category":
                into.update("\x1f".join("\x00" if v is None else v for v in values).encode())
            else:
                # + 0.0 turns -0.0 into 0.0, and every NaN is written with the same bits
                clean = np.where(np.isnan(values), np.nan, values + 0.0)
                into.update(np.ascontiguousarray(clean, dtype="<f8").tobytes())
        return into.digest()

    def extremes(self) -> list[str]:
        numbers = {n: values for n, (kind, values) in self.columns.items() if kind == "numeric"}
        return extremes("Column", numbers)

    def _refuse_free_text(self, train: np.ndarray) -> None:
        found = []
        for name, (kind, values) in self.columns.items():
            if kind == "category":
                present = [v for v in values[train] if v is not None]
                distinct = len(set(present))
                if distinct > MAX_LEVELS and distinct > FREE_TEXT_SHARE * len(present):
                    found.append(name)
        if found:
            raise DataError(
                f"The table holds free text (or identifiers) in {_columns(found)}; "
                f"drop it (drop={found!r}, on the command line --drop) or encode it as numbers."
            )


def _fit_column(name: str, kind: ColumnKind, values: np.ndarray, reading: ColumnType) -> Column:
    if kind == "category":
        counts = Counter(v for v in values if v is not None)
        # ties are broken by the text, so that the order of the rows does not matter
        frequent = sorted(counts, key=lambda level: (-counts[level], level))[:MAX_LEVELS]
        reading = replace(reading, levels=tuple(sorted(counts)))
        return Column(name, kind, levels=tuple(frequent), reading=reading)
    missing = np.isnan(values)
    if missing.all():
        return Column(name, kind, reading=reading)
    median = float(np.median(values[~missing]))
    return Column(name, kind, median, bool(missing.any()), reading=reading)


def _raw(values: np.ndarray, column: Column) -> np.ndarray:
    """float64 [rows, raw features] of one column, before standardising."""
    if column.kind == "category":
        position = {level: i for i, level in enumerate(column.levels)}
        other = len(position)
        code = np.fromiter((position.get(v, other) for v in values), np.int64, len(values))
        return np.eye(other + 1)[code]
    missing = np.isnan(values)
    filled = np.where(missing, column.median, values)
    return np.stack([filled, missing.astype(float)] if column.indicator else [filled], axis=1)


def _feature_names(column: Column) -> list[str]:
    if column.kind == "category":
        return [f"{column.name}={level}" for level in (*column.levels, "<other>")]
    return [column.name, f"{column.name}=<missing>"]


def _read_as(
    series: pd.Series,
    column: Column,
    options: ReadOptions | None,
    remarks: list[Remark],
) -> np.ndarray:
    found = conform(series, column.name, column.reading, options)
    remarks += found.remarks
    return read_column(found.column, column.name)[1]


def _scale(values: np.ndarray, name: str) -> tuple[float, float]:
    mean, std = center_and_spread(values, "standard")
    if not np.isfinite(std) or std == 0:
        raise DataError(
            f"Column `{name}` spans numbers too large or too close together to be standardised "
            f"({values.min():g} to {values.max():g}); rescale or drop it."
        )
    return mean, std


def _columns(names: list[str]) -> str:
    shown = ", ".join(f"`{n}`" for n in names[:10])
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"column{'s' if len(names) > 1 else ''} {shown}{more}"
