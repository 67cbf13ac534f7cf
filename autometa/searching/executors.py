"""Where units run: in this process, or on Ray workers. Both run the same units."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, Generic, Literal, Protocol, TypeVar

from autometa.searching.units import UnitResult, WorkUnit, run_unit

FINISHED: Literal["FINISHED"] = "FINISHED"
T = TypeVar("T")


class Source(Protocol):
    """Where units come from and results go to; called from one thread only."""

    def next_unit(self, workers: int = 1) -> WorkUnit | Literal["FINISHED"] | None:
        """A unit to run, None while there is nothing to do but wait, or `FINISHED`.

        Args:
            workers: how many units run at a time.
        """

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        """Take the results of a unit."""


class Executor(Protocol):
    """Runs units until the source is finished."""

    def run(self, source: Source) -> bool:
        """Returns False if the user interrupted it (then results may be missing)."""

    def close(self) -> None: ...


class InlineExecutor:
    """One unit after another in this process (`--workers 0`).

    Args:
        threads: of a unit.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def run(self, source: Source) -> bool:
        with _noting_interrupts() as seen:
            try:
                while True:
                    unit = source.next_unit()
                    if unit == FINISHED or unit is None:  # nothing runs elsewhere to wait for
                        return True
                    result = run_unit(replace(unit, threads=self._threads))
                    if seen:
                        return False
                    source.complete(unit, result)
            except KeyboardInterrupt:
                return False
            except Exception:
                if seen:
                    return False
                raise

    def close(self) -> None:
        pass


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Note Ctrl-C and SIGTERM beside what they raise: where they come while torch looks at a Python
    object, torch raises an error of its own in place of theirs ("could not determine the shape of
    object type …")."""
    seen: list[int] = []
    placed: dict[int, tuple[Any, Any]] = {}

    def noting(before: Callable[[int, FrameType | None], Any]) -> Any:
        def note(number: int, frame: FrameType | None) -> None:
            seen.append(number)
            before(number, frame)

        return note

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if callable(before):  # what is ignored, or ends the process, stays as it is
                placed[number] = (before, noting(before))
                signal.signal(number, placed[number][1])
    except ValueError:  # not in the main thread, which alone is interrupted
        placed.clear()
    try:
        yield seen
    finally:
        for which, (before, own) in placed.items():
            if signal.getsignal(which) is own:  # unless it was changed on the way
                signal.signal(which, before)


Script = Generator[list[WorkUnit], list[UnitResult], T]


class ScriptSource(Generic[T]):
    """A script as a source: it yields lists of units, gets their results, and returns a value.

    Args:
        start: makes the script, when its first unit is asked for.
        completed: called after each unit.
    """

    def __init__(
        self, start: Callable[[], Script[T]], completed: Callable[[], None] = lambda: None
    ) -> None:
        self._start = start
        self._completed = completed
        self._script: Script[T] | None = None
        self._units: list[WorkUnit] = []
        self._next = 0
        self._results: dict[int, UnitResult] = {}
        self.returned: T | None = None

    def next_unit(self, workers: int = 1) -> WorkUnit | Literal["FINISHED"] | None:
        while self._next == len(self._units):  # a script may yield no unit
            if len(self._results) < len(self._units):
                return None
            try:
                self._advance()
            except StopIteration as end:
                self.returned = end.value
                return FINISHED
        self._next += 1
        return self._units[self._next - 1]

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        self._results[self._units.index(unit)] = result
        self._completed()

    def _advance(self) -> None:
        if self._script is None:
            self._script = self._start()
            self._units = next(self._script)
        else:
            self._units = self._script.send([self._results[k] for k in range(len(self._units))])
        self._next, self._results = 0, {}


class Chain:
    """Sources one after another, for one run of an executor (which keeps its workers)."""

    def __init__(self, *sources: Source) -> None:
        self._sources = list(sources)

    def next_unit(self, workers: int = 1) -> WorkUnit | Literal["FINISHED"] | None:
        while True:
            unit = self._sources[0].next_unit(workers)
            if unit != FINISHED or len(self._sources) == 1:
                return unit
            self._sources.pop(0)

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        self._sources[0].complete(unit, result)
