"""What a newly trained model scores on validation, and what its intervals are made of."""

from __future__ import annotations

from collections.abc import Sequence

from autometa.ensembles import combine
from autometa.metrics import Evaluation, evaluate
from autometa.model import Calibration, calibrate
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.training.population import Trainer
from autometa.training.scoring import by_task, evaluate_episodes, task_specs
from autometa.training.state import PopulationState, Run


def validated(
    trainer: Trainer,
    suite: TaskSuite | EpisodicSuite,
    runs: Sequence[Run],
    state: PopulationState,
) -> tuple[float, dict[str, float | None], Calibration | None]:
    """How the runs predict together on the validation rows, or in the validation tasks' episodes.

    Returns:
        The score, that of each task (None where it cannot be judged), and in suites with numbers to
        predict the calibration of intervals.
    """
    if isinstance(suite, EpisodicSuite):
        episodes = suite.episodes("val")
        outputs = trainer.predict_episodes(runs, state, episodes)
        specs = evaluate_episodes(outputs, episodes).specs
        return *_scores(by_task(evaluate_episodes(combine(outputs, specs), episodes))), None
    rows, specs = suite.rows("val"), task_specs(suite)
    task = None if rows.task is None else rows.task.numpy()
    y, mask = rows.y.numpy(), rows.mask.numpy()
    outputs = trainer.predict(runs, state, rows)
    calibration = calibrate(outputs, y, specs, mask=mask, task=task)
    together = combine(outputs, specs, task)
    return *_scores(evaluate(together, y, specs, mask=mask, task=task)), calibration


def _scores(found: Evaluation) -> tuple[float, dict[str, float | None]]:
    return float(found.value()), {one.name: one.score for one in found.tasks() if one.name}
