"""Numbers as people write them: decimal commas, thousands separators, signs and units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

PLAIN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""What every program writes; no grouping, a point, maybe an exponent."""

_SAMPLE = 200
"""Texts that are looked at before all are: where most are no numbers, nothing else is tried."""

_CURRENCY = r"(?:[A-Z]{0,2}[$€£¥₹₽₩₺]|[A-Z]{3}(?=\s))"
_UNIT = r"[%‰°µ$€£¥₹₽₩₺²³/A-Za-zÀ-ÿ]{1,12}"
_CELL = re.compile(
    rf"(?P<before>[+-]?)\s*(?P<prefix>{_CURRENCY})?\s*(?P<sign>[+-]?)"
    r"(?P<body>[0-9](?:[0-9.,' ]*[0-9])?[.,]?|[.,][0-9]+)"
    rf"(?P<exponent>[eE][+-]?[0-9]+)?\s*(?P<suffix>{_UNIT})?"
)
_WHOLE = re.compile("[0-9]+")
_TIDY = str.maketrans({"−": "-", "’": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " "})


@dataclass(frozen=True)
class NumberForm:
    """One way to write numbers: `NumberForm(",", ".", "€")` is 1.234,50 €."""

    decimal: str = "."
    thousands: str = ""
    unit: str = ""


_FORMS = tuple(
    NumberForm(decimal, thousands)
    for thousands in ("", ",", ".", " ", "'")
    for decimal in (".", ",")
    if decimal != thousands
)


class Fit(NamedTuple):
    """A form, and which texts it reads.

    Attributes:
        forms: that read as many cells as any; they read them as different numbers if several.
        fits: bool [texts], of the first.
    """

    forms: tuple[NumberForm, ...]
    fits: np.ndarray


class _Cell(NamedTuple):
    body: str
    unit: str


def plain_numbers(texts: np.ndarray) -> np.ndarray:
    """bool [texts]: those that are plain numbers."""
    return _matching(texts, PLAIN)


def fit_forms(texts: np.ndarray, counts: np.ndarray, decimal: str | None = None) -> Fit:
    """The forms that read most of the cells.

    Args:
        texts: object [text], distinct and without blanks at their ends.
        counts: cells of each.
        decimal: the only decimal sign that is thought of.
    """
    plain = plain_numbers(texts)
    if plain.all() and decimal != ",":
        return _with_points(texts, plain)
    some = [_split(text, bool(p)) for text, p in zip(texts[:_SAMPLE], plain, strict=False)]
    if sum(cell is None for cell in some) > 0.5 * len(some):
        return Fit((), np.zeros(len(texts), dtype=bool))
    cells = [_split(text, bool(is_plain)) for text, is_plain in zip(texts, plain, strict=True)]
    units = Counter[str]()
    for cell, count in zip(cells, counts, strict=True):
        if cell is not None:
            units[cell.unit] += int(count)
    unit = max(units, key=lambda u: (units[u], u), default="")
    best: list[tuple[NumberForm, np.ndarray]] = []
    most = 0
    for form in _FORMS:
        if decimal is not None and form.decimal != decimal:
            continue
        pattern = _body(form.decimal, form.thousands)
        fits = np.array([_fits(cell, pattern, unit) for cell in cells], dtype=bool)
        used = form.thousands and any(
            form.thousands in cell.body
            for cell, fit in zip(cells, fits, strict=True)
            if cell and fit
        )
        if form.thousands and not used:
            continue
        covered = int(counts[fits].sum())
        if covered > most:
            best, most = [(form, fits)], covered
        elif covered == most and covered:
            best.append((form, fits))
    if not best:
        return Fit((), np.zeros(len(texts), dtype=bool))
    bodies = [cell.body for cell, fit in zip(cells, best[0][1], strict=True) if cell and fit]
    # without a comma or a point the first two forms are the same
    distinct = [best[0]]
    for form, fits in best[1:]:
        if form.thousands or any(c in body for body in bodies for c in ",."):
            distinct.append((form, fits))
    forms = tuple(NumberForm(f.decimal, f.thousands, unit) for f, _ in distinct)
    return Fit(forms, best[0][1])


