"""Which way of learning new tasks is best on held-out ones, by how much, and how sure is that?

All methods are judged on the same test episodes. Errors are summed over episodes before they are
compared with those of the constant: the mean of the meta-training rows, chance where an episode
has classes of its own, and pairs within an episode for AUC. Intervals resample held-out tasks as
wholes, or episodes where each mixes classes of all held-out tasks, and then seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from autometa.errors import AutometaError, DataError
from autometa.intervals import Bootstrap, Interval, Statistic, bootstrap_groups
from autometa.metrics import Evaluation, TaskSpec, constant_errors, evaluate_task

#: the method that the others are compared with: the best of what was searched over many tasks
MAIN = "sharing"


@dataclass(frozen=True, eq=False)
class Method:
    """One way to predict the query rows.

    Attributes:
        words: how the verdict calls it.
        predictions: [seed, episode, row, output]; what has no seed has one.
        kind: `network` where it is trained (and can be kept as a model), else `baseline`.
        trial: whose configuration it has, if it has one.
    """

    words: str
    predictions: Float[np.ndarray, "seeds episodes rows outputs"]
    kind: Literal["network", "baseline"] = "network"
    trial: int | None = None


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the methods are judged on.

    Attributes:
        y, mask: of the query rows.
        tasks: name of each episode's task.
        mixed: whether an episode has classes of all held-out tasks, so that it is nobody's alone.
        spec: metric and kind; `n_classes` is the number of ways, `std` for errors in the target's
            units.
        chance: whether the constant is chance, as classes are numbered anew in every episode.
    """

    y: Float[np.ndarray, "episodes rows"]
    mask: Bool[np.ndarray, "episodes rows"]
    tasks: tuple[str, ...]
    mixed: bool
    spec: TaskSpec

    @property
    def chance(self) -> bool:
        return self.spec.kind == "multiclass"

    @property
    def groups(self) -> tuple[str, ...]:
        """What is resampled as a whole: the task of each episode, or the episode."""
        return tuple(map(str, range(len(self.tasks)))) if self.mixed else self.tasks


@dataclass(frozen=True)
class MethodResult:
    """One row of the result; numbers are means over the seeds.

    Attributes:
        score: 1 − ΣE/ΣE0, at least −1; `score_ci` is its 95% interval.
        value: accuracy, AUC or RMSE in the target's units.
        difference: score of `MAIN` − this score; `difference_ci` its 95% interval.
    """

    name: str
    words: str
    kind: str
    trial: int | None
    seeds: int
    score: float | None
    score_ci: tuple[float, float] | None
    value: float | None
    value_ci: tuple[float, float] | None
    difference: float | None
    difference_ci: tuple[float, float] | None
    seed_scores: tuple[float, ...]


