"""Tables in files. Cells of text files stay text here: `deciding` says what they are."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from autometa.errors import DataError
from autometa.tasks.reading.numbers import number_of
from autometa.tasks.reading.types import ReadOptions

_TEXT = (".csv", ".tsv", ".txt", ".data", ".dat", ".tab")
_EXCEL = (".xlsx", ".xlsm")
_PARQUET = (".parquet", ".pq")
_PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zip": lambda data: _unzipped(data),
}
TABLE_SUFFIXES = (*_TEXT, *_PARQUET, *_EXCEL)

_SEPARATORS = (",", ";", "\t", "|")
_SAMPLE = 200
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Table(NamedTuple):
    """A table as it is in its file.

    Attributes:
        frame: every cell as text ("" where empty), or typed columns.
        typed: the file has types: Parquet, Excel.
        separator: between cells of a text file.
        remarks: what was found out about the file.
    """

    frame: pd.DataFrame
    typed: bool = True
    separator: str | None = None
    remarks: tuple[str, ...] = ()


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table."""
    return _suffix(path) in TABLE_SUFFIXES


def stem(path: Path) -> str:
    """The name of a table's file, without what says its kind."""
    name = path.name
    for suffix in (*_PACKED, *TABLE_SUFFIXES):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name or path.name


def read_table(path: str | os.PathLike[str], options: ReadOptions | None = None) -> Table:
    """Read a table: text (`.csv`, `.tsv`, `.txt`, `.data`), Parquet or Excel, packed or not.

    What separates the cells of a text file, its encoding, comments and empty lines before the
    names are found out where `options` do not say. A first column without a name that only counts
    the rows, as pandas writes it, is left out: it would be a feature that tells their order.

    Raises:
        DataError: the file does not exist, is not a table, or has a column name twice.
    """
    file, options = Path(path).expanduser(), options or ReadOptions()
    if not file.is_file():
        raise DataError(f"File `{file}` does not exist.")
    suffix = _suffix(file)
    if suffix not in TABLE_SUFFIXES:
        raise DataError(
            f"File `{file}` should be a table ({', '.join(TABLE_SUFFIXES)}). "
            f"Found suffix `{file.suffix.lower() or '(none)'}`."
        )
    if suffix in _PARQUET:
        return Table(_read_parquet(file))
    if suffix in _EXCEL:
        return _read_excel(file)
    return _read_text(file, suffix, options)


def rows_of(given: Any, options: ReadOptions) -> tuple[Any, tuple[str, ...]]:
    """Rows that a file, a table or an array gives, and what was found out about the file."""
    if isinstance(given, (str, os.PathLike)):
        given = read_table(given, options)
    return (given.frame, given.remarks) if isinstance(given, Table) else (given, ())


