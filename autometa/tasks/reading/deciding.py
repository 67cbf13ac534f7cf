"""Which type a column has: decided once, from all cells of the table that a suite is made of.

Every rule that gives cells another meaning than their text leaves a remark.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from autometa.errors import DataError
from autometa.tasks.reading.categories import (
    CODE,
    ODD_SHARE,
    WHOLE,
    decide_category,
    decide_names,
)
from autometa.tasks.reading.cells import MARKS, WORDS, Cells, cells_of, is_number, is_text, listed
from autometa.tasks.reading.dates import ORDER_WORDS, fit_orders, likelier, read_dates
from autometa.tasks.reading.numbers import (
    Fit,
    NumberForm,
    fit_forms,
    of_digits,
    read_numbers,
    without_unit,
)
from autometa.tasks.reading.remarks import Remark, joined
from autometa.tasks.reading.types import ColumnType, ReadOptions, Role


class Decision(NamedTuple):
    """The types of a table's columns, and what is to be said of them."""

    types: dict[str, ColumnType]
    remarks: tuple[str, ...]


class _Draft(NamedTuple):
    """A column of texts, before it is known which decimal sign the table has."""

    cells: Cells
    others: np.ndarray
    fit: Fit


def decide(
    frame: pd.DataFrame,
    roles: Mapping[str, Role],
    options: ReadOptions,
    *,
    typed: bool,
    separator: str | None = None,
) -> Decision:
    """Decide how every column is read.

    Args:
        roles: of each column that is no feature.
        typed: the table has types of its own (a DataFrame, Parquet, Excel): whole numbers that it
            keeps as text are codes.
        separator: of the file, where it had one: semicolons go with decimal commas.
    """
    types: dict[str, ColumnType] = {}
    remarks: list[Remark] = []
    drafts: dict[str, _Draft] = {}
    for name in frame.columns:
        column, role = frame[name], roles.get(name, "feature")
        if role != "name" and not _needs_reading(column):
            types[name] = _of_dtype(column, name, options)
            continue
        cells = cells_of(column)
        others = _others(cells, options)
        if role == "name":
            types[name] = decide_names(name, cells, others, options, remarks)
            continue
        # the decimal sign of a table is found in all its columns, then those that leave it open
        # are read
        codes = _codes(cells, others, typed and is_text(column))
        nothing = Fit((), np.zeros(int(others.sum()), dtype=bool))
        fit = nothing if codes else fit_forms(
            cells.texts[others], cells.counts[others], options.decimal
        )  # fmt: skip
        drafts[name] = _Draft(cells, others, fit)
    sign = options.decimal or _decimal_sign(list(drafts.values()), separator)
    for name, draft in drafts.items():
        given = frame[name]
        found = _of_text(name, draft, roles.get(name, "feature"), options, sign, remarks)
        if found.kind == "category" and not is_text(given):
            _refuse_mixed(given, name, roles.get(name, "feature"))
            found = replace(_of_dtype(given, name, options), odd=found.odd)
        types[name] = found
    order = {name: i for i, name in enumerate(frame.columns)}
    remarks.sort(key=lambda remark: order[remark.column])
    return Decision({name: types[name] for name in frame.columns}, joined(remarks))


def _needs_reading(column: pd.Series) -> bool:
    """Text, or texts among numbers."""
    if is_text(column):
        return True
    if column.dtype != object:
        return False
    present = column[column.notna()]
    texts = sum(isinstance(value, str) for value in present)
    return texts > 0 and all(
        isinstance(v, (str, bool, np.bool_, datetime.date)) or is_number(v) for v in present
    )


def _refuse_mixed(column: pd.Series, name: str, role: Role) -> None:
    if role == "target":
        types = sorted({type(value).__name__ for value in column[column.notna()]})
        raise DataError(
            f"Target `{name}` should hold numbers only or labels of one type. "
            f"Found {', '.join(types)}."
        )


