"""The distinct texts of a column, and which of them may have been meant as an empty cell."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

WORDS = frozenset({"na", "nan", "null", "none", "nil"})
"""Empty cells among numbers and dates; among texts they are values like any other."""

MARKS = frozenset(
    {"?", "-", "--", "---", "–", "—", ".", "..", "...", "*", "n/a", "#n/a", "#na", "<na>",
     "#div/0!", "#value!", "#ref!", "#num!", "#name?", "#null!"}
)  # fmt: skip
"""Empty cells, unless most of the column is made of them."""

_EDGES = "\ufeff\u200b"


class Cells(NamedTuple):
    """A column of texts.

    Attributes:
        codes: int64 [row]: which text; −1 where the cell is empty.
        texts: object [text]: distinct, without blanks at their ends.
        counts: int64 [text]: cells of each.
        trimmed: cells that had blanks at their ends.
    """

    codes: np.ndarray
    texts: np.ndarray
    counts: np.ndarray
    trimmed: int


def is_text(column: pd.Series) -> bool:
    """Whether every cell of a column that is not missing is text."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return False
    if isinstance(column.dtype, pd.StringDtype):
        return True
    return column.dtype == object and all(isinstance(v, str) for v in column[column.notna()])


def cells_of(column: pd.Series) -> Cells:
    """The texts of a column; numbers and the like become what a file would have of them."""
    if not is_text(column):
        column = pd.Series(as_text(column.to_numpy(dtype=object)), dtype=object)
    first, found = pd.factorize(column)
    raw = np.asarray(found, dtype=object)
    stripped = np.array([text.strip().strip(_EDGES).strip() for text in raw], dtype=object)
    second, texts = pd.factorize(stripped)
    texts = np.asarray(texts, dtype=object)
    empty = np.array([text == "" for text in texts], dtype=bool)
    number = np.where(empty, -1, np.cumsum(~empty) - 1)
    inner = number[second] if len(raw) else np.zeros(0, dtype=np.int64)
    codes = np.where(first < 0, -1, inner[first]) if len(raw) else np.full(len(column), -1)
    changed = np.array([a != b and b != "" for a, b in zip(raw, stripped, strict=True)], dtype=bool)
    trimmed = int(changed[first[first >= 0]].sum()) if len(raw) else 0
    texts = texts[~empty]
    counts = np.bincount(codes[codes >= 0], minlength=len(texts)).astype(np.int64)
    return Cells(codes.astype(np.int64), texts, counts, trimmed)


def as_text(values: np.ndarray) -> np.ndarray:
    """Values as text, `None` where missing; whole numbers read the same as int and as float."""
    out = np.empty(len(values), dtype=object)
    missing = pd.isna(values)
    for row, value in enumerate(values):
        if not missing[row]:
            out[row] = value if isinstance(value, str) else _one_text(value)
    return out


def is_number(value: Any) -> bool:
    """Whether a cell is a number and no boolean."""
    return isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, (bool, np.bool_))


def listed(texts: Iterable[tuple[str, int]], most: int = 5) -> str:
    """`` `?` (12), `x` (1)``, the most frequent first; the count of one alone is said elsewhere."""
    ordered = sorted(texts, key=lambda item: (-item[1], item[0]))
    if len(ordered) == 1:
        return f"`{ordered[0][0]}`"
    shown = ", ".join(f"`{text}` ({count})" for text, count in ordered[:most])
    more = len(ordered) - most
    return f"{shown} and {more} more" if more > 0 else shown


def _one_text(value: Any) -> str:
    if is_number(value) and np.isfinite(float(value)) and float(value).is_integer():
        return str(int(value))
    return str(value)
