"""Piecewise-linear encoding: its values, its bins, and that they stay with a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.model import Model
from autometa.networks.inputs import PiecewiseInputs, columns_of
from autometa.sharing import SHARING
from autometa.tasks import TaskSuite
from autometa.training.initial import Initial
from autometa.training.population import Trainer
from autometa.training.state import Run
from autometa.trial import build, check
from tests.small import (
    IMAGE,
    draw,
    make_batch,
    make_config,
    make_episode_problem,
    make_learner,
    make_problem,
    make_suite,
    make_table,
    same_kind,
)

PIECEWISE = {"backbone.inputs": "piecewise", "backbone.bins": 2}
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def encoding(columns: list[list[float]], bins: int) -> tuple[PiecewiseInputs, dict]:
    rows = torch.tensor(columns, dtype=torch.float64).T
    inputs = PiecewiseInputs(same_kind("aligned", (len(columns),)), bins)
    return inputs, inputs.fit(rows)


def test_entries_by_hand():
    inputs, buffers = encoding([[0.0, 1.0, 3.0]], bins=2)  # bins from 0 to 1 and from 1 to 3
    x = torch.tensor([[0.0], [0.5], [1.0], [2.0], [3.0]], dtype=torch.float64)
    expected = [[0, 0, 0], [0.5, 0.5, 0], [1, 1, 0], [2, 1, 0.5], [3, 1, 1]]
    assert_close(inputs.encode(buffers, x), torch.tensor(expected, dtype=torch.float64))
    beyond = inputs.encode(buffers, torch.tensor([[-2.0], [7.0]], dtype=torch.float64))
    assert beyond.tolist() == [[-2, -2, 0], [7, 1, 3]]


def test_bins_between_equal_quantiles_are_empty():
    zeros_and_ones = [0.0] * 8 + [1.0] * 2
    inputs, buffers = encoding([zeros_and_ones, [2.0] * 10], bins=4)
    found = inputs.encode(buffers, torch.tensor([[0.0, 2.0], [1.0, 5.0]], dtype=torch.float64))
    first = found[:, 2:6]  # of the first column; one bin holds the step
    assert (first[0] == 0).all()
    assert sorted(first[1].tolist()) == [0, 0, 0, 1]
    assert (found[:, 6:] == 0).all()  # a constant column has no bins
    assert found.isfinite().all()


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_without_weight_on_the_bins_it_is_the_plain_network(layout):
    problem = make_problem(layout)
    plain, piecewise = make_learner(problem), make_learner(problem, PIECEWISE)
    params, buffers = draw(piecewise)
    own = dict(params)
    own["blocks.0.weight"] = params["blocks.0.weight"][:, :5].clone()
    params["blocks.0.weight"][:, 5:] = 0.0
    batch = make_batch(problem)
    found = piecewise.predict(params, buffers, batch.x, batch.tasks)
    assert_close(found, plain.predict(own, {}, batch.x, batch.tasks), **EXACT)


def test_bins_are_those_of_the_training_rows():
    suite = make_suite("aligned")
    runs = [Run(make_config(PIECEWISE), seed) for seed in (1, 2)]
    state = Trainer(suite, 2, torch.device("cpu")).start(runs)
    rows = suite.rows("train").x
    lower = state.buffers["inputs.lower"]
    assert_close(lower[0, :, 0], rows.min(0).values)
    middle = np.median(rows.numpy(), axis=0)
    assert_close(lower[1, :, 1], torch.from_numpy(middle).float())
    assert not torch.equal(lower[0, :, 1], suite.x.median(0).values)


@pytest.mark.parametrize("kind", list(SHARING))
def test_a_saved_model_keeps_its_bins(kind, tmp_path: Path):
    suite = TaskSuite.from_frame(make_table()[["a", "b", "c", "size"]], targets=["size"])
    values = {**PIECEWISE, "backbone.linear": "path", "sharing.kind": kind}
    run = Run(make_config(values), 3)
    trainer = Trainer(suite, 2, torch.device("cpu"))
    _, state = trainer.train([run], trainer.start([run]), 2)
    model = Model.of(suite, run.config, state, {})
    loaded = Model.load(model.save(tmp_path))
    rows = suite.rows("val")
    expected = trainer.predict([run], state, rows)[0]
    assert_close(loaded.outputs(rows.x), expected, rtol=1e-5, atol=1e-6)
    module = loaded.module()(rows.x).detach().numpy()
    assert_close(module, expected, rtol=1e-5, atol=1e-6)
    name = "buffers.inputs.scale"
    assert not torch.equal(
        model.member(0)[1][name.removeprefix("buffers.")],
        build(run.config, trainer.problem).init(torch.Generator())[1]["inputs.scale"],
    )


def test_an_earlier_model_keeps_what_it_knows_of_each_bin():
    problem = same_kind("grouped", (3,))
    config = make_config(PIECEWISE)
    params, _ = build(config, problem).init(torch.Generator().manual_seed(0))
    earlier = Initial.of(config, problem, params, head=False)
    moved = earlier.with_inputs([2, None, 0, 1]).params["blocks.0.weight"]
    old = params["blocks.0.weight"]
    none = torch.zeros_like(old[:, 0])
    expected = [old[:, 2], none, old[:, 0], old[:, 1], old[:, 7], old[:, 8], none, none]
    expected += [old[:, 3], old[:, 4], old[:, 5], old[:, 6]]
    assert torch.equal(moved, torch.stack(expected, 1))
    assert columns_of([1, 0], 2, 2) == [1, 0, 4, 5, 2, 3]


def test_where_it_cannot_be_built():
    with pytest.raises(ConfigError, match="`backbone.inputs` should be `plain` for images"):
        check(make_config(PIECEWISE), make_problem(shape=IMAGE))
    episodic = {**PIECEWISE, "adaptation.kind": "gradient"}
    with pytest.raises(ConfigError, match="should be `plain` and `none` with `adaptation.kind = g"):
        check(make_config(episodic), make_episode_problem())
