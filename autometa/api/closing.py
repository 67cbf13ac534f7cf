"""What comes after the trials of a search: a diagnosis, and the final comparison."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from autometa.contest_episodes import EpisodeContest
from autometa.contests import Contest, RowContest
from autometa.diagnosis import Diagnosis
from autometa.finals import Finals, Judgement
from autometa.home import Home, note_opening
from autometa.judge import Judge
from autometa.searching.executors import ScriptSource
from autometa.searching.loop import SearchLoop
from autometa.searching.progress import Progress
from autometa.searching.settings import SearchSettings
from autometa.study import StudyHandle
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.tracking import Tracker


def closing(
    suite: TaskSuite | EpisodicSuite,
    settings: SearchSettings,
    handle: StudyHandle,
    loop: SearchLoop,
    *,
    folder: Path,
    home: Home,
    tracker: Tracker,
    notify: Callable[[Progress], None],
) -> tuple[ScriptSource[dict[str, Any]] | None, ScriptSource[Judgement]]:
    """The diagnosis (None: not in episodes) and the judgement."""
    contest: Contest = (
        EpisodeContest(suite, settings)
        if isinstance(suite, EpisodicSuite)
        else RowContest(suite, settings)
    )
    finals = Finals(
        settings,
        study=handle.name,
        fingerprint=suite.fingerprint,
        folder=folder,
        models=home.models,
        notify=notify,
        folds=contest.folds,
        left=loop.left,
    )
    opening = partial(note_opening, home, suite.fingerprint)
    judge = Judge(contest, finals, settings, opening)
    judging = ScriptSource(lambda: judge.script(handle.trials(), loop.reference), judge.unit_done)
    if isinstance(suite, EpisodicSuite):
        return None, judging
    diagnosis = Diagnosis(
        suite,
        settings,
        handle,
        folder=folder,
        tracker=tracker,
        notify=notify,
        is_late=loop.is_late,
    )
    return ScriptSource(diagnosis.script, diagnosis.unit_done), judging
