"""Columns that count or name the rows: they tell the order of the rows, and nothing of the next."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pandas as pd

#: names that columns of row numbers and identifiers go by, whole or as the last word
_NAMES = "id|ids|idx|index|row|rows|rowid|rownum|rownumber|rowname|rownames|uid|uuid|guid|key|nr"
_ID_LIKE = re.compile(
    rf"(?:.*[\s_.\-#])?(?:{_NAMES})|(?:.*[a-z0-9])(?:Id|ID|Idx|Index|Key)|unnamed.*|"
)
#: rows from which distinct values are no accident
_ENOUGH = 20


def identifiers(frame: pd.DataFrame, keep: Collection[str] = ()) -> dict[str, str]:
    """Feature columns that only count or name the rows, where others remain.

    Whole numbers or texts that are all different, in a column without a name or with one like
    `id`; and whatever its name the numbers 0 or 1 to n without a gap, in any order.

    Args:
        keep: columns that stay whatever they look like.

    Returns:
        Name → what it looks like, for a note.
    """
    found = {}
    for name in frame.columns:
        if name in keep or len(frame) < _ENOUGH:
            continue
        values = frame[name]
        kind = _kind(values)
        if kind is None or values.isna().any() or not values.is_unique:
            continue
        named = _is_id_like(str(name))
        if kind == "numbers" and (named or _counts(values)):
            found[str(name)] = "counts the rows" if _counts(values) else "numbers the rows"
        elif kind == "texts" and named:
            found[str(name)] = "names the rows"
    return found if len(found) < frame.shape[1] else {}


def _is_id_like(name: str) -> bool:
    return bool(_ID_LIKE.fullmatch(name.strip())) or bool(_ID_LIKE.fullmatch(name.strip().lower()))


def _kind(values: pd.Series) -> str | None:
    if pd.api.types.is_bool_dtype(values.dtype):
        return None
    if pd.api.types.is_numeric_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64)
        return "numbers" if bool((numbers == np.floor(numbers)).all()) else None
    return "texts" if all(isinstance(value, str) for value in values) else None


def _counts(values: pd.Series) -> bool:
    """Whether they are 0 to n − 1 or 1 to n, in any order (they are distinct whole numbers)."""
    low, high = float(values.min()), float(values.max())
    return low in (0.0, 1.0) and high - low == len(values) - 1
