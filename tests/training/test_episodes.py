"""Episodes in training: how they are drawn, fused runs, scores of held-out tasks."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from autometa.errors import ConfigError
from autometa.learners import LEARNERS
from autometa.networks import Problem, Step
from autometa.searching.costs import costs_of
from autometa.searching.units import WorkUnit, run_unit
from autometa.tasks import EpisodeSet, EpisodeShape, EpisodicSuite
from autometa.tasks.sinusoid import sinusoid_episodes
from autometa.training import scoring
from autometa.training.episodes import TrainingEpisodes
from autometa.training.population import Trainer
from autometa.training.scoring import by_task, evaluate_episodes
from autometa.training.state import Layout, PopulationState, Run
from autometa.trial import OptimizerConfig, TrialConfig, build
from tests.episodic import BINARY, NWAY, REGRESSION, Ridge, grouped, lines, pictures, targets

CPU = torch.device("cpu")
CASES = {
    "regression": lambda: EpisodicSuite.from_suite(grouped(), REGRESSION),
    "binary": lambda: EpisodicSuite.from_suite(grouped("binary"), BINARY),
    "mixed": lambda: EpisodicSuite.from_suite(pictures(), NWAY),
    "one_task": lambda: EpisodicSuite.from_suite(pictures(), NWAY, one_task=True),
    "targets": lambda: EpisodicSuite.from_suite(targets(), REGRESSION),
}
#: a task has rows for some query rows only
SCARCE = EpisodeShape(shots=6, queries=30)


@pytest.fixture(params=list(CASES))
def suite(request) -> EpisodicSuite:
    return CASES[request.param]()


@pytest.fixture(autouse=True)
def ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closed-form learner among the registered ones."""
    monkeypatch.setitem(LEARNERS, "ridge", Ridge)


def runs_of(*values: dict[str, object], **common: object) -> list[Run]:
    flat = {"adaptation.kind": "ridge", "optimizer.batch_tasks": 5, **common}
    return [Run(TrialConfig.from_flat({**flat, **own}), seed=k) for k, own in enumerate(values)]