def _of_dtype(column: pd.Series, name: str, options: ReadOptions) -> ColumnType:
    """Of a column that has a type."""
    dtype, missing = column.dtype, options.missing
    if isinstance(dtype, pd.CategoricalDtype):
        values = dtype.categories
        if pd.api.types.is_bool_dtype(values):
            return ColumnType("boolean", missing=missing)
        number = pd.api.types.is_numeric_dtype(values)
        return ColumnType("category", missing=missing, labels="number" if number else "text")
    if pd.api.types.is_bool_dtype(dtype):
        return ColumnType("boolean", missing=missing)
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return ColumnType("date", missing=missing)
    if not pd.api.types.is_object_dtype(dtype):
        single = dtype in (np.float32, np.float16)
        return ColumnType("number", single=single, missing=missing)
    present = column[column.notna()]
    for value in present:
        if isinstance(value, (list, tuple, dict, set, np.ndarray)):
            raise DataError(
                f"Column `{name}` holds a `{type(value).__name__}` in a cell; "
                "give it one column a value, or drop it."
            )
    if all(isinstance(v, (bool, np.bool_)) for v in present) and len(present):
        return ColumnType("boolean", missing=missing)
    if all(is_number(v) for v in present):
        return ColumnType("number", missing=missing)
    if all(isinstance(v, (datetime.date, np.datetime64)) for v in present):
        return ColumnType("date", missing=missing)
    return ColumnType("category", missing=missing)


def _others(cells: Cells, options: ReadOptions) -> np.ndarray:
    """bool [text]: those that are no word for an empty cell."""
    words = WORDS | MARKS
    return np.array(
        [t.casefold() not in words and t not in options.missing for t in cells.texts], dtype=bool
    )


def _codes(cells: Cells, others: np.ndarray, typed_text: bool) -> bool:
    """Whether whole numbers are codes: they have leading zeros, or a table keeps them as text."""
    whole = np.array([WHOLE.fullmatch(t) is not None for t in cells.texts], dtype=bool) & others
    zero = np.array([CODE.fullmatch(t) is not None for t in cells.texts], dtype=bool)
    total, n_whole = int(cells.counts[others].sum()), int(cells.counts[whole].sum())
    if total == 0 or n_whole < (1 - ODD_SHARE) * total:
        return False
    one_width = len({len(t) for t in cells.texts[whole]}) == 1
    n_zero = int(cells.counts[zero].sum())
    return typed_text or n_zero > ODD_SHARE * n_whole or (n_zero > 0 and one_width)


def _decimal_sign(drafts: Sequence[_Draft], separator: str | None) -> str | None:
    """The decimal sign of columns that leave no choice; else by the separator of the file."""
    votes = Counter[str]()
    for draft in drafts:
        texts = draft.cells.texts[draft.others]
        share = draft.cells.counts[draft.others][draft.fit.fits].sum()
        if len(draft.fit.forms) == 1 and share >= 0.5 * draft.cells.counts.sum():
            form = draft.fit.forms[0]
            if any(form.decimal in text for text in texts[draft.fit.fits]):
                votes[form.decimal] += 1
    if votes:
        return max(votes, key=lambda sign: votes[sign])
    return "," if separator == ";" else None


def _of_text(
    name: str,
    draft: _Draft,
    role: Role,
    options: ReadOptions,
    sign: str | None,
    remarks: list[Remark],
) -> ColumnType:
    cells, others = draft.cells, draft.others
    texts, counts = cells.texts[others], cells.counts[others]
    missing = options.missing
    if not len(texts):
        if any(t not in missing for t in cells.texts):
            return decide_category(name, cells, others, role, options, remarks)
        return ColumnType("number", missing=missing)
    boolean = np.array([t.casefold() in ("true", "false") for t in texts], dtype=bool)
    if _nearly_all(boolean, counts):
        odd = _odd(name, cells, others, boolean, options, remarks, "true or false")
        return ColumnType("boolean", missing=missing, odd=odd)
    if draft.fit.forms and _nearly_all(draft.fit.fits, counts):
        form = _form(name, texts, draft.fit.forms, sign, options, remarks)
        values = read_numbers(texts, form)
        fits = ~np.isnan(values)
        bare = fits & (values != 0) & without_unit(texts) & (form.unit != "")
        if bare.any():
            text = f"numbers without `{form.unit}`, which others have; read as they are."
            remarks.append(Remark(name, text, int(counts[bare].sum())))
        odd = _odd(name, cells, others, fits, options, remarks, "numbers")
        return ColumnType(
            "number", form.decimal, form.thousands, form.unit, missing=missing, odd=odd
        )
    dates = fit_orders(texts, counts)
    if dates.orders and _nearly_all(dates.fits, counts):
        order = _order(name, texts[dates.fits], dates.orders, options, remarks)
        # of the order that was chosen: several may read as many cells, but other ones
        fits = ~np.isnat(read_dates(texts, order))
        odd = _odd(name, cells, others, fits, options, remarks, "dates")
        return ColumnType("date", order=order, missing=missing, odd=odd)
    _near_miss(name, cells, others, draft.fit.fits, dates.fits, remarks)
    return decide_category(name, cells, others, role, options, remarks)


