"""Where workers wait for each other; a module of its own, so that its process starts at once."""

from __future__ import annotations


class Gate:
    """Where the first workers gather, so that all start at the same time.

    An idle actor takes over a trial whose own actor is still starting, which Tune then kills; with
    short units one worker would do all the work and the others would start again and again.
    """

    def __init__(self) -> None:
        self._expected = self._arrived = 0

    def expect(self) -> None:
        """One more unit was handed out before there was a result."""
        self._expected += 1

    def arrive(self) -> None:
        """Another worker is up."""
        self._arrived += 1

    def is_open(self) -> bool:
        """Whether as many have been up as were expected."""
        return self._arrived >= self._expected
