"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace

from autometa.cli.progress import ProgressView
from autometa.searching.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEP = Progress(
    phase="search",
    done=3,
    total=8,
    states={"COMPLETE": 2, "PRUNED": 1, "FAIL": 2},
    best_value=0.81234,
    best_number=2,
    best_arm="sharing",
    seconds=30.0,
    seconds_left=75.0,
)


def test_plain_line_says_all() -> None:
    out = io.StringIO()
    with ProgressView(out, clock=Clock()) as view:
        view(STEP)
    assert out.getvalue() == (
        "search: 3/8, best 0.8123 (trial 2, sharing), 1 pruned, 2 failed, 1 min 15 s left\n"
    )


def test_plain_lines_are_rare_and_the_last_state_is_told() -> None:
    out, clock = io.StringIO(), Clock()
    with ProgressView(out, every=5.0, clock=clock) as view:
        for done in range(9):
            clock.now = done * 1.0
            view(replace(STEP, done=done))
    counts = [line.split(",")[0] for line in out.getvalue().splitlines()]
    assert counts == ["search: 0/8", "search: 5/8", "search: 8/8"]


def test_a_new_phase_and_a_message_are_told_at_once() -> None:
    out = io.StringIO()
    with ProgressView(out, every=1e9, clock=Clock()) as view:
        view(Progress("search", 0, 2))
        view(Progress("search", 2, 2, message="stopped early"))
        view(Progress("search", 2, 2, message="stopped early"))
        view(Progress("judge", 0, 3, message="three runs"))
        view(Progress("judge", 3, 3))
    assert out.getvalue().splitlines() == [
        "search: 0/2",
        "stopped early",
        "search: 2/2",
        "three runs",
        "judge: 3/3",
    ]


def test_terminal_shows_a_bar() -> None:
    out = Terminal()
    with ProgressView(out) as view:
        view(STEP)
        view(replace(STEP, done=8, message="all done"))
        view(Progress("judge", 1, 4))
    text = out.getvalue()
    for part in ("search", "8/8", "best 0.8123 (trial 2, sharing)", "all done", "judge", "1/4"):
        assert part in text
