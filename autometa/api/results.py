"""What `search` and `train` return."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from autometa.api.priors import prior_account
from autometa.api.starting import told
from autometa.diagnosis import ATTRIBUTE, stored
from autometa.finals import Judgement
from autometa.searching.loop import RUNGS
from autometa.study import StudyHandle, is_advised, is_eligible, score_of, trial_rows
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.tracking import Tracker


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        study, suite: names.
        n_trials: trials in the study, without those that the diagnosis advised.
        states: how many of these ended COMPLETE, PRUNED and FAIL.
        best: number, value (on validation), params and best_step (the length that it counts with)
            of the best completed trial; None if none.
        diagnosis: why sharing hurts or helps, as plain JSON: `cause`, `findings`, `advice`, what
            became of it (`tried`), `measurements`; None without one.
        test: the final comparison on the test rows: every one of `methods`, `best`, `recommended`
            and `delivered`; sharing against independent networks (`outcome`, `score`,
            `independent_score`, `difference`, `delta_m`, each with its interval `…_ci`, `tasks`);
            `budget`, `opened_before`, `verdict`, …; `constraint` where a bound on the tasks was
            set. None if the search was interrupted.
        model: folder of the model that is delivered; None if interrupted.
        seconds: wall time of this call.
        mlflow: `tracking_uri` and `run_id`; None where tracking is off.
        trials: one row a trial.
        cost: what was minimised beside the score, if anything.
        front: the Pareto front of score and cost, cheapest first, one dictionary a trial (`number`,
            `arm`, `score`, `cost`, `network` in words, `config`); None without a cost.
        prior: what earlier searches did, as plain JSON (`priors.account`): `asked`, `reason` where
            there are no sources, `sources` with their weights and where each was dropped,
            `proposed` (trials by how they were proposed), `best`, `p`, and `verdict`: `helped`,
            `neutral`, `dropped` or None.
        init: which earlier model runs could start from (`model`, `suite`, `distance`, `sha256`,
            `blocks`, `parameters`), how many `trials` did, and how the `winners` of the arms
            started (`start`, `taken`); None without `init_from`.
        rungs: where trials are stopped early, and whether the order there is that of the end:
            `arm`, `step`, `bracket` (hyperband), rank `correlation` over the trials that were
            trained to the end, once there are five, and whether it is `used`.
        notes: how the table was read, and what else was done to it (`TaskSuite.notes`).
        interrupted: whether the user stopped it; `resume=True` goes on.
    """

    study: str
    suite: str
    n_trials: int
    states: dict[str, int]
    best: dict[str, Any] | None
    test: dict[str, Any] | None
    model: Path | None
    seconds: float
    mlflow: dict[str, str | None] | None
    trials: pd.DataFrame = field(repr=False)
    cost: str | None = None
    front: list[dict[str, Any]] | None = None
    diagnosis: dict[str, Any] | None = field(default=None, repr=False)
    prior: dict[str, Any] | None = field(default=None, repr=False)
    init: dict[str, Any] | None = field(default=None, repr=False)
    rungs: list[dict[str, Any]] = field(default_factory=list, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    interrupted: bool = False

    @property
    def verdict(self) -> str | None:
        """The finding in one sentence."""
        return None if self.test is None else self.test["verdict"]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, without the table of trials."""
        return {
            "study": self.study,
            "suite": self.suite,
            "n_trials": self.n_trials,
            "states": self.states,
            "best": self.best,
            "test": self.test,
            "diagnosis": self.diagnosis,
            "methods": None if self.test is None else _briefly(self.test["methods"]),
            "delivered": None if self.test is None else self.test["delivered"],
            "model": None if self.model is None else str(self.model),
            "seconds": round(self.seconds, 2),
            "mlflow": self.mlflow,
            "cost": self.cost,
            "front": self.front,
            "prior": self.prior,
            "init": self.init,
            "rungs": self.rungs,
            "notes": list(self.notes),
            "interrupted": self.interrupted,
        }


def _briefly(methods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each method with its test score: what is compared first."""
    return [
        {
            "name": row["name"],
            "score": row["score"],
            "interval": row["score_ci"],
            "seconds": row["seconds"],
            "tuned": row["tuned"],
        }
        for row in methods
    ]


@dataclass(frozen=True)
class TrainResult:
    """One trained configuration: its model, its score on the validation rows, and `notes` on how
    the table was read."""

    model: Path
    value: float
    tasks: dict[str, float | None]
    seconds: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "model": str(self.model)}


def search_result(
    handle: StudyHandle,
    suite: TaskSuite | EpisodicSuite,
    started: float,
    *,
    mlflow: dict[str, str | None] | None,
    test: dict[str, Any] | None,
    model: Path | None,
    cost: str | None = None,
    front: list[dict[str, Any]] | None = None,
) -> SearchResult:
    """The result of a search from its study; without a test it was interrupted.

    Args:
        mlflow: where its runs are.
        started: `time.monotonic()` when the call began.
    """
    trials = handle.trials()
    searched = [t for t in trials if not is_advised(t)]
    states = {s: sum(t.state.name == s for t in searched) for s in ("COMPLETE", "PRUNED", "FAIL")}
    rows = trial_rows(handle.study)
    best = _best(trials)
    return SearchResult(
        study=handle.name,
        suite=suite.name,
        n_trials=len(searched),
        states=states,
        best=None
        if best is None
        else {key: rows[best.number][key] for key in ("number", "value", "params", "best_step")},
        test=test,
        model=model,
        seconds=time.monotonic() - started,
        mlflow=mlflow,
        cost=cost,
        front=front,
        trials=pd.DataFrame(rows),
        diagnosis=stored_diagnosis(handle),
        prior=prior_account(handle),
        init=told(handle, None if test is None else test.get("winners")),
        rungs=handle.study.user_attrs.get(RUNGS, []),
        notes=suite.notes,
        interrupted=test is None,
    )


def stored_diagnosis(handle: StudyHandle) -> dict[str, Any] | None:
    """The study's diagnosis, if it is of all its trials."""
    return stored(handle.study.user_attrs, handle.trials())


def store_tried(handle: StudyHandle, diagnosis: dict[str, Any], judgement: Judgement) -> None:
    """Note in the study's diagnosis what became of the configurations that it advised."""
    configs = {trial.number: trial.user_attrs.get("config") for trial in handle.trials()}
    means = {finalist.number: finalist.value for finalist in judgement.finalists}
    winners = {winner.number for winner in judgement.winners.values()}
    tried = []
    for number, advice in enumerate(diagnosis["advice"]):
        trials = [
            n for n, c in configs.items() if advice["config"] is not None and c == advice["config"]
        ]
        if trials:
            trial = max(trials, key=lambda n: means.get(n, float("-inf")))
            tried.append(
                {
                    "advice": number,
                    "trial": trial,
                    "value": means.get(trial),
                    "won": trial in winners,
                }
            )
    handle.set_attr(ATTRIBUTE, {**diagnosis, "tried": tried})


def _best(trials: list[FrozenTrial]) -> FrozenTrial | None:
    done = [t for t in trials if is_eligible(t)]
    return max(done, key=lambda t: (score_of(t) or 0.0, -t.number), default=None)


def tracked(tracker: Tracker) -> dict[str, str | None] | None:
    """Where the search's run is; None if tracking is off."""
    if tracker.tracking_uri is None:
        return None
    return {"tracking_uri": tracker.display_uri, "run_id": tracker.run_id}
