"""What comes after the trials of a search: a diagnosis, and the final comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autometa.diagnosis import Diagnosis
from autometa.finals import Judgement
from autometa.judge import Judge
from autometa.judge_episodes import EpisodeJudge
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
    models: Path,
    tracker: Tracker,
    notify: Callable[[Progress], None],
) -> tuple[ScriptSource[dict[str, Any]] | None, ScriptSource[Judgement]]:
    """The diagnosis (None: not in episodes) and the judgement, which uses what it trained."""
    study = handle.name
    if isinstance(suite, EpisodicSuite):
        judge = EpisodeJudge(
            suite, settings, study=study, folder=folder, models=models, notify=notify
        )
        return None, ScriptSource(lambda: judge.script(handle.trials()), judge.unit_done)
    of_rows = Judge(suite, settings, study=study, folder=folder, models=models, notify=notify)
    diagnosis = Diagnosis(
        suite,
        settings,
        handle,
        folder=folder,
        tracker=tracker,
        notify=notify,
        is_late=loop.is_late,
    )
    diagnosing = ScriptSource(diagnosis.script, diagnosis.unit_done)
    judging = ScriptSource(
        lambda: of_rows.script(
            handle.trials(), loop.reference, (diagnosing.returned or {}).get("reruns")
        ),
        of_rows.unit_done,
    )
    return diagnosing, judging
