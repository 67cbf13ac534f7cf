"""Outcomes, effects, intervals and words of the final comparison."""

from __future__ import annotations

import json

import numpy as np
import pytest

from autometa.comparison import Candidate, Method, compare_rows, words
from autometa.errors import AutometaError, DataError
from autometa.metrics import MIN_RARER, MIN_ROWS, TaskSpec, delta_m, evaluate


def regression(names, metric="rmse"):
    return [TaskSpec(n, "regression", metric) for n in names]


def aligned(rng, noise, rows=200, seeds=5):
    """Regression predictions `[S, T, N, 1]` around one truth; `noise[arm][task]` is their RMSE."""
    y = rng.normal(size=(rows, len(noise[0])))
    arms = []
    for arm in noise:
        error = np.asarray(arm)[:, None] * rng.normal(size=(seeds, len(arm), rows))
        arms.append((y.T + error)[..., None].astype(np.float32))
    return arms[0], arms[1], y.astype(np.float32), regression([f"t{i}" for i in range(len(arm))])


class Found(dict):
    """Plain data whose entries can be read as attributes, too."""

    __getattr__ = dict.__getitem__


def compare(shared, alone, y, specs, *, gbdt=None, sharing="sharing", values=(0.5, 0.5), **options):
    """Two arms of one candidate each, single networks, and trees if given."""
    methods = [
        Method("sharing", sharing, "network", (Candidate(1, values[0], shared),)),
        Method(
            "independent", "equally tuned independent networks", "network",
            (Candidate(2, values[1], alone),),
        ),
    ]  # fmt: skip
    if gbdt is not None:
        methods.append(Method("trees", "trees", "baseline", (Candidate(None, 0.0, gbdt[None]),)))
    found = Found(compare_rows(methods, y, specs, ensemble=False, **options))
    return Found(found, tasks=[Found(task) for task in found.tasks])


# --- outcomes and words ---------------------------------------------------------------------------


def test_sharing_wins_where_it_is_planted():
    shared, alone, y, specs = aligned(np.random.default_rng(0), [[0.4] * 3, [0.6] * 3])
    found = compare(shared, alone, y, specs, suite="wq", sharing="hard sharing")
    assert (found.outcome, found.recommended) == ("sharing", "sharing")
    assert found.difference_ci[0] > 0
    assert found.delta_m_ci[0] > 0
    assert found.verdict.startswith("Sharing helps on wq: hard sharing scores 0.8")
    assert " for equally tuned independent networks (difference +0." in found.verdict
    assert "3 of 3 tasks helped, 0 hurt. Recommended: hard sharing, measurably" in found.verdict
    assert "95% interval +0." in found.verdict
    assert "Δm +" in found.verdict


def test_independent_wins_where_it_is_planted():
    shared, alone, y, specs = aligned(np.random.default_rng(0), [[0.6] * 3, [0.4] * 3])
    found = compare(shared, alone, y, specs, suite="wq")
    assert (found.outcome, found.recommended) == ("independent", "independent")
    assert found.difference_ci[1] < 0
    assert found.verdict.startswith("Independent networks win on wq: sharing scores 0.6")
    assert "0 of 3 tasks helped, 3 hurt. Recommended: equally tuned" in found.verdict


@pytest.mark.parametrize(
    ("values", "picked"), [((0.7, 0.6), "sharing"), ((0.6, 0.7), "independent")]
)
def test_where_undecided_validation_names_the_method(values, picked):
    shared, alone, y, specs = aligned(np.random.default_rng(3), [[0.5] * 3, [0.5] * 3])
    for arms in ((shared, alone), (alone, shared)):  # whichever is higher on the test rows
        found = compare(*arms, y, specs, suite="wq", sharing="a tree", values=values)
        assert found.outcome == "undecided"
        assert found.recommended == picked
        assert found.verdict.startswith("Sharing neither helps nor hurts measurably on wq: a tree ")
        assert "within noise" in found.verdict
        called = "a tree" if picked == "sharing" else "equally tuned independent networks"
        assert found.verdict.endswith(
            f"Recommended: {called}, the best of the two on validation (0.700)."
        )


