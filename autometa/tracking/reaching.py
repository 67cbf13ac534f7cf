"""Reaching what runs are written to: a server that answers now, a database that one process at a
time makes."""

from __future__ import annotations

import contextlib
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from autometa.errors import ConfigError

#: seconds to wait for another process that makes the database's tables, which takes seconds
_MIGRATING = 100.0


@contextlib.contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """Hold the lock beside a database file: MLflow makes and moves its tables without one.

    Where a folder takes no lock, it is as without.
    """
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = _database_file(uri)
    lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=_MIGRATING)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as exc:
        raise RuntimeError(f"another process has held {lock.lock_file} for long") from exc
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _database_file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").split("?")[0])


def probe(uri: str, experiment: str) -> None:
    """Raise unless the server answers now: MLflow itself would retry for minutes."""
    scheme = urllib.parse.urlsplit(uri).scheme
    if uri.startswith("sqlite:///"):
        path = _database_file(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=5)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    elif scheme in ("http", "https"):
        _probe_http(uri, experiment)
    elif scheme.split("+")[0] in ("postgresql", "mysql", "mssql"):
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        with engine.connect():
            pass
    elif scheme != "databricks" and uri != "databricks":
        raise ConfigError(
            "Parameter `mlflow_tracking_uri` should start with http://, https://, sqlite:///, "
            "postgresql://, mysql:// or mssql://, or be `databricks` or `off`. "
            f"Found `mlflow_tracking_uri = {uri!r}`."
        )


def _probe_http(uri: str, experiment: str) -> None:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    endpoint = "/api/2.0/mlflow/experiments/get-by-name"
    answer = http_request(
        get_default_host_creds(uri),
        endpoint,
        "GET",
        max_retries=0,
        timeout=5,
        raise_on_status=False,
        params={"experiment_name": experiment},
    )
    if answer.status_code in (401, 403):
        raise RuntimeError(
            f"it answers {answer.status_code}: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if answer.status_code != 200 and "RESOURCE_DOES_NOT_EXIST" not in answer.text:
        raise RuntimeError(f"it answers {answer.status_code}, not as an MLflow server does")
