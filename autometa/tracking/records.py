"""Tracking records: plain dictionaries that survive a restart, and what they amount to a run.

A record says what happened (`trial_rung` …), when, and with which values; it is JSON, so that it
can wait on disk. `merge` folds any number of records, in order, into one `Update` a run, because
a write to MLflow costs the same for one value as for thirty. Nothing here imports MLflow.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

# Limits of MLflow 3 (mlflow/utils/validation.py); longer values are refused by the server.
MAX_NAME = 250
MAX_PARAM = 6000
MAX_TAG = 8000
MAX_SCHEMA = 1_048_575
MAX_DIGEST = 36

# MLflow allows letters, digits and `_ - . / space`; the colon it refuses on Windows servers.
_REFUSED = re.compile(r"[^\w./\- ]")
_MLFLOW_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


@dataclass
class Update:
    """All that one flush writes to one run: the parent (`number is None`) or a trial."""

    number: int | None
    records: list[Record] = field(default_factory=list)
    time: int = 0
    started: bool = False
    status: str | None = None
    end_time: int = 0
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    datasets: list[dict[str, str | None]] = field(default_factory=list)

    @property
    def ends(self) -> bool:
        return self.status not in (None, "RUNNING")


def record(kind: str, **values: Any) -> Record:
    """A record of now, with every value made JSON."""
    return {"kind": kind, "time": int(time.time() * 1000), **values}


def clean_metrics(metrics: Mapping[str, Any]) -> dict[str, float | str]:
    """Numbers only, under names MLflow takes; NaN and infinities as strings (strict JSON)."""
    out: dict[str, float | str] = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        out[safe_name(name)] = number if math.isfinite(number) else str(number)
    return out


def clean_values(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    """Text under names MLflow takes, cut to `limit` characters; `None` is left out."""
    return {safe_name(k): _cut(_text(v), limit) for k, v in values.items() if v is not None}


def task_key(name: str) -> str:
    """What stands for a task in names of metrics, `task/<key>` and others: `name` itself where
    MLflow takes it, short enough to be put behind anything."""
    return safe_name(name, MAX_NAME - 50)


def safe_name(name: str, longest: int = MAX_NAME) -> str:
    """`name` if MLflow takes it as metric, parameter or tag, else the nearest that it does.

    Refused characters become `_`, empty or relative path segments are replaced, and six hex digits
    of the original's SHA-256 are added, so that `a+b` and `a*b` stay two metrics and a name maps
    to the same metric in every process.
    """
    text = str(name)
    parts = ["_" if p in ("", ".", "..") else p for p in _REFUSED.sub("_", text).split("/")]
    safe = "/".join(parts)
    if safe == text and len(safe) <= longest:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{safe[: longest - 7]}.{digest}"


def merge(records: Iterable[Record]) -> list[Update]:
    """One `Update` a run, the parent's first, trials in the order of their first record.

    Later values win: a search stopped and resumed within one backlog ends up RUNNING.
    """
    updates: dict[int | None, Update] = {}
    for item in records:
        number = item.get("number")
        update = updates.setdefault(number, Update(number, time=int(item["time"])))
        update.records.append(item)
        _fold(update, item)
    parent = [u for n, u in updates.items() if n is None]
    return parent + [u for n, u in updates.items() if n is not None]


def chunks(update: Update) -> Iterator[tuple[list[Any], list[Any], list[Any]]]:
    """(params, tags, metrics) in pieces below MLflow's limits: 100, 100 and 1,000 a call, 1 MB."""
    params, tags = list(update.params.items()), list(update.tags.items())
    metrics = [(name, v, t, step) for (name, step), (v, t) in update.metrics.items()]
    n = max(-(-len(params) // 80), -(-len(tags) // 40), -(-len(metrics) // 800))
    for i in range(n):
        yield (
            params[80 * i : 80 * i + 80],
            tags[40 * i : 40 * i + 40],
            metrics[800 * i : 800 * i + 800],
        )


def _fold(update: Update, item: Record) -> None:
    kind, now = item["kind"], int(item["time"])
    update.params.update(item.get("params") or {})
    update.tags.update(item.get("tags") or {})
    step = int(item.get("step") or 0)
    for name, value in (item.get("metrics") or {}).items():
        update.metrics[name, step] = (float(value), now)
    if kind in ("search_started", "trial_started"):
        update.started, update.status = True, "RUNNING"
        update.texts.update(item.get("texts") or {})
    elif kind == "dataset":
        update.datasets.append(item["dataset"])
    elif kind == "trial_rung":
        update.status = "RUNNING"
    elif kind == "trial_finished":
        update.status, update.end_time = _MLFLOW_STATUS.get(item["state"], "FAILED"), now
    elif kind == "search_finished":
        update.status, update.end_time = item["status"], now
        update.texts.update(item.get("texts") or {})
        update.artifacts += [p for p in item["artifacts"] if p not in update.artifacts]


def _text(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
