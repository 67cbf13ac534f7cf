"""Ctrl-C in a unit stops the inline executor, also where torch puts its own error in its place."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from autometa.searching import executors
from autometa.searching.executors import InlineExecutor, Script, ScriptSource
from autometa.searching.peer_script import peer_unit
from autometa.searching.units import UnitResult, WorkUnit
from tests.searching.support import small_suite


@pytest.mark.parametrize("raised", [None, ValueError, RuntimeError])
def test_an_interrupt_that_is_swallowed_in_a_unit_still_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[Exception] | None
) -> None:
    unit = peer_unit("ridge", small_suite(), folder=tmp_path, seed=0, seconds=None)
    ran: list[WorkUnit] = []

    def swallow(one: WorkUnit) -> UnitResult:
        ran.append(one)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if raised is not None:
            raise raised("could not determine the shape of object type")
        return UnitResult.lost(one, "a run is blamed for it")

    def script() -> Script[None]:
        yield [unit]
        yield [unit]

    monkeypatch.setattr(executors, "run_unit", swallow)
    source = ScriptSource(script)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert not InlineExecutor().run(source)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(ran) == 1


def test_an_error_without_an_interrupt_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = peer_unit("ridge", small_suite(), folder=tmp_path, seed=0, seconds=None)

    def wrong(one: WorkUnit) -> UnitResult:
        raise ValueError("a mistake")

    def script() -> Script[None]:
        yield [unit]

    monkeypatch.setattr(executors, "run_unit", wrong)
    with pytest.raises(ValueError, match="a mistake"):
        InlineExecutor().run(ScriptSource(script))