class TestDrawing:
    CONFIG = OptimizerConfig(batch_tasks=5)

    def test_an_epoch_is_the_rows_by_the_rows_of_a_step(self, suite):
        data = TrainingEpisodes(suite, CPU)
        rows = 5 * (suite.shape.n_support + suite.shape.n_query)
        assert data.steps(self.CONFIG) == -(-suite.counts["train"] // rows)
        plan = data.epoch(self.CONFIG, [0, 1, 2], 0)
        assert plan.support.shape == (data.steps(self.CONFIG), 3, 5, suite.shape.n_support)

    def test_a_function_of_seed_and_epoch(self, suite):
        data = TrainingEpisodes(suite, CPU)
        together = data.epoch(self.CONFIG, [3, 4], 1)
        again = TrainingEpisodes(suite, CPU).epoch(self.CONFIG, [4], 1)
        for both, one in zip(together, again, strict=True):
            assert torch.equal(both[:, 1:], one)
        assert not torch.equal(together.query[:, 0], together.query[:, 1])
        assert not torch.equal(together.query, data.epoch(self.CONFIG, [3, 4], 2).query)

    def test_it_does_not_depend_on_how_many_steps_are_drawn_at_once(self, suite, monkeypatch):
        data = TrainingEpisodes(suite, CPU)
        config = OptimizerConfig(batch_tasks=2)
        whole = data.epoch(config, [0, 1], 0)
        monkeypatch.setattr("autometa.training.episodes._NUMBERS", 1)
        for one, other in zip(whole, data.epoch(config, [0, 1], 0), strict=True):
            assert torch.equal(one, other)

    def test_batches_are_rows_of_their_task_and_none_twice(self, suite):
        data = TrainingEpisodes(suite, CPU)
        rows = suite.rows("train")
        plan = data.epoch(self.CONFIG, [0, 1], 0)
        for step in range(data.steps(self.CONFIG)):
            support, query = data.batch(plan, step)
            assert torch.equal(support.tasks, query.tasks)
            for k in range(2):
                for t in range(5):
                    first, then = plan.support[step, k, t], plan.query[step, k, t]
                    valid = query.mask[k, t]
                    assert bool(support.mask[k, t].all())
                    both = torch.cat([first, then[valid]])
                    assert len(torch.unique(both)) == len(both)
                    assert torch.equal(support.x[k, t], rows.x[first])
                    assert torch.equal(query.x[k, t][valid], rows.x[then[valid]])
                    owner = support.tasks[k, t]
                    if suite.shape.ways is None:
                        assert set(rows.task[both].tolist()) == {int(owner)}
                        continue
                    y = torch.cat([support.y[k, t], query.y[k, t][valid]]).long()
                    assert torch.equal(suite.classes[rows.index[both]], owner[y])
                    assert len(torch.unique(owner)) == suite.shape.ways
                    assert torch.bincount(support.y[k, t].long()).tolist() == [2, 2, 2]
                    tasks = torch.unique(rows.task[both])
                    assert len(tasks) == 1 or not suite.one_task

    def test_labels_are_the_suites(self):
        suite = CASES["regression"]()
        data = TrainingEpisodes(suite, CPU)
        plan = data.epoch(self.CONFIG, [0], 0)
        support, query = data.batch(plan, 0)
        y = suite.rows("train").y
        assert torch.equal(support.y[0], y[plan.support[0, 0]])
        assert torch.equal(query.y[0], y[plan.query[0, 0]])

    def test_targets_with_units_are_standardised_by_their_support_rows(self):
        suite = CASES["targets"]()
        data = TrainingEpisodes(suite, CPU)
        plan = data.epoch(self.CONFIG, [0], 0)
        support, query = data.batch(plan, 0)
        assert support.y.mean(-1).abs().max() < 1e-5
        assert (support.y.std(-1, correction=0) - 1).abs().max() < 1e-4
        raw = suite.rows("train").y
        mean = raw[plan.support[0, 0]].mean(-1, keepdim=True)
        std = raw[plan.support[0, 0]].std(-1, correction=0, keepdim=True)
        torch.testing.assert_close(query.y[0], (raw[plan.query[0, 0]] - mean) / std)

    def test_rows_that_a_task_does_not_have_are_masked(self):
        suite = EpisodicSuite.from_suite(grouped(), SCARCE)
        data = TrainingEpisodes(suite, CPU)
        rows = suite.rows("train")
        counts = torch.bincount(rows.task, minlength=suite.n_tasks)
        plan = data.epoch(self.CONFIG, [0], 0)
        want = (counts[plan.tasks] - 6).clamp(max=30)
        assert torch.equal(plan.valid.sum(-1), want)
        assert int(want.min()) < 30

    def test_both_classes_are_in_the_support(self):
        suite = EpisodicSuite.from_suite(grouped("binary"), EpisodeShape(shots=2, queries=3))
        data = TrainingEpisodes(suite, CPU)
        plan = data.epoch(self.CONFIG, [0, 1], 0)
        for step in range(data.steps(self.CONFIG)):
            assert (data.batch(plan, step).support.y.sum(-1) == 1).all()

    @pytest.mark.parametrize("case", ["regression", "one_task"])
    def test_tasks_take_turns_across_epochs(self, case):
        suite = CASES[case]()
        data = TrainingEpisodes(suite, CPU)
        n = len(suite.tasks_by_split["train"])
        config = OptimizerConfig(batch_tasks=3)
        visits = []
        for epoch in range(n):
            plan = data.epoch(config, [7], epoch)
            tasks = plan.tasks[:, 0]
            if case == "one_task":
                tasks = suite.rows("train").task[plan.support[:, 0, :, 0]]
            visits += tasks.flatten().tolist()
        turns = [visits[k : k + n] for k in range(0, len(visits) - n + 1, n)]
        assert len(turns) >= n
        assert all(len(set(turn)) == n for turn in turns)
        assert len({tuple(turn) for turn in turns}) > 1

    def test_rows_and_classes_come_equally_often(self):
        suite = CASES["mixed"]()
        data = TrainingEpisodes(suite, CPU)
        config = OptimizerConfig(batch_tasks=50)
        plans = [data.epoch(config, list(range(100)), epoch) for epoch in range(4)]
        classes = torch.bincount(torch.cat([p.tasks.flatten() for p in plans]))
        rows = torch.bincount(torch.cat([p.support.flatten() for p in plans]))
        for counts, size in ((classes, 20), (rows, 160)):
            assert len(counts) == size
            expected = counts.sum() / size
            # chi² over its degrees of freedom, whose deviation is √(2 / df)
            statistic = ((counts - expected) ** 2 / expected).sum() / (size - 1)
            assert abs(float(statistic) - 1) < 4 * (2 / (size - 1)) ** 0.5
        pairs = torch.cat([p.tasks.flatten(0, 2)[:, :2] for p in plans])
        together = torch.bincount(pairs[:, 0] * 20 + pairs[:, 1], minlength=400).view(20, 20)
        assert together.diagonal().sum() == 0
        off = together[~torch.eye(20, dtype=torch.bool)]
        assert off.min() > 0.5 * off.float().mean()

    def test_every_row_of_a_task_is_drawn_as_support_equally(self):
        suite = CASES["regression"]()
        data = TrainingEpisodes(suite, CPU)
        plan = data.epoch(OptimizerConfig(batch_tasks=60), list(range(60)), 0)
        rows = suite.rows("train").task
        for task in torch.unique(rows).tolist():
            mine = torch.nonzero(rows == task)[:, 0]
            drawn = plan.support[plan.tasks == task].flatten()
            counts = torch.bincount(drawn, minlength=len(rows))[mine].float()
            assert counts.min() > 0.6 * counts.mean()
            assert counts.max() < 1.5 * counts.mean()


class TestTraining:
    def test_k_runs_fused_are_the_runs_one_by_one(self, suite):
        runs = runs_of({"adaptation.ridge": 0.1}, {"adaptation.ridge": 1.0}, {"optimizer.lr": 1e-3})
        trainer = Trainer(suite, 2, CPU)
        results, state = trainer.train(runs, trainer.start(runs), 2)
        episodes = suite.episodes("val")
        together = trainer.predict_episodes(runs, state, episodes)
        for k, run in enumerate(runs):
            (alone,), own = trainer.train([run], trainer.start([run]), 2)
            torch.testing.assert_close(own.values[0], state.values[k], rtol=1e-4, atol=1e-5)
            assert alone.value == pytest.approx(results[k].value, abs=2e-3)
            found = trainer.predict_episodes([run], own, episodes)[0]
            np.testing.assert_allclose(found, together[k], rtol=1e-3, atol=1e-3)

    def test_a_step_is_the_plain_gradient_of_its_episodes(self):
        suite = CASES["regression"]()
        runs = runs_of(
            {}, **{"optimizer.kind": "sgd", "optimizer.lr": 0.01, "optimizer.momentum": 0.0},
            **{"optimizer.weight_decay": 0.0, "optimizer.clip": 1e9},
            **{"optimizer.schedule": "constant", "optimizer.batch_tasks": 100},
        )  # fmt: skip
        trainer = Trainer(suite, 1, CPU)
        state = trainer.start(runs)
        learner = build(runs[0].config, trainer.problem)
        params, _ = learner.init(torch.Generator().manual_seed(0))
        leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
        data = TrainingEpisodes(suite, CPU)
        assert data.steps(runs[0].config.optimizer) == 1
        episode = data.batch(data.epoch(runs[0].config.optimizer, [0], 0), 0)
        support, query = (type(half)(*(part[0] for part in half)) for half in episode)
        phi = learner.adapt(leaves, {}, support, Step(True))
        loss, _, _ = learner.loss(phi, {}, query, Step(True))
        loss.backward()
        _, after = trainer.train(runs, state, 1)
        found = Layout(params).unpack(after.values)
        for name, leaf in leaves.items():
            want = (leaf - 0.01 * leaf.grad).detach()
            torch.testing.assert_close(found[name][0], want, rtol=1e-4, atol=1e-6)

    def test_it_learns_what_tasks_have_in_common(self):
        suite = sinusoid_episodes(
            400, 20, shape=EpisodeShape(shots=10, queries=10), held_out=(50, 50)
        )
        common = {"adaptation.width": 24, "optimizer.batch_tasks": 25, "optimizer.lr": 0.02}
        runs = runs_of({"optimizer.lr": 1e-9}, {}, **common)
        trainer = Trainer(suite, 20, CPU)
        results, state = trainer.train(runs, trainer.start(runs), 20)
        idle, good = results
        assert good.value > idle.value + 0.1
        assert good.value > 0.8
        assert set(good.tasks) == set(suite.tasks_by_split["val"])
        assert good.train_loss < idle.train_loss
        episodes = suite.open_test_episodes()
        found = evaluate_episodes(trainer.predict_episodes(runs, state, episodes), episodes)
        assert found.value()[1] == pytest.approx(good.value, abs=0.1)

    def test_meta_test_tasks_are_never_needed(self, suite):
        runs = runs_of({})
        values = []
        for some in (suite, suite.without_test()):
            trainer = Trainer(some, 1, CPU)
            values.append(trainer.train(runs, trainer.start(runs), 1)[0][0].value)
        assert values[0] == values[1]

    def test_a_merged_suite_has_no_value(self):
        suite = CASES["mixed"]().merged()
        runs = runs_of({})
        trainer = Trainer(suite, 1, CPU)
        (result,), _ = trainer.train(runs, trainer.start(runs), 1)
        assert result.value is None
        assert result.reason is None
        assert trainer.problem.base_classes == 25

    @pytest.mark.parametrize(
        ("case", "values"),
        [
            ("regression", {"adaptation.kind": "gradient", "sharing.split_at": 1}),
            ("regression", {"adaptation.kind": "reptile", "sharing.split_at": 0}),
            ("mixed", {"adaptation.kind": "finetune"}),
            ("binary", {"adaptation.kind": "metric"}),
            ("regression", {"adaptation.kind": "bayesian", "adaptation.basis": 8}),
            (
                "mixed",
                {
                    "adaptation.kind": "amortized",
                    "adaptation.aggregation": "attention",
                    "adaptation.encoder_width": 8,
                    "conditioning.kind": "multiplicative",
                },
            ),
        ],
        ids=lambda values: values if isinstance(values, str) else values["adaptation.kind"],
    )
    def test_a_diverging_run_leaves_its_neighbours_alone(self, case, values):
        """Each with its own dropout; in training, and when new tasks are adapted to."""
        runs = runs_of(
            {"backbone.dropout": 0.3},
            {"optimizer.lr": 1e38, "optimizer.clip": 1e38},
            {"optimizer.lr": 0.01},
            **{**values, "optimizer.kind": "sgd", "backbone.width": 8, "backbone.depth": 2},
        )
        trainer = Trainer(CASES[case](), 2, CPU)
        results, state = trainer.train(runs, trainer.start(runs), 2)
        assert results[1].value is None
        assert "infinite or undefined" in results[1].reason
        for k in (0, 2):
            (alone,), own = trainer.train([runs[k]], trainer.start([runs[k]]), 2)
            torch.testing.assert_close(own.values[0], state.values[k], rtol=1e-4, atol=1e-5)
            assert results[k].value == pytest.approx(alone.value, abs=2e-3)
            assert results[k].tasks.keys() == alone.tasks.keys()

    def test_steps_and_predictions_can_be_timed(self, suite):
        trainer = Trainer(suite, 1, CPU)
        runs = runs_of({}, {})
        assert trainer.step_seconds(runs, repeats=1) > 0
        found = costs_of("inference-time", trainer, runs, trainer.start(runs))
        assert all(0 < ms < 1000 for ms in found)

    def test_units_load_either_type(self, tmp_path: Path):
        suite = CASES["binary"]()
        suite.without_test().save(tmp_path / "suite")
        configs = tuple(run.config.flat() for run in runs_of({}, {"adaptation.ridge": 1.0}))
        unit = WorkUnit(
            ("0", "1"), configs, (0, 1), 0, 2, 2, str(tmp_path / "suite"), suite.fingerprint,
            str(tmp_path), chunk=2,
        )  # fmt: skip
        results = run_unit(unit).results
        assert [r.reason for r in results] == [None, None]
        assert all(set(r.tasks) == set(suite.tasks_by_split["val"]) for r in results)
        assert unit.checkpoint("0", 2).exists()


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


class TestRefusals:
    def config(self, **values: object) -> TrialConfig:
        return runs_of({n.replace("__", "."): v for n, v in values.items()})[0].config

    def test_balancing_is_equal(self):
        problem = Problem.of(CASES["regression"]())
        with pytest.raises(ConfigError, match="should be `equal` in episodes.*Found.*uncertainty"):
            build(self.config(balancing__kind="uncertainty"), problem)

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"sharing.kind": "cross_stitch"}, "`sharing.kind` should be `hard` with"),
            ({"sharing.kind": "independent"}, "`sharing.kind` should be `hard` with"),
            (
                {"conditioning.kind": "additive", "conditioning.embedding": "one_hot"},
                "`conditioning.embedding` should be `learned`",
            ),
        ],
    )
    def test_of_every_learner_that_takes_episodes(self, values, told):
        """Registered ones need not repeat it."""
        problem = Problem.of(CASES["regression"]())
        with pytest.raises(ConfigError, match=told):
            build(runs_of(values)[0].config, problem)

    @pytest.mark.parametrize(
        ("kind", "number", "value"),
        [
            ("finetune", "inner_lr", math.inf),
            ("gradient", "inner_lr", math.inf),
            ("reptile", "inner_lr", math.inf),
            ("metric", "distance_scale", math.inf),
            ("bayesian", "noise", math.inf),
            ("bayesian", "noise", 1e-200),  # its square is 0
        ],
    )
    def test_numbers_that_no_learner_can_start_from(self, kind, number, value):
        with pytest.raises(ConfigError, match=f"adaptation.{number}"):
            runs_of({"adaptation.kind": kind, f"adaptation.{number}": value})

    @pytest.mark.parametrize("kind", [k for k, one in LEARNERS.items() if one.any_ways])
    @pytest.mark.parametrize("ways", [2, 5])
    def test_learners_that_take_any_number_of_ways(self, kind, ways):
        test_shape = EpisodeShape(ways=ways, shots=2, queries=4)
        suite = EpisodicSuite.from_suite(pictures(), NWAY, test_shape=test_shape)
        conditioned = {"conditioning.kind": "additive"} if kind == "amortized" else {}
        runs = runs_of({"adaptation.kind": kind, "backbone.width": 32, **conditioned})
        trainer = Trainer(suite, 8, CPU)
        (result,), state = trainer.train(runs, trainer.start(runs), 8)
        episodes = suite.episodes("val")
        found = trainer.predict_episodes(runs, state, episodes)
        assert found.shape == (1, 100, 4 * ways, ways)
        assert np.isfinite(found).all()
        assert result.value > 0.1  # better than chance of `ways` classes

    def test_another_number_of_ways_needs_a_learner_that_takes_any(self, monkeypatch):
        other = EpisodeShape(ways=2, shots=2, queries=4)
        suite = EpisodicSuite.from_suite(pictures(), NWAY, test_shape=other)
        runs = runs_of({})
        trainer = Trainer(suite, 1, CPU)
        (result,), _ = trainer.train(runs, trainer.start(runs), 1)
        assert result.value is not None
        monkeypatch.setattr(Ridge, "any_ways", False)
        with pytest.raises(ConfigError, match=r"another number of classes \(2, not 3\)"):
            build(self.config(), Problem.of(suite))
