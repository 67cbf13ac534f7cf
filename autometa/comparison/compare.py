"""The final comparison: which method is best, does sharing help, and which model to use.

`compare_rows` and `compare_episodes` take any number of methods, judged on the same test rows or
test episodes, and answer with plain JSON data of one shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from autometa.comparison.effects import (
    TaskComparison,
    delta_m_interval,
    learned,
    number,
    pair,
    task_effects,
)
from autometa.comparison.methods import ARMS, Method, check_names
from autometa.comparison.resampling import (
    Quantity,
    Resampled,
    found_of,
    resample_episodes,
    resample_rows,
)
from autometa.comparison.words import Words, sentence
from autometa.errors import AutometaError, DataError
from autometa.intervals import Interval
from autometa.metrics import Evaluation, Mask, TaskOfRow, TaskSpec, Truth


def compare_rows(
    methods: Sequence[Method],
    y: Truth,
    specs: Sequence[TaskSpec],
    *,
    mask: Mask = None,
    task: TaskOfRow = None,
    groups: Int[np.ndarray, "rows"] | None = None,
    ensemble: bool = True,
    deliver: str = "auto",
    suite: str = "this suite",
    notes: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare methods on the same test rows; plain JSON data.

    Args:
        methods: networks have equal numbers of paired seeds: seed s of one is paired with seed s
            of the others.
        y, mask, task, specs: as in `metrics.evaluate`.
        groups: the group of each row, where the split kept groups of rows together.
        ensemble: whether the networks of all seeds predict together, or one by one.
        deliver: `auto`: the recommended method is delivered; `network`: the best network.
        suite: how the verdict calls the data.
        notes: what else a reader has to know.
        resamples, seed: of the bootstrap.

    Raises:
        DataError: arrays that do not fit together.
        AutometaError: a network predicts NaN, so nothing can be said about its method.
    """
    check_names(methods)
    found = resample_rows(
        methods, y, specs, mask=mask, task=task, groups=groups, ensemble=ensemble,
        resamples=resamples, seed=seed,
    )  # fmt: skip
    names = [method.name for method in methods]
    tasks: tuple[TaskComparison, ...] = ()
    if set(ARMS) <= set(names):
        tasks = task_effects(found, *ARMS, y, mask, task)
    rows = [{**one, **asdict(t)} for one, t in zip(_per_task(found, names), tasks, strict=False)]
    seeds = max(len(entry.seed_scores) for entry in found.entries.values())
    alone = ("one seed: the intervals cover the choice of test rows only",) if seeds == 1 else ()
    facts = {
        "layout": "rows",
        "rows": len(y),
        "groups": None if groups is None else len(np.unique(groups)),
        "ensemble": seeds if ensemble else 1,
    }
    words = Words(suite, suite)
    return _finished(methods, found, facts, words, rows, (*notes, *alone), resamples, deliver)