def _nearly_all(fits: np.ndarray, counts: np.ndarray) -> bool:
    """All cells but a few, or but one of at least twenty."""
    total, rest = int(counts.sum()), int(counts[~fits].sum())
    return rest <= ODD_SHARE * total or (rest == 1 and total >= 20)


def _form(
    name: str,
    texts: np.ndarray,
    forms: tuple[NumberForm, ...],
    sign: str | None,
    options: ReadOptions,
    remarks: list[Remark],
) -> NumberForm:
    form = next((f for f in forms if f.decimal == sign), forms[0])
    if len(forms) > 1 and not (form.decimal == "." and form.thousands == "" and sign != ","):
        other = next(f for f in forms if f != form)
        sample = next((t for t in texts if form.decimal in t or form.thousands in t), texts[0])
        value, instead = (float(read_numbers([sample], f)[0]) for f in (form, other))
        remarks.append(
            Remark(
                name,
                f"`{sample}` could be {value:g} or {instead:g}; it is read as {value:g}, "
                f"`--decimal {other.decimal}` reads the other.",
            )
        )
    said = []
    if form.decimal == "," and any("," in t for t in texts):
        said.append("decimal commas")
    if form.thousands:
        shown = {" ": "blanks", "'": "apostrophes", ",": "commas", ".": "points"}[form.thousands]
        said.append(f"{shown} between thousands")
    if form.unit == "%":
        said.append("a percent sign (12% is 12)")
    elif form.unit:
        said.append(f"the unit `{form.unit}`")
    if said:
        remarks.append(Remark(name, f"numbers with {' and '.join(said)}, read as numbers."))
    return form


def _order(
    name: str,
    texts: np.ndarray,
    orders: tuple[str, ...],
    options: ReadOptions,
    remarks: list[Remark],
) -> str:
    if orders[0] == "iso":
        return "iso"
    by_points = all("." in t and "/" not in t for t in texts)  # nobody writes month.day.year
    order = "dmy" if by_points and "dmy" in orders else likelier(texts, orders)
    if options.date_order in orders:
        order = options.date_order
    elif len(orders) > 1 and not by_points:
        other = next(o for o in orders if o != order)
        remarks.append(
            Remark(
                name,
                f"dates such as `{texts[0]}` could have the day or the month first; they are read "
                f"as {ORDER_WORDS[order]}, `--date-order {other}` reads the other.",
            )
        )
    remarks.append(
        Remark(name, f"dates such as `{texts[0]}` ({ORDER_WORDS[order]}), read as dates.")
    )
    return order


def _odd(
    name: str,
    cells: Cells,
    others: np.ndarray,
    fits: np.ndarray,
    options: ReadOptions,
    remarks: list[Remark],
    what: str,
) -> tuple[str, ...]:
    """Texts that do not fit, which count as empty cells."""
    good = np.zeros(len(cells.texts), dtype=bool)
    good[np.flatnonzero(others)[fits]] = True
    found = [
        (text, int(count))
        for text, count in zip(cells.texts[~good], cells.counts[~good], strict=True)
        if text not in options.missing
    ]
    if found:
        remarks.append(
            Remark(
                name,
                f"{listed(found)} among {what} count as empty cells; `--missing` says so without "
                "this remark. Where they are values, give them a column of their own.",
                sum(count for _, count in found),
            )
        )
    return tuple(sorted(text for text, _ in found))


def _near_miss(
    name: str,
    cells: Cells,
    others: np.ndarray,
    numbers: np.ndarray,
    dates: np.ndarray,
    remarks: list[Remark],
) -> None:
    texts, counts = cells.texts[others], cells.counts[others]
    for fits, what in ((numbers, "numbers"), (dates, "dates")):
        share = counts[fits].sum() / max(1, counts.sum())
        if share >= 0.5:
            rest = [(t, int(c)) for t, c in zip(texts[~fits], counts[~fits], strict=True)]
            remarks.append(
                Remark(
                    name,
                    f"{share:.0%} of the cells are {what}, but not {listed(rest)}; it is read as "
                    "text (categories). Name what is an empty cell with `--missing`.",
                    sum(count for _, count in rest),
                )
            )
            return
    digits = of_digits(texts)
    if counts[digits].sum() >= 0.5 * counts.sum():
        remarks.append(
            Remark(
                name,
                f"cells such as `{texts[digits][0]}` are made of digits, but in no form of numbers "
                "that is read; they are text (categories).",
                int(counts[digits].sum()),
            )
        )
