"""A new task from a few rows: what `Model.adapt` gives is what its learner gives."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from autometa.errors import DataError, UserError
from autometa.learners import LEARNERS, Batch
from autometa.model import Model
from autometa.networks import Step
from autometa.trial import build
from tests.meta_models import (
    EPISODIC,
    STEPPING,
    SURE_OF_NUMBERS,
    learners_for,
    make_images,
    make_meta,
)
from tests.small import make_table

EACH = pytest.mark.parametrize("kind", EPISODIC)
EVERY = pytest.mark.parametrize(
    ("kind", "target"),
    [
        (kind, target)
        for target in ("size", "species", "sold", "own")
        for kind in learners_for(target)
    ],
)


def rows_of(target: str, rows: int = 14, seed: int = 0) -> pd.DataFrame:
    """Labelled rows of one new task."""
    table = make_table(rows, seed)
    if target == "own":
        return table[["a", "b", "c"]].assign(weight=5 + 0.1 * table["a"])
    return table[["a", "b", "c", target]]


def by_hand(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    new: torch.Tensor,
    ways: int | None,
    member: int = 0,
):
    """The learner's φ, and its outputs for new rows, of one member."""
    learner = build(model.config, model.problem)
    tasks = torch.zeros(1, ways, dtype=torch.int64) if ways else torch.zeros(1, dtype=torch.int64)
    batch = Batch(x[None], y[None], torch.ones(1, len(y), dtype=torch.bool), tasks)
    params, buffers = model.member(member)
    phi = learner.adapt(params, buffers, batch, Step())
    return learner, phi, learner.predict(phi, buffers, new[None], tasks)[0].detach()


@EVERY
def test_it_is_the_learners_adapt_and_predict(kind, target):
    model = make_meta(kind, target)
    rows, new = rows_of(target), make_table(9, seed=5)[["a", "b", "c"]]
    adapted = model.adapt(rows)
    name = "weight" if target == "own" else target
    known = rows[rows[name].notna()]
    task = adapted.tasks[0]
    if task.kind == "regression":
        y = torch.tensor(((known[name] - task.mean) / task.std).to_numpy(np.float32))
    else:
        y = torch.tensor([float(task.classes.index(v)) for v in known[name]])
    encoder = model.encoder
    ways = 3 if target == "species" else None
    _, phi, out = by_hand(model, encoder.encode(known), y, encoder.encode(new), ways)
    for leaf, value in phi.items():
        torch.testing.assert_close(adapted.params[leaf][0], value.detach(), msg=leaf)
    found = adapted.predict(new)[name]
    if task.kind == "regression":
        np.testing.assert_allclose(found, out[:, 0] * task.std + task.mean, rtol=1e-5)
        return
    shares = adapted.predict(new, proba=True)
    if task.kind == "binary":
        assert found.tolist() == [task.classes[int(v > 0)] for v in out[:, 0]]
        np.testing.assert_allclose(shares[f"{name}=yes"], torch.sigmoid(out[:, 0]), rtol=1e-5)
    else:
        assert found.tolist() == [task.classes[int(v)] for v in out.argmax(1)]
        np.testing.assert_allclose(shares.to_numpy(), torch.softmax(out, 1), atol=1e-6)
    assert list(shares) == [f"{name}={label}" for label in task.classes]


@EVERY
def test_save_and_load(kind, target, tmp_path):
    model = make_meta(kind, target)
    again = Model.load(model.save(tmp_path / "meta"))
    assert (again.new_task, again.tasks) == (model.new_task, ())
    rows, new = rows_of(target), make_table(6, seed=5)
    adapted = model.adapt(rows)
    pd.testing.assert_frame_equal(again.adapt(rows).predict(new), adapted.predict(new))
    loaded = Model.load(adapted.save(tmp_path / "adapted"))
    assert {p.suffix for p in (tmp_path / "adapted").iterdir()} == {".json", ".safetensors"}
    assert (loaded.tasks, loaded.facts) == (adapted.tasks, adapted.facts)
    pd.testing.assert_frame_equal(loaded.predict(new), adapted.predict(new))
    proba = adapted.predict(new, proba=True)
    pd.testing.assert_frame_equal(loaded.predict(new, proba=True), proba)


