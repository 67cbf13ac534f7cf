"""Training on episodes: fused runs, what is never needed, what cannot be built."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.errors import ConfigError
from autometa.learners import LEARNERS
from autometa.networks import Problem, Step
from autometa.searching.costs import costs_of
from autometa.searching.units import WorkUnit, run_unit
from autometa.tasks import EpisodeShape, EpisodicSuite
from autometa.tasks.sinusoid import sinusoid_episodes
from autometa.training.budget import epochs_in_steps
from autometa.training.episodes import TrainingEpisodes
from autometa.training.population import Trainer
from autometa.training.scoring import evaluate_episodes
from autometa.training.state import Layout
from autometa.trial import TrialConfig, build
from tests.episodic import CASES, NWAY, Ridge, pictures, runs_of
from tests.small import seeded

CPU = torch.device("cpu")


@pytest.fixture(params=list(CASES))
def suite(request) -> EpisodicSuite:
    return CASES[request.param]()


@pytest.fixture(autouse=True)
def ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closed-form learner among the registered ones."""
    monkeypatch.setitem(LEARNERS, "ridge", Ridge)


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
        episode = data.batch(data.epoch(runs[0].config.optimizer, seeded(0), 0), 0)
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
        trainer = Trainer(suite, 240, CPU)
        results, state = trainer.train(runs, trainer.start(runs), 240)
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
        length = epochs_in_steps(suite, 8)
        trainer = Trainer(suite, length, CPU)
        (result,), state = trainer.train(runs, trainer.start(runs), length)
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
