"""Methods on the same held-out episodes: scores, intervals, who wins, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from autometa import comparison
from autometa.comparison import Candidate
from autometa.errors import AutometaError, DataError
from autometa.metrics import Evaluation, TaskSpec, evaluate_task


class Episodes:
    """Regression episodes of held-out tasks, tasks in turn; without names they are nobody's."""

    def __init__(self, tasks: int = 8, each: int = 5, rows: int = 6, named: bool = True) -> None:
        rng = np.random.default_rng(0)
        self.y = rng.normal(size=(tasks * each, rows))
        names = [f"task {e % tasks}" if named else "" for e in range(len(self.y))]
        self.specs = tuple(TaskSpec(name, "regression", "rmse", std=2.0) for name in names)

    def judged(self, pred: np.ndarray) -> Evaluation:
        """Predictions [seed, episode, row] as statistics."""
        parts = [
            evaluate_task(spec, y, pred[:, e, :, None])
            for e, (spec, y) in enumerate(zip(self.specs, self.y, strict=True))
        ]
        error, constant = np.stack([p[0] for p in parts], 1), np.array([p[1] for p in parts])
        return Evaluation(self.specs, error, constant, np.full(len(parts), self.y.shape[1] * 1.0))

    def near(self, noise: float, seeds: int = 5, seed: int = 0) -> Evaluation:
        """Predictions with this noise."""
        rng = np.random.default_rng([seed, int(1000 * noise)])
        return self.judged(self.y + noise * rng.normal(size=(seeds, *self.y.shape)))


@dataclass
class Method:
    """A method before it has a name."""

    words: str
    found: Evaluation
    kind: Any = "network"
    trial: int | None = None
    value: float = 0.5


def compare(methods: dict[str, Method], **options: Any) -> dict[str, Any]:
    named = [
        comparison.Method(name, m.words, m.kind, (Candidate(m.trial, m.value, found=m.found),))
        for name, m in methods.items()
    ]
    return comparison.compare_episodes(named, suite="hills", shape="10 support rows", **options)


def three(episodes: Episodes, main: float, scratch: float, ridge: float) -> dict[str, Method]:
    return {
        "sharing": Method("prototypes", episodes.near(main), trial=3),
        "independent": Method("from scratch", episodes.near(scratch, seed=1), trial=4),
        "ridge": Method("ridge", episodes.near(ridge, seeds=1, seed=2), "baseline"),
    }


def test_errors_are_summed_over_episodes_before_they_are_compared() -> None:
    episodes = Episodes()
    judged = episodes.near(0.5)
    found = compare({"sharing": Method("it", judged)})["methods"][0]
    scores = 1.0 - judged.error.sum(1) / judged.constant_error.sum()
    assert found["seed_scores"] == pytest.approx(scores)
    assert found["score"] == pytest.approx(scores.mean())
    rmse = 2.0 * np.sqrt(judged.error.sum(1) / episodes.y.size)
    assert found["value"] == pytest.approx(rmse.mean())