@EVERY
def test_module_is_predict(kind, target):
    adapted = make_meta(kind, target).adapt(rows_of(target))
    new = make_table(6, seed=5)
    out = adapted.module()(adapted.encoder.encode(new)).detach().numpy()
    task = adapted.tasks[0]
    assert out.shape == (1, 6, task.n_outputs)
    found = adapted.predict(new)[task.name]
    if task.kind == "regression":
        np.testing.assert_allclose(task.restore(out[0, :, 0]), found, rtol=1e-5)
    elif task.kind == "multiclass":
        assert [task.classes[i] for i in out[0].argmax(1)] == found.tolist()


@pytest.mark.parametrize("kind", learners_for("species"))
def test_images(kind, tmp_path):
    model = make_meta(kind, "species", images=True)
    x, y = make_images()
    adapted = model.adapt(x, labels=y)
    assert adapted.tasks[0].classes == ("dim", "grey", "light")
    loaded = Model.load(adapted.save(tmp_path))
    new = make_images(7, seed=1)[0]
    found = loaded.predict(new)
    assert set(found["species"]) <= set(y)
    pd.testing.assert_frame_equal(found, adapted.predict(new))
    with pytest.raises(DataError, match="Images should have shape"):
        model.adapt(x[..., :3], labels=y)
    with pytest.raises(DataError, match="Arrays need `labels`"):
        model.adapt(x)


def test_the_model_itself_stays_as_it_was():
    model = make_meta("bayesian")
    before = {name: leaf.clone() for name, leaf in model.params.items()}
    first = model.adapt(rows_of("size"))
    model.adapt(rows_of("size", seed=3))
    assert model.tasks == ()
    assert model.params.keys() == before.keys()
    assert all(torch.equal(model.params[name], leaf) for name, leaf in before.items())
    assert "adapted" not in model.facts
    again = model.adapt(rows_of("size"))
    pd.testing.assert_frame_equal(first.predict(make_table(5)), again.predict(make_table(5)))


@EACH
def test_rows_decide_what_is_predicted(kind):
    """Other labels, other predictions; the order of the rows does not matter."""
    target = "species" if kind == "metric" else "size"
    model, rows, new = make_meta(kind, target), rows_of(target).dropna(), make_table(30, seed=5)
    found = model.adapt(rows).predict(new)[target]
    mixed = model.adapt(rows.sample(frac=1.0, random_state=0)).predict(new)[target]
    other = rows.assign(**{target: rows[target].to_numpy()[::-1]})
    changed = model.adapt(other).predict(new)[target]
    assert not changed.equals(found)
    if target == "species":
        assert mixed.tolist() == found.tolist()
    else:
        np.testing.assert_allclose(mixed, found, rtol=1e-4)


