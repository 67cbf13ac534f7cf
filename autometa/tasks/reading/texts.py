"""Text files of tables: their letters, what comes before the names, what separates their cells."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from autometa.errors import DataError, reason_of
from autometa.tasks.reading.numbers import number_of
from autometa.tasks.reading.types import ReadOptions

_SEPARATORS = (",", ";", "\t", "|")
_SAMPLE = 200
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(data: bytes, file: Path, options: ReadOptions, remarks: list[str]) -> str:
    """The text of a file: as the user says, by its first bytes, UTF-8, else Western European."""
    encoding = options.encoding
    if encoding is None:
        encoding = next((name for mark, name in _BOMS if data.startswith(mark)), None)
        zeros = data[:1000].count(0)
        if encoding is None and zeros > 0.3 * len(data[:1000]):
            encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
        if encoding not in (None, "utf-8-sig"):
            remarks.append(f"`{file.name}` is read as {encoding.upper()} (`--encoding`).")
    try:
        try:
            text = data.decode(encoding or "utf-8-sig")
        except UnicodeDecodeError:
            if encoding is not None:
                raise
            text = data.decode("cp1252")
            remarks.append(
                f"`{file.name}` is not in UTF-8 and is read as cp1252 (Western European); "
                "`--encoding` says otherwise."
            )
    except (UnicodeDecodeError, LookupError) as exc:
        raise DataError(
            f"File `{file}` is not a table of text ({reason_of(exc)}). `--encoding` says how its "
            "letters are written."
        ) from None
    if "\0" in text:
        raise DataError(f"File `{file}` is not a table of text: it holds zero bytes.")
    text = text.removeprefix("\ufeff")
    return text if "\n" in text else text.replace("\r", "\n")  # ends of lines of old


def body_of(text: str, options: ReadOptions, remarks: list[str]) -> tuple[str, str | None]:
    """What begins with the names, and the separator where it is known."""
    separator = options.sep
    first = re.match(r"\s*\"?sep=(.)\"?[ ]*\r?\n", text, re.IGNORECASE)
    if first is not None:
        separator = separator or first[1]
        text = text[first.end() :]
    lines = text.split("\n", _SAMPLE)
    skipped = comments = 0
    while skipped < len(lines) - 1 and not lines[skipped].strip(" ,;|\t\"'\r"):
        skipped += 1
    start = skipped
    while start < len(lines) - 1 and (lines[start].startswith("#") or not lines[start].strip()):
        comments += lines[start].startswith("#")
        start += 1
    named = comments > 0 and _names_after_hash(lines[start - 1], lines[start])
    if named:
        start, comments = start - 1, comments - 1
        lines[start] = lines[start].lstrip("# ")
    if start or named:
        text = "\n".join(lines[start:])
    if comments:
        remarks.append(f"{_lines(comments)} of comments before the names left out.")
        every = text.split("\n")
        rows = [line for line in every if line[:1] != "#"]
        if len(rows) < len(every):
            # they may be rows whose first cell begins so
            remarks.append(f"{_lines(len(every) - len(rows))} among the rows left out: `#` first.")
            text = "\n".join(rows)
    return text, separator


def _names_after_hash(last: str, following: str) -> bool:
    """Whether `#a,b` is a line of names: numbers come after it, in as many fields."""
    for separator in (*_SEPARATORS, None):
        names, cells = last.lstrip("# ").split(separator), following.split(separator)
        if len(names) == len(cells) > 1 and any(number_of(c.strip()) is not None for c in cells):
            return all(number_of(n.strip()) is None for n in names)
    return False


def header_of(
    text: str, suffix: str, separator: str | None, file: Path, remarks: list[str]
) -> tuple[list[str], int, str]:
    """Names of the columns, lines to skip before the rows, and the separator."""
    if separator is None:
        separator = _separator(text, suffix)
        usual = "\t" if suffix in (".tsv", ".tab") else ","
        if separator != usual and suffix in (".csv", ".tsv"):
            shown = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "blanks"}
            remarks.append(f"`{file.name}` has {shown[separator]} between its cells (`--sep`).")
    rows = _sample(text, separator)
    if not rows or not any(name.strip() for name in rows[0]):
        raise DataError(f"File `{file}` is empty or its first line names no column.")
    names = [name.strip() for name in rows[0]]
    width = max((len(row) for row in rows[1:]), default=len(names))
    if _is_data(rows) or (suffix == ".data" and any(number_of(name) is not None for name in names)):
        remarks.append(
            f"`{file.name}` has no line of names; its columns are called `column 1` to "
            f"`column {len(names)}`."
        )
        return [f"column {i + 1}" for i in range(len(names))], 0, separator
    numbers = [name for name in names if number_of(name) is not None]
    if numbers and any("." in name for name in numbers):
        remarks.append(
            f"The first line of `{file.name}` is taken for names, though it holds `{numbers[0]}`."
        )
    if len(rows) > 1 and all(len(row) == len(names) + 1 for row in rows[1:]):
        # R writes row names without a name of their own; others end every line with a separator
        named = any(row[-1] for row in rows[1:])
        names = ["", *names] if named else [*names, ""]
    elif width > len(names):
        raise too_wide(file)
    check_names(names, file)
    skip = _lines_of(text, separator)
    return [name or f"Unnamed: {i}" for i, name in enumerate(names)], skip, separator


def _is_data(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first line is one of cells: most of them come again below."""
    below = [{cell.strip() for cell in column} for column in zip(*rows[1:], strict=False)]
    again = sum(name.strip() in cells for name, cells in zip(rows[0], below, strict=False))
    return len(rows[0]) > 1 and again > 0.5 * len(rows[0])


