"""One column of a table as numbers or categories, and the type that labels share."""

from __future__ import annotations

import datetime
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

from autometa.errors import DataError
from autometa.tasks.reading.cells import as_text, is_number

ColumnKind: TypeAlias = Literal["numeric", "datetime", "category"]


def read_column(column: pd.Series, name: str) -> tuple[ColumnKind, np.ndarray]:
    """The values of a feature column.

    Args:
        column: what `reading.conform` gives.

    Returns:
        ("numeric", float64 [rows]): numbers, booleans (0/1) and durations (seconds).
        ("datetime", float64 [rows]): seconds since the epoch (UTC).
        ("category", object [rows]): text, `None` where missing.
        Missing numbers and dates are NaN.

    Raises:
        DataError: the column holds complex numbers, or an infinite one.
    """
    dtype = column.dtype
    if pd.api.types.is_datetime64_any_dtype(dtype):
        since = pd.to_datetime(column, utc=True) - pd.Timestamp(0, tz="UTC")
        return "datetime", since.dt.total_seconds().to_numpy(dtype=np.float64)
    if pd.api.types.is_timedelta64_dtype(dtype):
        return "numeric", column.dt.total_seconds().to_numpy(dtype=np.float64)
    if pd.api.types.is_complex_dtype(dtype):
        raise DataError(f"Column `{name}` holds complex numbers; drop it or split it in two.")
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
        return "numeric", _finite(column.to_numpy(dtype=np.float64, na_value=np.nan), name)
    values = column.to_numpy(dtype=object)
    if isinstance(column.dtype, pd.CategoricalDtype):  # of numbers
        return "category", as_text(values)
    present = values[~pd.isna(values)]
    if len(present) and scalar_type(present) == "bool":
        return "numeric", np.array([np.nan if pd.isna(v) else float(v) for v in values])
    return "category", values


def scalar_type(values: np.ndarray) -> Literal["bool", "number", "date", "text", "mixed"]:
    """The one type that all of these (not missing) Python values share."""
    if all(isinstance(v, str) for v in values):
        return "text"
    if all(isinstance(v, (bool, np.bool_)) for v in values):
        return "bool"
    if all(is_number(v) for v in values):
        return "number"
    if all(isinstance(v, (datetime.date, np.datetime64)) for v in values):
        return "date"
    return "mixed"


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise DataError(
            f"Column `{name}` holds an infinite number (row {row}); "
            "replace it or leave the cell empty."
        )
    return values