def _suffix(path: Path) -> str:
    """In lower case, without that of a packed file."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_parquet(file: Path) -> pd.DataFrame:
    import pyarrow.parquet as pq

    try:
        frame = pd.read_parquet(file)
        stored = (pq.read_schema(file).metadata or {}).get(b"pandas")
    except Exception as exc:  # pyarrow raises several types for a file that is not Parquet
        raise DataError(f"File `{file}` is not a readable Parquet table ({_short(exc)}).") from None
    # Parquet keeps categories of text only; pandas notes beside the columns which others were some
    for column in [] if stored is None else json.loads(stored).get("columns", []):
        name = column.get("field_name") or column.get("name")
        if column.get("pandas_type") == "categorical" and name in frame.columns:
            frame[name] = frame[name].astype("category")
    if not isinstance(frame.index, pd.RangeIndex) and frame.index.names[0] is not None:
        frame = frame.reset_index()
    return frame


def _read_excel(file: Path) -> Table:
    try:
        book = pd.ExcelFile(file, engine="openpyxl")
        frame = book.parse(0, dtype=object, keep_default_na=False, na_values=[""])
    except ImportError:
        raise DataError(
            f"File `{file}` is an Excel table, which takes the package openpyxl: "
            "pip install 'autometa-hpo[excel]', or save it as CSV."
        ) from None
    except Exception as exc:  # openpyxl and zipfile raise several types for what is no workbook
        raise DataError(f"File `{file}` is not a readable Excel table ({_short(exc)}).") from None
    names = [str(name).strip() for name in frame.columns]
    _check_names(names, file)
    remarks = []
    if len(book.sheet_names) > 1:
        remarks.append(
            f"`{file.name}` has {len(book.sheet_names)} sheets; the first, "
            f"`{book.sheet_names[0]}`, is read."
        )
    frame = frame.set_axis(names, axis=1).infer_objects()
    return Table(_without_counter(frame, remarks), remarks=tuple(remarks))


def _read_text(file: Path, suffix: str, options: ReadOptions) -> Table:
    remarks: list[str] = []
    try:
        text = _decoded(_unpacked(file), file, options, remarks)
        text, separator = _body(text, options, remarks)
        header, skip, separator = _header(text, suffix, separator, file, remarks)
        rows = "".join(text.split("\n", skip)[skip:])
        frame = (
            pd.DataFrame(columns=header, dtype=str)
            if not rows.strip()
            else pd.read_csv(
                io.StringIO(rows),
                sep=r"\s+" if separator == " " else separator,
                header=None,
                names=header,
                dtype=str,
                keep_default_na=False,
                na_filter=False,
                skipinitialspace=separator != "\t",
                low_memory=False,
            )
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, ValueError) as exc:
        raise DataError(
            f"File `{file}` is not a table of columns separated by one sign ({_short(exc)}). "
            "`--sep` says which."
        ) from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise _too_wide(file)
    frame = _without_nameless(frame, remarks)
    return Table(_without_counter(frame, remarks), False, separator, tuple(remarks))


def _unpacked(file: Path) -> bytes:
    try:
        data = file.read_bytes()
        unpack = _PACKED.get(file.suffix.lower())
        return data if unpack is None else unpack(data)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as exc:
        raise DataError(f"File `{file}` cannot be read ({_short(exc)}).") from None


def _unzipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise zipfile.BadZipFile(f"it should hold one file, and holds {len(names)}")
        return archive.read(names[0])


def _decoded(data: bytes, file: Path, options: ReadOptions, remarks: list[str]) -> str:
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
            f"File `{file}` is not a table of text ({_short(exc)}). `--encoding` says how its "
            "letters are written."
        ) from None
    if "\0" in text:
        raise DataError(f"File `{file}` is not a table of text: it holds zero bytes.")
    text = text.removeprefix("\ufeff")
    return text if "\n" in text else text.replace("\r", "\n")  # ends of lines of old


def _body(text: str, options: ReadOptions, remarks: list[str]) -> tuple[str, str | None]:
    """What begins with the names, and the separator where it is known."""
    separator = options.sep
    first = re.match(r"\s*\"?sep=(.)\"?[ ]*\r?\n", text, re.IGNORECASE)
    if first is not None:
        separator = separator or first[1]
        text = text[first.end() :]
    lines = text.split("\n", _SAMPLE)
    skipped = comments = 0
    while skipped < len(lines) - 1 and not lines[skipped].strip(" ,;|\t\"'"):
        skipped += 1
    start = skipped
    while start < len(lines) - 1 and (lines[start].startswith("#") or not lines[start].strip()):
        start += 1
        comments += 1
    if comments and _names_after_hash(lines[start - 1], lines[start]):
        start -= 1
        comments -= 1
        lines[start] = lines[start].lstrip("# ")
    if comments:
        remarks.append(f"{_lines(comments)} of comments before the names left out.")
        text = "\n".join(line for line in "\n".join(lines[start:]).split("\n") if line[:1] != "#")
    elif start:
        text = "\n".join(lines[start:])
    return text, separator


def _names_after_hash(last: str, following: str) -> bool:
    """Whether `#a,b` is a line of names: numbers come after it, in as many fields."""
    for separator in (*_SEPARATORS, None):
        names, cells = last.lstrip("# ").split(separator), following.split(separator)
        if len(names) == len(cells) > 1 and any(number_of(c.strip()) is not None for c in cells):
            return all(number_of(n.strip()) is None for n in names)
    return False


def _header(
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
    if suffix == ".data" and any(number_of(name) is not None for name in names):
        remarks.append(
            f"`{file.name}` has no line of names; its columns are called `column 1` to "
            f"`column {len(names)}`."
        )
        return [f"column {i + 1}" for i in range(len(names))], 0, separator
    numbers = [name for name in names if number_of(name) is not None]
    if numbers and len(numbers) < len(names) and any("." in name for name in numbers):
        remarks.append(
            f"The first line of `{file.name}` is taken for names, though it holds `{numbers[0]}`."
        )
    if len(rows) > 1 and all(len(row) == len(names) + 1 for row in rows[1:]):
        # R writes row names without a name of their own; others end every line with a separator
        named = any(row[-1] for row in rows[1:])
        names = ["", *names] if named else [*names, ""]
    elif width > len(names):
        raise _too_wide(file)
    _check_names(names, file)
    skip = _lines_of(text, separator)
    return [name or f"Unnamed: {i}" for i, name in enumerate(names)], skip, separator


def _separator(text: str, suffix: str) -> str:
    """The sign that gives the first line and most others the same number of fields, the most."""
    usual = "\t" if suffix in (".tsv", ".tab") else ","
    best, most = usual, 1
    for separator in dict.fromkeys((usual, *_SEPARATORS)):
        rows = _sample(text, separator)
        if not rows:
            continue
        wanted = len(rows[0])
        same = sum(len(row) in (wanted, wanted + 1) for row in rows[1:])
        if wanted > most and same >= 0.95 * (len(rows) - 1):
            best, most = separator, wanted
    if most == 1 and suffix in (".txt", ".data", ".dat"):
        widths = [len(line.split()) for line in text.split("\n", _SAMPLE)[:_SAMPLE] if line.strip()]
        if widths and widths[0] > 1 and all(w in (widths[0], widths[0] + 1) for w in widths):
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


def _check_names(names: Sequence[str], file: Path) -> None:
    twice = [n for n in names if n and list(names).count(n) > 1]
    if twice:
        raise DataError(f"Column `{twice[0]}` appears twice in `{file}`; rename one of them.")


def _without_nameless(frame: pd.DataFrame, remarks: list[str]) -> pd.DataFrame:
    """Without columns that have neither a name nor a cell: separators at the ends of lines."""
    empty = [
        name
        for name in frame.columns
        if name.startswith("Unnamed: ") and not frame[name].str.strip().astype(bool).any()
    ]
    if empty:
        remarks.append(f"{len(empty)} empty column{'s'[: len(empty) - 1]} without a name left out.")
    return frame.drop(columns=empty)


def _without_counter(frame: pd.DataFrame, remarks: list[str]) -> pd.DataFrame:
    """Without a first column that has no name and counts the rows from 0."""
    if not frame.shape[1] or not frame.columns[0].startswith("Unnamed: "):
        return frame
    numbers = pd.to_numeric(frame.iloc[:, 0], errors="coerce").to_numpy(dtype=np.float64)
    if np.array_equal(numbers, np.arange(len(frame))):
        remarks.append("The first column has no name and counts the rows; it is left out.")
        return frame.iloc[:, 1:]
    return frame


def _too_wide(file: Path) -> DataError:
    return DataError(
        f"File `{file}` is not a table: its rows have more fields than its first line has names."
    )


def _lines(count: int) -> str:
    return f"{count} line{'s'[: count - 1]}"


def _short(exc: Exception) -> str:
    return " ".join(str(exc).split())[:120].rstrip(".")
