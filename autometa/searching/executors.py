"""Where units run: in this process, or on Ray workers. Both run the same units."""

from __future__ import annotations

from typing import Literal, Protocol

from autometa.searching.units import UnitResult, WorkUnit, run_unit

FINISHED: Literal["FINISHED"] = "FINISHED"


class Source(Protocol):
    """Where units come from and results go to; called from one thread only."""

    def next_unit(self) -> WorkUnit | Literal["FINISHED"] | None:
        """A unit to run, None while there is nothing to do but wait, or `FINISHED`."""

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        """Take the results of a unit."""


class Executor(Protocol):
    """Runs units until the source is finished."""

    def run(self, source: Source) -> bool:
        """Returns False if the user interrupted it (then results may be missing)."""

    def close(self) -> None: ...


class InlineExecutor:
    """One unit after another in this process (`--workers 0`)."""

    def run(self, source: Source) -> bool:
        try:
            while True:
                unit = source.next_unit()
                if unit == FINISHED or unit is None:  # nothing runs elsewhere to wait for
                    return True
                source.complete(unit, run_unit(unit))
        except KeyboardInterrupt:
            return False

    def close(self) -> None:
        pass


class UnitList:
    """A source with a fixed list of units; results in the same order."""

    def __init__(self, units: list[WorkUnit]) -> None:
        self._units = units
        self._next = 0
        self.results: list[UnitResult | None] = [None] * len(units)

    def next_unit(self) -> WorkUnit | Literal["FINISHED"] | None:
        if self._next == len(self._units):
            return FINISHED
        self._next += 1
        return self._units[self._next - 1]

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        self.results[self._units.index(unit)] = result
