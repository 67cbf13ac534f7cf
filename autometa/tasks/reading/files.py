"""Tables in files. Cells of text files stay text here: `deciding` says what they are."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from autometa.errors import DataError, reason_of
from autometa.tasks.reading.texts import (
    body_of,
    check_names,
    decoded,
    header_of,
    too_wide,
)
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
        raise DataError(
            f"File `{file}` is not a readable Parquet table ({reason_of(exc)})."
        ) from None
    # Parquet keeps categories of text only; pandas notes beside the columns which others were some
    for column in [] if stored is None else json.loads(stored).get("columns", []):
        name = column.get("field_name") or column.get("name")
        if column.get("pandas_type") == "categorical" and name in frame.columns:
            frame[name] = frame[name].astype("category")
    return frame


def _read_excel(file: Path) -> Table:
    try:
        with file.open("rb") as stream, pd.ExcelFile(stream, engine="openpyxl") as book:
            sheets = [str(name) for name in book.sheet_names]
            frame = pd.read_excel(book, dtype=object, keep_default_na=False, na_values=[""])
    except ImportError as exc:
        raise DataError(
            f"File `{file}` is an Excel table, which takes the package openpyxl "
            f"({reason_of(exc)}): pip install 'autometa-hpo[excel]', or save it as CSV."
        ) from None
    except Exception as exc:  # openpyxl and zipfile raise several types for what is no workbook
        raise DataError(
            f"File `{file}` is not a readable Excel table ({reason_of(exc)})."
        ) from None
    names = [str(name).strip() for name in frame.columns]
    check_names(names, file)
    remarks = []
    if len(sheets) > 1:
        remarks.append(
            f"`{file.name}` has {len(sheets)} sheets; the first, `{sheets[0]}`, is read."
        )
    frame = frame.set_axis(names, axis=1).infer_objects()
    return Table(_without_counter(frame, remarks), remarks=tuple(remarks))


def _read_text(file: Path, suffix: str, options: ReadOptions) -> Table:
    remarks: list[str] = []
    try:
        text = decoded(_unpacked(file), file, options, remarks)
        text, separator = body_of(text, options, remarks)
        header, skip, separator = header_of(text, suffix, separator, file, remarks)
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
            f"File `{file}` is not a table of columns separated by one sign ({reason_of(exc)}). "
            "`--sep` says which."
        ) from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise too_wide(file)
    frame = _without_nameless(frame, remarks)
    return Table(_without_counter(frame, remarks), False, separator, tuple(remarks))


def _unpacked(file: Path) -> bytes:
    try:
        data = file.read_bytes()
        unpack = _PACKED.get(file.suffix.lower())
        return data if unpack is None else unpack(data)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as exc:
        raise DataError(f"File `{file}` cannot be read ({reason_of(exc)}).") from None


def _unzipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise zipfile.BadZipFile(f"it should hold one file, and holds {len(names)}")
        return archive.read(names[0])


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
