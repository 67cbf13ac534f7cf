"""What an episode is: a small data set to adapt to, and rows to be predicted after it."""

from __future__ import annotations

from pydantic import Field

from autometa.config import Config


class EpisodeShape(Config):
    """N-way K-shot, or some rows of one task.

    `ways`: classes of an episode, which are numbered anew in each; None where an episode is rows
    of one regression or binary task. `shots`: support rows of each class (of the task without
    classes). `queries`: likewise the rows that are predicted.
    """

    ways: int | None = Field(None, ge=2)
    shots: int = Field(ge=1)
    queries: int = Field(15, ge=1)

    @property
    def n_support(self) -> int:
        """Support rows of an episode."""
        return self.shots * (self.ways or 1)

    @property
    def n_query(self) -> int:
        """Query rows of an episode."""
        return self.queries * (self.ways or 1)
