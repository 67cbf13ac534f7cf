"""Live progress of a search: a bar on a terminal, a line now and then elsewhere; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from autometa.cli.output import duration


class Step(Protocol):
    """What a search reports from time to time."""

    @property
    def phase(self) -> str: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def states(self) -> dict[str, int]: ...
    @property
    def best_value(self) -> float | None: ...
    @property
    def best_number(self) -> int | None: ...
    @property
    def best_arm(self) -> str | None: ...
    @property
    def seconds_left(self) -> float | None: ...
    @property
    def message(self) -> str | None: ...


class ProgressView:
    """A context manager to be called with each `Step`.

    On a terminal a bar is redrawn in place. Anywhere else a plain line is written when the phase
    changes, when there is something to tell, and else at most every `every` seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._clock = clock
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase: str | None = None
        self._message: str | None = None
        self._written = float("-inf")
        self._pending: Step | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[rest]}"),
                console=Console(file=self._stream, markup=False, highlight=False),
                redirect_stdout=False,
                redirect_stderr=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._pending is not None:
            self._write(self._pending)

    def __call__(self, step: Step) -> None:
        if self._bar is None:
            self._plain(step)
        else:
            self._draw(self._bar, step)
        self._phase, self._message = step.phase, step.message or self._message

    def _draw(self, bar: Progress, step: Step) -> None:
        if step.message and step.message != self._message:
            bar.console.print(step.message)
        if self._task is None or step.phase != self._phase:
            self._task = bar.add_task(step.phase, total=step.total or None, rest="")
        rest = ", ".join(_count(step) + _rest(step))
        bar.update(self._task, completed=step.done, total=step.total or None, rest=rest)

    def _plain(self, step: Step) -> None:
        entered = step.phase != self._phase
        if entered and self._pending is not None:
            self._write(self._pending)  # the last state of the phase that ended
        told = step.message is not None and step.message != self._message
        if told:
            print(step.message, file=self._stream, flush=True)
        due = self._clock() - self._written >= self._every
        if (entered or due) and not (told and step.done == 0):
            self._write(step)
        else:
            self._pending = step if step.done else None

    def _write(self, step: Step) -> None:
        text = ", ".join(_count(step) + _rest(step))
        print(f"{step.phase}: {text}" if text else step.phase, file=self._stream, flush=True)
        self._written, self._pending = self._clock(), None


def _count(step: Step) -> list[str]:
    return [f"{step.done}/{step.total}"] if step.total else []


def _rest(step: Step) -> list[str]:
    parts = []
    if step.best_value is not None:
        where = f"trial {step.best_number}" if step.best_number is not None else ""
        where = ", ".join(part for part in (where, step.best_arm) if part)
        parts.append(f"best {step.best_value:.4f}" + (f" ({where})" if where else ""))
    parts += [
        f"{step.states[state]} {word}"
        for state, word in (("PRUNED", "pruned"), ("FAIL", "failed"))
        if step.states.get(state)
    ]
    if step.seconds_left is not None and step.done < step.total:
        parts.append(f"{duration(step.seconds_left)} left")
    return parts
