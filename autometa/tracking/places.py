"""Where runs are written: where the user said, else where the environment says, else at home."""

from __future__ import annotations

import os
from dataclasses import dataclass

from autometa.home import Home

VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Place:
    """A tracking URI, or `off`.

    Attributes:
        source: what named it, for messages; None: nothing, it is the home folder's own.
    """

    uri: str
    source: str | None

    @property
    def is_of_environment(self) -> bool:
        return self.source == f"${VARIABLE}"


def tracking_place(uri: str | None, home: Home) -> Place:
    """The place for `uri`, the user's own choice, or None where they made none.

    `$MLFLOW_TRACKING_URI` is that of all of the user's programs, so it counts where nothing was
    said here; set to nothing it counts as not set.
    """
    if uri:
        return Place(uri, "`mlflow_tracking_uri` (`--mlflow-tracking-uri`)")
    if found := os.environ.get(VARIABLE):
        return Place(found, f"${VARIABLE}")
    return Place(default_uri(home), None)


def default_uri(home: Home) -> str:
    """The tracking URI of the home's own database."""
    return f"sqlite:///{home.mlflow_db}"