def test_equal_arms_recommend_sharing_and_call_nothing():
    shared, _, y, specs = aligned(np.random.default_rng(4), [[0.5] * 2, [0.5] * 2])
    found = compare(shared, shared, y, specs)
    assert (found.outcome, found.recommended) == ("undecided", "sharing")
    assert found.difference == 0
    assert found.difference_ci == pytest.approx([0.0, 0.0], abs=1e-9)
    assert found.delta_m == pytest.approx(0, abs=1e-9)
    assert "difference +0.000, 95% interval +0.000 to +0.000; Δm +0.0%" in found.verdict
    assert [t.p for t in found.tasks] == [1.0, 1.0]


def test_score_and_delta_m_against_each_other_are_undecided():
    # one task of large error gets a little better, two of small error get much worse
    rng = np.random.default_rng(5)
    shared, alone, y, specs = aligned(rng, [[0.80, 0.06, 0.06], [0.95, 0.04, 0.04]], rows=400)
    found = compare(shared, alone, y, specs, suite="wq")
    assert found.difference_ci[0] > 0
    assert found.delta_m_ci[1] < 0
    assert found.outcome == "undecided"
    assert found.notes == ["the score favours sharing but Δm favours independent networks"]
    assert "undecided, because the score favours sharing but Δm" in found.verdict
    assert (found.helped, found.hurt) == (1, 2)


def test_swapping_the_arms_swaps_the_signs():
    shared, alone, y, specs = aligned(np.random.default_rng(6), [[0.4, 0.6], [0.5, 0.5]])
    a, b = compare(shared, alone, y, specs), compare(alone, shared, y, specs)
    assert a.difference == pytest.approx(-b.difference)
    assert a.difference_ci == pytest.approx([-b.difference_ci[1], -b.difference_ci[0]])
    assert [t.effect for t in a.tasks] == ["helped", "hurt"]
    assert [t.effect for t in b.tasks] == ["hurt", "helped"]


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_by_hand():
    # y = (1, −1): E0 = 2. Shared errs .5 a row (seed 0) or nothing (seed 1), independent errs 1
    y = np.array([[1.0], [-1.0]], dtype=np.float32)
    shared = np.array([[[[0.5], [-0.5]]], [[[1.0], [-1.0]]]], dtype=np.float32)
    alone = np.zeros((2, 1, 2, 1), dtype=np.float32)
    found = compare(shared, alone, y, [TaskSpec("t", "regression", "rmse", std=10.0)])
    assert [m["seed_scores"] for m in found.methods] == [[0.75, 1.0], [0.0, 0.0]]
    assert (found.score, found.independent_score, found.difference) == (0.875, 0.0, 0.875)
    assert found.constant_score == 0.0
    assert found.delta_m == pytest.approx(100 * (10 - 2.5) / 10)  # RMSE 5 and 0 against 10, 10
    (task,) = found.tasks
    assert (task.shared, task.independent) == (0.875, 0.0)
    assert (task.shared_value, task.independent_value) == (2.5, 10.0)
    assert (task.judged, task.effect, task.p) == (False, "undecided", None)
    assert task.reason == f"2 evaluation rows, {MIN_ROWS} are needed"


def test_it_agrees_with_the_metrics():
    rng = np.random.default_rng(7)
    specs = [*regression("ab"), TaskSpec("c", "binary", "auc"), TaskSpec("d", "binary", "accuracy")]
    y = np.concatenate([rng.normal(size=(90, 2)), rng.integers(0, 2, (90, 2))], 1)
    pred = rng.normal(size=(2, 3, 4, 90, 1))
    mask = rng.random(y.shape) < 0.9
    found = compare(pred[0], pred[1], y, specs, mask=mask, gbdt=pred[0, 0])
    a, b = (evaluate(p, y, specs, mask=mask) for p in pred)
    assert found.score == pytest.approx(a.value().mean())
    assert found.independent_score == pytest.approx(b.value().mean())
    assert found.methods[2]["score"] == pytest.approx(a.value()[0])
    means = delta_m(a.task_values(), b.task_values(), specs).mean()
    assert found.delta_m == pytest.approx(means)
    assert [t.shared for t in found.tasks] == pytest.approx(list(a.task_scores().mean(0)))


