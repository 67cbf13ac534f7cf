"""The journal file of a study: one locked driver, grouped commits, any number of readers.

The file is Optuna's own journal format, so plain Optuna and optuna-dashboard open it. What differs
is who writes and when: Optuna locks, writes and syncs at every suggested parameter; here the one
driver that holds the lock keeps new records in memory and `commit` writes them with one fsync. A
kill between commits loses what was not committed and nothing else; a kill inside one leaves whole
records and at most one torn line, which the next driver cuts off. Records are written in the order
they were made, so every prefix of the file is an earlier state of the study.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import weakref
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.storages.journal._storage import JournalOperation

from autometa.errors import InfrastructureError, StudyError, reason_of


class GroupedJournalBackend(BaseJournalBackend):
    """Backend of `optuna.storages.JournalStorage` for the one driver of a study.

    `append_logs` keeps records in memory (and in view of `read_logs`); `commit` makes them durable.

    Raises:
        StudyError: another driver holds the journal's lock.
        InfrastructureError: the file cannot be opened, or is damaged before its last line.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.cut_bytes = 0
        self._mutex = threading.Lock()
        self._lines: list[str] = []  # made since the last commit, as they will be written
        self._fresh: list[dict[str, Any]] = []  # the same records as a reader would parse them
        self._fd = -1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = StudyLock(lock_path(self.path), self.path.stem)
        except OSError as exc:
            _cannot("opened", self.path, exc)
        try:
            self._fd = os.open(
                self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            self._committed = self._recover()
            self._size = os.fstat(self._fd).st_size
            _sync_folder(self.path.parent)
        except OSError as exc:
            self.close()
            _cannot("opened", self.path, exc)
        except BaseException:
            self.close()
            raise
        _OPEN.add(self)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Records from `log_number_from` on, committed or not."""
        if log_number_from < self._committed:
            for number, (_, record) in enumerate(_lines(self.path)):
                if log_number_from <= number < self._committed:
                    yield record or {}
        yield from self._fresh[max(0, log_number_from - self._committed) :]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep records for the next `commit`. What cannot be JSON raises here, not there."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        with self._mutex:
            self._lines += lines
            # Parsed back, so that the driver sees exactly what a later reader will: a tuple becomes
            # a list and an integer key a string now, not only after a restart.
            self._fresh += [json.loads(line) for line in lines]

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been committed to the file yet."""
        return self._fd >= 0 and self._committed == 0

    @property
    def pending(self) -> int:
        """How many records the next `commit` writes."""
        return len(self._lines)

    def commit(self) -> None:
        """Write all kept records and sync once; on an error or Ctrl-C the file is as it was before.

        Raises:
            InfrastructureError: the disk is full or failed (the records are kept: free space and
                commit again), or another program has changed the file.
        """
        with self._mutex:
            if not self._lines:
                return
            data = ("\n".join(self._lines) + "\n").encode()
            size, committed = self._size + len(data), self._committed + len(self._lines)
            try:
                self._refuse_foreign_change()
            except OSError as exc:
                _cannot("written", self.path, exc)
            try:
                _write_all(self._fd, data)
                os.fsync(self._fd)
            except BaseException as exc:  # Ctrl-C too: else the next commit finds what it wrote
                with suppress(OSError):
                    os.ftruncate(self._fd, self._size)
                if isinstance(exc, OSError):
                    _cannot("written", self.path, exc)
                raise
            # nothing is called here, so that no signal can come in between
            self._size, self._committed, self._lines, self._fresh = size, committed, [], []

    def close(self) -> None:
        """Give back file and lock. Records that were not committed are dropped."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lock.release()

    def _recover(self) -> int:
        """Cut unreadable lines off the end; return how many records remain."""
        good_end = end = count = 0
        broken = 0
        for number, (line, record) in enumerate(_lines(self.path), start=1):
            end += len(line)
            if record is None:
                broken = broken or number
                continue
            if broken:
                raise InfrastructureError(
                    f"Journal `{self.path}` is damaged at line {broken} and has readable lines "
                    "after it. Copy the file, remove that line and resume."
                )
            good_end, count = end, count + 1
        if good_end < end:
            self.cut_bytes = end - good_end
            os.ftruncate(self._fd, good_end)
            os.fsync(self._fd)
        return count

    def _refuse_foreign_change(self) -> None:
        # Another writer would give the same trial numbers to other trials.
        here = os.fstat(self._fd)
        there = os.stat(self.path)
        if here.st_size != self._size or (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise InfrastructureError(
                f"Journal `{self.path}` was changed by another program while this search was "
                "running. What was committed before is kept: run again with --resume."
            )


class ReadOnlyJournalBackend(JournalFileBackend):
    """Reads a journal without a lock, also while a driver writes it. A torn last line is ignored.

    Raises:
        StudyError: something tries to write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise StudyError(
            f"Study `{Path(self._file_path).stem}` was opened for reading and cannot be changed. "
            "Open it with `open_study(..., resume=True)` to change it."
        )


class StudyLock:
    """An exclusive `flock` on a small file that names its holder.

    The kernel releases it when the holder dies, however it dies, so that there are no stale locks.

    Raises:
        StudyError: another process, or another driver in this one, holds it.
    """

    def __init__(self, path: Path, study: str) -> None:
        self._fd = -1
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(fd, 200).decode(errors="replace").strip() or "another process"
                os.close(fd)
                raise StudyError(
                    f"Study `{study}` is in use by {holder}. Wait for it, stop it, or choose "
                    "another study name."
                ) from None
            except OSError:
                os.close(fd)
                raise
            # The holder may have removed the file (delete_study) after we opened it: then we hold
            # the lock of a file that nobody else will find.
            with suppress(FileNotFoundError):
                if os.fstat(fd).st_ino == os.stat(path).st_ino:
                    break
            os.close(fd)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._fd = fd
        _OPEN.add(self)

    def release(self) -> None:
        """Let the next driver in; harmless when called again."""
        if self._fd >= 0:
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def has_started(journal: Path) -> bool:
    """Whether the file holds a study that was begun: one with the fingerprint of its suite, which
    is written with the study, before the first trial. A file that cannot be read has none."""
    with suppress(OSError):
        for _, record in _lines(journal):
            if record is None or record["op_code"] == JournalOperation.CREATE_TRIAL:
                return False
            if "fingerprint" in record.get("user_attr", ()):
                return True
    return False


def lock_path(journal: Path) -> Path:
    """`<name>.lock` beside `<name>.journal` (Optuna's own writers use `<name>.journal.lock`)."""
    return journal.with_suffix(".lock")


_OPEN: weakref.WeakSet[GroupedJournalBackend | StudyLock] = weakref.WeakSet()


def _after_fork() -> None:
    # A forked child shares the lock; left open, it would keep the study locked after the driver
    # died. Closing does not release it: flock belongs to the description the driver still holds.
    for owner in list(_OPEN):
        if owner._fd >= 0:
            with suppress(OSError):
                os.close(owner._fd)
            owner._fd = -1


os.register_at_fork(after_in_child=_after_fork)


def _lines(path: Path) -> Generator[tuple[bytes, dict[str, Any] | None], None, None]:
    """Every line and its record, or None where it is torn or is not a record."""
    with open(path, "rb") as file:
        for line in file:
            record = None
            if line.endswith(b"\n"):
                with suppress(ValueError):
                    record = json.loads(line)
            yield line, record if isinstance(record, dict) and "op_code" in record else None


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)  # else a new file's name can be lost with the power, whatever it holds
    finally:
        os.close(fd)


def _cannot(what: str, path: Path, exc: OSError) -> NoReturn:
    raise InfrastructureError(
        f"Journal `{path}` cannot be {what}: {reason_of(exc)}. What was committed before is "
        "kept; free space or repair the disk and run again with --resume."
    ) from exc
