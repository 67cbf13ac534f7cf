"""Which way of learning new tasks is best on held-out ones, by how much, and how sure is that?

All methods are judged on the same test episodes. Errors are summed over episodes before they are
compared with those of the constant (see `training.scoring`). Intervals resample held-out tasks as
wholes, or episodes where each mixes classes of all held-out tasks, and then seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from autometa.errors import AutometaError, DataError
from autometa.intervals import Bootstrap, Interval, Statistic, bootstrap_groups
from autometa.metrics import Evaluation, TaskSpec

#: the method that the others are compared with: the best of what was searched over many tasks
MAIN = "sharing"


@dataclass(frozen=True, eq=False)
class Method:
    """One way to predict the query rows.

    Attributes:
        words: how the verdict calls it.
        found: statistics of every episode under the name of its task, error [seed, episode]; what
            has no seed has one. The name is empty where an episode has classes of several tasks.
        kind: `network` where it is trained (and can be kept as a model), else `baseline`.
        trial: whose configuration it has, if it has one.
    """

    words: str
    found: Evaluation
    kind: Literal["network", "baseline"] = "network"
    trial: int | None = None


@dataclass(frozen=True)
class MethodResult:
    """One row of the result; numbers are means over the seeds.

    Attributes:
        score: 1 − ΣE/ΣE0, at least −1; `score_ci` is its 95% interval.
        value: accuracy, AUC or RMSE (in the target's units, if all tasks have one).
        difference: score of `MAIN` − this score; `difference_ci` its 95% interval.
        diverged: episodes for which some seed predicts what is not finite; such an episode counts
            as the constant does.
    """

    name: str
    words: str
    kind: str
    trial: int | None
    seeds: int
    score: float | None
    score_ci: list[float] | None
    value: float | None
    value_ci: list[float] | None
    difference: float | None
    difference_ci: list[float] | None
    seed_scores: list[float]
    diverged: int


def compare_episodes(
    methods: Mapping[str, Method],
    *,
    suite: str,
    shape: str,
    notes: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare methods on the same episodes; plain JSON data.

    Args:
        methods: name → method; networks have equal numbers of paired seeds.
        suite, shape: how the verdict calls the data and the episodes ("5-way 1-shot").
        notes: what else a reader has to know; put behind the verdict.

    Raises:
        DataError: methods judged on different episodes, or nothing to be judged on them.
        AutometaError: a method's predictions are finite for no episode.
    """
    names = list(methods)
    _check(methods)
    first = methods[names[0]].found
    tasks = [spec.name for spec in first.specs]
    mixed = "" in tasks
    units = tasks if not mixed else [str(number) for number in range(len(tasks))]
    groups = list(dict.fromkeys(units))
    member = np.array([[unit == group for group in groups] for unit in units], dtype=np.float64)
    seeds = max(len(method.found.error) for method in methods.values())
    errors = np.stack(
        [np.broadcast_to(_settled(m.found), (seeds, len(units))) for m in methods.values()]
    )
    specs = tuple(replace(first.specs[units.index(group)], name=group) for group in groups)
    by_group = Evaluation(specs, errors @ member, first.constant_error @ member, first.n @ member)
    boot = bootstrap_groups(
        _spec_of_all(specs), by_group.error, by_group.constant_error, by_group.n,
        resamples=resamples, seed=seed,
    )  # fmt: skip
    main = names.index(MAIN) if MAIN in names else None
    rows = [
        _row(boot, names[k], methods[names[k]], k, main, len(groups)) for k in range(len(names))
    ]
    decided = _decide(rows, boot, len(groups))
    spread = "" if mixed else f" of {len(groups)} held-out tasks"
    where = f"{suite} ({shape}; {len(units)} episodes{spread})"
    return {
        "suite": suite,
        "metric": specs[0].metric,
        "episodes": len(units),
        "held_out_tasks": None if mixed else len(groups),
        "mixed": mixed,
        "constant_score": 0.0,
        **decided,
        "verdict": " ".join(
            [_sentence(where, rows, decided), *notes, *_diverged(rows, len(units))]
        ),
        "methods": [asdict(row) for row in rows],
        "tasks": [] if mixed else _tasks(names, by_group, member.sum(0)),
        "resamples": resamples,
    }


def by_score(score: float | None) -> float:
    """A sort key that puts the highest score first, and none last."""
    return float("inf") if score is None else -score


def _spec_of_all(specs: Sequence[TaskSpec]) -> TaskSpec:
    """Stands for all tasks; where these have units of their own errors stay standardised."""
    std = specs[0].std if len({spec.std for spec in specs}) == 1 else 1.0
    return replace(specs[0], name="episodes", std=std)


# --- statistics -----------------------------------------------------------------------------------


def _scores(k: int, minus: int | None = None) -> Statistic:
    def statistic(evaluation: Evaluation, seeds: np.ndarray) -> np.ndarray:
        value = evaluation.value()  # [arm, seed, resample]
        of = value[k] if minus is None else value[k] - value[minus]
        return (of * seeds.T).sum(0)

    return statistic


def _values(k: int) -> Statistic:
    def statistic(evaluation: Evaluation, seeds: np.ndarray) -> np.ndarray:
        return (evaluation.task_values()[k, :, :, 0] * seeds.T).sum(0)

    return statistic


def _row(
    boot: Bootstrap, name: str, method: Method, k: int, main: int | None, n_groups: int
) -> MethodResult:
    score, value = (boot.intervals(s, n_groups)[0] for s in (_scores(k), _values(k)))
    own = len(method.found.error)
    gap = None
    if main is not None and k != main:
        gap = boot.intervals(_scores(main, k), n_groups)[0]
    return MethodResult(
        name=name,
        words=method.words,
        kind=method.kind,
        trial=method.trial,
        seeds=own,
        score=_number(score.estimate),
        score_ci=_pair(score),
        value=_number(value.estimate),
        value_ci=_pair(value),
        difference=None if gap is None else _number(gap.estimate),
        difference_ci=None if gap is None else _pair(gap),
        seed_scores=boot.observed.value()[k, :own, 0].tolist(),
        diverged=int((~np.isfinite(method.found.error)).any(0).sum()),
    )


def _decide(rows: Sequence[MethodResult], boot: Bootstrap, n_groups: int) -> dict[str, Any]:
    """Who wins: the method of the highest score, if it is told apart from the other side.

    The best of what was searched is held against the best of all others, chosen by their test
    scores: if that choice is lucky it is in favour of the baselines.
    """
    ranked = sorted(range(len(rows)), key=lambda k: by_score(rows[k].score))
    best, networks = ranked[0], [k for k in ranked if rows[k].kind == "network"]
    others = [k for k in ranked if rows[k].name != MAIN]
    main = next((k for k in ranked if rows[k].name == MAIN), None)
    first = best if main is None else main
    rest = [k for k in others if k != first]
    found: dict[str, Any] = {
        "winner": rows[best].name,
        "recommended": rows[networks[0]].name,
        "score": rows[first].score,
        "outcome": rows[best].name if not rest else "undecided",
        "against": rows[rest[0]].name if rest else None,
        "difference": None,
        "difference_ci": None,
    }
    if rest:
        gap = boot.intervals(_scores(first, rest[0]), n_groups)[0]
        found["difference"], found["difference_ci"] = _number(gap.estimate), _pair(gap)
        if gap.low > 0:
            found["outcome"] = rows[first].name
        elif gap.high < 0:
            found["outcome"] = rows[rest[0]].name
    alone = next((row.score for row in rows if row.name == "independent"), None)
    return {**found, "independent_score": alone}


def _tasks(
    names: Sequence[str], found: Evaluation, episodes: Float[np.ndarray, "tasks"]
) -> list[dict[str, Any]]:
    """Each held-out task: its rows, and what every method reaches on it."""
    scores, values = found.task_scores().mean(1), found.task_values().mean(1)
    return [
        {
            "name": spec.name,
            "metric": spec.metric,
            "episodes": int(episodes[t]),
            "rows": int(found.n[t]),
            "scores": {m: _number(scores[k, t]) for k, m in enumerate(names)},
            "values": {m: _number(values[k, t]) for k, m in enumerate(names)},
        }
        for t, spec in enumerate(found.specs)
    ]


# --- words ----------------------------------------------------------------------------------------


def _sentence(where: str, rows: Sequence[MethodResult], decided: Mapping[str, Any]) -> str:
    of = {row.name: row for row in rows}
    if decided["against"] is None:
        (row,) = rows
        return f"No comparison on {where}: {_told(row)}, and there is nothing beside it."
    first = of.get(MAIN) or of[decided["winner"]]
    other = of[decided["against"]]
    low, high = decided["difference_ci"] or (float("nan"),) * 2
    margin = (
        f"difference {_signed(decided['difference'])}, 95% interval {_signed(low)} to "
        f"{_signed(high)}"
    )
    both = f"{_told(first)} against {_score(other)} for {other.words}"
    rest = _others(rows, {first.name, other.name})
    if MAIN not in of:
        start = f"Nothing that is learned from many tasks completed on {where}"
        return f"{start}: {both} ({margin}).{rest}"
    if decided["outcome"] == MAIN:
        return (
            f"Learning from many tasks wins on {where}: {both}, the best of the others "
            f"({margin}).{rest}"
        )
    if decided["outcome"] == "undecided":
        recommended = of[decided["recommended"]]
        return (
            f"Learning from many tasks neither wins nor loses measurably on {where}: {both}, a "
            f"difference within noise ({margin}); the network of the higher mean score is kept: "
            f"{recommended.words}.{rest}"
        )
    kept = ""
    if other.kind == "baseline":
        network = of[decided["recommended"]].words
        kept = f" The best network is kept as the model all the same: {network}."
    return f"{_loser(other.name)} loses on {where}: {both}, the best of all ({margin}).{kept}{rest}"


def _others(rows: Sequence[MethodResult], said: set[str]) -> str:
    left = sorted((r for r in rows if r.name not in said), key=lambda r: by_score(r.score))
    return f" Others: {', '.join(f'{r.words} {_score(r)}' for r in left)}." if left else ""


def _diverged(rows: Sequence[MethodResult], n: int) -> list[str]:
    return [
        f"On {row.diverged} of {n} episodes {row.words} diverged with some seed; there it counts "
        "as the constant."
        for row in rows
        if row.diverged
    ]


def _loser(winner: str) -> str:
    """What has lost against a method: some of them learn from many tasks too."""
    if winner.startswith("pooled_"):
        return "Adapting to new tasks"
    return "Learning to learn" if winner == "joint" else "Learning from many tasks"


def _told(row: MethodResult) -> str:
    return f"{row.words} scores {_score(row)}"


def _score(row: MethodResult) -> str:
    return "nothing" if row.score is None else f"{row.score:.3f}"


def _signed(x: float) -> str:
    return f"{round(x, 3) + 0.0:+.3f}"


def _number(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None


def _pair(interval: Interval) -> list[float] | None:
    ends = [float(interval.low), float(interval.high)]
    return ends if np.isfinite(ends).all() else None


def _settled(found: Evaluation) -> Float[np.ndarray, "seeds episodes"]:
    """Errors, those of the constant where predictions are not finite."""
    return np.where(np.isfinite(found.error), found.error, found.constant_error)


def _check(methods: Mapping[str, Method]) -> None:
    first = next(iter(methods.values())).found
    for name, method in methods.items():
        found = method.found
        same = [spec.name for spec in found.specs] == [spec.name for spec in first.specs]
        if not same or not np.array_equal(found.constant_error, first.constant_error):
            raise DataError(f"Method `{name}` should be judged on the same episodes as the others.")
        if not np.isfinite(found.error).any():
            raise AutometaError(
                f"The predictions of `{name}` are not finite on any test episode; leave it out."
            )
    if not first.constant_error.sum() > 0:
        raise DataError("Nothing can be judged on the test episodes: the constant makes no error.")