def test_tasks_are_resampled_as_wholes() -> None:
    """Episodes of one task that fail together widen the interval."""
    widths = []
    for named in (True, False):
        episodes = Episodes(tasks=6, each=30, named=named)
        offsets = np.tile([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 30)
        judged = episodes.judged((episodes.y + offsets[:, None])[None])
        found = compare({"sharing": Method("it", judged)})
        row = found["methods"][0]
        widths.append(row["score_ci"][1] - row["score_ci"][0])
        assert found["mixed"] == (not named)
        assert len(found["tasks"]) == (6 if named else 0)
    assert widths[0] > 3.0 * widths[1]


@pytest.mark.parametrize(
    ("noises", "best", "outcome", "recommended", "words"),
    [
        ((0.2, 0.8, 0.9), "sharing", "sharing", "sharing", "Learning from many tasks helps on"),
        ((0.8, 0.2, 0.9), "independent", "independent", "independent", "from scratch wins on"),
        ((0.8, 0.9, 0.2), "ridge", None, "ridge", "Recommended: ridge, measurably ahead of all"),
        ((0.5, 0.5, 0.9), None, "undecided", "independent", "a difference within noise"),
    ],
)
def test_who_wins(
    noises: tuple[float, ...], best: str | None, outcome: str | None, recommended: str, words: str
) -> None:
    methods = three(Episodes(each=20), *noises)
    methods["independent"].value = 0.6  # on validation
    found = compare(methods)
    assert outcome in (None, found["outcome"])
    assert best in (None, found["best"]["name"])
    assert found["recommended"] == recommended
    assert words in found["verdict"]
    assert "(10 support rows; 160 episodes of 8 held-out tasks)" in found["verdict"]
    assert found["score"] == found["methods"][0]["score"]
    assert found["independent_score"] == found["methods"][1]["score"]
    low, high = found["difference_ci"]
    assert low < found["difference"] < high
    assert all(m["words"] in found["verdict"] for m in found["methods"])


def test_a_score_of_zero_ranks_above_one_below_it() -> None:
    """What is no better than the constant is better than what is worse."""
    episodes = Episodes()
    episodes.y = np.sign(episodes.y)  # sums are exact
    methods = {
        "sharing": Method("prototypes", episodes.near(0.5)),
        "independent": Method("from scratch", episodes.near(1.2, seed=1)),
        "ridge": Method("ridge", episodes.judged(np.zeros((1, *episodes.y.shape))), "baseline"),
    }
    found = compare(methods)
    scores = {m["name"]: m["score"] for m in found["methods"]}
    assert scores["ridge"] == 0.0
    assert -1.0 < scores["independent"] < 0.0
    assert found["best"]["over"] == "ridge"
    assert found["best"]["margin"] == pytest.approx(scores["sharing"])


def test_every_method_has_a_row_and_every_task_a_value_for_each() -> None:
    episodes = Episodes()
    found = compare(three(episodes, 0.2, 0.4, 0.6), notes=["Conditions do not match."])
    assert [m["name"] for m in found["methods"]] == ["sharing", "independent", "ridge"]
    assert [m["seeds"] for m in found["methods"]] == [5, 5, 1]
    assert [len(m["seed_scores"]) for m in found["methods"]] == [5, 5, 1]
    assert [m["trial"] for m in found["methods"]] == [3, 4, None]
    assert found["methods"][0]["difference"] is None
    assert found["methods"][2]["difference"] > 0
    assert found["verdict"].endswith("Conditions do not match.")
    assert [task["name"] for task in found["tasks"]] == [f"task {t}" for t in range(8)]
    for task in found["tasks"]:
        assert task["episodes"] == 5
        assert task["values"]["sharing"] < task["values"]["independent"] < task["values"]["ridge"]
    assert sum(task["rows"] for task in found["tasks"]) == episodes.y.size


def test_targets_with_units_of_their_own_have_no_common_one() -> None:
    episodes = Episodes()
    same = compare({"sharing": Method("it", episodes.near(0.5))})["methods"][0]["value"]
    episodes.specs = tuple(
        replace(spec, std=2.0 + (spec.name == "task 0")) for spec in episodes.specs
    )
    mixed = compare({"sharing": Method("it", episodes.near(0.5))})
    assert mixed["methods"][0]["value"] == pytest.approx(same / 2.0)
    assert mixed["tasks"][0]["values"]["sharing"] > 1.0


def test_an_episode_that_diverges_counts_as_the_constant() -> None:
    episodes = Episodes()
    methods = three(episodes, 0.2, 0.4, 0.6)
    methods["independent"].found.error[2, 3] = np.nan
    methods["independent"].found.error[1, 7] = np.inf
    found = compare(methods)
    row = found["methods"][1]
    assert row["diverged"] == 2
    known = methods["independent"].found
    settled = np.where(np.isfinite(known.error), known.error, known.constant_error)
    assert row["seed_scores"] == pytest.approx(1.0 - settled.sum(1) / known.constant_error.sum())
    assert "On 2 of 40 episodes from scratch diverged with some seed" in found["verdict"]
    assert found["methods"][0]["diverged"] == 0


def test_without_a_network_of_many_tasks_nothing_is_claimed_for_it() -> None:
    methods = three(Episodes(), 0.2, 0.4, 0.6)
    del methods["sharing"]
    found = compare(methods)
    assert found["best"]["name"] == found["recommended"] == "independent"
    assert "so nothing can be said about sharing" in found["verdict"]
    assert (found["outcome"], found["difference"]) == ("undecided", None)


def test_what_cannot_be_compared() -> None:
    episodes = Episodes()
    methods = three(episodes, 0.2, 0.4, 0.6)
    with pytest.raises(DataError, match="`ridge` should be judged on the same episodes"):
        compare({**methods, "ridge": Method("ridge", Episodes(each=4).near(0.3), "baseline")})
    broken = episodes.near(0.1)
    broken.error[:] = np.nan
    with pytest.raises(AutometaError, match="`sharing` are not finite on any"):
        compare({"sharing": Method("it", broken)})
    nothing = Episodes()
    nothing.y[:] = 0.0
    with pytest.raises(DataError, match="Nothing can be judged"):
        compare({"sharing": Method("it", nothing.near(0.1))})
