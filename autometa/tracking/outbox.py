"""A queue of records on disk and the one thread that sends them; it never stops the search.

Every record is appended to `outbox/<study>.jsonl` before it is sent and struck off once it has
been, so a killed process, a full queue at exit or a dead server loses nothing: what is left is
sent by the next open. Sending a record twice is the sender's business to make harmless.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - refuses its first import while Python exits
import contextlib
import importlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from autometa.tracking.records import Record

# Without it (Windows) two trackers of one study are kept apart by the study's own lock.
fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

Task = Callable[[], Record | None]
BATCH = 500
FIRST_RETRY, LAST_RETRY = 1.0, 60.0


class Sender(Protocol):
    """What the thread needs: both raise when the server cannot be reached."""

    def connect(self) -> None: ...

    def send(self, records: list[Record]) -> list[tuple[list[Record], str]]:
        """Send all records, again if need be; returns those refused for good, with the reason."""
        ...


class Writer:
    """One daemon thread that sends queued records, several at a time, and retries for ever.

    Args:
        outbox: where records wait; records left by an earlier process are sent first.
        sender: how they are sent.
        linger: seconds a record may wait for others, to be written together.
    """

    def __init__(self, outbox: Outbox, sender: Sender, linger: float) -> None:
        self.problem: str | None = None
        self.connected = threading.Event()
        self.attempts = 0
        self._outbox, self._sender, self._linger = outbox, sender, linger
        self._pending: deque[Record] = deque(outbox.records)
        self._later: deque[Task] = deque()
        self._changed = threading.Condition()
        self._hurry, self._stop, self._busy = bool(self._pending), False, False
        self._abandoned = False
        self._after: Task | None = None
        self._thread = threading.Thread(target=self._run, name="autometa-tracking", daemon=True)
        atexit.register(self.close)

    def start(self, after: Task | None = None) -> None:
        """Start the thread; `after` runs in it once the backlog of this study has been sent, also
        where `close` is called before."""
        self._after = after
        self._thread.start()

    def put(self, item: Record) -> None:
        """Queue a record: a line on disk and an entry in memory, nothing else."""
        with self._changed:
            if self._stop:
                return
            self._outbox.append(item)
            self._pending.append(item)
            self._changed.notify_all()

    def put_later(self, make: Task) -> None:
        """Let the thread make a record (for one that takes MLflow, or long, to make)."""
        with self._changed:
            self._later.append(make)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Send now, waiting at most `timeout` seconds or for a failure; True if nothing is left."""
        return self.wait(lambda: not self._waiting(), timeout)

    def wait(self, ready: Callable[[], bool], timeout: float, since: int | None = None) -> bool:
        """Wait until `ready()`, a failed attempt (the `since`-th) or `timeout` seconds."""
        end, attempts = time.monotonic() + timeout, self.attempts if since is None else since
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            while not ready() and self.attempts == attempts and self._thread.is_alive():
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 0.5))
            return ready()

    def close(self, timeout: float = 30.0) -> bool:
        """Send what is queued, for at most `timeout` seconds (5 if sending failed before).

        Whatever is left stays in the outbox. Returns True if nothing is left. Safe to call twice.
        """
        atexit.unregister(self.close)
        with self._changed:
            self._stop = self._hurry = True
            self._changed.notify_all()
        try:
            if self._thread.is_alive():
                failing = self.attempts and not self.connected.is_set()
                self._thread.join(min(timeout, 5.0) if failing else timeout)
        finally:  # also on Ctrl-C: the records are on disk, only the lock must go
            self._abandoned = True
            self._outbox.close()
        return not self._pending

    @property
    def outbox(self) -> Path:
        return self._outbox.path

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the thread any more."""
        return self._abandoned

    @property
    def queued(self) -> int:
        return len(self._pending) + len(self._later)

    def _waiting(self) -> bool:
        return bool(self._pending or self._later or self._busy)

    def _run(self) -> None:
        retry = FIRST_RETRY
        while True:
            try:
                if not self.connected.is_set():
                    self._sender.connect()
                    self.connected.set()
                    self._note(None)
                batch = self._next()
                if batch is None:
                    return
                self._send(batch)
                retry = FIRST_RETRY
            except Exception as exc:  # whatever happens here must not reach the search
                self.connected.clear()
                self._note(str(exc) or type(exc).__name__)
                with self._changed:
                    if self._stop:
                        return  # close() allows one more attempt; this was it
                    self._changed.wait_for(lambda: self._stop, retry)
                retry = min(2 * retry, LAST_RETRY)

    def _next(self) -> list[Record] | None:
        """The next records to send; None when closed and nothing is left."""
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(self._has_work)
                if self._abandoned:
                    return None
                if self._pending and not self._later:
                    self._changed.wait_for(lambda: self._hurry or self._stop, self._linger)
                    self._hurry = len(self._pending) > BATCH
                    self._busy = True
                    return list(islice(self._pending, BATCH))
                if self._stop and not self._later and self._after is None:
                    return None
                task = self._later.popleft() if self._later else self._after
                self._after = self._after if task is not self._after else None
                self._busy = True
            try:
                made = task() if task else None
            except Exception as exc:  # a record that cannot be made is not worth a search
                self._note(f"A record could not be made: {exc}")
                continue
            if made:
                with self._changed:
                    self._outbox.append(made)
                    self._pending.append(made)

    def _has_work(self) -> bool:
        return bool(self._pending or self._later or self._stop or self._after)

    def _send(self, batch: list[Record]) -> None:
        for records, why in self._sender.send(batch):
            self._outbox.reject(records, why)
            self._note(f"The tracking server refused a record: {why}", failed=False)
        with self._changed:
            for _ in batch:
                self._pending.popleft()
            self._outbox.sent(len(batch), left=len(self._pending))

    def _note(self, problem: str | None, failed: bool = True) -> None:
        with self._changed:
            self.problem = problem
            self.attempts += bool(problem and failed)
            self._busy = False
            self._changed.notify_all()


class Outbox:
    """Records on disk, one JSON object a line, below a first line that says where they go.

    Args:
        path: the file; created with the first record and removed when none is left.
        head: which study and server the records belong to; None: as the file says.

    A line torn by a killed process is dropped. A disk that refuses a write costs the safety of
    that record, not the search. Records the server refused for good are kept in
    `<study>.refused.jsonl`, so that one bad record does not hold up the rest.
    """

    def __init__(self, path: Path, head: Record | None = None) -> None:
        self.path, self.head = path, head or {}
        self.records: list[Record] = []
        self._file: IO[str] | None = None
        self._lock = _lock(path)
        self._closed = self._gaps = False
        if path.exists():
            self.head, self.records = _read(path)
            self.head = head or self.head

    @classmethod
    def for_study(cls, folder: Path, study: str, head: Record) -> Outbox:
        """The study's outbox, or one of our own where another live process holds it."""
        try:
            return cls(folder / f"{study}.jsonl", head)
        except BlockingIOError:
            return cls(folder / f"{study}.{os.getpid()}.jsonl", head)

    def append(self, item: Record) -> None:
        if not self._closed:
            self._write(item)

    def sent(self, count: int, left: int) -> None:
        """Strike off the first `count` records; the file goes when none is `left`."""
        if self._closed:
            return  # a later tracker may have taken the file over
        if left:
            if not self._gaps:  # the count must mean the same lines on disk as in memory
                self._write({"sent": count})
            return
        self._gaps = False
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
            self._file = None
            self.path.unlink(missing_ok=True)

    def _write(self, item: Record) -> None:
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                torn = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
                self._file = self.path.open("a", encoding="utf-8")
                if self._file.tell() == 0:
                    self._file.write(_line(self.head))
                elif torn:
                    self._file.write("\n")
            self._file.write(_line(item))
            self._file.flush()
        except OSError:  # full or read-only: this record is in memory only
            self._gaps = True
            broken, self._file = self._file, None
            if broken is not None:
                with contextlib.suppress(OSError):
                    broken.close()

    def reject(self, records: list[Record], why: str) -> None:
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".refused.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(_line({**r, "refused": why}) for r in records)

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
            self._file = None
        if self._lock is not None:
            with contextlib.suppress(OSError):
                _lock_path(self.path).unlink(missing_ok=True)
                os.close(self._lock)
            self._lock = None


def leftovers(folder: Path, server: str) -> Iterator[Outbox]:
    """Outboxes of other studies for this server that no live process holds, one at a time."""
    for path in sorted(folder.glob("*.jsonl")):
        if path.name.endswith(".refused.jsonl"):
            continue
        try:
            head = _read(path)[0]
            if head.get("server") != server:
                continue
            box = Outbox(path)
        except OSError:
            continue  # held by a live process, or not ours to read
        try:
            yield box
        finally:
            box.close()


def _read(path: Path) -> tuple[Record, list[Record]]:
    head: Record = {}
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            item = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(item, dict):
            continue
        if "outbox" in item:
            head = item
        elif "sent" in item:
            del records[: int(item["sent"])]
        elif "kind" in item and "time" in item:
            records.append(item)
    return head, records


def _line(item: Record) -> str:
    return json.dumps(item, ensure_ascii=True, default=str) + "\n"


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _lock(path: Path) -> int | None:
    """Hold `path`'s lock file; BlockingIOError if another holds it, None where locks fail."""
    if fcntl is None:
        return None
    lock = _lock_path(path)
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:
            os.close(handle)
            return None
        with contextlib.suppress(OSError):
            if os.stat(lock).st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)  # its last holder removed it between our open and our lock
