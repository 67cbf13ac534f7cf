"""Studies in a database (any storage URL that Optuna takes): opening it, and who drives a study.

A journal has a lock that dies with its holder; a database has not. So a study in a database carries
a user attribute `owner` with a heartbeat, changed only by compare-and-swap: an UPDATE that names
the old value, so that of two drivers that start at once exactly one succeeds. An owner is dead when
its heartbeat is older than `STALE_SECONDS`, or at once when its process is gone from this machine.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import exc as sql
from sqlalchemy.engine import URL, make_url

from autometa.errors import InfrastructureError, StudyError, reason_of

STALE_SECONDS = 60.0
BEAT_SECONDS = 10.0
_CONNECT_SECONDS = 10
_SECRET = ("pass", "pwd", "secret", "token", "key")
"""Parts of the names of a URL's parameters that are not to be shown."""
_OWNERS = models.StudyUserAttributeModel.__table__


def connect(url: str, *, create: bool = True) -> tuple[RDBStorage, BaseStorage]:
    """Open the database and make Optuna's tables where there are none.

    Args:
        create: whether to make tables; without it a database that has none is refused.

    Returns:
        The storage itself, and Optuna's caching wrapper of it, which a `Study` is given.

    Raises:
        StudyError: the URL cannot be a database, or its Python driver is not installed.
        InfrastructureError: the database cannot be reached or holds another program's tables.
    """
    parsed = _parse(url)
    # A pooled connection may have been closed by the server during a long unit: test before use.
    kwargs: dict[str, Any] = {"pool_pre_ping": True}
    if parsed.get_backend_name() == "postgresql":
        kwargs["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    elif parsed.get_backend_name() == "sqlite":
        kwargs["connect_args"] = {"timeout": 30}  # the heartbeat writes from a thread of its own
    try:
        with storage_errors(url), quiet("optuna.storages"):
            full = parsed.render_as_string(hide_password=False)
            if create:
                rdb = _create(full, kwargs)
            else:
                rdb = RDBStorage(full, engine_kwargs=kwargs, skip_table_creation=True)
    except ImportError as exc:
        cause = exc.__cause__ or exc.__context__ or exc  # Optuna's own only says what to do
        raise StudyError(
            f"Parameter `storage` needs a Python driver for {parsed.get_backend_name()} that can "
            f"be imported. Found `storage = {hidden(url)}` ({reason_of(cause)}). Install one (for "
            "PostgreSQL: `pip install psycopg[binary]`)."
        ) from cause
    except RuntimeError as exc:
        # Optuna's own sentence about its table schema, which says how to upgrade it.
        raise InfrastructureError(f"Storage `{hidden(url)}` cannot be used: {exc}") from exc
    return rdb, optuna.storages.get_storage(rdb)


def check_readable(url: str) -> None:
    """Refuse an SQLite file that is not there, which opening would make, or that has no studies.

    Raises:
        StudyError: one sentence that names it.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        return
    path = Path(parsed.database or "")
    if not path.is_file():
        raise StudyError(f"There is no database `{path}`.")
    engine = sqlalchemy.create_engine(parsed)
    try:
        found = sqlalchemy.inspect(engine).get_table_names()
    except sql.SQLAlchemyError as exc:
        why = reason_of(getattr(exc, "orig", None) or exc)
        raise StudyError(f"`{path}` cannot be read as an SQLite database ({why}).") from exc
    finally:
        engine.dispose()
    if "studies" not in found:
        raise StudyError(f"Database `{path}` holds no Optuna studies.")


def disconnect(rdb: RDBStorage) -> None:
    """Close the connections; the storage opens new ones if it is used again."""
    rdb.remove_session()
    rdb.engine.dispose()


def hidden(url: str) -> str:
    """The URL without passwords, for messages and for what is kept."""
    try:
        parsed = make_url(url)
        secret = {k: "***" for k in parsed.query if any(w in k.lower() for w in _SECRET)}
        shown = parsed.update_query_dict(secret).render_as_string(hide_password=True)
        if "@" not in (parsed.host or ""):
            return shown.replace("%2A%2A%2A", "***")
    except (sql.ArgumentError, ValueError):
        pass
    # it cannot be told what of it is a password
    scheme, sign, _ = url.partition("://")
    return f"{scheme}{sign}…" if sign else url


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn an error of the database into an `InfrastructureError` that names the storage."""
    try:
        yield
    except (StorageInternalError, sql.SQLAlchemyError) as exc:
        cause = exc.__cause__ if isinstance(exc, StorageInternalError) and exc.__cause__ else exc
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())[:300]
        raise InfrastructureError(
            f"Storage `{hidden(where)}` cannot be reached or refused a request: {reason}. What was "
            "stored before is kept: check the address and the server, then run with --resume."
        ) from exc


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Drop INFO messages of one library logger inside the block, and of nothing else."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(max(logging.WARNING, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(before)


