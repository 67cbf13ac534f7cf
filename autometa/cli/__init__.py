"""The command line: `autometa search`, `train`, `adapt`, `predict`, and commands that look.

Importing this module loads neither torch nor Ray nor MLflow, so that `--help` and mistakes in
the options answer at once; each command imports what it needs when it runs.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Annotated

import typer

import autometa
from autometa.cli.diagnosis import diagnose
from autometa.cli.group import Cli
from autometa.cli.inspection import doctor, suites, ui
from autometa.cli.models import adapt, predict, train
from autometa.cli.prior import build, export, import_, list_priors, show
from autometa.cli.search import search
from autometa.cli.studies import best, delete, trials

app = typer.Typer(
    cls=Cli,
    name="autometa",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)

_EXAMPLES: dict[Callable[..., None], str] = {
    search: "autometa search sales.csv --targets price,demand --n-trials 64",
    train: "autometa train sales.csv --targets price,demand --set sharing.kind=hard",
    adapt: "autometa adapt autometa-home/models/school-1 new_school.csv --out new_school",
    predict: "autometa predict autometa-home/models/sales-1 new.csv --out predictions.csv",
    trials: "autometa trials sales-1 --json",
    best: "autometa best sales-1 --out best.yaml",
    diagnose: "autometa diagnose sales-1",
    ui: "autometa ui --port 5000",
    suites: "autometa suites",
    delete: "autometa delete sales-1 --yes",
    doctor: "autometa doctor",
}
_PRIOR_EXAMPLES: dict[Callable[..., None], str] = {
    list_priors: "autometa prior list",
    show: "autometa prior show sales-1-0f3a9c51",
    build: "autometa prior build ours",
    export: "autometa prior export ours.prior --name ours",
    import_: "autometa prior import theirs.prior --name theirs",
}


def _add(group: typer.Typer, command: Callable[..., None], example: str, name: str | None) -> None:
    # One line a paragraph: the terminal's width decides where lines break.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(part.split()) for part in paragraphs)
    group.command(name=name, help=text, epilog=f"Example: [bold]{example}[/bold]")(command)


for _command, _example in _EXAMPLES.items():
    _add(app, _command, _example, None)
_prior = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
for _command, _example in _PRIOR_EXAMPLES.items():
    _add(_prior, _command, _example, _example.split()[2])
app.add_typer(
    _prior,
    name="prior",
    help="What earlier searches teach the next: list, show, build, export, import.",
    epilog="Example: [bold]autometa prior list[/bold]",
)


def main() -> None:
    """Entry point of the console script `autometa`."""
    # A batch system or a closed session stops us as Ctrl-C does: the study is left to be resumed,
    # and what was started (Ray, the MLflow server) is ended.
    signal.signal(signal.SIGTERM, _stop)
    sys.unraisablehook = _repeat_if_stopped
    app()


def _repeat_if_stopped(lost: sys.UnraisableHookArgs) -> None:
    """Stop again: Python prints what is raised in a finalizer, Ctrl-C as well, and goes on."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    # not at once, or it would be lost in here in the same way
    again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def _version(value: bool) -> None:
    if value:
        typer.echo(f"autometa {autometa.__version__}")
        raise typer.Exit


@app.callback(epilog="Start with: [bold]autometa search multidigits[/bold]")
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Search what your prediction tasks should share, and learn whether sharing helped."""


def _stop(*_: object) -> None:
    """End as by Ctrl-C, also where a shell's `&` made the process deaf to Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)
