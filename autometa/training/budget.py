"""How long runs are trained, in optimizer steps, and how many rows they see in each.

An epoch of a small table is a handful of steps, so what a run needs to level off is said in steps.
"""

from __future__ import annotations

import math

from autometa.errors import UserError
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.training.batches import steps_per_epoch
from autometa.trial import OptimizerConfig, TrialConfig

#: steps of a full training at least, unless they are given: where small tables level off
LEAST_STEPS = 2000
#: what a full training was before it was counted in steps, and is never shorter than: passes over
#: the training rows, in batches of so many
_EPOCHS, _ROWS = 27, 64
#: rows a step: a power of two near this share of the training rows, between these bounds
_SHARE, _FEWEST, _MOST = 16, 32, 256
#: rows of each task in a step of a grouped suite, at least
_FEWEST_OF_TASK = 16


def default_batch_size(n_rows: int, n_tasks: int | None, batch_tasks: int) -> int:
    """Rows a step where `optimizer.batch_size` is not given: a power of two near 1/16 of the rows.

    Few rows make small batches, whose noise keeps a small table from being learned by heart; many
    rows make large ones. At least 32 and at most 256.

    Args:
        n_rows: training rows.
        n_tasks: tasks that have rows of their own; None where all tasks have the same rows.
        batch_tasks: tasks a step of a grouped suite, which share the rows of the step: each has at
            least 16, but no more than the next power of two to a task's rows.
    """
    rows = min(_MOST, max(_FEWEST, _power_of_two(n_rows / _SHARE)))
    if n_tasks is None:
        return rows
    each = max(_FEWEST_OF_TASK, _power_of_two(rows / min(batch_tasks, n_tasks)))
    return min(each, 2 ** math.ceil(math.log2(max(1.0, n_rows / n_tasks))))


def with_batch_size(config: TrialConfig, suite: TaskSuite | EpisodicSuite) -> TrialConfig:
    """The configuration with its number of rows a step, if it left that to the training rows.

    In episodes it has no meaning and stays as it is: a step takes `batch_tasks` episodes.
    """
    optimizer = config.optimizer
    if optimizer.batch_size is not None or isinstance(suite, EpisodicSuite):
        return config
    size = _default_of(suite, optimizer.batch_tasks)
    return config.model_copy(
        update={"optimizer": optimizer.model_copy(update={"batch_size": size})}
    )


def full_length(
    suite: TaskSuite | EpisodicSuite, max_steps: int | None = None, max_epochs: int | None = None
) -> int:
    """Optimizer steps of a full training, which schedules span.

    `max_steps` as it is; `max_epochs` passes over the training rows at the suite's default batch
    size; with neither 2,000 steps, or 27 passes in batches of 64 rows if these are more. In
    episodes, where rows are not what is repeated, 27 passes.

    Raises:
        UserError: both are given, or one is below 1.
    """
    check_length(max_steps, max_epochs)
    if max_steps is not None:
        return max_steps
    if max_epochs is not None:
        return epochs_in_steps(suite, max_epochs)
    if isinstance(suite, EpisodicSuite):
        return epochs_in_steps(suite, _EPOCHS)
    return max(LEAST_STEPS, epochs_in_steps(suite, _EPOCHS, OptimizerConfig(batch_size=_ROWS)))


def check_length(max_steps: int | None, max_epochs: int | None) -> None:
    """Refuse what `full_length` cannot use.

    Raises:
        UserError: both are given, or one is below 1.
    """
    for name, value in (("max_steps", max_steps), ("max_epochs", max_epochs)):
        if value is not None and value < 1:
            raise UserError(f"Parameter `{name}` should be at least 1. Found `{name} = {value}`.")
    if max_steps is not None and max_epochs is not None:
        raise UserError(
            "Parameter `max_epochs` should be left out with `max_steps`: both say how long a full "
            f"training is. Found `max_steps = {max_steps}` and `max_epochs = {max_epochs}`."
        )


def epochs_in_steps(
    suite: TaskSuite | EpisodicSuite, epochs: int, optimizer: OptimizerConfig | None = None
) -> int:
    """Optimizer steps of so many passes over the training rows.

    Args:
        optimizer: has the rows and tasks of a step; the suite's default if None.
    """
    optimizer = optimizer or OptimizerConfig()
    n_rows, batch_tasks = suite.counts["train"], optimizer.batch_tasks
    if isinstance(suite, EpisodicSuite):
        an_episode = suite.shape.n_support + suite.shape.n_query
        return epochs * steps_per_epoch(n_rows, an_episode, batch_tasks)
    size = optimizer.batch_size or _default_of(suite, batch_tasks)
    per_step = min(batch_tasks, suite.n_tasks) if suite.is_grouped else 1
    return epochs * steps_per_epoch(n_rows, size, per_step)


def _default_of(suite: TaskSuite, batch_tasks: int) -> int:
    n_tasks = suite.n_tasks if suite.is_grouped else None
    return default_batch_size(suite.counts["train"], n_tasks, batch_tasks)


def _power_of_two(number: float) -> int:
    """The nearest one on a log scale."""
    return int(2 ** round(math.log2(max(1.0, number))))
