"""Reading one column of a table: numbers, dates or categories, whatever type pandas gave it."""

from __future__ import annotations

import datetime
import numbers
import re
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from autometa.errors import DataError

ColumnKind: TypeAlias = Literal["numeric", "datetime", "category"]

_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?")


def read_column(column: pd.Series, name: str) -> tuple[ColumnKind, np.ndarray]:
    """What a feature column holds.

    Returns:
        ("numeric", float64 [rows]): numbers, booleans (0/1) and durations (seconds).
        ("datetime", float64 [rows]): seconds since the epoch (UTC); also text in ISO 8601.
        ("category", object [rows]): text, `None` where missing.
        Missing numbers and dates are NaN.

    Raises:
        DataError: the column holds something else, or an infinite number.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category", as_text(column.to_numpy(dtype=object))
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "datetime", _seconds(column)
    if pd.api.types.is_timedelta64_dtype(dtype):
        return "numeric", column.dt.total_seconds().to_numpy(dtype=np.float64)
    if pd.api.types.is_complex_dtype(dtype):
        raise DataError(f"Column `{name}` holds complex numbers; drop it or split it in two.")
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
        return "numeric", _finite(column.to_numpy(dtype=np.float64, na_value=np.nan), name)
    return _read_objects(column.to_numpy(dtype=object), name)


def as_text(values: np.ndarray) -> np.ndarray:
    """Values as text, `None` where missing; whole numbers read the same as int and as float."""
    out = np.empty(len(values), dtype=object)
    missing = pd.isna(values)
    for row, value in enumerate(values):
        if not missing[row]:
            out[row] = value if isinstance(value, str) else _one_text(value)
    return out


def scalar_type(values: np.ndarray) -> Literal["bool", "number", "date", "text", "mixed"]:
    """The one type that all of these (not missing) Python values share."""
    if all(isinstance(v, str) for v in values):
        return "text"
    if all(isinstance(v, (bool, np.bool_)) for v in values):
        return "bool"
    if all(_is_number(v) for v in values):
        return "number"
    if all(isinstance(v, (datetime.date, np.datetime64)) for v in values):
        return "date"
    return "mixed"


def _read_objects(values: np.ndarray, name: str) -> tuple[ColumnKind, np.ndarray]:
    for value in values:
        if isinstance(value, (list, tuple, dict, set, np.ndarray)):
            raise DataError(
                f"Column `{name}` holds a `{type(value).__name__}` in a cell; "
                "give it one column a value, or drop it."
            )
    present = values[~pd.isna(values)]
    if len(present) == 0:
        return "numeric", np.full(len(values), np.nan)
    found = scalar_type(present)
    if found in ("bool", "number"):
        numeric = np.array([np.nan if pd.isna(v) else float(v) for v in values])
        return "numeric", _finite(numeric, name)
    if found == "date" or (found == "text" and all(_ISO_DATE.fullmatch(v) for v in present)):
        try:
            return "datetime", _seconds(pd.Series(values))
        except (ValueError, OverflowError):
            pass  # looks like dates but is not (month 13): a category like any other text
    return "category", as_text(values)


def _seconds(column: pd.Series) -> np.ndarray:
    text_format = None if column.dtype.kind == "M" else "ISO8601"
    parsed = pd.to_datetime(column, utc=True, format=text_format)
    return (parsed - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(dtype=np.float64)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise DataError(
            f"Column `{name}` holds an infinite number (row {row}); "
            "replace it or leave the cell empty."
        )
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, (bool, np.bool_))


def _one_text(value: Any) -> str:
    if _is_number(value) and float(value).is_integer():
        return str(int(value))
    return str(value)
