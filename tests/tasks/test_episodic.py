"""Whole tasks held out: which, standardised on what, sealed, saved; and the fixed episodes."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
import torch

from autometa.errors import DataError
from autometa.networks import Problem
from autometa.tasks import EpisodeShape, EpisodicSuite, TaskSuite, load_saved, load_suite
from autometa.tasks.drawing import support_units
from tests.episodic import CASES, NWAY, REGRESSION, grouped, lines, pictures, targets


@pytest.fixture(params=list(CASES))
def suite(request) -> EpisodicSuite:
    return CASES[request.param]()


class TestTasks:
    def test_every_task_is_in_one_split(self, suite):
        split = suite.tasks_by_split
        names = [name for part in split.values() for name in part]
        assert sorted(names) == sorted(suite.tasks)
        assert all(split.values())
        train, val = suite.rows("train"), suite.rows("val")
        for name, rows in (("train", train), ("val", val)):
            assert {suite.tasks[t] for t in rows.task.tolist()} == set(split[name])
        assert {suite.tasks[t] for t in suite._test["task"].tolist()} == set(split["test"])

    def test_all_rows_of_a_task_are_its_own(self):
        table = lines()
        suite = CASES["regression"]()
        for task, name in enumerate(suite.tasks):
            if suite.task_split[task] == 2:
                found = int((suite._test["task"] == task).sum())
            else:
                found = int((suite.task == task).sum())
            assert found == int((table.place == name).sum())

    def test_the_seed_chooses_the_tasks_to_hold_out(self):
        source = grouped()
        held = [EpisodicSuite.from_suite(source, REGRESSION, seed=s).tasks_by_split for s in (0, 0)]
        assert held[0] == held[1]
        others = {
            EpisodicSuite.from_suite(source, REGRESSION, seed=s).tasks_by_split["test"]
            for s in range(10)
        }
        assert len(others) > 3

    def test_thirty_tasks_are_split_twenty_five_five(self):
        table = lines(sizes=(8,) * 30)
        suite = EpisodicSuite.from_suite(grouped(table=table), EpisodeShape(shots=2, queries=2))
        assert [len(t) for t in suite.tasks_by_split.values()] == [20, 5, 5]

    def test_classes_are_numbered_with_the_training_tasks_first(self):
        suite = CASES["mixed"]()
        assert suite.base_classes == 20
        train, val = (set(suite.classes[suite.rows(s).index].tolist()) for s in ("train", "val"))
        assert train == set(range(20))
        assert val == set(range(20, 25))
        assert set(suite._test["classes"].tolist()) == set(range(25, 30))
        assert suite.merged().base_classes == 25

    def test_a_task_too_small_is_left_out_with_its_reason(self):
        suite = CASES["regression"]()
        assert suite.left_out == {"p6": "5 rows, 7 are needed"}
        assert "p6" not in suite.tasks
        assert "1 left out" in suite.summary()

    def test_a_class_too_small_is_left_out(self):
        rng = np.random.default_rng(0)
        label = np.tile(np.repeat([0, 1, 2, 3], [6, 6, 6, 3]), 4)
        task = np.repeat(np.arange(4), 21)
        source = TaskSuite.from_arrays(
            rng.normal(size=(84, 2)), label, task=task, kinds="multiclass"
        )
        suite = EpisodicSuite.from_suite(source, EpisodeShape(ways=2, shots=3, queries=2))
        assert suite.base_classes == 2 * 3
        one = EpisodeShape(ways=4, shots=3, queries=2)
        with pytest.raises(DataError, match=r"3 classes with at least 4 rows, 4 are needed"):
            EpisodicSuite.from_suite(source, one, one_task=True)


class TestNoLeak:
    def training(self, suite: EpisodicSuite) -> list[torch.Tensor]:
        """Meta-train rows in an order that no label decides."""
        rows = suite.rows("train")
        order = np.lexsort(rows.x.flatten(1).T.numpy().round(4))
        return [rows.x[order], rows.y[order], rows.task[order]]

    def test_labels_of_held_out_tasks_change_nothing_in_training(self):
        table = lines()
        before = EpisodicSuite.from_suite(grouped(table=table), REGRESSION)
        held = [n for s in ("val", "test") for n in before.tasks_by_split[s]]
        mine = table.place.isin(held)
        assert 0 < mine.sum() < len(table)
        changed = table.assign(y=np.where(mine, -7 * table.y + 1e4, table.y))
        after = EpisodicSuite.from_suite(grouped(table=changed), REGRESSION)
        assert after.tasks_by_split == before.tasks_by_split
        for one, other in zip(self.training(before), self.training(after), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert after.target_mean == pytest.approx(before.target_mean, rel=1e-4)
        assert after.target_std == pytest.approx(before.target_std, rel=1e-4)

    def test_targets_and_inputs_are_standardised_on_the_training_tasks(self):
        table = lines()
        suite = CASES["regression"]()
        mine = table[table.place.isin(suite.tasks_by_split["train"])]
        assert suite.target_mean == pytest.approx(mine.y.mean(), rel=1e-5)
        assert suite.target_std == pytest.approx(mine.y.std(ddof=0), rel=1e-5)
        rows = suite.rows("train")
        assert rows.x.mean(0).abs().max() < 1e-5
        assert (rows.x.std(0, correction=0) - 1).abs().max() < 1e-5
        original = sorted(mine.y)
        assert sorted((rows.y * suite.target_std + suite.target_mean).tolist()) == pytest.approx(
            original, rel=1e-4, abs=1e-3
        )

    @pytest.mark.parametrize("case", ["regression", "binary"])
    def test_a_new_table_is_encoded_alike(self, case):
        suite = CASES[case]()
        table = lines("binary" if case == "binary" else "regression")
        x = suite.encoder.encode(table[table.place == suite.tasks_by_split["val"][0]])
        task = suite.tasks.index(suite.tasks_by_split["val"][0])
        mine = suite.x[suite.task == task]
        order, other = (np.lexsort(v.T.numpy().round(3)) for v in (x, mine))
        torch.testing.assert_close(x[order], mine[other], rtol=1e-4, atol=1e-4)

    def test_new_images_are_encoded_alike(self):
        source = pictures()
        suite = EpisodicSuite.from_suite(source, NWAY)
        rows = suite.rows("train")
        assert abs(float(rows.x.mean())) < 1e-5
        assert float(rows.x.std()) == pytest.approx(1, abs=1e-3)
        raw = rows.x * suite.encoder.std + suite.encoder.mean
        torch.testing.assert_close(suite.encoder.encode(raw), rows.x, rtol=1e-4, atol=1e-4)
        before = torch.cat([source.x, source.open_test().x]) * source.encoder.std
        before += source.encoder.mean
        assert float(raw.max()) <= float(before.max()) * 1.0001

    def test_a_feature_constant_in_the_training_tasks_goes(self):
        table = lines()
        held = CASES["regression"]().tasks_by_split["test"]
        table = table.assign(c=np.where(table.place == held[0], 5.0, 2.0))
        suite = EpisodicSuite.from_suite(grouped(table=table), REGRESSION)
        assert suite.encoder.features == ("a", "b")
        assert suite.encoder.encode(table).shape == (len(table), 2)


class TestSeal:
    def test_rows_of_test_tasks_are_nowhere_public(self, suite):
        assert set(suite.task.tolist()).isdisjoint(suite._test["task"].tolist())
        with pytest.raises(DataError, match=r"`train` or `val`. Found `split = 'test'`"):
            suite.episodes("test")

    def test_without_test_they_are_gone(self, suite, tmp_path):
        for other in (suite.without_test(), suite.merged()):
            with pytest.raises(DataError, match="has no test tasks here"):
                other.open_test_episodes()
            assert other.counts["test"] == 0
            assert other.fingerprint == suite.fingerprint
        folder = suite.without_test().save(tmp_path / "s")
        assert sorted(p.name for p in folder.iterdir()) == ["rows.safetensors", "suite.json"]
        suite.save(folder)
        suite.without_test().save(folder)
        assert not (folder / "test.safetensors").exists()

    def test_merged_trains_on_validation_tasks_too(self, suite):
        merged = suite.merged()
        assert merged.counts["train"] == suite.counts["train"] + suite.counts["val"]
        assert merged.counts["val"] == 0
        assert torch.equal(merged.x, suite.x)


class TestSaving:
    def test_round_trip(self, suite, tmp_path):
        again = load_saved(suite.save(tmp_path / "s"))
        assert isinstance(again, EpisodicSuite)
        assert again.describe() == suite.describe()
        assert Problem.of(again) == Problem.of(suite)
        assert again.encoder == suite.encoder
        assert (again.units, again.labels) == (suite.units, suite.labels)
        assert (again.target_mean, again.target_std) == (suite.target_mean, suite.target_std)
        for name in ("x", "y", "task", "task_split"):
            assert torch.equal(getattr(again, name), getattr(suite, name))
        mine, other = suite.open_test_episodes(9), again.open_test_episodes(9)
        assert torch.equal(mine.query.x, other.query.x)
        assert torch.equal(mine.query.y, other.query.y)
        json.dumps(suite.describe())

    def test_the_type_is_told_from_the_json(self, tmp_path):
        source = grouped()
        assert isinstance(load_saved(source.save(tmp_path / "rows")), TaskSuite)
        folder = CASES["regression"]().save(tmp_path / "episodes")
        with pytest.raises(DataError, match="no readable suite"):
            TaskSuite.load(folder)
        with pytest.raises(DataError, match="should be one of episodes"):
            EpisodicSuite.load(tmp_path / "rows")
        with pytest.raises(DataError, match="no readable suite"):
            load_saved(tmp_path / "nothing")

    @pytest.mark.parametrize("text", ["[]", "{", '{"format": 1, "layout": "episodes"}', None])
    def test_a_broken_file_is_told(self, text, tmp_path):
        folder = CASES["regression"]().save(tmp_path / "s")
        path = folder / "suite.json"
        if text is None:  # a value that no episode can have
            facts = json.loads(path.read_text())
            text = json.dumps({**facts, "episode": {"shots": 0}})
        path.write_text(text)
        with pytest.raises(DataError, match="no readable suite"):
            EpisodicSuite.load(folder)

    def test_the_fingerprint_knows_data_shape_and_split(self):
        source = grouped()
        changed = grouped(table=lines().assign(b=1.5 * lines().b))
        found = {
            EpisodicSuite.from_suite(source, REGRESSION).fingerprint,
            EpisodicSuite.from_suite(source, REGRESSION, seed=3).fingerprint,
            EpisodicSuite.from_suite(source, EpisodeShape(shots=5, queries=4)).fingerprint,
            EpisodicSuite.from_suite(changed, REGRESSION).fingerprint,
        }
        assert len(found) == 4
        assert EpisodicSuite.from_suite(source, REGRESSION).fingerprint in found


class TestProblem:
    def test_one_task_stands_for_all(self, suite):
        problem = Problem.of(suite)
        assert (problem.layout, problem.n_tasks) == ("aligned", 1)
        assert problem.kinds == (suite.kind,)
        assert problem.n_outputs == (suite.shape.ways or 1,)
        assert problem.episode == suite.shape
        assert problem.base_classes == suite.base_classes
        assert problem.test_episode is None

    def test_another_shape_of_held_out_tasks(self):
        test_shape = EpisodeShape(ways=2, shots=1, queries=3)
        suite = EpisodicSuite.from_suite(pictures(), NWAY, test_shape=test_shape)
        assert Problem.of(suite).test_episode == test_shape
        assert suite.episodes("val").support.x.shape[1] == 2
        assert suite.open_test_episodes().shape == test_shape
        assert suite.episodes("train").shape == NWAY


class TestFixedEpisodes:
    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_rows_are_of_the_split_and_distinct(self, suite, split):
        episodes = suite.open_test_episodes() if split == "test" else suite.episodes(split)
        source = suite._test if split == "test" else {"task": suite.task, "classes": suite.classes}
        names = suite.tasks_by_split[split]
        code = [suite.tasks.index(name) for name in names]
        for k in range(len(episodes)):
            support = episodes.support.rows[k]
            query = episodes.query.rows[k][episodes.query.mask[k]]
            both = torch.cat([support, query]).tolist()
            assert len(set(both)) == len(both)
            assert len(query) > 0
            assert set(source["task"][both].tolist()) <= set(code)
            if suite.shape.ways is None:
                assert {suite.tasks[t] for t in source["task"][both]} == {episodes.names[k]}
            else:
                y = torch.cat([episodes.support.y[k], episodes.query.y[k][episodes.query.mask[k]]])
                found = source["classes"][both]
                assert torch.equal(episodes.tasks[k][y.long()], found)
                assert len(set(found.tolist())) == suite.shape.ways

    def test_they_are_the_same_for_all_and_differ_by_seed_and_split(self, suite):
        one, same, other = (suite.episodes("val", seed=s) for s in (0, 0, 1))
        assert torch.equal(one.query.rows, same.query.rows)
        assert not torch.equal(one.support.rows, other.support.rows)

    def test_how_many(self):
        mixed = CASES["mixed"]()
        assert len(mixed.episodes("val")) == 100
        assert len(mixed.open_test_episodes()) == 600
        tables = CASES["regression"]()  # one task is held out for each
        assert len(tables.episodes("val")) == 20
        assert len(tables.open_test_episodes()) == 50
        assert len(tables.episodes("train", 7)) == 7

    def test_a_tasks_other_rows_are_all_asked(self):
        suite = CASES["regression"]()
        episodes = suite.episodes("val")
        for k, name in enumerate(episodes.names):
            rows = int((suite.task == suite.tasks.index(name)).sum())
            assert int(episodes.query.mask[k].sum()) == rows - REGRESSION.shots

    def test_support_rows_have_both_classes_where_the_task_has(self):
        rare = lines("binary", (40,) * 8)
        rare.loc[rare.groupby("place").cumcount() > 2, "y"] = "no"
        rare.loc[rare.groupby("place").cumcount() == 1, "y"] = "yes"
        rare.loc[rare.groupby("place").cumcount() == 2, "y"] = "yes"
        suite = EpisodicSuite.from_suite(grouped(table=rare), EpisodeShape(shots=2, queries=4))
        y = suite.episodes("train").support.y
        assert (y.sum(1) >= 1).all()
        assert (y.sum(1) < 2).all()

    def test_targets_with_units_are_standardised_by_their_support_rows(self):
        suite = CASES["targets"]()
        episodes = suite.episodes("val")
        y = episodes.support.y
        assert y.mean(1).abs().max() < 1e-5
        assert (y.std(1, correction=0) - 1).abs().max() < 1e-4
        labels = suite.y[episodes.query.rows[0]][episodes.query.mask[0]]
        mean = suite.y[episodes.support.rows[0]].mean()
        again = episodes.query.y[0][episodes.query.mask[0]] * episodes.scale[0] + mean
        torch.testing.assert_close(again, labels, rtol=1e-4, atol=1e-4)

    def test_equal_support_labels_keep_their_unit(self):
        mean, std = support_units(
            torch.tensor([[3.0, 3.0, 9.0], [1.0, 3.0, 5.0]]),
            torch.tensor([[True, True, False], [True, True, True]]),
        )
        assert mean[:, 0].tolist() == [3.0, 3.0]
        assert std[:, 0].tolist() == pytest.approx([1.0, (8 / 3) ** 0.5])


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "shape", "options", "message"),
        [
            (lambda: grouped(table=lines(sizes=(20, 20))), REGRESSION, {}, "has 2 tasks; episodes"),
            (
                lambda: grouped(table=lines(sizes=(20, 20, 6, 6))),
                REGRESSION,
                {},
                "Found 2 of 4: task `p2` has 6 rows, 7 are needed",
            ),
            (grouped, NWAY, {}, "`ways` should be left out where tasks are regression.*ways = 3"),
            (pictures, REGRESSION, {}, "`ways` should be the number of classes.*such as 5"),
            (
                pictures,
                EpisodeShape(ways=6, shots=1),
                {},
                "`test_ways` should be at most 5, the classes of the val tasks",
            ),
            (
                pictures,
                EpisodeShape(ways=25, shots=1),
                {"test_shape": NWAY},
                "`ways` should be at most 20, the classes of the train tasks",
            ),
            (grouped, REGRESSION, {"one_task": True}, "`one_task` is for multiclass tasks"),
            (targets, EpisodeShape(shots=1), {}, "`shots` should be at least 2.*Found `shots = 1`"),
            (grouped, REGRESSION, {"fractions": (1, 0, 0)}, "three positive numbers"),
            (grouped, REGRESSION, {"fractions": (0.01, 0.49, 0.5)}, "leaves no task to train on"),
        ],
    )
    def test_sentences(self, make, shape, options, message):
        with pytest.raises(DataError, match=message):
            EpisodicSuite.from_suite(make(), shape, **options)

    def test_mixed_kinds_name_the_option(self):
        with pytest.raises(DataError, match=r"Found binary, regression.*--targets diagnosis\)"):
            EpisodicSuite.from_suite(load_suite("breast-cancer"), REGRESSION)

    def test_rows_of_several_classes_are_not_mixed(self):
        rng = np.random.default_rng(0)
        source = TaskSuite.from_arrays(
            rng.normal(size=(60, 2)), rng.integers(0, 3, (60, 3)), kinds="multiclass"
        )
        shape = EpisodeShape(ways=2, shots=2, queries=2)
        with pytest.raises(DataError, match="`one_task` should be True.*Found `one_task = False`"):
            EpisodicSuite.from_suite(source, shape)
        suite = EpisodicSuite.from_suite(source, shape, one_task=True)
        episodes = suite.episodes("val")
        assert set(episodes.names) == set(suite.tasks_by_split["val"])

    def test_a_suite_without_its_test_rows(self):
        with pytest.raises(DataError, match="has no test rows here"):
            EpisodicSuite.from_suite(grouped().without_test(), REGRESSION)


@pytest.mark.skipif(not os.environ.get("AUTOMETA_DATA"), reason="AUTOMETA_DATA is not set")
class TestRealData:
    @pytest.mark.parametrize(
        ("name", "numbers", "metric"),
        [("school", (93, 23, 23), "rmse"), ("landmine", (19, 5, 5), "auc")],
    )
    def test_tables(self, name, numbers, metric):
        suite = EpisodicSuite.from_suite(load_suite(name), EpisodeShape(shots=10))
        assert tuple(len(t) for t in suite.tasks_by_split.values()) == numbers
        assert suite.metric == metric
        assert sum(suite.counts.values()) == {"school": 15362, "landmine": 14820}[name]
        episodes = suite.episodes("val")
        assert 100 <= len(episodes) <= 400
        assert episodes.query.x.shape[1] <= 256
        if name == "landmine":
            assert (episodes.support.y.sum(1) >= 1).all()

    @pytest.mark.parametrize("one_task", [False, True])
    def test_omniglot(self, one_task):
        source = load_suite("omniglot_background")
        start = time.perf_counter()
        suite = EpisodicSuite.from_suite(source, EpisodeShape(ways=5, shots=1), one_task=one_task)
        assert time.perf_counter() - start < 15  # 1.5 s on an idle machine
        assert [len(t) for t in suite.tasks_by_split.values()] == [20, 5, 5]
        assert len(torch.unique(torch.cat([suite.classes, suite._test["classes"]]))) == 964
        episodes = suite.episodes("val")
        assert episodes.support.x.shape == (100, 5, 1, 28, 28)
        assert episodes.query.x.shape == (100, 75, 1, 28, 28)
        assert bool(episodes.query.mask.all())
        assert all(episodes.names) == one_task