class TestFacts:
    def test_of_numbers(self):
        rows = rows_of("size").assign(site="a")
        adapted = make_meta("bayesian").adapt(rows)
        facts = adapted.facts["adapted"]
        assert (facts["target"], facts["task"]) == ("size", "a")
        assert (facts["rows"], facts["unlabelled"]) == (12, 2)
        known = rows[rows["size"].notna()]
        error = adapted.predict(known)["size"] - known["size"]
        assert facts["fit"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
        assert facts["notes"] == ["Trained to learn from 4 rows, this task has 12."]
        assert adapted.facts["suite"] == "small"
        assert json.loads(json.dumps(facts)) == facts

    def test_of_classes(self):
        rows = rows_of("species")
        adapted = make_meta("metric", "species").adapt(rows)
        facts = adapted.facts["adapted"]
        assert facts["classes"] == rows["species"].value_counts().to_dict()
        right = adapted.predict(rows)["species"] == rows["species"]
        assert facts["fit"] == {"accuracy": right.mean()}
        assert facts["notes"] == [
            "Trained to learn from 4 rows of each class, this task has 4 to 5."
        ]

    def test_nothing_differs(self):
        model = make_meta("bayesian")
        assert model.adapt(rows_of("size").dropna().head(4)).facts["adapted"]["notes"] == []
        classes = rows_of("species", rows=15).groupby("species").head(4)
        model = make_meta("metric", "species")
        assert model.adapt(classes).facts["adapted"]["notes"] == []


class TestWays:
    @pytest.mark.parametrize("kind", [k for k in EPISODIC if LEARNERS[k].any_ways])
    @pytest.mark.parametrize("ways", [2, 5])
    def test_other_numbers_of_classes(self, kind, ways):
        model = make_meta(kind, "species")
        rows = make_table(20).assign(species=np.arange(20) % ways)
        adapted = model.adapt(rows)
        assert adapted.tasks[0].classes == tuple(range(ways))
        shares = adapted.predict(rows, proba=True)
        assert shares.shape == (20, ways)
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-6)
        told = f"Trained on tasks of 3 classes, this one has {ways}."
        assert told in adapted.facts["adapted"]["notes"]
        out = adapted.module()(adapted.encoder.encode(rows))
        assert out.shape == (1, 20, ways)

    @pytest.mark.parametrize("kind", [k for k in EPISODIC if not LEARNERS[k].any_ways])
    def test_a_head_has_as_many_as_it_has(self, kind):
        model = make_meta(kind, "species")
        with pytest.raises(DataError, match="`species` should have 3 classes.*`metric`.* Found 2."):
            model.adapt(make_table(20).assign(species=np.arange(20) % 2))


class TestInterval:
    @pytest.mark.parametrize("kind", SURE_OF_NUMBERS)
    def test_it_is_gaussian_with_the_learners_moments(self, kind):
        model = make_meta(kind)
        rows, new = rows_of("size").dropna(), make_table(9, seed=5)
        adapted = model.adapt(rows)
        found = adapted.predict(new, interval=0.9)
        assert list(found) == ["size", "size_lower", "size_upper"]
        assert found["size"].equals(adapted.predict(new)["size"])
        y = torch.tensor(((rows["size"] - 100) / 20).to_numpy(np.float32))
        x, at = model.encoder.encode(rows), model.encoder.encode(new)
        learner, phi, _ = by_hand(model, x, y, at, None)
        one = torch.zeros(1, dtype=torch.int64)
        mean, variance = (m[0].detach() for m in learner.moments(phi, {}, at[None], one))
        ends = [100 + 20 * norm.ppf(p, mean, variance.sqrt()) for p in (0.05, 0.95)]
        np.testing.assert_allclose(found["size_lower"], ends[0], rtol=1e-5)
        np.testing.assert_allclose(found["size_upper"], ends[1], rtol=1e-5)
        wide = adapted.predict(new, interval=0.99)
        assert (wide["size_lower"] < found["size_lower"]).all()

    def test_the_task_may_be_named(self):
        adapted = make_meta("bayesian").adapt(rows_of("size"))
        new = make_table(5)
        pd.testing.assert_frame_equal(
            adapted.predict(new, "size", interval=0.5), adapted.predict(new, interval=0.5)
        )

    @pytest.mark.parametrize("level", [0.0, 1.0, 90, -0.1, float("nan")])
    def test_it_is_a_probability(self, level):
        adapted = make_meta("bayesian").adapt(rows_of("size"))
        with pytest.raises(UserError, match="`interval` should be a probability"):
            adapted.predict(make_table(5), interval=level)

    def test_numbers_only(self):
        adapted = make_meta("bayesian", "species").adapt(rows_of("species"))
        with pytest.raises(UserError, match="`species` has classes"):
            adapted.predict(make_table(5), interval=0.9)
        with pytest.raises(UserError, match="either `proba`"):
            adapted.predict(make_table(5), interval=0.9, proba=True)

    @pytest.mark.parametrize("kind", [k for k in EPISODIC if not LEARNERS[k].has_variance])
    def test_not_every_learner_knows(self, kind):
        target = "species" if kind == "metric" else "size"
        adapted = make_meta(kind, target).adapt(rows_of(target))
        with pytest.raises(UserError, match=f"bayesian`.*Found `adaptation.kind = {kind}`"):
            adapted.predict(make_table(5), interval=0.9)


