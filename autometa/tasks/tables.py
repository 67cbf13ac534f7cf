"""Reading CSV, TSV and Parquet files."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd

from autometa.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table.

    `.csv` (separated by commas, or by semicolons where the header has no comma), `.tsv`,
    `.parquet`. A first column without a name that only counts the rows, as pandas writes it, is
    left out: it would be a feature that tells the order of the rows.

    Raises:
        DataError: the file does not exist, is not a table, or has a column name twice.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"File `{file}` does not exist.")
    suffix = file.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(
            f"File `{file}` should be a table ({', '.join(TABLE_SUFFIXES)}). "
            f"Found suffix `{suffix or '(none)'}`."
        )
    if suffix in (".parquet", ".pq"):
        return _read_parquet(file)
    return _read_text(file, "\t" if suffix == ".tsv" else ",")


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file)
    except Exception as exc:  # pyarrow raises several types for a file that is not Parquet
        raise DataError(f"File `{file}` is not a readable Parquet table ({_short(exc)}).") from None


def _read_text(file: Path, separator: str) -> pd.DataFrame:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            if separator == "," and "," not in first and ";" in first:
                separator = ";"
            header = [n.strip() for n in next(csv.reader([first], delimiter=separator), [])]
        if not any(header):
            raise DataError(f"File `{file}` is empty or its first line names no column.")
        twice = [n for n in header if n and header.count(n) > 1]
        if twice:
            raise DataError(f"Column `{twice[0]}` appears twice in `{file}`; rename one of them.")
        frame = pd.read_csv(
            file, sep=separator, low_memory=False, encoding="utf-8-sig", skipinitialspace=True
        )
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as exc:
        raise DataError(
            f"File `{file}` is not a table of columns separated by "
            f"`{separator.encode('unicode_escape').decode()}` ({_short(exc)})."
        ) from None
    except OSError as exc:
        raise DataError(f"File `{file}` cannot be read ({_short(exc)}).") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(
            f"File `{file}` is not a table: its rows have more fields than its first line has "
            "names."
        )
    if not header[0] and np.array_equal(frame.iloc[:, 0].to_numpy(), np.arange(len(frame))):
        frame = frame.iloc[:, 1:]
    return frame


def _short(exc: Exception) -> str:
    return " ".join(str(exc).split())[:120].rstrip(".")
