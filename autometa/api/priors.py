"""What a search leaves for the next one."""

from __future__ import annotations

from collections.abc import Callable

from autometa.errors import InfrastructureError
from autometa.home import Home
from autometa.priors import probes, shelf
from autometa.priors.records import record_of
from autometa.searching.progress import Progress
from autometa.study import StudyHandle
from autometa.tasks import EpisodicSuite, TaskSuite

#: attribute of a study: the probes of its suite
PROBES = "probes"


def suite_probes(handle: StudyHandle, suite: TaskSuite | EpisodicSuite) -> dict[str, float]:
    """The probes of a study's suite, measured once."""
    kept = handle.study.user_attrs.get(PROBES)
    if kept is None:
        found = probes.measure(suite.without_test())
        kept = dict(zip(found, map(_plain, found.values()), strict=True))
        handle.set_attr(PROBES, kept)
    return dict(zip(probes.PROBES, probes.vector(kept), strict=True))


def leave_record(
    home: Home,
    handle: StudyHandle,
    suite: TaskSuite | EpisodicSuite,
    notify: Callable[[Progress], None],
) -> None:
    """Write the record of a finished search; if the disk fails the search is no worse for it."""
    record = record_of(handle.study, suite_probes(handle, suite))
    handle.commit()
    if not record.trials:  # a space without anything to search
        return
    try:
        shelf.keep(home, record)
    except InfrastructureError as exc:
        notify(Progress("judge", 0, 0, message=f"No record is left for later searches: {exc}"))


def _plain(value: float) -> float | None:
    return value if value == value else None