class TestSteps:
    @pytest.mark.parametrize("kind", STEPPING)
    def test_number_and_rate(self, kind):
        model = make_meta(kind, **{"adaptation.test_steps": 2, "adaptation.inner_lr": 0.05})
        rows, new = rows_of("size").dropna(), make_table(20, seed=5)
        plain = model.adapt(rows)
        for options in ({"steps": 2}, {"rate": 0.05}, {"steps": 2, "rate": 0.05}):
            same = model.adapt(rows, **options)
            pd.testing.assert_frame_equal(same.predict(new), plain.predict(new))
        more = model.adapt(rows, steps=40)
        fit = [m.facts["adapted"]["fit"]["rmse"] for m in (model.adapt(rows, steps=0), plain, more)]
        assert fit[0] > fit[1] > fit[2]
        assert [m.facts["adapted"]["steps"] for m in (plain, more)] == [2, 40]
        faster = model.adapt(rows, rate=0.1)
        assert faster.config.adaptation.inner_lr == 0.1
        assert not faster.predict(new).equals(plain.predict(new))

    @pytest.mark.parametrize("kind", STEPPING)
    def test_divergence_is_told(self, kind):
        model = make_meta(kind)
        with pytest.raises(UserError, match="diverged.*fewer steps or a lower rate"):
            model.adapt(rows_of("size"), steps=60, rate=1e6)

    @pytest.mark.parametrize("kind", [k for k in EPISODIC if k not in STEPPING])
    def test_not_every_learner_takes_steps(self, kind):
        model = make_meta(kind, "species")
        for options in ({"steps": 3}, {"rate": 0.1}):
            with pytest.raises(UserError, match=f"gradient steps.*adaptation.kind = {kind}"):
                model.adapt(rows_of("species"), **options)

    @pytest.mark.parametrize("kind", STEPPING)
    @pytest.mark.parametrize(
        "options", [{"steps": -1}, {"rate": 0.0}, {"rate": -1.0}, {"rate": float("nan")}]
    )
    def test_out_of_range(self, kind, options):
        (name,) = options
        with pytest.raises(UserError, match=f"`{name}` should be"):
            make_meta(kind).adapt(rows_of("size"), **options)


class TestErrors:
    def test_not_adapted_yet(self):
        model = make_meta("bayesian")
        for use in (lambda: model.predict(make_table(4)), model.module):
            with pytest.raises(UserError, match="adapt it to a few labelled rows first"):
                use()

    def test_adapted_already(self):
        adapted = make_meta("bayesian").adapt(rows_of("size"))
        with pytest.raises(UserError, match="adapted to `size` already"):
            adapted.adapt(rows_of("size"))

    def test_no_row_is_nothing_to_predict(self):
        adapted = make_meta("bayesian").adapt(rows_of("size"))
        none = adapted.predict(make_table(4).iloc[:0], interval=0.9)
        assert list(none) == ["size", "size_lower", "size_upper"]
        assert len(none) == 0

    def test_unknown_target(self):
        adapted = make_meta("bayesian").adapt(rows_of("size"))
        with pytest.raises(DataError, match="no target `sise`. Did you mean `size`"):
            adapted.predict(make_table(4), "sise")