def compare_episodes(
    methods: Sequence[Method],
    *,
    suite: str,
    shape: str,
    notes: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare methods on the same episodes of held-out tasks; plain JSON data.

    Errors are summed over episodes before they are compared with those of the constant. Intervals
    resample held-out tasks as wholes, or episodes where each mixes classes of all held-out tasks.

    Args:
        methods: networks have equal numbers of paired seeds.
        suite, shape: how the verdict calls the data and the episodes ("5-way 1-shot").
        notes: what else a reader has to know; put behind the verdict.

    Raises:
        DataError: methods judged on different episodes, or nothing to be judged on them.
        AutometaError: a method's predictions are finite for no episode.
    """
    check_names(methods)
    _check_episodes(methods)
    first = found_of(methods[0])
    tasks = [spec.name for spec in first.specs]
    mixed = "" in tasks
    units = tasks if not mixed else [str(place) for place in range(len(tasks))]
    groups = list(dict.fromkeys(units))
    member = np.array([[unit == group for group in groups] for unit in units], dtype=np.float64)
    specs = tuple(replace(first.specs[units.index(group)], name=group) for group in groups)
    found = resample_episodes(methods, _spec_of_all(specs), member, resamples=resamples, seed=seed)
    spread = "" if mixed else f" of {len(groups)} held-out tasks"
    facts = {
        "layout": "episodes",
        "metric": specs[0].metric,
        "episodes": len(units),
        "held_out_tasks": None if mixed else len(groups),
        "mixed": mixed,
        "ensemble": 1,
    }
    words = Words(suite, f"{suite} ({shape}; {len(units)} episodes{spread})")
    diverged = {m.name: int((~np.isfinite(found_of(m).error)).any(0).sum()) for m in methods}
    said = [
        f"On {diverged[m.name]} of {len(units)} episodes {m.words} diverged with some seed; there "
        "it counts as the constant."
        for m in methods
        if diverged[m.name]
    ]
    rows = [] if mixed else _episode_tasks(methods, specs, member)
    # what is fitted to the support rows of an episode is no model that could be kept
    out = _finished(methods, found, facts, words, rows, (), resamples, "network")
    for row in out["methods"]:
        row["diverged"] = diverged[row["name"]]
    return {**out, "verdict": " ".join([out["verdict"], *notes, *said])}


# --- what is decided ------------------------------------------------------------------------------


def _finished(
    methods: Sequence[Method],
    found: Resampled,
    facts: Mapping[str, Any],
    words: Words,
    tasks: list[dict[str, Any]],
    notes: Sequence[str],
    resamples: int,
    deliver: str,
) -> dict[str, Any]:
    scores = found.scores()
    by_name = {method.name: method for method in methods}
    score = {name: float(found.of(name, scores)[0]) for name in by_name}
    ranked = sorted(by_name, key=lambda name: by_score(number(score[name])))
    behind = {name: found.difference(ranked[0], name) for name in ranked[1:]}
    chosen, why = _recommend(ranked, behind, by_name, score)
    delivered = chosen
    networks = [name for name in ranked if by_name[name].kind == "network"]
    if deliver == "network" and by_name[chosen].kind != "network" and networks:
        gaps = {name: found.difference(networks[0], name) for name in networks[1:]}
        delivered, _ = _recommend(networks, gaps, by_name, score)
    arms = _arms(found, by_name)
    opposed = arms.pop("opposed")
    out = {
        "suite": words.suite,
        **facts,
        "methods": [
            _row(method, found, scores, None if method.name == chosen else chosen)
            for method in methods
        ],
        "best": _best(ranked, behind, by_name),
        **arms,
        "recommended": chosen,
        "recommended_why": why,
        "delivered": {
            "method": delivered,
            "words": by_name[delivered].words,
            "score": number(score[delivered]),
        },
        "score": number(score.get("sharing", np.nan)),
        "independent_score": number(score.get("independent", np.nan)),
        "constant_score": 0.0,
        "tasks": tasks,
        "helped": sum(task["effect"] == "helped" for task in tasks),
        "hurt": sum(task["effect"] == "hurt" for task in tasks),
        "notes": [*notes, *opposed],
        "resamples": resamples,
    }
    return plain({**out, "verdict": sentence(out, words)})


def _recommend(
    ranked: Sequence[str],
    behind: Mapping[str, Interval],
    methods: Mapping[str, Method],
    score: Mapping[str, float],
) -> tuple[str, str]:
    """The method to use, and why: `ahead`, `validation`, `only` or `nothing` (to be judged).

    Of the methods that are not measurably below the best the one that validation names: their order
    on the test rows is noise, and to follow it would be to choose by test rows.
    """
    if not np.isfinite(score[ranked[0]]):
        networks = [n for n in ("independent", "sharing") if n in methods]
        return (networks or list(ranked))[0], "nothing"
    level = [ranked[0], *(name for name, gap in behind.items() if not gap.low > 0)]
    if len(level) == 1:
        return level[0], "ahead" if behind else "only"
    values = {n: methods[n].best.value for n in level}
    known = [n for n in level if np.isfinite(values[n])] or level
    first = max(known, key=lambda n: values[n] if np.isfinite(values[n]) else -np.inf)
    return first, "validation"


def _best(
    ranked: Sequence[str], behind: Mapping[str, Interval], methods: Mapping[str, Method]
) -> dict[str, Any]:
    """The method of the highest score and how far the next, and the best network, are behind."""

    def margin(name: str) -> dict[str, Any]:
        gap = behind[name]
        return {"over": name, "margin": number(gap.estimate), "margin_ci": pair(gap)}

    out: dict[str, Any] = {"name": ranked[0], "over": None, "margin": None, "margin_ci": None}
    if len(ranked) > 1:
        out |= margin(ranked[1])
    out["ahead"] = bool(len(ranked) > 1 and all(gap.low > 0 for gap in behind.values()))
    network = next((name for name in ranked if methods[name].kind == "network"), None)
    out["network"] = None if network in (None, ranked[0]) else margin(str(network))
    return out


def _arms(found: Resampled, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Sharing against independent networks; undecided where one of them is missing."""
    out: dict[str, Any] = {
        "outcome": "undecided", "difference": None, "difference_ci": None, "delta_m": None,
        "delta_m_ci": None, "learned": True, "opposed": [],
    }  # fmt: skip
    if not set(ARMS) <= set(methods):
        return out
    gap = found.difference(*ARMS)
    out |= {"difference": number(gap.estimate), "difference_ci": pair(gap)}
    out["learned"] = learned(found, *ARMS)
    by_score = _side(gap) if out["learned"] else "undecided"
    out["outcome"] = by_score
    if len(found.task_units) == 1 and found.observed.specs[0].name == "episodes":
        return out  # Δm is a mean over tasks, which episodes of new tasks do not have in common
    gain = delta_m_interval(found, *ARMS)
    out |= {"delta_m": number(gain.estimate), "delta_m_ci": pair(gain)}
    by_gain = _side(gain)
    if by_score != "undecided" and by_gain not in ("undecided", by_score):
        out["outcome"] = "undecided"
        called = {"sharing": "sharing", "independent": "independent networks"}
        out["opposed"] = [f"the score favours {called[by_score]} but Δm favours {called[by_gain]}"]
    return out


def _side(interval: Interval) -> str:
    if interval.low > 0:
        return "sharing"
    return "independent" if interval.high < 0 else "undecided"


def _row(method: Method, found: Resampled, scores: Quantity, against: str | None) -> dict[str, Any]:
    """One method; `difference` is the score of the recommended one − this one's."""
    entry = found.entries[method.name]
    own = found.intervals([(method.name, scores)])[0]
    gap = None if against is None else found.difference(against, method.name)
    values = found.task_values()
    value = found.intervals([(method.name, values)])[0] if len(found.task_units) == 1 else None
    reached = found.of(method.name, scores)
    return {
        "name": method.name,
        "words": method.words,
        "kind": method.kind,
        "trial": method.best.number,
        "seeds": len(entry.seed_scores),
        "score": number(own.estimate),
        "score_ci": pair(own),
        "value": None if value is None else number(value.estimate),
        "value_ci": None if value is None else pair(value),
        "validation": number(method.best.value),
        "difference": None if gap is None else number(gap.estimate),
        "difference_ci": None if gap is None else pair(gap),
        "seed_scores": list(entry.seed_scores),
        "finalists": [
            {"number": c.number, "validation": number(c.value), "score": number(s)}
            for c, s in zip(method.candidates, reached, strict=True)
        ],
        "trials": method.n_trials,
        "completed": method.n_completed,
        "tuned": method.tuned,
        "seconds": method.seconds,
    }


# --- tasks ----------------------------------------------------------------------------------------


def _per_task(found: Resampled, names: Sequence[str]) -> list[dict[str, Any]]:
    """Each task: what every method reaches on it."""
    scores, values = found.observed.task_scores(), found.observed.task_values()
    reached = {
        name: [found.of(name, Quantity(part, part))[0] for part in (scores, values)]
        for name in names
    }
    return [
        {
            "scores": {name: number(reached[name][0][t]) for name in names},
            "values": {name: number(reached[name][1][t]) for name in names},
        }
        for t in range(len(found.observed.specs))
    ]


def _episode_tasks(
    methods: Sequence[Method], specs: Sequence[TaskSpec], member: np.ndarray
) -> list[dict[str, Any]]:
    """Each held-out task: its rows, and what every method reaches on it."""
    out = []
    first = found_of(methods[0])
    parts = {}
    for method in methods:
        one = found_of(method)
        error = np.where(np.isfinite(one.error), one.error, one.constant_error)
        sums = Evaluation(
            tuple(specs), error @ member, first.constant_error @ member, first.n @ member
        )
        parts[method.name] = (sums.task_scores().mean(0), sums.task_values().mean(0), sums.n)
    for t, spec in enumerate(specs):
        scores, values = ({n: number(p[k][t]) for n, p in parts.items()} for k in (0, 1))
        known = {"sharing": "shared", "independent": "independent"}
        out.append(
            {
                "name": spec.name,
                "metric": spec.metric,
                "episodes": int(member[:, t].sum()),
                "rows": int(parts[methods[0].name][2][t]),
                "scores": scores,
                "values": values,
                **{key: scores.get(name) for name, key in known.items()},
                **{f"{key}_value": values.get(name) for name, key in known.items()},
                "difference": None,
                "difference_ci": None,
                "p": None,
                "effect": "undecided",
                "judged": False,
                "reason": "held-out tasks are judged together",
            }
        )
    return out


def _spec_of_all(specs: Sequence[TaskSpec]) -> TaskSpec:
    """Stands for all tasks; where these have units of their own errors stay standardised."""
    std = specs[0].std if len({spec.std for spec in specs}) == 1 else 1.0
    return replace(specs[0], name="episodes", std=std)


def _check_episodes(methods: Sequence[Method]) -> None:
    first = found_of(methods[0])
    for method in methods:
        found = found_of(method)
        same = [spec.name for spec in found.specs] == [spec.name for spec in first.specs]
        if not same or not np.array_equal(found.constant_error, first.constant_error):
            raise DataError(
                f"Method `{method.name}` should be judged on the same episodes as the others."
            )
        if not np.isfinite(found.error).any():
            raise AutometaError(
                f"The predictions of `{method.name}` are not finite on any test episode; leave it "
                "out."
            )
    if not first.constant_error.sum() > 0:
        raise DataError("Nothing can be judged on the test episodes: the constant makes no error.")


def by_score(score: float | None) -> float:
    """A sort key that puts the highest score first, and none last."""
    return float("inf") if score is None else -score


def plain(data: Any) -> Any:
    """Plain JSON data; what is not defined is null, never NaN."""
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return None if isinstance(data, float) and not np.isfinite(data) else data
