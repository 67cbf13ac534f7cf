"""Prior files: records of finished searches in one zip, to be kept, sent and read by others.

    prior.json      {"format": 1, "name": …, "records": [facts, …]}
    trials.parquet  one row a trial: `record` (place in that list), `number`, `arm`, `state`,
                    `value`, and as JSON `params` and `rungs`

A prior file may come from anyone. Nothing in it is unpickled or run; there are exactly these two
members, so no path of the file's choosing is ever written; every part is bounded before it is
read; and every trial has to fit its distributions.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zlib import error as zlib_error

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from optuna.distributions import json_to_distribution
from pydantic import Field

from autometa.config import Config, parse
from autometa.errors import InfrastructureError, UserError, reason_of
from autometa.priors.records import Facts, Line, Record, trial_of
from autometa.study import rung_values

SUFFIX = ".prior"
MAX_FILE = 64 * 2**20
"""Bytes of a prior file, and of what each of its members unpacks to."""
MAX_ROWS = 200_000
"""Trials of all its records."""
MAX_ROW_GROUPS = 1_000
_MEMBERS = ("prior.json", "trials.parquet")
_TEXT = ("arm", "state", "params", "rungs")
_SCHEMA = pa.schema(
    [
        ("record", pa.int32()),
        ("number", pa.int64()),
        ("arm", pa.string()),
        ("state", pa.string()),
        ("value", pa.float64()),
        ("params", pa.string()),
        ("rungs", pa.string()),
    ]
)


class _Head(Config):
    format: Literal[1]
    name: Line = Field(max_length=300)
    records: list[Facts]


@dataclass(frozen=True)
class Prior:
    """Records under one name."""

    name: str
    records: tuple[Record, ...]


def write_prior(path: Path, prior: Prior) -> Path:
    """Write a prior file whole or not at all; folders are made.

    Raises:
        InfrastructureError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(to_bytes(prior))
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise InfrastructureError(f"Prior `{path}` cannot be written: {reason_of(exc)}.") from None
    return path


def read_prior(path: Path) -> Prior:
    """Read and check a prior file.

    Raises:
        UserError: it is none, is too large, or says what no search leaves; one sentence.
    """
    where = f"Prior file `{path}`"
    try:
        if path.stat().st_size > MAX_FILE:
            raise UserError(f"{where} should have at most {MAX_FILE >> 20} MiB.")
        data = path.read_bytes()
    except OSError as exc:
        raise UserError(f"{where} cannot be read: {reason_of(exc)}.") from None
    return from_bytes(data, where)


def to_bytes(prior: Prior) -> bytes:
    """What a prior file holds."""
    head = _Head(format=1, name=prior.name, records=[r.facts for r in prior.records])
    rows = [row for k, record in enumerate(prior.records) for row in _rows(k, record)]
    table, out = io.BytesIO(), io.BytesIO()
    # the zip compresses better what Parquet has not compressed already
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), table, **plain)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("prior.json", json.dumps(head.model_dump(mode="json"), allow_nan=False))
        file.writestr("trials.parquet", table.getvalue())
    return out.getvalue()


def from_bytes(data: bytes, where: str) -> Prior:
    """Check and understand what `to_bytes` made.

    Args:
        where: what the bytes are, for messages.

    Raises:
        UserError: it is no prior, or says what no search leaves; one sentence.
    """
    try:
        return _read(io.BytesIO(data), where)
    except pa.ArrowException as exc:  # some are OSErrors too
        raise UserError(f"{where}: trials.parquet cannot be read ({_brief(exc)}).") from None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib_error) as exc:
        raise UserError(f"{where} is not a prior: it should be a zip file ({exc}).") from None
    except (RecursionError, ValueError, TypeError, ArithmeticError, OSError) as exc:
        raise UserError(f"{where} is damaged or not a prior: {_brief(exc)}.") from None