def compare_episodes(
    methods: Mapping[str, Method],
    episodes: HeldOut,
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
        DataError: predictions of another shape than the episodes.
        AutometaError: a method's predictions are not finite.
    """
    names = list(methods)
    seeds = max(len(m.predictions) for m in methods.values())
    errors = [episode_errors(_checked(n, m, episodes), episodes) for n, m in methods.items()]
    constant, n_rows = episode_sizes(episodes)
    if not constant.sum() > 0:
        raise DataError(
            f"Nothing can be judged on the test episodes of {suite}: no constant errs on them."
        )
    groups = list(dict.fromkeys(episodes.groups))
    member = np.array([[g == name for name in groups] for g in episodes.groups], dtype=float)
    full = np.stack([np.broadcast_to(e, (seeds, e.shape[1])) for e in errors])
    boot = bootstrap_groups(
        episodes.spec, full @ member, constant @ member, n_rows @ member,
        resamples=resamples, seed=seed,
    )  # fmt: skip
    main = names.index(MAIN) if MAIN in names else None
    rows = [
        _row(boot, names[k], methods[names[k]], k, main, len(groups)) for k in range(len(names))
    ]
    decided = _decide(rows, boot, len(groups))
    spread = "" if episodes.mixed else f" of {len(groups)} held-out tasks"
    where = f"{suite} ({shape}; {len(episodes.tasks)} episodes{spread})"
    return {
        "suite": suite,
        "metric": episodes.spec.metric,
        "episodes": len(episodes.tasks),
        "held_out_tasks": None if episodes.mixed else len(groups),
        "mixed": episodes.mixed,
        "constant_score": 0.0,
        **decided,
        "verdict": " ".join([_sentence(where, rows, decided), *notes]),
        "methods": [asdict(row) for row in rows],
        "tasks": [] if episodes.mixed else _tasks(names, full, member, groups, episodes),
        "resamples": resamples,
    }


def episode_errors(
    pred: Float[np.ndarray, "seeds episodes rows outputs"], episodes: HeldOut
) -> Float[np.ndarray, "seeds episodes"]:
    """E of each episode (see `metrics`)."""
    found = []
    for e in range(len(episodes.tasks)):
        rows = episodes.mask[e]
        truth = episodes.y[e, rows].astype(np.float64)
        found.append(evaluate_task(episodes.spec, truth, pred[:, e, rows])[0])
    return np.stack(found, axis=1)


def episode_sizes(
    episodes: HeldOut,
) -> tuple[Float[np.ndarray, "episodes"], Float[np.ndarray, "episodes"]]:
    """E0 of each episode, the error of the constant, and its rows."""
    n = episodes.mask.sum(1).astype(np.float64)
    if episodes.chance:
        return n * (1.0 - 1.0 / episodes.spec.n_classes), n
    truths = [y[rows].astype(np.float64) for y, rows in zip(episodes.y, episodes.mask, strict=True)]
    if episodes.spec.metric == "auc":
        return np.array([float((t == 1).sum() * (t != 1).sum()) for t in truths]), n
    return np.array([float(constant_errors(episodes.spec, t).sum()) for t in truths]), n


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
    own = len(method.predictions)
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
        seed_scores=tuple(float(v) for v in boot.observed.value()[k, :own, 0]),
    )


def _decide(rows: Sequence[MethodResult], boot: Bootstrap, n_groups: int) -> dict[str, Any]:
    """Who wins: the method of the highest score, if it is told apart from the other side.

    The best of what was searched is held against the best of all others, chosen by their test
    scores: if that choice is lucky it is in favour of the baselines.
    """
    ranked = sorted(range(len(rows)), key=lambda k: -(rows[k].score or -1.0))
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
    names: Sequence[str],
    errors: np.ndarray,
    member: np.ndarray,
    groups: Sequence[str],
    episodes: HeldOut,
) -> list[dict[str, Any]]:
    """Each held-out task: its rows, and what every method reaches on it."""
    constant, n = episode_sizes(episodes)
    specs = (episodes.spec,) * len(groups)
    found = Evaluation(specs, errors @ member, constant @ member, n @ member)
    scores, values = found.task_scores().mean(1), found.task_values().mean(1)
    return [
        {
            "name": name,
            "metric": episodes.spec.metric,
            "episodes": int(member[:, g].sum()),
            "rows": int((n @ member)[g]),
            "scores": {m: _number(scores[k, g]) for k, m in enumerate(names)},
            "values": {m: _number(values[k, g]) for k, m in enumerate(names)},
        }
        for g, name in enumerate(groups)
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
    return (
        f"Learning from many tasks loses on {where}: {other.words} is better. {_told(first)} "
        f"against {_score(other)} ({margin}).{kept}{rest}"
    )


def _others(rows: Sequence[MethodResult], said: set[str]) -> str:
    left = sorted((r for r in rows if r.name not in said), key=lambda r: -(r.score or -1.0))
    return f" Others: {', '.join(f'{r.words} {_score(r)}' for r in left)}." if left else ""


def _told(row: MethodResult) -> str:
    return f"{row.words} scores {_score(row)}"


def _score(row: MethodResult) -> str:
    return "nothing" if row.score is None else f"{row.score:.3f}"


def _signed(x: float) -> str:
    return f"{round(x, 3) + 0.0:+.3f}"


def _number(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None


def _pair(interval: Interval) -> tuple[float, float] | None:
    ends = (float(interval.low), float(interval.high))
    return ends if np.isfinite(ends).all() else None


def _checked(name: str, method: Method, episodes: HeldOut) -> np.ndarray:
    pred = method.predictions
    outputs = episodes.spec.n_classes if episodes.chance else 1
    if pred.ndim != 4 or pred.shape[1:3] != episodes.y.shape or pred.shape[3] < outputs:
        raise DataError(
            f"Predictions of `{name}` should have shape (seeds, {len(episodes.y)}, "
            f"{episodes.y.shape[1]}, {outputs} or more). Found {pred.shape}."
        )
    bad = np.isnan(pred).any(-1) | (~np.isfinite(pred[..., 0]) if not episodes.chance else False)
    if (bad & episodes.mask).any():
        raise AutometaError(
            f"The predictions of `{name}` are not finite on the test episodes; leave it out."
        )
    return pred