def test_result_is_plain_json():
    rng = np.random.default_rng(8)
    shared, alone, y, specs = aligned(rng, [[0.4, 0.6], [0.5, 0.5]])
    y[:, 1] = 0  # not judged
    found = compare(shared, alone, y, specs, suite="wq")
    data = json.loads(json.dumps(found, allow_nan=False))
    assert data == found
    assert data["tasks"][1]["shared"] is None
    assert {"name", "metric", "shared", "independent", "effect", "judged"} <= set(data["tasks"][0])


# --- effects --------------------------------------------------------------------------------------


def test_planted_effects_are_found_and_null_tasks_left_alone():
    rng = np.random.default_rng(9)
    shared, alone, y, specs = aligned(
        rng, [[0.3] * 4 + [0.6] * 3 + [0.5] * 20, [0.5] * 4 + [0.4] * 3 + [0.5] * 20], rows=300
    )
    found = compare(shared, alone, y, specs)
    effects = [t.effect for t in found.tasks]
    assert effects[:7] == ["helped"] * 4 + ["hurt"] * 3
    assert effects[7:].count("undecided") >= 19
    assert found.helped + found.hurt == 27 - effects.count("undecided")


@pytest.mark.parametrize("metric", ["accuracy", "auc"])
def test_planted_effects_in_grouped_classification(metric):
    rng = np.random.default_rng(10)
    specs = [TaskSpec(n, "binary", metric) for n in ("better", "worse", "same")]
    task = np.repeat(np.arange(3), 250)
    latent = rng.normal(size=750)
    y = (latent > 0).astype(np.float32)
    noise = np.array([[0.4, 1.5, 0.8], [1.5, 0.4, 0.8]])[:, task]
    pred = latent + noise[:, None] * rng.normal(size=(2, 5, 750))
    found = compare(*pred[..., None].astype(np.float32), y, specs, task=task)
    assert [t.effect for t in found.tasks] == ["helped", "hurt", "undecided"]
    assert [t.rows for t in found.tasks] == [250] * 3


def test_what_cannot_be_judged_is_undecided_with_its_reason():
    rng = np.random.default_rng(11)
    rows = 100
    rare = np.zeros(rows)
    rare[: MIN_RARER - 1] = 1
    y = np.stack([np.zeros(rows), rare, np.zeros(rows), rng.integers(0, 2, rows)], 1)
    specs = [
        TaskSpec("no_error", "regression", "rmse"),
        TaskSpec("rare", "binary", "auc"),
        TaskSpec("one_class", "binary", "auc"),
        TaskSpec("few", "binary", "accuracy"),
    ]
    mask = np.ones((rows, 4), dtype=bool)
    mask[MIN_ROWS - 1 :, 3] = False
    right = np.where(y.T > 0, 1.0, -1.0)[None, :, :, None] + 0.01 * rng.normal(size=(5, 4, rows, 1))
    wrong = rng.normal(size=(5, 4, rows, 1))
    found = compare(right, wrong, y, specs, mask=mask)
    assert [t.effect for t in found.tasks] == ["undecided"] * 4
    assert [t.judged for t in found.tasks] == [False] * 4
    assert [t.reason for t in found.tasks] == [
        "the training constant makes no error on its evaluation rows",
        f"{MIN_RARER - 1} evaluation rows of the rarer class, {MIN_RARER} are needed",
        "only one class among its evaluation rows",
        f"{MIN_ROWS - 1} evaluation rows, {MIN_ROWS} are needed",
    ]
    assert [t.shared is None for t in found.tasks] == [True, False, True, False]
    assert [t.p for t in found.tasks] == [None] * 4


def test_nothing_to_judge_is_said():
    pred = np.ones((3, 1, 40, 1))
    found = compare(pred, pred, np.zeros((40, 1)), regression("a"), suite="flat")
    assert (found.score, found.difference, found.difference_ci) == (None, None, None)
    assert (found.outcome, found.recommended) == ("undecided", "independent")
    assert found.verdict.startswith("Nothing can be judged on flat")
    json.dumps(found, allow_nan=False)


