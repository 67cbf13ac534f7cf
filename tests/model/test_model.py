"""A trained model: what is saved is what predicts, in the user's labels and units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from autometa.errors import AutometaError, DataError, UserError
from autometa.model import Model
from autometa.tasks import TaskSuite
from autometa.training.population import Run, Trainer
from tests.small import IMAGE, in_steps, make_config, make_suite, make_table


def train(suite: TaskSuite, epochs: int = 2, **values: object) -> Model:
    flat = {name.replace("__", "."): value for name, value in values.items()}
    run = Run(make_config({"optimizer.lr": 1e-2, **flat}), 0)
    length = in_steps(suite, run.config, epochs)
    trainer = Trainer(suite, length, torch.device("cpu"))
    _, state = trainer.train([run], trainer.start([run]), length)
    return Model.of(suite, run.config, state, {"suite": suite.name, "epochs": epochs})


@pytest.fixture(scope="module")
def aligned() -> Model:
    return train(make_suite(), conditioning__kind="concat")


@pytest.fixture(scope="module")
def grouped() -> Model:
    return train(make_suite("grouped"))


@pytest.fixture(scope="module")
def images() -> Model:
    return train(make_suite("image"), backbone__kind="conv")


@pytest.fixture(scope="module")
def tokens() -> Model:
    return train(make_suite(), backbone__kind="transformer", sharing__kind="mtan")


@pytest.mark.parametrize("kind", ["aligned", "grouped", "images", "tokens"])
def test_save_and_load(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    table = make_table(20, seed=9)
    if kind == "images":
        table = np.random.default_rng(0).normal(size=(5, *IMAGE)).astype(np.float32)
    again = Model.load(model.save(tmp_path / "model"))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "model.json",
        "weights.safetensors",
    ]
    assert again.config == model.config
    assert again.tasks == model.tasks
    assert again.facts == model.facts
    pd.testing.assert_frame_equal(again.predict(table), model.predict(table))
    pd.testing.assert_frame_equal(
        again.predict(table, proba=True), model.predict(table, proba=True)
    )


class TestAligned:
    def test_columns_index_and_labels(self, aligned):
        table = make_table(20, seed=9).set_index(pd.Index(range(100, 120)))
        found = aligned.predict(table)
        assert list(found) == ["size", "species", "sold"]
        assert found.index.equals(table.index)
        assert set(found["species"]) <= {"ash", "birch", "cedar"}
        assert set(found["sold"]) <= {"no", "yes"}
        assert found["size"].between(-100, 300).all()

    def test_needs_the_features_only(self, aligned):
        table = make_table(20, seed=9)
        pd.testing.assert_frame_equal(
            aligned.predict(table[["c", "a", "b"]]), aligned.predict(table)
        )
        with pytest.raises(DataError, match="b"):
            aligned.predict(table[["a", "c"]])

    def test_chosen_tasks(self, aligned):
        table = make_table(10, seed=9)
        every = aligned.predict(table)
        pd.testing.assert_frame_equal(aligned.predict(table, "sold"), every[["sold"]])
        pd.testing.assert_frame_equal(
            aligned.predict(table, ["sold", "size"]), every[["sold", "size"]]
        )
        with pytest.raises(DataError, match="`tasks` should name at least one of"):
            aligned.predict(table, [])
        with pytest.raises(DataError, match="no target `sodl`. Did you mean `sold`"):
            aligned.predict(table, "sodl")

    def test_probabilities(self, aligned):
        table = make_table(20, seed=9)
        shares, labels = aligned.predict(table, proba=True), aligned.predict(table)
        species = shares[[f"species={label}" for label in ("ash", "birch", "cedar")]]
        sold = shares[["sold=no", "sold=yes"]]
        for part, name in ((species, "species"), (sold, "sold")):
            np.testing.assert_allclose(part.sum(axis=1), 1.0, rtol=1e-6)
            assert part.ge(0).all(axis=None)
            best = part.idxmax(axis=1).str.removeprefix(f"{name}=")
            assert best.tolist() == labels[name].tolist()
        pd.testing.assert_series_equal(shares["size"], labels["size"])

    def test_integer_labels(self):
        model = train(make_suite("integers", rows=200).merged(), epochs=1)
        assert set(model.predict(make_table(9))) == {"size", "grade"}
        table = make_table(60)
        suite = TaskSuite.from_frame(
            table[["a", "b", "c", "grade", "size"]],
            targets=["grade", "size"],
            kinds={"grade": "multiclass", "size": "regression"},
        )
        found = train(suite).predict(table)
        assert set(found["grade"]) <= {4, 5, 6}
        assert all(isinstance(value, int) for value in found["grade"])

    def test_learns_original_units(self):
        table = make_table(300)
        suite = TaskSuite.from_frame(table[["a", "b", "c", "size"]], targets=["size"])
        found = train(suite, epochs=25).predict(table)["size"]
        known = table["size"].notna()
        assert np.corrcoef(found[known], table["size"][known])[0, 1] > 0.95
        assert abs(found.mean() - 100) < 10

    def test_module_is_predict(self, aligned):
        table = make_table(12, seed=9)
        module = aligned.module()
        assert aligned.encoder is not None
        out = module(aligned.encoder.encode(table)).detach().numpy()
        found = aligned.predict(table)
        size = aligned.tasks[0]
        np.testing.assert_allclose(out[0, :, 0] * size.std + size.mean, found["size"], rtol=1e-4)
        species = np.array(aligned.tasks[1].classes)[out[1].argmax(1)]
        assert species.tolist() == found["species"].tolist()
        assert sum(p.numel() for p in module.parameters()) == sum(
            p.numel() for p in aligned.params.values()
        )
        assert all(p.requires_grad for p in module.parameters())


class TestGrouped:
    def test_tasks_come_from_the_table(self, grouped):
        table = make_table(20, seed=9).set_index(pd.Index(range(100, 120)))
        found = grouped.predict(table)
        assert list(found) == ["site", "prediction"]
        assert found.index.equals(table.index)
        assert found["site"].tolist() == table["site"].tolist()
        assert set(found["prediction"]) <= {"ash", "birch", "cedar"}
        assert "cedar" not in set(found["prediction"][found["site"] == "south"])

    def test_tasks_can_be_named(self, grouped):
        table = make_table(8, seed=9)
        found = grouped.predict(table.drop(columns="site"), "south")
        assert set(found["site"]) == {"south"}
        sites = ["north", "south"] * 4
        mixed = grouped.predict(table, sites)
        assert mixed["site"].tolist() == sites
        rows = [1, 3, 5, 7]
        assert mixed["prediction"][rows].tolist() == found["prediction"][rows].tolist()

    def test_errors(self, grouped):
        table = make_table(8, seed=9)
        with pytest.raises(DataError, match="no column `site`"):
            grouped.predict(table.drop(columns="site"))
        with pytest.raises(DataError, match="`west`"):
            grouped.predict(table, "west")
        with pytest.raises(DataError, match="8 rows and 2 tasks"):
            grouped.predict(table, ["north", "south"])

    def test_probabilities(self, grouped):
        found = grouped.predict(make_table(20, seed=9), proba=True)
        shares = found[[f"species={label}" for label in ("ash", "birch", "cedar")]]
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-6)
        assert shares.loc[found["site"] == "south", "species=cedar"].isna().all()
        assert shares.loc[found["site"] == "north"].notna().all(axis=None)

    def test_module_is_predict(self, grouped):
        table = make_table(12, seed=9)
        assert grouped.encoder is not None
        x = grouped.encoder.encode(table)
        names = [task.name for task in grouped.tasks]
        out = grouped.module()(x[None], torch.tensor([names.index("north")]))[0].detach()
        labels = np.array(grouped.tasks[names.index("north")].classes)[out.argmax(1)]
        assert labels.tolist() == grouped.predict(table, "north")["prediction"].tolist()


class TestLoadErrors:
    def test_no_model(self, tmp_path):
        with pytest.raises(UserError, match="holds no autometa model"):
            Model.load(tmp_path)

    def test_other_format(self, aligned, tmp_path):
        path = aligned.save(tmp_path) / "model.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
        with pytest.raises(UserError, match="has format 99"):
            Model.load(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}'])
    def test_broken_description(self, aligned, tmp_path, text):
        (aligned.save(tmp_path) / "model.json").write_text(text)
        with pytest.raises(UserError, match="holds no autometa model|has format"):
            Model.load(tmp_path)

    def test_missing_weights(self, aligned, tmp_path):
        (aligned.save(tmp_path) / "weights.safetensors").unlink()
        with pytest.raises(AutometaError, match="weights"):
            Model.load(tmp_path)


def test_a_folder_that_refuses_is_our_error(aligned, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AutometaError, match="Cannot write"):
        aligned.save(tmp_path / "file" / "model")
    (tmp_path / "taken" / "model.json").mkdir(parents=True)
    with pytest.raises(AutometaError, match="Cannot write"):
        aligned.save(tmp_path / "taken")