def _separator(text: str, suffix: str) -> str:
    """The sign that gives the first line and most others the same number of fields, the most.

    Of several the comma is the last: names and numbers have commas, too.
    """
    usual = "\t" if suffix in (".tsv", ".tab") else ","
    best, most = usual, 1
    for separator in sorted(_SEPARATORS, key=lambda sign: (sign == ",", sign != usual)):
        rows = _sample(text, separator)
        if not rows:
            continue
        wanted = len(rows[0])
        same = sum(len(row) in (wanted, wanted + 1) for row in rows[1:])
        if wanted > most and same >= 0.95 * (len(rows) - 1):
            best, most = separator, wanted
    if most == 1:
        widths = [len(line.split()) for line in text.split("\n", _SAMPLE)[:_SAMPLE] if line.strip()]
        if (
            len(widths) > 1
            and widths[0] > 1
            and all(w in (widths[0], widths[0] + 1) for w in widths)
        ):
            return " "
    if most == 1:
        first = text.split("\n", 1)[0]
        best = next((s for s in (usual, ";", "\t", "|") if s in first), usual)
    return best


def _sample(text: str, separator: str) -> list[list[str]]:
    """Fields of the first lines that are not empty."""
    end = len(text)
    lines = text.split("\n", _SAMPLE)
    if len(lines) > _SAMPLE:
        end -= len(lines[-1])
    if separator == " ":
        return [line.split() for line in lines[:_SAMPLE] if line.strip()]
    reader = csv.reader(
        io.StringIO(text[:end], newline=""),
        delimiter=separator,
        skipinitialspace=separator != "\t",
    )
    rows = [row for row in reader if any(row)]
    # a cell of several lines may be cut off where the sample ends
    return rows[:-1] if end < len(text) and len(rows) > 2 else rows


def _lines_of(text: str, separator: str) -> int:
    """Lines that the names take: a quoted name may have several."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for row in reader:
        if any(row):
            break
    return reader.line_num


def check_names(names: Sequence[str], file: Path) -> None:
    twice = [n for n in names if n and list(names).count(n) > 1]
    if twice:
        raise DataError(f"Column `{twice[0]}` appears twice in `{file}`; rename one of them.")


def too_wide(file: Path) -> DataError:
    return DataError(
        f"File `{file}` is not a table: its rows have more fields than its first line has names."
    )


def _lines(count: int) -> str:
    return f"{count} line{'s'[: count - 1]}"
