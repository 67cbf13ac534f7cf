"""How a column is read: decided once, stored with the suite and the model, applied ever after."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from autometa.errors import DataError

Kind: TypeAlias = Literal["number", "boolean", "date", "category"]
Role: TypeAlias = Literal["feature", "target", "name"]
"""`name`: the values are names (of tasks, groups, splits), whatever they look like."""

DATE_ORDERS = ("dmy", "mdy")


@dataclass(frozen=True)
class ReadOptions:
    """What the user says of a file, where it should not be found out.

    Attributes:
        sep: between cells of a text file.
        decimal: `.` or `,`.
        encoding: of a text file, a name that Python knows.
        missing: texts that are empty cells; as numbers too, where they are numbers.
        date_order: `dmy` or `mdy`, of dates such as 01/02/2024.
    """

    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing: tuple[str, ...] = ()
    date_order: str | None = None

    @classmethod
    def of(
        cls,
        sep: str | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        missing: str | Sequence[Any] | None = None,
        date_order: str | None = None,
    ) -> ReadOptions:
        """Checked options.

        Raises:
            DataError: one that makes no sense.
        """
        words = (missing,) if isinstance(missing, (str, int, float)) else tuple(missing or ())
        sep = {"\\t": "\t", "tab": "\t", "space": " "}.get(sep or "", sep)
        if sep is not None and (len(sep) != 1 or sep in '\n\r"'):
            raise DataError(
                "Parameter `sep` should be one character (`tab` for a tab, `space` for blanks). "
                f"Found `sep = {sep!r}`."
            )
        for name, value, choices in (
            ("decimal", decimal, (".", ",")),
            ("date_order", date_order, DATE_ORDERS),
        ):
            if value is not None and value not in choices:
                raise DataError(
                    f"Parameter `{name}` should be `{choices[0]}` or `{choices[1]}`. "
                    f"Found `{name} = {value}`."
                )
        if encoding is not None:
            try:
                codecs.lookup(encoding)
            except LookupError as exc:
                raise DataError(
                    "Parameter `encoding` should be one that Python knows, such as utf-8, utf-16 "
                    f"or cp1252. Found `encoding = {encoding}` ({exc})."
                ) from None
        return cls(sep, decimal, encoding, tuple(str(word).strip() for word in words), date_order)


@dataclass(frozen=True)
class ColumnType:
    """How the cells of one column become values.

    Attributes:
        kind: what a cell is.
        decimal, thousands, unit: of numbers that are written as text. The unit is a percent sign,
            a sign of currency or one word, before or behind the number.
        single: numbers have 32 bits.
        order: of dates that are written as text: `iso`, `ymd`, `dmy` or `mdy`.
        missing: texts that the user calls empty; as numbers too, where they are numbers.
        odd: texts that were found not to fit the column and count as empty.
        spelling: other spellings of a text, with the one that they are read as.
        levels: texts of a category that training rows have; None where that is not known.
        labels: what the labels of a category are, where a target has them.
    """

    kind: Kind = "category"
    decimal: str = "."
    thousands: str = ""
    unit: str = ""
    single: bool = False
    order: str = "iso"
    missing: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    spelling: tuple[tuple[str, str], ...] = ()
    levels: tuple[str, ...] | None = None
    labels: Literal["text", "number"] = "text"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ColumnType:
        """Inverse of `to_json`."""
        levels = data["levels"]
        return cls(
            **{
                **data,
                "missing": tuple(data["missing"]),
                "odd": tuple(data["odd"]),
                "spelling": tuple((text, read) for text, read in data["spelling"]),
                "levels": None if levels is None else tuple(levels),
            }
        )
