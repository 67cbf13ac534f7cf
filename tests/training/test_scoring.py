"""Scores of episodes of held-out tasks, and what adapting to them takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from autometa.learners import LEARNERS
from autometa.tasks import EpisodeSet, EpisodicSuite
from autometa.training import scoring
from autometa.training.population import Trainer
from autometa.training.scoring import by_task, evaluate_episodes
from autometa.training.state import PopulationState
from tests.episodic import BINARY, CASES, SCARCE, Ridge, grouped, lines, runs_of

CPU = torch.device("cpu")


@pytest.fixture(params=list(CASES))
def suite(request) -> EpisodicSuite:
    return CASES[request.param]()


@pytest.fixture(autouse=True)
def ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closed-form learner among the registered ones."""
    monkeypatch.setitem(LEARNERS, "ridge", Ridge)


class TestScores:
    def outputs(self, episodes: EpisodeSet, runs: int = 2, width: int = 1) -> np.ndarray:
        rng = np.random.default_rng(0)
        shape = (runs, *episodes.query.rows.shape, width)
        return rng.normal(size=shape).astype(np.float32)

    def test_regression(self):
        suite = EpisodicSuite.from_suite(grouped(), SCARCE)
        episodes = suite.episodes("val")
        pred = self.outputs(episodes)
        found = evaluate_episodes(pred, episodes)
        y, mask = episodes.query.y.numpy(), episodes.query.mask.numpy()
        assert not mask.all() or len({*episodes.names}) == 1
        for k in range(2):
            error = sum(((pred[k, e, :, 0] - y[e])[mask[e]] ** 2).sum() for e in range(len(y)))
            constant = sum((y[e][mask[e]] ** 2).sum() for e in range(len(y)))
            assert found.value()[k] == pytest.approx(max(-1, 1 - error / constant), rel=1e-5)
        # what masked rows hold has no say
        pred[:, ~mask] = np.nan
        np.testing.assert_array_equal(evaluate_episodes(pred, episodes).value(), found.value())

    def test_targets_with_units_count_in_their_own_unit(self):
        suite = CASES["targets"]()
        episodes = suite.episodes("val")
        pred = self.outputs(episodes)
        found = evaluate_episodes(pred, episodes)
        mask = episodes.query.mask.numpy()
        raw = suite.y[episodes.query.rows].numpy()
        support = suite.y[episodes.support.rows].numpy()
        mean, std = support.mean(1)[:, None], support.std(1)[:, None]
        error = np.where(mask, (pred[0, ..., 0] * std + mean - raw) ** 2, 0).sum()
        constant = np.where(mask, (mean - raw) ** 2, 0).sum()
        assert found.value()[0] == pytest.approx(max(-1, 1 - error / constant), rel=1e-4)

    def test_auc_pairs_are_within_an_episode(self):
        suite = dataclasses.replace(CASES["binary"](), metric="auc")
        episodes = suite.episodes("val")
        pred = self.outputs(episodes).round(1)  # with ties
        found = evaluate_episodes(pred, episodes)
        y, mask = episodes.query.y.numpy(), episodes.query.mask.numpy()
        for k in range(2):
            above = pairs = 0.0
            for e in range(len(episodes)):
                truth = y[e][mask[e]]
                n = truth.sum() * (1 - truth).sum()
                above += n * (2 * roc_auc_score(truth, pred[k, e, mask[e], 0]) - 1)
                pairs += n
            assert found.value()[k] == pytest.approx(above / pairs, abs=1e-6)
        pred[1, 0, int(mask[0].argmax())] = np.nan
        again = evaluate_episodes(pred, episodes).value()
        assert np.isnan(again[1])
        assert again[0] == found.value()[0]

    def test_accuracy_of_binary_tasks_is_against_the_training_majority(self):
        table = lines("binary", (30,) * 6)
        table.loc[table.groupby("place").cumcount() < 8, "y"] = "yes"
        suite = EpisodicSuite.from_suite(grouped(table=table), BINARY)
        assert suite.constant == 1
        episodes = suite.episodes("val")
        y, mask = episodes.query.y.numpy(), episodes.query.mask.numpy()
        always = np.where(np.ones((*y.shape, 1)), 3.0, 0.0)[None].astype(np.float32)
        assert evaluate_episodes(always, episodes).value() == pytest.approx([0.0])
        perfect = np.where(y == 1, 1.0, -1.0)[None, ..., None].astype(np.float32)
        found = evaluate_episodes(perfect, episodes)
        assert found.value() == pytest.approx([1.0])
        assert found.n.sum() == mask.sum()

    def test_n_way_is_against_chance(self):
        episodes = CASES["mixed"]().episodes("val")
        y = episodes.query.y.long()
        right = torch.nn.functional.one_hot(y, 3).float().numpy()
        first = np.zeros_like(right)
        first[..., 0] = 1.0
        nothing = np.full_like(right, np.nan)
        found = evaluate_episodes(np.stack([right, first, nothing]), episodes)
        assert found.value()[:2] == pytest.approx([1.0, 0.0])
        assert np.isnan(found.value()[2])
        assert found.task_values()[1] == pytest.approx(np.full(100, 1 / 3))

    def test_at_least_minus_one(self):
        episodes = CASES["regression"]().episodes("val")
        pred = 1e3 * self.outputs(episodes)
        assert evaluate_episodes(pred, episodes).value().tolist() == [-1.0, -1.0]

    def test_sums_by_task(self, suite):
        episodes = suite.episodes("train", 30)
        pred = self.outputs(episodes, width=suite.shape.ways or 1)
        found = evaluate_episodes(pred, episodes)
        grouped_by = by_task(found)
        np.testing.assert_allclose(grouped_by.value(), found.value(), rtol=1e-12)
        for place, spec in enumerate(grouped_by.specs):
            mine = [e for e, name in enumerate(episodes.names) if name == spec.name]
            want = found.error[:, mine].sum(1)
            np.testing.assert_allclose(grouped_by.error[:, place], want, rtol=1e-12)
        assert [s.name for s in grouped_by.specs] == list(dict.fromkeys(episodes.names))

    def test_runs_use_their_own_rates(self):
        suite = CASES["regression"]()
        runs = runs_of({"adaptation.ridge": 1e-3}, {"adaptation.ridge": 1e6})
        trainer = Trainer(suite, 1, CPU)
        same = trainer.start(runs).values[:1].repeat(2, 1)
        state = PopulationState(same, {}, {})
        small, large = trainer.predict_episodes(runs, state, suite.episodes("val"))
        assert np.abs(large).max() < 1e-2
        assert np.abs(small).max() > 0.1

    def test_predictions_do_not_depend_on_how_many_episodes_fit(self, suite, monkeypatch):
        runs = runs_of({}, {"adaptation.ridge": 1.0})
        trainer = Trainer(suite, 1, CPU)
        state = trainer.start(runs)
        episodes = suite.episodes("val", 10)
        whole = trainer.predict_episodes(runs, state, episodes)
        assert whole.shape == (2, *episodes.query.rows.shape, suite.shape.ways or 1)
        monkeypatch.setattr(scoring, "_NUMBERS", 1)
        moved = []
        original = EpisodeSet.to
        monkeypatch.setattr(EpisodeSet, "to", lambda *a: moved.append(a) or original(*a))
        parts = trainer.predict_episodes(runs, state, episodes)
        assert len(moved) == 1  # with the inputs of all rows
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)
