"""`autometa suites`, `ui` and `doctor`: what there is to work with."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

import autometa
from autometa.cli import options
from autometa.cli.disk import folder_size, study_paths
from autometa.cli.output import emit_json, note, quiet_stdout, say, shown, size, table
from autometa.errors import AutometaError
from autometa.home import Home, check_writable

_PACKAGES = ("torch", "optuna", "ray", "mlflow", "torchjd", "scikit-learn", "pandas", "numpy")


def suites(json: options.Json = False) -> None:
    """List the suites that can be searched by name: built in, and those of $AUTOMETA_DATA."""
    from autometa.tasks import catalog

    found = [catalog.describe(name) for name in catalog.names()]
    if json:
        emit_json(found)
        return
    names = ["name", "layout", "kind", "tasks", "rows", "origin"]
    table(
        names,
        [[_joined(suite.get(name)) for name in names] for suite in found],
        right=["tasks", "rows"],
    )


def ui(
    port: Annotated[
        int, typer.Option(callback=options.at_least(0), help="Port; 0 picks a free one.")
    ] = 5000,
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
    mlflow_tracking_uri: options.TrackingUri = None,
    home: options.Home = None,
) -> None:
    """Open the MLflow UI: every search is a run, every trial a child run. Ctrl-C ends it."""
    from autometa.tracking import open_ui

    code = open_ui(
        Home.find(home),
        uri=mlflow_tracking_uri,
        port=port,
        host=host,
        open_browser=browser,
        on_ready=lambda url: note(f"MLflow UI at {url} (Ctrl-C ends it)"),
    )
    raise typer.Exit(code)


def doctor(home: options.Home = None, json: options.Json = False) -> None:
    """Check the installation and show what takes space in the home folder."""
    folder = Home.find(home)
    report: dict[str, Any] = {
        "autometa": autometa.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "imports": {name: _import_problem(name) for name in ("torch", "ray", "mlflow")},
        "devices": _devices(),
        "home": str(folder.root),
        "home_problem": _home_problem(folder.root),
        "parts": {part.name: folder_size(part) for part in _parts(folder)},
        "studies": _studies(folder),
    }
    problems = [f"{name}: {text}" for name, text in report["imports"].items() if text]
    problems += [report["home_problem"]] if report["home_problem"] else []
    if json:
        emit_json({**report, "ok": not problems})
    else:
        _print_report(report, folder, problems)
    if problems:
        raise typer.Exit(1)


def _print_report(report: dict[str, Any], folder: Home, problems: list[str]) -> None:
    say(f"autometa {report['autometa']}, Python {report['python']}, {report['platform']}")
    for name, version in report["packages"].items():
        say(f"  {name} {version or 'not installed'}")
    say(f"Devices: {', '.join(report['devices'])}; {report['cpus']} CPUs")
    say(f"Home: {shown(folder.root)}" + ("" if folder.root.exists() else " (not made yet)"))
    for name, used in report["parts"].items():
        say(f"  {name}: {size(used)}")
    if report["studies"]:
        say("Studies, largest first:")
        for name, used in sorted(report["studies"].items(), key=lambda item: -item[1]):
            say(f"  {name}: {size(used)}")
    for text in problems:
        say(f"Problem: {text}")
    say("Something has to be mended." if problems else "All is well.")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_problem(module: str) -> str | None:
    """None if `module` can be imported here, else why not; by name, as it is not ours to use."""
    try:
        with quiet_stdout():
            importlib.import_module(module)
    except Exception as exc:  # a broken binary package raises almost anything
        return f"{type(exc).__name__}: {exc}"
    return None


def _devices() -> list[str]:
    try:
        import torch
    except Exception:  # already reported under imports
        return ["unknown"]
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [
            f"cuda:{index} ({torch.cuda.get_device_name(index)})"
            for index in range(torch.cuda.device_count())
        ]
    return found


def _home_problem(root: Path) -> str | None:
    try:
        check_writable(root, "The home folder")
    except AutometaError as exc:
        return str(exc)
    return None


def _parts(home: Home) -> list[Path]:
    return sorted(home.root.iterdir()) if home.root.is_dir() else []


def _studies(home: Home) -> dict[str, int]:
    names = {path.stem for path in home.studies.glob("*.journal")}
    checkpoints = home.checkpoints("x").parent
    names |= {path.name for path in checkpoints.iterdir()} if checkpoints.is_dir() else set()
    return {
        name: sum(folder_size(path) for path in study_paths(home, name)) for name in sorted(names)
    }


def _joined(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
