"""Forms in which people write the cells of a column, with what they mean.

A form is a kind of table, not an example: its cells are made for any number of rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

ROWS = 240


@dataclass(frozen=True)
class Form:
    """One way to write a column.

    Attributes:
        cells: the texts, as they stand in the file.
        truth: what they mean: floats, booleans, dates or texts; None where a cell is empty.
        said: what the remarks have to say of it as a feature or target; None: nothing.
        said_as_name: the same where the values are names.
    """

    name: str
    cells: list[str]
    truth: list[Any]
    said: str | None = None
    said_as_name: str | None = None

    @property
    def is_date(self) -> bool:
        return any(isinstance(value, pd.Timestamp) for value in self.truth)

    @property
    def names(self) -> list[str | None]:
        """What the cells mean as names: their text."""
        return [cell.strip() or None for cell in self.cells]

    def typed(self) -> pd.Series:
        """The truth as a program would hand it over."""
        if self.is_date:
            return pd.Series(pd.to_datetime(pd.Series(self.truth)))
        if any(isinstance(value, str) for value in self.truth):
            return pd.Series(self.truth, dtype=object)
        if all(isinstance(value, bool) for value in self.truth):
            return pd.Series(self.truth, dtype=bool)
        return pd.Series(self.truth, dtype=object if True in self.truth else float)


def _numbers(name: str, write: Callable[[float], str], said: str | None, digits: int = 2) -> Form:
    """Numbers from −99,999 to 99,999, every third below ten, each task's rows alike."""
    rng = np.random.default_rng(len(name))
    values = np.round(rng.uniform(-99_999, 99_999, ROWS), digits)
    values[::3] = np.round(rng.uniform(0, 10, len(values[::3])), digits)
    pool = values[: ROWS // 8]
    values = [float(v) for v in np.tile(pool, 8)]
    return Form(name, [write(v) for v in values], values, said)


def _swapped(text: str) -> str:
    return text.translate(str.maketrans(",.", ".,"))


def _with(form: Form, name: str, cell: str, every: int, said: str, meaning: Any = None) -> Form:
    """A form with another cell in every so many rows."""
    cells, truth = list(form.cells), list(form.truth)
    for row in range(every // 2, ROWS, every):
        cells[row], truth[row] = cell, meaning
    is_word = meaning is None and cell not in ("", "broken")
    as_name = rf"`{re.escape(cell)}` read as values" if is_word else None
    return Form(name, cells, truth, said, as_name)


def _dates(name: str, pattern: str, said: str | None, step: str = "37h", cut: str = "D") -> Form:
    days = pd.date_range("2019-03-01", periods=ROWS // 8, freq=step).floor(cut)
    dates = list(days) * 8
    return Form(name, [d.strftime(pattern) for d in dates], dates, said)


def _texts(
    name: str,
    cells: list[str],
    truth: list[Any] | None,
    said: str | None,
    as_name: str | None = None,
) -> Form:
    """Cells that come again and again."""
    meaning = cells if truth is None else truth
    times = ROWS // len(cells) + 1
    return Form(name, (cells * times)[:ROWS], (meaning * times)[:ROWS], said, as_name)


_PLAIN = _numbers("plain decimals", lambda v: f"{v}", None)
_WHOLE = _numbers("whole numbers", lambda v: f"{v:.0f}", None, digits=0)
_YES = _texts("yes and no", ["yes", "no", "no"], None, None)
_DE = "numbers with decimal commas"

FORMS = [
    _WHOLE,
    _PLAIN,
    _numbers("exponents", lambda v: f"{v:.7e}", None),
    _numbers("plus signs", lambda v: f"{v:+}", None),
    _numbers("true minus signs", lambda v: f"{v}".replace("-", "−"), None),
    _numbers("decimal commas", lambda v: f"{v}".replace(".", ","), _DE),
    _numbers("thousands by commas", lambda v: f"{v:,.2f}", "commas between thousands"),
    _numbers("thousands by points", lambda v: _swapped(f"{v:,.2f}"),
             "decimal commas and points between thousands"),
    _numbers("thousands by blanks", lambda v: f"{v:,.2f}".replace(",", " "), "blanks between"),
    _numbers("thousands by hard blanks",
             lambda v: f"{v:,.2f}".replace(",", "\u202f").replace(".", ","), "blanks between"),
    _numbers("thousands by apostrophes", lambda v: f"{v:,.2f}".replace(",", "'"), "apostrophes"),
    _numbers("per cent", lambda v: f"{v}%", "a percent sign"),
    _numbers("per cent with a comma", lambda v: f"{v} %".replace(".", ","), "a percent sign"),
    _numbers("dollars", lambda v: f"${v:,.2f}".replace("$-", "-$"), "the unit `\\$`"),
    _numbers("euros behind", lambda v: _swapped(f"{v:,.2f}") + " €", "the unit `€`"),
    _numbers("a currency in letters", lambda v: f"USD {v}", "the unit `USD`"),
    _numbers("kilograms", lambda v: f"{v} kg", "the unit `kg`"),
    _numbers("degrees", lambda v: f"{v}°C", "the unit `°C`"),
    _numbers("blanks around", lambda v: f"  {v} ", None),
    _with(_PLAIN, "numbers with empty cells", "", 7, ""),
    _with(_PLAIN, "numbers and question marks", "?", 9, r".27 cells.: `\?` among numbers count as"),
    _with(_WHOLE, "whole numbers and dashes", "-", 9, ".27 cells.: `-` among numbers"),
    _with(_WHOLE, "numbers and NA", "NA", 3, r".80 cells.: `NA` among numbers count as empty"),
    _with(_WHOLE, "numbers and n/a", "n/a", 5, r".48 cells.: `n/a` among numbers count as empty"),
    _with(_WHOLE, "numbers and a stray word", "broken", 120, r".2 cells.: `broken` among numbers"),
    _with(_numbers("commas", lambda v: f"{v}".replace(".", ","), None), "commas and points", ".",
          20, r".12 cells.: `\.` among numbers"),
    _dates("ISO dates", "%Y-%m-%d", None),
    _dates("ISO dates and times", "%Y-%m-%dT%H:%M:%S", None, cut="s"),
    _dates("day.month.year", "%d.%m.%Y", "day before month.*read as dates"),
    _dates("day.month.year of two digits", "%d.%m.%y", "day before month.*read as dates"),
    _dates("day.month.year and time", "%d.%m.%Y %H:%M", "read as dates", cut="min"),
    _dates("day/month/year", "%d/%m/%Y", "day before month.*read as dates"),
    _dates("month/day/year", "%m/%d/%Y", "month before day.*read as dates"),
    _dates("month/day/year and half days", "%m/%d/%Y %I:%M %p", "read as dates", cut="min"),
    _dates("year/month/day", "%Y/%m/%d", "year, month, day.*read as dates"),
    _dates("day-month in letters-year", "%d-%b-%Y", "read as dates"),
    _dates("month in letters day, year", "%B %d, %Y", "read as dates"),
    _with(_dates("days", "%d.%m.%Y", None), "dates and dashes", "-", 12,
          ".20 cells.: `-` among dates"),
    _texts("dates with the order open", ["01/02/2024", "03/04/2024", "05/06/2024", "07/08/2024"],
           list(pd.to_datetime(["2024-02-01", "2024-04-03", "2024-06-05", "2024-08-07"])),
           "could have the day or the month first.*`--date-order mdy`"),
    _texts("numbers with the comma open", ["1,234", "2,345", "9,876", "12,500"],
           [1234.0, 2345.0, 9876.0, 12500.0], "could be 1234 or 1.234.*`--decimal ,`"),
    _texts("True and False", ["True", "False", "False"], [True, False, False], None),
    _texts("TRUE and FALSE", ["TRUE", "FALSE", "TRUE"], [True, False, True], None),
    _with(_texts("t", ["True", "False", "False"], [True, False, False], None),
          "true, false and a mark", "?", 20, r".12 cells.: `\?` among true or false"),
    _YES,
    _with(_YES, "yes, no and a question mark", "?", 24, r".10 cells.: `\?` count as empty cells"),
    _texts("yes in three spellings", ["yes", "no", "yes", "Yes", "no", "yes "],
           ["yes", "no", "yes", "yes", "no", "yes"],
           "40 cells.: blanks at the ends|`yes` and `Yes` differ in case alone", "differ in case"),
    _texts("codes with leading zeros", ["001", "007", "010", "100", "007"], None,
           "leading zeros .`001`., read as codes"),
    _texts("codes and letters", ["01", "02", "03", "01", "02", "03", "A1"], None,
           r".34 cells.: 86% of the cells are numbers, but not `A1`"),
    _with(_numbers("grams", lambda v: f"{v} g", None), "numbers and some without the unit", "7.5",
          60, r".4 cells.: numbers without `g`, which others have", 7.5),
    _with(_dates("days", "%d.%m.%Y", None), "day.month.year and ISO dates", "2020-01-05", 20,
          "day before month.*read as dates", pd.Timestamp("2020-01-05")),
    _texts("brackets for below nothing", ["(1,234.50)", "(3.10)", "(7)"], None,
           r"cells such as `\(1,234.50\)` are made of digits, but in no form"),
    _texts("Indian thousands", ["1,23,456", "12,34,567", "2,34,500"], None,
           "cells such as `1,23,456` are made of digits, but in no form"),
    _texts("version numbers", ["1.2.3", "1.10.0", "2.0.1"], None,
           "cells such as `1.2.3` are made of digits"),
    _texts("None is a value", ["None", "Low", "High"], None,
           r".80 cells.: `None` read as values among texts; `--missing None`",
           r".80 cells.: `None` read as values"),
    _texts("NA is a country", ["NA", "DE", "FR", "NA"], None,
           r".120 cells.: `NA` read as values among texts; `--missing NA`", r".120 cells.: `NA`"),
    _texts("texts and n/a", ["red", "green", "n/a", "green"], ["red", "green", None, "green"],
           r".60 cells.: `n/a` count as empty cells", ".60 cells.: `n/a` read as values"),
    _texts("commas and quotes inside", ['a, "b"', "c;d", "a, b"], None, None),
    _texts("plus and minus", ["+", "-", "+"], None, r".80 cells.: `-` read as values",
           r".80 cells.: `-` read as values"),
    _texts("letters of many lands", ["Zürich", "Łódź", "São Paulo"], None, None),
]  # fmt: skip
