"""Dates as people write them: ISO 8601, 31.12.2024, 12/31/2024, 31 Dec 2024, with a time or not."""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?")
_TIME = (
    r"(?:[ T,]+(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2})"
    r"(?:[.,](?P<part>\d{1,6})\d*)?)?(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?)?"
)
_DIGITS = re.compile(r"(?P<a>\d{1,4})(?P<mark>[./-])(?P<b>\d{1,2})(?P=mark)(?P<c>\d{2,4})" + _TIME)
_WORDS = (
    re.compile(r"(?P<day>\d{1,2})(?:st|nd|rd|th)?[\s.-]*(?P<month>[A-Za-z]{3,9})[\s.,-]*"
               r"(?P<year>\d{4}|\d{2})" + _TIME),
    re.compile(r"(?P<month>[A-Za-z]{3,9})[\s.-]*(?P<day>\d{1,2})(?:st|nd|rd|th)?[\s,-]+"
               r"(?P<year>\d{4})" + _TIME),
)  # fmt: skip
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september",
           "october", "november", "december")  # fmt: skip
_ORDERS = ("ymd", "dmy", "mdy")
_SAMPLE = 200
"""Texts that are looked at before all are: most columns hold no dates."""

ORDER_WORDS = {
    "iso": "ISO 8601",
    "ymd": "year, month, day",
    "dmy": "day before month",
    "mdy": "month before day",
}


class DateFit(NamedTuple):
    """Orders that read as many cells as any, and which texts the first of them reads."""

    orders: tuple[str, ...]
    fits: np.ndarray


def fit_orders(texts: np.ndarray, counts: np.ndarray) -> DateFit:
    """The orders of day, month and year that read most of the cells.

    Args:
        texts: object [text], distinct and without blanks at their ends.
        counts: cells of each.
    """
    if not len(texts) or not any(c.isdigit() for c in texts[0]):
        return DateFit((), np.zeros(len(texts), dtype=bool))
    best: list[tuple[str, np.ndarray]] = []
    most = 0
    some = texts[:_SAMPLE]
    for order in ("iso", *_ORDERS):
        if np.isnat(read_dates(some, order, also_iso=False)).mean() > 0.5:
            continue
        fits = ~np.isnat(read_dates(texts, order))
        covered = int(counts[fits].sum())
        if covered > most:
            best, most = [(order, fits)], covered
        elif covered == most and covered:
            best.append((order, fits))
    if not best:
        return DateFit((), np.zeros(len(texts), dtype=bool))
    return DateFit(tuple(order for order, _ in best), best[0][1])


def likelier(texts: np.ndarray, orders: tuple[str, ...]) -> str:
    """Of orders that all fit: the one of a column whose days are always the first of a month, else
    the day before the month."""
    if "mdy" not in orders or "dmy" not in orders:
        return orders[0]
    found = [match for match in map(_DIGITS.fullmatch, texts) if match]
    first = {int(match["a"]) for match in found}
    second = {int(match["b"]) for match in found}
    return "mdy" if second == {1} and len(first) > 1 else "dmy"


def read_dates(texts: np.ndarray, order: str, *, also_iso: bool = True) -> np.ndarray:
    """datetime64[us] [texts] in UTC, NaT where a text is no such date.

    Args:
        also_iso: ISO 8601, which is never ambiguous, is read whatever the order.
    """
    out = np.full(len(texts), np.datetime64("NaT"), dtype="datetime64[us]")
    iso = np.zeros(len(texts), dtype=bool)
    if order == "iso" or also_iso:
        iso = np.array([_ISO.fullmatch(text) is not None for text in texts], dtype=bool)
        if iso.any():
            parsed = pd.to_datetime(
                pd.Series(list(texts[iso])), utc=True, format="ISO8601", errors="coerce"
            )
            out[iso] = parsed.dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    if order != "iso":
        for i in np.flatnonzero(~iso):
            found = _one(texts[i], order)
            if found is not None:
                out[i] = np.datetime64(found, "us")
    return out


def _one(text: str, order: str) -> datetime.datetime | None:
    match = _DIGITS.fullmatch(text)
    if match is not None:
        by = dict(zip(order, (match["a"], match["b"], match["c"]), strict=True))
        year, month, day = by["y"], int(by["m"]), by["d"]
        if len(day) > 2 or len(year) not in (2, 4) or (order == "ymd" and len(year) != 4):
            return None
    else:
        named = next((m for m in (p.fullmatch(text) for p in _WORDS) if m), None)
        if named is None or order != "dmy":
            return None
        match, year, day = named, named["year"], named["day"]
        word = named["month"].lower()
        month = next((i + 1 for i, name in enumerate(_MONTHS) if name.startswith(word)), 0)
    try:
        return datetime.datetime(_year(year), month, int(day), *_clock(match))
    except ValueError:
        return None


def _year(text: str) -> int:
    """Two digits as POSIX has them: 69 to 99 are of the last century."""
    year = int(text)
    return year if len(text) > 2 else year + (1900 if year >= 69 else 2000)


def _clock(match: re.Match[str]) -> tuple[int, int, int, int]:
    if match["hour"] is None:
        return 0, 0, 0, 0
    hour = int(match["hour"])
    if match["half"] is not None:
        if not 1 <= hour <= 12:
            raise ValueError(hour)
        hour = hour % 12 + (12 if match["half"] in "pP" else 0)
    part = int((match["part"] or "0").ljust(6, "0"))
    return hour, int(match["minute"]), int(match["second"] or 0), part