class DatabaseOwner:
    """Holds a study of a database for this process until `release`.

    Raises:
        StudyError: on creation, a live driver holds the study (named); from `check`, another driver
            took it over while this process was stopped for longer than `STALE_SECONDS`.
    """

    def __init__(self, rdb: RDBStorage, study_id: int, name: str, url: str) -> None:
        self._rdb, self._study_id, self._name, self._url = rdb, study_id, name, url
        self._id = str(uuid.uuid4())
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._lost = False
        self._beaten = time.monotonic()
        with storage_errors(url):
            self._mine = self._claim()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if the study is no longer ours; beats first if the last beat is too long ago."""
        if time.monotonic() - self._beaten > STALE_SECONDS / 2:
            with storage_errors(self._url):
                self._beat()
        if self._lost:
            raise StudyError(
                f"Study `{self._name}` was taken over by another process, because this one was "
                f"stopped for more than {STALE_SECONDS:.0f} s. Nothing is lost: let that one go on."
            )

    def release(self) -> None:
        """Give the study back; harmless when called again."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(timeout=BEAT_SECONDS)
        with suppress(sql.SQLAlchemyError), self._mutex:
            self._swap(self._mine, "null")
        disconnect(self._rdb)

    def _claim(self) -> str:
        found = self._read()
        mine = self._text()
        if found is None:
            with suppress(sql.IntegrityError):  # another driver inserted it first
                with self._rdb.engine.begin() as connection:
                    connection.execute(
                        sqlalchemy.insert(_OWNERS).values(
                            study_id=self._study_id, key="owner", value_json=mine
                        )
                    )
                return mine
        elif not _alive(json.loads(found)) and self._swap(found, mine):
            return mine
        owner = json.loads(self._read() or "null") or {}
        raise StudyError(
            f"Study `{self._name}` is in use by process {owner.get('pid', '?')} on "
            f"{owner.get('host', '?')}. Wait for it, stop it, or choose another study name; a "
            f"driver that was killed is forgotten after {STALE_SECONDS:.0f} s."
        )

    def _keep_beating(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with suppress(sql.SQLAlchemyError):  # the server may be back at the next beat
                self._beat()

    def _beat(self) -> None:
        with self._mutex:
            if self._lost:
                return
            text = self._text()
            if self._swap(self._mine, text):
                self._mine, self._beaten = text, time.monotonic()
            else:
                self._lost = True

    def _text(self) -> str:
        place = {"id": self._id, "pid": os.getpid(), "host": socket.gethostname()}
        return json.dumps({**place, "machine": _machine(), "beat": round(time.time(), 3)})

    def _read(self) -> str | None:
        query = sqlalchemy.select(_OWNERS.c.value_json).where(self._row())
        with self._rdb.engine.connect() as connection:
            return connection.execute(query).scalar()

    def _swap(self, old: str, new: str) -> bool:
        update = sqlalchemy.update(_OWNERS).values(value_json=new)
        with self._rdb.engine.begin() as connection:
            done = connection.execute(update.where(self._row(), _OWNERS.c.value_json == old))
        return done.rowcount == 1

    def _row(self) -> sqlalchemy.ColumnElement[bool]:
        return sqlalchemy.and_(_OWNERS.c.study_id == self._study_id, _OWNERS.c.key == "owner")


def holder(study: optuna.Study) -> dict[str, Any] | None:
    """The live owner of a study of a database, or None."""
    owner = study.user_attrs.get("owner")
    return owner if _alive(owner) else None


def _alive(owner: dict[str, Any] | None) -> bool:
    if not owner or time.time() - float(owner["beat"]) > STALE_SECONDS:
        return False
    if owner["machine"] != _machine():
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _machine() -> str:
    """This boot of this machine and its process table: two containers may share a host name."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "|".join(parts)


def _create(url: str, kwargs: dict[str, Any]) -> RDBStorage:
    """Two processes that make the tables of a new database at once get in each other's way."""
    for _ in range(5):
        try:
            return RDBStorage(url, engine_kwargs=dict(kwargs))
        except (sql.DBAPIError, StorageInternalError) as exc:
            if not any(word in str(exc).lower() for word in ("already exists", "unique")):
                raise
            time.sleep(0.1)
    return RDBStorage(url, engine_kwargs=dict(kwargs))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgres":
            parsed = parsed.set(drivername="postgresql")
        installed = [m for m in ("psycopg", "psycopg2") if importlib.util.find_spec(m)]
        if parsed.drivername == "postgresql" and installed:
            parsed = parsed.set(drivername=f"postgresql+{installed[0]}")
        parsed.get_dialect()
    except (sql.ArgumentError, sql.NoSuchModuleError, ValueError) as exc:
        shown = hidden(url)
        cause = exc if shown == url else None  # it may quote a password
        why = "" if cause is None else f" ({reason_of(cause)})"
        raise StudyError(
            "Parameter `storage` should be a database URL such as `sqlite:///studies.db` or "
            f"`postgresql://user:password@host/name`. Found `storage = {shown}`{why}. Leave it "
            "out to keep the study in a file of the home folder."
        ) from cause
    except ImportError:
        pass  # create_engine raises it again, where the sentence about drivers is
    return parsed