# --- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows_sd", "seed_sd", "cell_sd"),
    [(0.4, 0.0, 0.3), (0.2, 0.15, 0.2)],
    ids=["rows decide", "seeds decide"],
)
def test_intervals_cover_the_truth(rows_sd, seed_sd, cell_sd):
    """Both arms are equally good, so 0 should be inside about 95 of 100 intervals."""
    rng = np.random.default_rng(12)
    specs, sims, shape = regression("abc"), 200, (3, 60)
    covered = np.zeros(2)
    for _ in range(sims):
        y = rng.normal(size=(60, 3))
        arms = []
        for _ in range(2):
            error = rows_sd * rng.normal(size=shape) + cell_sd * rng.normal(size=(5, *shape))
            error = error * np.exp(seed_sd * rng.normal(size=(5, 1, 1)))
            arms.append((y.T + error)[..., None])
        found = compare(*arms, y, specs, resamples=200)
        for i, (low, high) in enumerate((found.difference_ci, found.delta_m_ci)):
            covered[i] += low <= 0 <= high
    assert (covered / sims >= 0.88).all()
    assert (covered / sims <= 0.99).all()


def test_intervals_narrow_with_rows_and_repeat_with_the_seed():
    few = aligned(np.random.default_rng(13), [[0.5], [0.6]], rows=50)
    many = aligned(np.random.default_rng(13), [[0.5], [0.6]], rows=5000)

    def width(found):
        return found.difference_ci[1] - found.difference_ci[0]

    assert width(compare(*many)) < width(compare(*few)) / 3
    assert compare(*few, seed=1) == compare(*few, seed=1)
    assert compare(*few, seed=1) != compare(*few, seed=2)


def test_one_seed_is_said_to_cover_rows_only():
    found = compare(*aligned(np.random.default_rng(14), [[0.5], [0.6]], seeds=1))
    assert found.notes == ["one seed: the intervals cover the choice of test rows only"]
    assert found.difference_ci[0] < found.difference < found.difference_ci[1]


# --- errors ---------------------------------------------------------------------------------------


def test_unequal_seeds_are_refused():
    shared, alone, y, specs = aligned(np.random.default_rng(15), [[0.5], [0.6]])
    with pytest.raises(DataError, match="Found 5 for sharing, 4 for independent"):
        compare(shared, alone[:4], y, specs)


def test_a_diverged_network_is_named():
    shared, alone, y, specs = aligned(np.random.default_rng(16), [[0.5, 0.5], [0.6, 0.6]])
    alone[3, 1, 0] = np.inf
    with pytest.raises(AutometaError, match="`independent`.* with seed 3 .* task 't1'"):
        compare(shared, alone, y, specs)


def test_an_end_near_zero_keeps_its_sign_in_words() -> None:
    assert words._digits((-0.006, -0.0002), 3) == 4
    assert words._digits((-0.006, 0.001), 3) == 3
    assert words._digits((0.0, 0.0), 3) == 3


# --- many methods, tuning, groups -----------------------------------------------------------------


def noisy(y, rng, noise, seeds=5):
    return (y.T + noise * rng.normal(size=(seeds, *y.T.shape)))[..., None]


def test_the_best_is_named_first_and_recommended_where_it_is_ahead():
    rng = np.random.default_rng(20)
    y = rng.normal(size=(300, 2))
    methods = [
        Method("sharing", "hard sharing", "network", (Candidate(1, 0.6, noisy(y, rng, 0.6)),)),
        Method("independent", "alone", "network", (Candidate(2, 0.6, noisy(y, rng, 0.6)),)),
        Method("ridge", "ridge", "baseline", (Candidate(None, 0.5, noisy(y, rng, 0.5, 1)),)),
        Method("trees", "trees", "baseline", (Candidate(None, 0.7, noisy(y, rng, 0.2, 1)),)),
    ]
    found = compare_rows(methods, y, regression("ab"), ensemble=False, suite="wine")
    assert found["verdict"].startswith("Best on wine: trees, 0.96")
    assert "; the best network, " in found["verdict"]
    assert found["verdict"].endswith("Recommended: trees, measurably ahead of all others.")
    assert (found["recommended"], found["best"]["over"]) == ("trees", "ridge")
    assert found["best"]["margin_ci"][0] > 0
    assert found["outcome"] == "undecided"
    rows = {row["name"]: row for row in found["methods"]}
    assert rows["trees"]["difference"] is None
    assert rows["ridge"]["difference_ci"][0] > 0


