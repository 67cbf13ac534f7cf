"""The bound `no_task_worse_than`: no task far below what independent networks reach on it.

Independent networks are tuned first. The best of them, run again with new seeds, is frozen as the
reference: one score a task, on the validation rows. A sharing trial then breaks the bound DELTA by

    max over tasks of  reference_t − score_t − DELTA,

above 0 if any task is worse than it may be. At a rung before the last the reference is what the
same independent networks had reached there: a trial that breaks the bound against it is promoted
after those that keep to it, because the highest scores may all be bought with one task.

Optuna is told this one number, not one a task. TPE
adds up what the constraints are exceeded by, so that with one a task many tasks that are a little
too low would count more than one that is far too low, which is what the bound is about. A Gaussian
process would fit one model a constraint and multiply their chances as if tasks were independent:
with 139 tasks nothing would ever look feasible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from autometa.errors import DataError
from autometa.metrics import not_judged
from autometa.searching.finalists import Rerun
from autometa.searching.settings import RERUN_SEEDS
from autometa.study import is_eligible
from autometa.tasks import TaskSuite
from autometa.training.scoring import task_specs

Within = Literal["yes", "no", "unclear"]

#: what a task without a score counts as below its reference: its predictions are infinite
_HOPELESS = 1e6


@dataclass(frozen=True)
class Closest:
    """The task that is furthest below its reference, and by how much (negative: above it)."""

    task: str
    score: float | None
    reference: float
    below: float


@dataclass(frozen=True)
class Reference:
    """What independent networks reach: the frozen mean of several runs on validation.

    Attributes:
        trial: the independent trial that was chosen.
        rungs: step (as text) → the same scores there, which trials that are not trained to the end
            yet are held to.
        score: its score on all tasks, mean over `seeds` runs.
        tasks: task → its score, of the tasks that are bound.
        left_out: task → why it is not: too few validation rows to be judged.
    """

    trial: int
    score: float
    seeds: int
    tasks: dict[str, float]
    left_out: dict[str, str]
    rungs: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def with_rungs(self, early: Mapping[int, Mapping[str, float | None]]) -> Reference:
        """With what the same runs had scored on each task at earlier steps; rungs at which a bound
        task has no score are left out."""
        rungs = {}
        for step, tasks in early.items():
            scores = {name: tasks.get(name) for name in self.tasks}
            known = {name: score for name, score in scores.items() if score is not None}
            if len(known) == len(self.tasks):
                rungs[str(step)] = known
        return replace(self, rungs=rungs)

    def closest(self, scores: Mapping[str, float | None], step: int | None = None) -> Closest:
        """The worst of a network's tasks, of its scores on the validation rows.

        Args:
            step: where the network stands; at the end if None, or if it is no rung of the
                reference.
        """
        found = []
        for name, reference in self.rungs.get(str(step), self.tasks).items():
            score = scores.get(name)
            below = _HOPELESS if score is None else reference - score
            found.append(Closest(name, score, reference, below))
        return max(found, key=lambda one: one.below)


@dataclass(frozen=True)
class Kept:
    """Whether a sharing network kept to the bound, as a trial and in the mean of its reruns."""

    feasible: bool
    closest: Closest


def bound_tasks(suite: TaskSuite) -> tuple[list[str], dict[str, str]]:
    """The tasks that can be judged on the validation rows, and why the others cannot.

    Raises:
        DataError: none can.
    """
    rows = suite.rows("val")
    specs = task_specs(suite.without_test())
    task = None if rows.task is None else rows.task.numpy()
    reasons = not_judged(rows.y.numpy(), specs, mask=rows.mask.numpy(), task=task)
    named = list(zip((spec.name for spec in specs), reasons, strict=True))
    judged = [name for name, reason in named if reason is None]
    left_out = {name: reason for name, reason in named if reason is not None}
    if not judged:
        name, reason = next(iter(left_out.items()))
        raise DataError(
            "Parameter `no_task_worse_than` needs a task that can be judged on the validation "
            f"rows, and there is none: `{name}`, for example, has {reason}."
        )
    return judged, left_out


def choose_reference(
    suite: TaskSuite, finalists: Sequence[FrozenTrial], reruns: Sequence[Rerun | None]
) -> Reference | None:
    """The reference from the best rerun; None if none could be run again with finite scores."""
    done = [(t, run) for t, run in zip(finalists, reruns, strict=True) if run is not None]
    if not done:
        return None
    trial, best = max(done, key=lambda pair: pair[1].value)
    names, left_out = bound_tasks(suite)
    tasks: dict[str, float] = {}
    for name in names:
        score = best.tasks[name]
        if score is None:
            left_out[name] = "independent networks have no finite score on it"
        else:
            tasks[name] = score
    if not tasks:
        return None
    return Reference(trial.number, best.value, RERUN_SEEDS, tasks, left_out)


def judge_bound(
    test: dict[str, Any],
    trials: Sequence[FrozenTrial],
    reference: Reference,
    delta: float,
    winner: int,
    kept: Kept,
) -> dict[str, Any]:
    """The final comparison with what it says of the bound.

    Args:
        test: JSON of the comparison on the test rows.
        winner: the sharing trial that was compared.
        kept: of that trial, on validation.
    """
    done = [
        t for t in trials if t.state == TrialState.COMPLETE and t.user_attrs.get("arm") == "sharing"
    ]
    found: dict[str, Any] = {
        "no_task_worse_than": delta,
        "reference": reference.to_json(),
        "trials": len(done),
        "feasible": sum(map(is_eligible, done)),
        "winner": {"trial": winner, **asdict(kept)},
        "tasks": [
            _on_test(task, delta) for task in test["tasks"] if task["name"] in reference.tasks
        ],
    }
    out = {**test, "constraint": found}
    rows = {row["name"]: row for row in test["methods"]}
    if kept.feasible or "independent" not in rows:
        return out
    own = rows["independent"]
    if test["delivered"]["method"] == "sharing":
        kept_to = {"method": own["name"], "words": own["words"], "score": own["score"]}
        out |= {"delivered": kept_to}
    broken = (
        f"No sharing network kept every task within {delta:g} of independent networks on the "
        f"validation rows ({_why(found)})"
    )
    if test["recommended"] != "sharing":
        return {**out, "verdict": f"{broken}. {test['verdict']}"}
    first = test["verdict"][0].lower() + test["verdict"][1:]
    return {
        **out,
        "recommended": "independent",
        "recommended_why": "bound",
        "verdict": (
            f"{broken}, so independent networks are recommended; on the test rows, the bound "
            f"aside, {first}"
        ),
    }


def _why(found: Mapping[str, Any]) -> str:
    winner = found["winner"]
    closest = winner["closest"]
    where = f"trial {winner['trial']}, is {closest['below']:.3f} below them on {closest['task']}"
    if found["feasible"]:
        return (
            f"{found['feasible']} of {found['trials']} trials did in one run, but none of the best "
            f"of these in the mean of new runs; the nearest, {where}"
        )
    if closest["below"] <= found["no_task_worse_than"]:
        where += " in the mean of new runs, within the bound, but was beyond it in its own"
    return f"none of {found['trials']} completed trials did; the nearest, {where}"


def _on_test(task: Mapping[str, Any], delta: float) -> dict[str, Any]:
    """One task on the test rows: within the bound, below it, or not to be told from noise."""
    within: Within = "unclear"
    interval = task["difference_ci"]
    if task["judged"] and interval is not None:
        if interval[0] >= -delta:
            within = "yes"
        elif interval[1] < -delta:
            within = "no"
    return {
        "name": task["name"],
        "difference": task["difference"],
        "difference_ci": interval,
        "within": within,
    }
