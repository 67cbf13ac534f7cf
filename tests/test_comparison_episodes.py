"""Methods on the same held-out episodes: scores, intervals, who wins, and how it is said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from autometa.comparison_episodes import (
    HeldOut,
    Method,
    compare_episodes,
    episode_errors,
    episode_sizes,
)
from autometa.errors import AutometaError, DataError
from autometa.metrics import TaskSpec

RMSE = TaskSpec("episodes", "regression", "rmse", std=2.0)
AUC = TaskSpec("episodes", "binary", "auc")
FIVE_WAY = TaskSpec("episodes", "multiclass", "accuracy", n_classes=5)


def held_out(spec: TaskSpec = RMSE, tasks: int = 8, each: int = 5, rows: int = 6) -> HeldOut:
    rng = np.random.default_rng(0)
    n = tasks * each
    if spec.kind == "regression":
        y = rng.normal(size=(n, rows))
    else:
        y = rng.permuted(np.tile(np.arange(rows) % spec.n_classes, (n, 1)), axis=1).astype(float)
    names = tuple(f"task {e % tasks}" for e in range(n))
    mask = np.ones(y.shape, dtype=bool)
    mask[0, 0] = False
    return HeldOut(y, mask, names, spec.kind == "multiclass", spec)


def near(episodes: HeldOut, noise: float, seeds: int = 5, seed: int = 0) -> np.ndarray:
    """Regression predictions with this noise."""
    rng = np.random.default_rng([seed, int(1000 * noise)])
    return (episodes.y + noise * rng.normal(size=(seeds, *episodes.y.shape)))[..., None]


def compare(episodes: HeldOut, methods: dict[str, Method], **options: object) -> dict:
    return compare_episodes(methods, episodes, suite="hills", shape="10 support rows", **options)


def three(episodes: HeldOut, main: float, scratch: float, ridge: float) -> dict[str, Method]:
    return {
        "sharing": Method("prototypes", near(episodes, main), trial=3),
        "independent": Method("from scratch", near(episodes, scratch, seed=1), trial=4),
        "ridge": Method("ridge", near(episodes, ridge, seeds=1, seed=2), "baseline"),
    }


def test_errors_are_summed_over_episodes_before_they_are_compared() -> None:
    episodes = held_out()
    pred = near(episodes, 0.5)
    found = compare(episodes, {"sharing": Method("it", pred)})["methods"][0]
    known = episodes.mask
    error = np.square(pred[..., 0] - episodes.y)[:, known].sum(1)
    constant = np.square(episodes.y)[known].sum()
    assert found["seed_scores"] == pytest.approx(1.0 - error / constant)
    assert found["score"] == pytest.approx((1.0 - error / constant).mean())
    rmse = 2.0 * np.sqrt(error / known.sum())
    assert found["value"] == pytest.approx(rmse.mean())


def test_chance_is_the_constant_of_classes() -> None:
    episodes = held_out(FIVE_WAY, rows=5)
    _, rows = episode_sizes(episodes)
    assert rows[:2].tolist() == [4.0, 5.0]
    right = np.eye(5)[episodes.y.astype(int)]
    guess = np.zeros_like(right) + np.eye(5)[0]
    found = compare(
        episodes,
        {"sharing": Method("it", right[None]), "nearest": Method("guess", guess[None], "baseline")},
    )
    perfect, blind = found["methods"]
    assert perfect["score"] == perfect["value"] == 1.0
    share = (episodes.y == 0)[episodes.mask].mean()
    assert blind["value"] == pytest.approx(share)
    assert blind["score"] == pytest.approx(1.0 - (1.0 - share) / 0.8)
    assert found["tasks"] == []
    assert found["held_out_tasks"] is None


def test_auc_counts_pairs_within_an_episode() -> None:
    episodes = held_out(AUC)
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(1, *episodes.y.shape, 1))
    shifted = logits + 10.0 * np.arange(len(episodes.y))[None, :, None, None]
    errors, again = episode_errors(logits, episodes), episode_errors(shifted, episodes)
    np.testing.assert_array_equal(errors, again)  # the level of an episode does not matter
    pairs, _ = episode_sizes(episodes)
    assert pairs[1] == 9.0
    u = stats.mannwhitneyu(
        logits[0, 1, episodes.y[1] == 1, 0], logits[0, 1, episodes.y[1] == 0, 0]
    ).statistic
    assert errors[0, 1] == pytest.approx(2.0 * (9.0 - u))


def test_tasks_are_resampled_as_wholes() -> None:
    """Episodes of one task that fail together widen the interval."""
    episodes = held_out(tasks=6, each=30)
    rng = np.random.default_rng(3)
    offsets = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    by_task = np.array([offsets[int(task[5:])] for task in episodes.tasks])
    together = episodes.y + by_task[:, None]
    apart = episodes.y + rng.permutation(by_task)[:, None]
    widths = []
    for pred in (together, apart):
        row = compare(episodes, {"sharing": Method("it", pred[None, ..., None])})["methods"][0]
        widths.append(row["score_ci"][1] - row["score_ci"][0])
    assert widths[0] > 2.0 * widths[1]


@pytest.mark.parametrize(
    ("noises", "outcome", "recommended", "words"),
    [
        ((0.2, 0.8, 0.9), "sharing", "sharing", "Learning from many tasks wins on hills"),
        ((0.8, 0.2, 0.9), "independent", "independent", "from scratch is better"),
        ((0.8, 0.9, 0.2), "ridge", "sharing", "The best network is kept as the model all the same"),
        ((0.5, 0.5, 0.9), "undecided", None, "a difference within noise"),
    ],
)
def test_who_wins(
    noises: tuple[float, float, float], outcome: str, recommended: str | None, words: str
) -> None:
    episodes = held_out(each=20)
    found = compare(episodes, three(episodes, *noises))
    assert found["outcome"] == outcome
    if recommended is not None:
        assert found["recommended"] == recommended
    assert words in found["verdict"]
    assert "(10 support rows; 160 episodes of 8 held-out tasks)" in found["verdict"]
    assert found["score"] == found["methods"][0]["score"]
    assert found["independent_score"] == found["methods"][1]["score"]
    low, high = found["difference_ci"]
    assert low < found["difference"] < high
    assert (low > 0) == (outcome == "sharing")
    names = {m["words"] for m in found["methods"]}
    assert all(name in found["verdict"] for name in names), "every method is in the verdict"


def test_every_method_has_a_row_and_every_task_a_value_for_each() -> None:
    episodes = held_out()
    found = compare(episodes, three(episodes, 0.2, 0.4, 0.6), notes=["Conditions do not match."])
    assert [m["name"] for m in found["methods"]] == ["sharing", "independent", "ridge"]
    assert [m["seeds"] for m in found["methods"]] == [5, 5, 1]
    assert [m["trial"] for m in found["methods"]] == [3, 4, None]
    assert found["methods"][0]["difference"] is None
    assert found["methods"][2]["difference"] > 0
    assert found["verdict"].endswith("Conditions do not match.")
    assert [task["name"] for task in found["tasks"]] == [f"task {t}" for t in range(8)]
    for task in found["tasks"]:
        assert task["episodes"] == 5
        assert task["values"]["sharing"] < task["values"]["independent"] < task["values"]["ridge"]
    assert sum(task["rows"] for task in found["tasks"]) == episodes.mask.sum()


def test_without_a_network_of_many_tasks_nothing_is_claimed_for_it() -> None:
    episodes = held_out()
    methods = three(episodes, 0.2, 0.4, 0.6)
    del methods["sharing"]
    found = compare(episodes, methods)
    assert found["winner"] == found["recommended"] == "independent"
    assert found["verdict"].startswith("Nothing that is learned from many tasks completed")


def test_what_cannot_be_compared() -> None:
    episodes = held_out()
    with pytest.raises(DataError, match="Predictions of `sharing` should have shape"):
        compare(episodes, {"sharing": Method("it", near(episodes, 0.1)[:, 1:])})
    broken = near(episodes, 0.1)
    broken[0, 3, 2] = np.nan
    with pytest.raises(AutometaError, match="`sharing` are not finite"):
        compare(episodes, {"sharing": Method("it", broken)})
