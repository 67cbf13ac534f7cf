"""A stored type applied to a column: of the table it was decided on, or of any later one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from autometa.errors import DataError
from autometa.tasks.reading.cells import MARKS, WORDS, Cells, cells_of, is_text, listed
from autometa.tasks.reading.dates import ORDER_WORDS, read_dates
from autometa.tasks.reading.naming import match_names
from autometa.tasks.reading.numbers import NumberForm, number_of, read_numbers, without_unit
from autometa.tasks.reading.remarks import Remark
from autometa.tasks.reading.types import ColumnType, ReadOptions


class Conformed(NamedTuple):
    """A column with the type that it was to have.

    Attributes:
        column: float64, booleans, datetime64 in UTC, or text (object, None where missing), with
            the index 0, 1, ….
        remarks: what is to be said of it.
    """

    column: pd.Series
    remarks: tuple[Remark, ...] = ()


def conform(
    column: pd.Series, name: str, kind: ColumnType, options: ReadOptions | None = None
) -> Conformed:
    """Read a column as its type says.

    Args:
        options: of this file, where it differs from the one that the type is of.

    Raises:
        DataError: no cell is what the type says.
    """
    column = column.reset_index(drop=True)
    options = options or ReadOptions()
    if kind.kind == "category":
        return _category(column, name, kind, options)
    if column.dtype == object or is_text(column) or isinstance(column.dtype, pd.CategoricalDtype):
        return _from_text(cells_of(column), name, kind, options)
    if kind.kind == "date":
        if not pd.api.types.is_datetime64_any_dtype(column.dtype) and column.notna().any():
            raise DataError(
                f"Column `{name}` should hold dates, as in training. Found {column.dtype}."
            )
        return Conformed(pd.to_datetime(column, utc=True))
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        if column.notna().any():
            raise DataError(f"Column `{name}` should hold numbers, as in training. Found dates.")
        return Conformed(pd.Series(np.full(len(column), np.nan)))
    if pd.api.types.is_timedelta64_dtype(column.dtype) or column.dtype.kind == "c":
        return Conformed(column)
    if pd.api.types.is_bool_dtype(column.dtype):
        return Conformed(column)
    numbers = _floats(column, kind.single)
    return Conformed(_without_missing(numbers, (*kind.missing, *options.missing)))


def _category(column: pd.Series, name: str, kind: ColumnType, options: ReadOptions) -> Conformed:
    cells = cells_of(column)
    empty = {*kind.missing, *options.missing, *kind.odd}
    spelling = dict(kind.spelling)
    texts: list[str | None] = [None if t in empty else spelling.get(t, t) for t in cells.texts]
    remarks = []
    if kind.levels is not None:
        known = set(kind.levels)
        typed = not is_text(column)
        unknown = []
        rest = [t for t in texts if t is not None and t not in known]
        if rest:
            source = [(number_of(t) if typed else None) or t for t in rest]
            matched = dict(zip(rest, match_names(source, kind.levels), strict=True))
            texts = [t if t is None else matched.get(t, t) or t for t in texts]
            unknown = [
                (t, int(c))
                for t, c in zip(texts, cells.counts, strict=True)
                if t is not None and t not in known
            ]
        if unknown:
            total = sum(count for _, count in unknown)
            text = (
                f"{total} of {len(column)} values were never seen in training: {listed(unknown)}."
            )
            remarks.append(Remark(name, text))
    values = np.empty(len(texts) + 1, dtype=object)
    values[:-1] = texts
    out = values[cells.codes]  # −1 is the last, None
    if kind.labels == "number":
        numbers = [None if v is None else number_of(v) for v in out]
        if all((n is None) == (v is None) for n, v in zip(numbers, out, strict=True)):
            return Conformed(pd.Series(numbers, dtype=float).astype("category"), tuple(remarks))
    return Conformed(pd.Series(out, dtype=object), tuple(remarks))


def _from_text(cells: Cells, name: str, kind: ColumnType, options: ReadOptions) -> Conformed:
    missing = {*kind.missing, *options.missing}
    words = WORDS | MARKS
    skip = np.array(
        [t in missing or t in kind.odd or t.casefold() in words for t in cells.texts], dtype=bool
    )
    texts = cells.texts[~skip]
    remarks: list[Remark] = []
    if kind.kind == "date":
        values = read_dates(texts, options.date_order or kind.order)
        bad = np.isnat(values)
        filler: object = np.datetime64("NaT")
    elif kind.kind == "boolean":
        by = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}
        values = np.array([by.get(t.casefold(), np.nan) for t in texts], dtype=np.float64)
        bad, filler = np.isnan(values), np.nan
    else:
        values = _numbers(name, texts, cells.counts[~skip], kind, options, remarks)
        values = _single(values) if kind.single else values
        bad, filler = np.isnan(values), np.nan
    if bad.any():
        _refuse_or_remark(name, kind, cells, skip, bad, remarks)
    every = np.full(len(cells.texts) + 1, filler, dtype=values.dtype)
    every[:-1][~skip] = values
    out = pd.Series(every[cells.codes])
    if kind.kind == "date":
        return Conformed(out.dt.tz_localize("UTC"), tuple(remarks))
    if kind.kind == "boolean":
        whole = not out.isna().any()
        return Conformed(out.astype(bool if whole else "boolean"), tuple(remarks))
    return Conformed(_without_missing(out, tuple(missing)), tuple(remarks))


def _numbers(
    name: str,
    texts: np.ndarray,
    counts: np.ndarray,
    kind: ColumnType,
    options: ReadOptions,
    remarks: list[Remark],
) -> np.ndarray:
    """float64 [text], NaN for what is no number.

    The form is the stored one, with the decimal sign that the user names for this file. Where it
    does not read all, the stored one or plain numbers are taken if they do.
    """
    truth = {"true": 1.0, "false": 0.0}
    if len(texts) and all(text.casefold() in truth for text in texts):
        return np.array([truth[text.casefold()] for text in texts])
    stored = NumberForm(kind.decimal, kind.thousands, kind.unit)
    form = stored
    if options.decimal is not None and options.decimal != stored.decimal:
        thousands = "" if stored.thousands == options.decimal else stored.thousands
        form = NumberForm(options.decimal, thousands, stored.unit)
    values = read_numbers(texts, form)
    for other in (stored, NumberForm(unit=stored.unit)):
        if np.isnan(values).any() and other != form:
            instead = read_numbers(texts, other)
            if not np.isnan(instead).any():
                text = f"numbers with `{other.decimal}`, not `{form.decimal}`; read as such."
                remarks.append(Remark(name, text))
                values = instead
    bare = without_unit(texts) if kind.unit else np.zeros(len(texts), dtype=bool)
    said = bare & (values != 0)  # nothing needs no unit
    if said.any():
        text = f"numbers without `{kind.unit}`, which training had; read as they are."
        remarks.append(Remark(name, text, 0 if bare.all() else int(counts[said].sum())))
    return values


def _refuse_or_remark(
    name: str,
    kind: ColumnType,
    cells: Cells,
    skip: np.ndarray,
    bad: np.ndarray,
    remarks: list[Remark],
) -> None:
    found = list(zip(cells.texts[~skip][bad], cells.counts[~skip][bad], strict=True))
    wanted = {"number": "numbers", "boolean": "true or false", "date": "dates"}[kind.kind]
    if bad.all():
        how = f" ({ORDER_WORDS[kind.order]})" if kind.kind == "date" else ""
        hint = ""
        if kind.kind == "number" and any("," in text or "." in text for text, _ in found):
            hint = f" `--decimal` says how numbers are written; training had `{kind.decimal}`."
        raise DataError(
            f"Column `{name}` should hold {wanted}{how}, as in training. Found text such as "
            f"`{found[0][0]}`.{hint}"
        )
    text = f"{listed(found)} among {wanted} count as empty cells."
    remarks.append(Remark(name, text, sum(int(count) for _, count in found)))


def _floats(column: pd.Series, single: bool) -> pd.Series:
    """float64. Where training had 64 bits and this table has 32 they are the decimal number that is
    written for them, as a text file has it; where training had 32, others are rounded to that."""
    if single:
        return pd.Series(_single(column.to_numpy(dtype=np.float64, na_value=np.nan)))
    if column.dtype in (np.float32, np.float16):
        return pd.Series(column.to_numpy().astype(str).astype(np.float64))
    return pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _single(values: np.ndarray) -> np.ndarray:
    """float64, rounded to 32 bits; what is beyond them is infinite, and refused as such."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64)


def _without_missing(column: pd.Series, missing: tuple[str, ...]) -> pd.Series:
    numbers = [n for n in map(number_of, missing) if n is not None]
    return column.mask(column.isin(numbers)) if numbers else column
