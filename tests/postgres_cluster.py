"""A throwaway PostgreSQL server on the loopback interface, for tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binary(name: str) -> str | None:
    """Where a PostgreSQL program is: on the PATH or where Debian puts the servers."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    absent = [name for name in ("initdb", "pg_ctl", "postgres") if binary(name) is None]
    if absent:
        return f"PostgreSQL's {', '.join(absent)} is not installed"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL refuses to run as root and there is no user `postgres`"
    return None


@contextmanager
def cluster() -> Iterator[str]:
    """Start a server with an empty database and yield its URL; stop and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = [str(binary(program)), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, user=user, cwd=folder, check=True, timeout=60, capture_output=True)

    try:
        call("initdb", "-U", "tester", "-A", "trust", "--no-sync")
        # Only loopback TCP; no durability, because nothing here outlives the test.
        options = f"-h 127.0.0.1 -p {port} -k {folder} -F"
        call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
