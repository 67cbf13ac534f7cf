"""Soft sharing: its penalty by hand, and that nothing else ties the towers."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from autometa.networks import Step
from autometa.training.population import Run, Trainer
from autometa.training.state import Layout
from autometa.trial import build
from tests.backbones import BACKBONES
from tests.sharing.test_identities import EXACT, LAYOUTS, assert_same
from tests.small import (
    double_precision,
    draw,
    gradients,
    in_double,
    make_batch,
    make_config,
    make_learner,
    make_problem,
    make_suite,
    same_kind,
    trainable,
)

SOFT = {"sharing.kind": "soft"}


def tie(strength: float) -> Step:
    return Step(rates={"tie": torch.tensor(strength, dtype=torch.float64)})


@LAYOUTS
@BACKBONES
@pytest.mark.parametrize("conditioning", ["none", "multiplicative"])
def test_without_a_tie_it_is_independent(layout, backbone, shape, conditioning):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone, "conditioning.kind": conditioning}
    soft = make_learner(problem, {**how, **SOFT})
    independent = make_learner(problem, {**how, "sharing.kind": "independent"})
    assert soft.roles() == independent.roles()
    start, _ = soft.init(torch.Generator().manual_seed(3))
    batch = make_batch(problem)
    for params in ({name: leaf.double() for name, leaf in start.items()}, draw(soft)[0]):
        assert_same(soft, independent, params, params, batch)
        total, _, _ = soft.loss(params, {}, batch, tie(0.0))
        expected, _, _ = independent.loss(params, {}, batch, Step())
        assert_close(total, expected, **EXACT)


@pytest.mark.parametrize("kind", ["aligned", "grouped"])
def test_without_a_tie_it_trains_like_independent(kind):
    with double_precision():
        suite = in_double(make_suite(kind))
        soft, independent = (
            [Run(make_config({"sharing.kind": name, **more}), seed=4)]
            for name, more in (("soft", {"sharing.tie": 0.0}), ("independent", {}))
        )
        trainer = Trainer(suite, 6, torch.device("cpu"))
        start = trainer.start(soft)
        common = start.select([0])
        results, state = trainer.train(soft, start, 6)
        expected_results, expected = trainer.train(independent, common, 6)
        assert_close(state.values, expected.values, rtol=1e-9, atol=1e-11)
        assert results[0].value == pytest.approx(expected_results[0].value, rel=1e-9)


@BACKBONES
def test_towers_start_from_one_point_and_heads_do_not(backbone, shape):
    learner = make_learner(make_problem(shape=shape), {"backbone.kind": backbone, **SOFT})
    params, _ = learner.init(torch.Generator().manual_seed(0))
    for name, leaf in params.items():
        for task in (1, 2):
            same = torch.equal(leaf[task], leaf[0])
            assert same == (name != "head.weight"), name
    assert all(leaf.is_contiguous() for leaf in params.values())
    weight = "project.weight" if backbone == "transformer" else "weight"
    first, second = params[f"blocks.0.{weight}"][:2]
    first.zero_()  # they are copies
    assert second.any()


def test_penalty_by_hand():
    problem = same_kind("aligned", (1,), n_tasks=2)
    learner = make_learner(problem, {"backbone.width": 1, "backbone.depth": 2, **SOFT})
    params = {
        "blocks.0.weight": torch.tensor([[[1.0]], [[3.0]]]),  # mean 2: 1 + 1
        "blocks.0.bias": torch.tensor([[0.0], [0.5]]),  # mean 0.25: 2 · 0.0625
        "blocks.1.weight": torch.tensor([[[-1.0]], [[-1.0]]]),  # equal: 0
        "blocks.1.bias": torch.tensor([[0.0], [4.0]]),  # mean 2: 4 + 4
        "head.weight": torch.tensor([[[100.0]], [[-100.0]]]),
        "head.bias": torch.tensor([[100.0], [-100.0]]),
    }
    params = {name: leaf.double() for name, leaf in params.items()}
    found = learner.network.penalty(params, {}, tie(0.1))
    assert found.item() == pytest.approx(0.1 * (2 + 0.125 + 0 + 8))
    assert learner.network.penalty(params, {}, Step()) is None


@LAYOUTS
@BACKBONES
def test_penalty_pulls_blocks_to_their_mean_and_leaves_the_rest(layout, backbone, shape):
    how = {"backbone.kind": backbone, "conditioning.kind": "additive", **SOFT}
    problem = make_problem(layout, shape)
    learner = make_learner(problem, how)
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)
    plain, losses, _ = learner.loss(params, {}, batch, tie(0.0))
    tied, losses_2, _ = learner.loss(params, {}, batch, tie(0.3))
    assert torch.equal(losses, losses_2)
    found = gradients(tied - plain, params)
    for name, leaf in params.items():
        pull = 2 * 0.3 * (leaf - leaf.mean(0))
        expected = pull if name.startswith("blocks.") else torch.zeros_like(leaf)
        assert_close(found[name], expected.detach(), rtol=1e-8, atol=1e-10)


def test_a_stronger_tie_keeps_towers_closer():
    runs = [
        Run(make_config({**SOFT, "sharing.tie": strength, "optimizer.lr": 0.01}), seed=2)
        for strength in (0.0, 0.1, 10.0)
    ]
    trainer = Trainer(make_suite(), 30, torch.device("cpu"))
    _, state = trainer.train(runs, trainer.start(runs), 30)
    params, _ = build(runs[0].config, trainer.problem).init(torch.Generator())
    towers = Layout(params).unpack(state.values)["blocks.1.weight"]  # [run, task, …]
    spread = (towers - towers.mean(1, keepdim=True)).flatten(1).norm(dim=1)
    assert spread[0] > 1.5 * spread[1]
    assert spread[1] > 1.5 * spread[2] > 0