def read_numbers(texts: Sequence[str] | np.ndarray, form: NumberForm) -> np.ndarray:
    """float64 [texts], NaN where a text is no number of this form.

    A number without the unit is read too; `without_unit` tells them apart.
    """
    texts = np.asarray(texts, dtype=object)
    out = np.full(len(texts), np.nan)
    # most texts need no taking apart; Python's `float` rounds right, which pandas' parser does not
    simple = _matching(texts, PLAIN.replace(r"\.", re.escape(form.decimal)))
    read = texts[simple]
    if form.decimal == ",":
        read = np.array([text.replace(",", ".") for text in read], dtype=object)
    out[simple] = read.astype(np.float64)
    body = _body(form.decimal, form.thousands)
    for i in np.flatnonzero(~simple):
        cell = _split(texts[i], False)
        if cell is None or cell.unit not in ("", form.unit) or not body.fullmatch(_digits(cell)):
            continue
        digits = cell.body
        if form.thousands:
            digits = digits.replace(form.thousands, "")
        out[i] = float(digits.replace(",", ".") if form.decimal == "," else digits)
    return out


def without_unit(texts: Sequence[str] | np.ndarray) -> np.ndarray:
    """bool [texts]: numbers with neither a unit before nor behind them."""
    cells = (_split(text, False) for text in texts)
    return np.array([cell is not None and cell.unit == "" for cell in cells], dtype=bool)


def of_digits(texts: np.ndarray) -> np.ndarray:
    """bool [texts]: digits of any script with points, commas, blanks, brackets or a sign about
    them, such as (1,234) or 1,23,456; whole numbers, which may be codes, are none."""
    shape = re.compile(r"[+-]?\(?\d[\d.,' ]*\)?[+-]?")
    return np.array([bool(shape.fullmatch(t)) and not _WHOLE.fullmatch(t) for t in texts], bool)


def number_of(text: str) -> float | None:
    """A plain number, or None."""
    return float(text) if re.fullmatch(PLAIN, text) else None


def _matching(texts: np.ndarray, pattern: str) -> np.ndarray:
    return pd.Series(texts, dtype="str").str.fullmatch(pattern).to_numpy(dtype=bool)


def _with_points(texts: np.ndarray, plain: np.ndarray) -> Fit:
    """Plain numbers: 1.234 alone could be thousands, where a file has decimal commas."""
    forms = [NumberForm()]
    if any("." in text for text in texts):
        grouped = re.compile(r"[+-]?(?:[1-9][0-9]{0,2}(?:\.[0-9]{3})+|[0-9]{1,3})")
        if all(grouped.fullmatch(text) for text in texts):
            forms.append(NumberForm(",", "."))
    return Fit(tuple(forms), plain)


def _fits(cell: _Cell | None, body: re.Pattern[str], unit: str) -> bool:
    if cell is None or not body.fullmatch(_digits(cell)):
        return False
    # nothing has no unit: 0 stands beside 5 kg
    return cell.unit == unit or (cell.unit == "" and not cell.body.strip("+-0.,"))


def _digits(cell: _Cell) -> str:
    return re.sub(r"[eE][+-]?[0-9]+$", "", cell.body.lstrip("+-"))


def _split(text: str, plain: bool) -> _Cell | None:
    """Sign, digits and exponent of a cell, and its unit."""
    if plain:
        return _Cell(text, "")
    found = _CELL.fullmatch(text.translate(_TIDY))
    if found is None:
        return None
    before, sign = found["before"], found["sign"]
    prefix, suffix = found["prefix"] or "", found["suffix"] or ""
    if (before and sign) or (prefix and suffix):
        return None
    number = f"{before or sign}{found['body']}{found['exponent'] or ''}"
    return _Cell(number, prefix or suffix)


@cache
def _body(decimal: str, thousands: str) -> re.Pattern[str]:
    point = re.escape(decimal)
    whole = "[0-9]+"
    if thousands:
        whole = rf"(?:[1-9][0-9]{{0,2}}(?:{re.escape(thousands)}[0-9]{{3}})+|[0-9]+)"
    return re.compile(rf"{whole}(?:{point}[0-9]*)?|{point}[0-9]+")