def _read(packed: io.BytesIO, where: str) -> Prior:
    with zipfile.ZipFile(packed) as file:
        members = file.infolist()
        names = sorted(member.filename for member in members)
        if names != sorted(_MEMBERS):
            odd = next((n for n in names if n not in _MEMBERS), None)
            found = f"Found `{odd}`." if odd else f"Found {', '.join(names) or 'nothing'}."
            raise UserError(f"{where} should hold {' and '.join(_MEMBERS)} only. {found}")
        if any(member.flag_bits & 1 for member in members):
            raise UserError(f"{where} should not be encrypted.")
        head_text, table = (_bounded(file, name, where) for name in _MEMBERS)
    raw = json.loads(head_text, parse_constant=_refuse)
    if not isinstance(raw, dict):
        raise UserError(f"{where}: prior.json should be an object. Found {type(raw).__name__}.")
    head = parse(_Head, raw, where=where, error=UserError)
    trials: list[list[Any]] = [[] for _ in head.records]
    known = [
        {name: json_to_distribution(json.dumps(d)) for name, d in facts.distributions.items()}
        for facts in head.records
    ]
    for row in _table_rows(table, where):
        if not 0 <= row["record"] < len(trials):
            raise UserError(f"{where}: a trial is of record {row['record']}, which is not there.")
        params, rungs = (
            json.loads(row[key], parse_constant=_refuse) for key in ("params", "rungs")
        )
        if not isinstance(params, dict) or not isinstance(rungs, dict):
            raise UserError(f"{where}: parameters and rungs of a trial should be JSON objects.")
        trials[row["record"]].append(
            trial_of(
                number=row["number"],
                arm=row["arm"],
                state=row["state"],
                value=row["value"],
                params=params,
                rungs={int(step): float(value) for step, value in rungs.items()},
                distributions=known[row["record"]],
            )
        )
    pairs = zip(head.records, trials, strict=True)
    return Prior(head.name, tuple(Record(facts, tuple(found)) for facts, found in pairs))


def _bounded(file: zipfile.ZipFile, name: str, where: str) -> bytes:
    """A member, whatever its header says of its size."""
    with file.open(name) as member:
        data = member.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise UserError(f"{where}: `{name}` should unpack to at most {MAX_FILE >> 20} MiB.")
    return data


def _table_rows(data: bytes, where: str) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        if file.schema_arrow.remove_metadata() != _SCHEMA:
            found = ", ".join(f"{f.name} {f.type}" for f in file.schema_arrow)
            raise UserError(f"{where}: trials.parquet should have other columns. Found {found}.")
        if file.metadata.num_rows > MAX_ROWS:
            raise UserError(
                f"{where} should have at most {MAX_ROWS:,} trials. "
                f"Found {file.metadata.num_rows:,}."
            )
        groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        plain = len(groups) <= MAX_ROW_GROUPS and all(
            group.column(k).compression == "UNCOMPRESSED"
            for group in groups
            for k in range(group.num_columns)
        )
        if not plain:  # a kilobyte could be gigabytes, and be read before it is known
            raise UserError(
                f"{where}: trials.parquet should not be compressed itself, and have at most "
                f"{MAX_ROW_GROUPS:,} row groups."
            )
    # a text that a small file repeats in every row stays one text until its length is known
    texts = list(_TEXT)
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts, pre_buffer=False) as file:
        # not `read_table`: it has threads even without `use_threads`, and one that lets go of
        # `data` while Python ends aborts the process
        table = file.read(use_threads=False)
    length = 0
    for name in _TEXT:
        for chunk in table[name].chunks:
            sizes = pc.binary_length(chunk.dictionary).to_numpy(zero_copy_only=False)
            length += int(np.nan_to_num(sizes)[chunk.indices.drop_null().to_numpy()].sum())
    if length > MAX_FILE:
        raise UserError(f"{where}: its trials should take at most {MAX_FILE >> 20} MiB of text.")
    if any(table[name].null_count for name in _SCHEMA.names if name != "value"):
        raise UserError(f"{where}: only `value` may be missing in trials.parquet.")
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()


def _rows(k: int, record: Record) -> Iterator[Mapping[str, Any]]:
    for t in record.trials:
        yield {
            "record": k,
            "number": t.number,
            "arm": t.user_attrs["arm"],
            "state": t.state.name,
            "value": t.value if t.values else None,
            "params": json.dumps(t.params),
            "rungs": json.dumps({str(e): v for e, v in rung_values(t).items()}),
        }


def _brief(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]


def _refuse(constant: str) -> None:
    raise ValueError(f"numbers should be finite, found {constant}")


def merged(name: str, priors: Sequence[Prior]) -> Prior:
    """All records, each once."""
    records = {record.name: record for prior in priors for record in prior.records}
    return Prior(name, tuple(records.values()))
