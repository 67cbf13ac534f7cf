"""Options of how a table is written, for every command that reads one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_TABLE = "How the table is written (found out where not given)"

Sep = Annotated[
    str | None,
    typer.Option(
        metavar="SIGN",
        help="Between cells, e.g. ';'; tab, or space for blanks.",
        rich_help_panel=_TABLE,
    ),
]
Decimal = Annotated[
    str | None,
    typer.Option(metavar="SIGN", help="In numbers: '.' or ','.", rich_help_panel=_TABLE),
]
Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="E.g. utf-8, utf-16, cp1252.", rich_help_panel=_TABLE),
]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B",
        help="Texts or numbers that are empty cells, e.g. NA,-999; repeatable.",
        rich_help_panel=_TABLE,
    ),
]
DateOrder = Annotated[
    str | None,
    typer.Option(
        metavar="ORDER",
        help="dmy or mdy, of dates such as 01/02/2024.",
        rich_help_panel=_TABLE,
    ),
]


def read_options(
    sep: str | None,
    decimal: str | None,
    encoding: str | None,
    missing: list[str] | None,
    date_order: str | None,
) -> dict[str, Any]:
    """The options of how a table is written, as keywords; those that were given."""
    chosen = {
        "sep": sep,
        "decimal": decimal,
        "encoding": encoding,
        "missing": [part.strip() for item in missing or () for part in item.split(",")] or None,
        "date_order": date_order,
    }
    return {key: value for key, value in chosen.items() if value is not None}