def test_an_ensemble_is_judged_by_the_mean_of_its_seeds():
    rng = np.random.default_rng(21)
    y = rng.normal(size=(200, 2))
    outputs = noisy(y, rng, 0.5)
    method = Method("sharing", "it", "network", (Candidate(1, 0.6, outputs),))
    together, single = (
        compare_rows([method], y, regression("ab"), ensemble=e)["methods"][0] for e in (True, False)
    )
    specs = regression("ab")
    assert together["score"] == pytest.approx(evaluate(outputs.mean(0), y, specs).value())
    assert single["score"] == pytest.approx(evaluate(outputs, y, specs).value().mean())
    assert together["seed_scores"] == single["seed_scores"]


def test_finalists_that_differ_widen_the_interval_and_lone_winners_do_not_know():
    rng = np.random.default_rng(22)
    y = rng.normal(size=(400, 2))

    def arm(name, noises, luck):
        some = tuple(Candidate(n, 0.6 - 0.01 * n, noisy(y, rng, e)) for n, e in enumerate(noises))
        if not luck:
            return Method(name, name, "network", some[:1])
        return Method(name, name, "network", some, tuple(np.linspace(0.6, 0.4, 16)), 16, 16, 16)

    widths = {}
    for luck in (False, True):
        arms = [arm(n, [0.5, 0.4, 0.6, 0.45], luck) for n in ("sharing", "independent")]
        found = compare_rows(arms, y, regression("ab"), ensemble=False)
        widths[luck] = [np.diff(found["difference_ci"])[0]]
        widths[luck] += [np.diff(task["difference_ci"])[0] for task in found["tasks"]]
        widths[luck].append(np.diff(found["delta_m_ci"])[0])
    assert (np.array(widths[True]) > 2.0 * np.array(widths[False])).all()
    assert len(found["methods"][0]["finalists"]) == 4


def test_rows_of_a_group_are_resampled_together():
    rng = np.random.default_rng(23)
    groups = np.repeat(np.arange(15), 20)
    false = {"groups": 0, "rows": 0}
    for _ in range(60):
        y = rng.normal(size=(300, 1))
        arms = [
            (y[:, 0] + 0.4 * rng.normal(size=15)[groups] + 0.1 * rng.normal(size=(3, 300)))
            [:, None, :, None]
            for _ in range(2)
        ]  # fmt: skip
        for way, of in (("groups", groups), ("rows", None)):
            found = compare(*arms, y, regression("a"), groups=of, resamples=200)
            false[way] += found.outcome != "undecided"
    assert false["groups"] <= 8
    assert false["rows"] >= 20


def test_a_task_that_neither_arm_learns_is_not_helped():
    rng = np.random.default_rng(24)
    shared, alone, y, specs = aligned(rng, [[0.3, 1.1], [0.5, 1.6]], rows=300)
    found = compare(shared, alone, y, specs)
    assert [task.effect for task in found.tasks] == ["helped", "not learned"]
    assert "1 of 2 tasks helped, 0 hurt, 1 not learned by either" in found.verdict


def test_sharing_does_not_help_between_networks_that_are_both_worse_than_the_constant():
    shared, alone, y, specs = aligned(np.random.default_rng(25), [[1.1] * 2, [1.6] * 2], rows=300)
    found = compare(shared, alone, y, specs, suite="noise")
    assert found.difference_ci[0] > 0, "one is measurably less bad"
    assert (found.outcome, found.learned, found.helped) == ("undecided", False, 0)
    assert found.verdict.startswith(
        "Whether sharing helps on noise cannot be told, because no network has learned anything"
    )
