"""Episodes to train on: how they are drawn."""

from __future__ import annotations

import pytest
import torch

from autometa.tasks import EpisodeShape, EpisodicSuite
from autometa.training.episodes import TrainingEpisodes
from autometa.trial import OptimizerConfig
from tests.episodic import CASES, SCARCE, grouped
from tests.small import seeded

CPU = torch.device("cpu")


@pytest.fixture(params=list(CASES))
def suite(request) -> EpisodicSuite:
    return CASES[request.param]()


class TestDrawing:
    CONFIG = OptimizerConfig(batch_tasks=5)

    def test_an_epoch_is_the_rows_by_the_rows_of_a_step(self, suite):
        data = TrainingEpisodes(suite, CPU)
        rows = 5 * (suite.shape.n_support + suite.shape.n_query)
        assert data.steps(self.CONFIG) == -(-suite.counts["train"] // rows)
        plan = data.epoch(self.CONFIG, seeded(0, 1, 2), 0)
        assert plan.support.shape == (data.steps(self.CONFIG), 3, 5, suite.shape.n_support)

    def test_a_function_of_seed_and_epoch(self, suite):
        data = TrainingEpisodes(suite, CPU)
        together = data.epoch(self.CONFIG, seeded(3, 4), 1)
        again = TrainingEpisodes(suite, CPU).epoch(self.CONFIG, seeded(4), 1)
        for both, one in zip(together, again, strict=True):
            assert torch.equal(both[:, 1:], one)
        assert not torch.equal(together.query[:, 0], together.query[:, 1])
        assert not torch.equal(together.query, data.epoch(self.CONFIG, seeded(3, 4), 2).query)

    def test_it_does_not_depend_on_how_many_steps_are_drawn_at_once(self, suite, monkeypatch):
        data = TrainingEpisodes(suite, CPU)
        config = OptimizerConfig(batch_tasks=2)
        whole = data.epoch(config, seeded(0, 1), 0)
        monkeypatch.setattr("autometa.training.episodes._NUMBERS", 1)
        for one, other in zip(whole, data.epoch(config, seeded(0, 1), 0), strict=True):
            assert torch.equal(one, other)

    def test_batches_are_rows_of_their_task_and_none_twice(self, suite):
        data = TrainingEpisodes(suite, CPU)
        rows = suite.rows("train")
        plan = data.epoch(self.CONFIG, seeded(0, 1), 0)
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
        plan = data.epoch(self.CONFIG, seeded(0), 0)
        support, query = data.batch(plan, 0)
        y = suite.rows("train").y
        assert torch.equal(support.y[0], y[plan.support[0, 0]])
        assert torch.equal(query.y[0], y[plan.query[0, 0]])

    def test_targets_with_units_are_standardised_by_their_support_rows(self):
        suite = CASES["targets"]()
        data = TrainingEpisodes(suite, CPU)
        plan = data.epoch(self.CONFIG, seeded(0), 0)
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
        plan = data.epoch(self.CONFIG, seeded(0), 0)
        want = (counts[plan.tasks] - 6).clamp(max=30)
        assert torch.equal(plan.valid.sum(-1), want)
        assert int(want.min()) < 30

    def test_both_classes_are_in_the_support(self):
        suite = EpisodicSuite.from_suite(grouped("binary"), EpisodeShape(shots=2, queries=3))
        data = TrainingEpisodes(suite, CPU)
        plan = data.epoch(self.CONFIG, seeded(0, 1), 0)
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
            plan = data.epoch(config, seeded(7), epoch)
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
        plans = [data.epoch(config, seeded(*range(100)), epoch) for epoch in range(4)]
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
        plan = data.epoch(OptimizerConfig(batch_tasks=60), seeded(*range(60)), 0)
        rows = suite.rows("train").task
        for task in torch.unique(rows).tolist():
            mine = torch.nonzero(rows == task)[:, 0]
            drawn = plan.support[plan.tasks == task].flatten()
            counts = torch.bincount(drawn, minlength=len(rows))[mine].float()
            assert counts.min() > 0.6 * counts.mean()
            assert counts.max() < 1.5 * counts.mean()
