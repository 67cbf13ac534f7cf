"""The MLflow UI of a home folder, served on this machine only."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable
from types import TracebackType
from typing import IO

from autometa.errors import ConfigError, InfrastructureError
from autometa.home import Home
from autometa.tracking.places import tracking_place

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def open_ui(
    home: Home,
    uri: str | None = None,
    port: int = 5000,
    host: str = "127.0.0.1",
    open_browser: bool = True,
    *,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve the MLflow UI until Ctrl-C; returns the exit code.

    Args:
        uri: the database to show; if None that of `$MLFLOW_TRACKING_URI`, else the home's. An
            http(s) server is only opened.
        port: 0 picks a free one.
        host: a loopback address.
        on_ready: called with the address once it answers.

    Raises:
        ConfigError: there is nothing to show, the port is in use or `host` is not this machine.
        InfrastructureError: the server does not start.
    """
    ready = on_ready or (lambda _: None)
    place = tracking_place(uri, home)
    if (uri := place.uri) == "off":
        raise ConfigError(
            f"{place.source} should be a server or a store to look at. Found `off`. Leave it out "
            "to look at the home folder's."
        )
    if uri.startswith(("http://", "https://")):
        ready(uri)
        if open_browser:
            webbrowser.open(uri)
        return 0
    with start_ui(home, uri, port, host) as server:
        ready(server.url)
        if open_browser:
            webbrowser.open(server.url)
        try:
            return server.process.wait()
        except KeyboardInterrupt:
            return 0


class UiServer:
    """A running UI: `url`, `process`, and `stop`; a context manager that stops it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url, self.process = url, process

    def stop(self) -> None:
        """End the server and its workers."""
        _signal(self.process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        _signal(self.process, getattr(signal, "SIGKILL", signal.SIGTERM))
        self.process.wait()

    def __enter__(self) -> UiServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_ui(
    home: Home,
    uri: str | None = None,
    port: int = 5000,
    host: str = "127.0.0.1",
    *,
    timeout: float = 60.0,
    log: IO[bytes] | None = None,
) -> UiServer:
    """Start the MLflow server for a database and wait until it answers. See `open_ui`."""
    if host not in LOOPBACK:
        raise ConfigError(
            "Parameter `host` should be 127.0.0.1, localhost or ::1, because the MLflow UI asks "
            f"for no password. Found `host = {host!r}`."
        )
    port = _free_port(host, port)
    home.root.mkdir(parents=True, exist_ok=True)
    command = _command(home, tracking_place(uri, home).uri, port, host)
    process = subprocess.Popen(
        command,
        env=_environment(),
        cwd=home.root,  # MLflow puts folders of its own into the current one
        stdin=subprocess.DEVNULL,
        stdout=log or subprocess.DEVNULL,
        stderr=log or subprocess.DEVNULL,
        start_new_session=True,  # so that stop() reaches the workers, and Ctrl-C only us
    )
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    server = UiServer(url, process)
    try:
        _wait_until_healthy(server, command, timeout)
    except BaseException:
        server.stop()
        raise
    return server


def _command(home: Home, uri: str, port: int, host: str) -> list[str]:
    artifacts = home.artifacts.as_uri()
    options = {
        "--backend-store-uri": uri,
        "--default-artifact-root": artifacts,
        "--artifacts-destination": artifacts,
        "--host": host,
        "--port": str(port),
        "--workers": "1",  # each takes 250 MB
    }
    return [sys.executable, "-m", "mlflow", "server", *(p for o in options.items() for p in o)]


def _environment() -> dict[str, str]:
    """Ours without telemetry, background jobs, and settings meant for a shared server."""
    dropped = ("MLFLOW_TRACKING_URI", "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_STATIC_PREFIX")
    kept = {k: v for k, v in os.environ.items() if k not in dropped}
    return kept | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _free_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as exc:
            raise ConfigError(
                f"Parameter `port` should be a free port of this machine. Found `port = {port}` "
                f"({exc}). Choose another one, or 0 to have one chosen."
            ) from None
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: UiServer, command: list[str], timeout: float) -> None:
    end = time.monotonic() + timeout
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise InfrastructureError(
                f"The MLflow UI ended at once with exit code {server.process.returncode}. "
                f"To see why, run: {shlex.join(command)}"
            )
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            opener.open(f"{server.url}/health", timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise InfrastructureError(f"The MLflow UI did not answer within {timeout:g} seconds.")


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.terminate()
