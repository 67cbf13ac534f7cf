"""What a search says about itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """The state of a search at one moment.

    Attributes:
        phase: `search`, `judge` or `refit`.
        done, total: finished trials (or runs, while judging) and how many there will be.
        states: trials by state.
        best_value, best_number, best_arm: the best completed trial so far.
        seconds, seconds_left: since this driver started, and an estimate of what is left.
        message: something the user should know.
    """

    phase: str
    done: int
    total: int
    states: dict[str, int] = field(default_factory=dict)
    best_value: float | None = None
    best_number: int | None = None
    best_arm: str | None = None
    seconds: float = 0.0
    seconds_left: float | None = None
    message: str | None = None
