"""Checks of a bound and a cost before any work, and the Pareto front of a finished study."""

from __future__ import annotations

from typing import Any

from autometa.describing import describe_network
from autometa.errors import UserError
from autometa.searching.bound import bound_tasks
from autometa.searching.costs import check_cost
from autometa.searching.settings import SearchSettings, independent_trials
from autometa.space import Space
from autometa.study import WITH_OBJECTIVES, StudyHandle, pareto_front
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.trial import TrialConfig


def check_objectives(settings: SearchSettings) -> None:
    """Refuse a bound or a cost that cannot be, or that the other settings leave no room for.

    Raises:
        UserError: one sentence that names the setting.
    """
    delta = settings.no_task_worse_than
    if settings.cost is not None:
        check_cost(settings.cost)
    if delta is not None and not 0.0 <= delta < float("inf"):
        raise UserError(
            "Parameter `no_task_worse_than` should be a number of at least 0. Found "
            f"`no_task_worse_than = {delta}`."
        )
    given = {"no_task_worse_than": delta, "cost": settings.cost}
    for name, value in given.items():
        if value is not None and settings.sampler not in WITH_OBJECTIVES:
            raise UserError(
                f"Parameter `sampler` should be one of {', '.join(WITH_OBJECTIVES)} with "
                f"`{name} = {value}`. Found `sampler = {settings.sampler}`, which knows the score "
                "alone."
            )
    if delta is None:
        return
    independent = independent_trials(settings.n_trials, settings.independent_share)
    if not 0 < independent < settings.n_trials:
        raise UserError(
            "Parameter `independent_share` should leave trials for both arms with "
            "`no_task_worse_than`, which compares them. Found `independent_share = "
            f"{settings.independent_share:g}` with `n_trials = {settings.n_trials}`, which gives "
            f"{independent} to independent networks."
        )


def check_bound(settings: SearchSettings, space: Space, suite: TaskSuite | EpisodicSuite) -> None:
    """Refuse a bound where nothing shares, or no task can be judged.

    Raises:
        UserError: one sentence that says so.
    """
    if settings.no_task_worse_than is None or isinstance(suite, EpisodicSuite):
        return
    if len(space.arms) < 2:
        raise UserError(
            "Parameter `no_task_worse_than` compares sharing with independent networks, but "
            f"{space.where} has independent networks only. Add a choice to `sharing.kind`."
        )
    bound_tasks(suite)


def front_rows(handle: StudyHandle, cost: str | None) -> list[dict[str, Any]] | None:
    """The Pareto front, cheapest first; None where no cost is minimised.

    Keys: `number`, `arm`, `score` (one run, on validation), `cost`, `network` (in words), `config`.
    """
    if cost is None:
        return None
    rows = []
    for trial in pareto_front(handle.trials()):
        config = trial.user_attrs["config"]
        rows.append(
            {
                "number": trial.number,
                "arm": trial.user_attrs["arm"],
                "score": trial.values[0],
                "cost": trial.values[1],
                "network": describe_network(TrialConfig.from_flat(config)),
                "config": config,
            }
        )
    return rows
