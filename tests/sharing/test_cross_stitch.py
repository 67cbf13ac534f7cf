"""Cross-stitch units: by hand, against a plain loop over towers, and as independent networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Batch
from autometa.networks import Problem, Step
from autometa.sharing import Params
from autometa.training import predicting
from autometa.training.predicting import predict
from autometa.trial import check
from tests.backbones import BACKBONES, block, leaves, read
from tests.sharing.test_identities import EXACT, LAYOUTS, assert_same, measure
from tests.small import (
    draw,
    gradients,
    make_batch,
    make_config,
    make_learner,
    make_problem,
    same_kind,
    trainable,
)

STITCH = {"sharing.kind": "cross_stitch"}
UNITS = pytest.mark.parametrize("units", ["layer", "channel"])


def identity(params: Params) -> Params:
    """The leaves with every unit set to A = I."""
    out = dict(params)
    for name in (n for n in params if n.startswith("mixing.")):
        eye = torch.eye(len(params[name]), dtype=torch.float64)
        out[name] = eye if params[name].ndim == 2 else eye[..., None].expand_as(params[name])
    return out


def tower_loop(kind: str, params: Params, batch: Batch, problem: Problem) -> Tensor:
    """Outputs [slot, row, output] from the definition: every slot's rows through all towers."""
    n, outs = problem.n_tasks, []
    for place, task in enumerate(batch.tasks.tolist()):
        x = batch.x if problem.layout == "aligned" else batch.x[place]
        inputs = [x] * n
        for i in range(2):
            own = [block(kind, leaves(params, f"blocks.{i}", j), h) for j, h in enumerate(inputs)]
            unit = params[f"mixing.{i}"]
            inputs = []
            for t in range(n):
                mixed = torch.zeros_like(own[0])
                for j in range(n):
                    a = unit[t, j]
                    rest = [1] * (own[j].ndim - 2)
                    mixed = mixed + (a if a.ndim == 0 else a.view(-1, *rest)) * own[j]
                inputs.append(mixed)
        h = read(kind, inputs[task])
        outs.append(F.linear(h, params["head.weight"][task], params["head.bias"][task]))
    return torch.stack(outs)


@LAYOUTS
@BACKBONES
@UNITS
def test_with_identity_units_it_is_independent(layout, backbone, shape, units):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone}
    stitched = make_learner(problem, {**how, **STITCH, "sharing.units": units})
    independent = make_learner(problem, {**how, "sharing.kind": "independent"})
    params = identity(draw(stitched)[0])
    other = {name: leaf for name, leaf in params.items() if not name.startswith("mixing.")}
    assert_same(stitched, independent, params, other, make_batch(problem))


@LAYOUTS
@BACKBONES
@UNITS
def test_is_the_loop_over_towers(layout, backbone, shape, units):
    problem = make_problem(layout, shape, ("regression",) * 3)
    how = {"backbone.kind": backbone, **STITCH, "sharing.units": units}
    learner = make_learner(problem, how)
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)
    out = tower_loop(backbone, params, batch, problem)
    losses = ((out[..., 0] - batch.y) ** 2 * batch.mask).sum(1) / batch.mask.sum(1)
    expected = gradients(losses.mean(), params)
    found_out, found_losses, found = measure(learner, params, batch)
    assert_close(found_out, out.detach(), **EXACT)
    assert_close(found_losses, losses.detach(), **EXACT)
    for name, grad in expected.items():
        assert_close(found[name], grad, **EXACT)


def hand_made(layout: str, units: str = "layer") -> tuple:
    """Two tasks, one input; towers x ↦ relu(wx) with w = (1, −1) and (2, 0) for two channels."""
    problem = same_kind(layout, (1,), n_tasks=2)
    how = {"backbone.width": 2, "backbone.depth": 1, "backbone.norm": "none", **STITCH}
    learner = make_learner(problem, {**how, "sharing.units": units})
    unit = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    if units == "channel":  # the second channel is not mixed
        unit = torch.stack([unit, torch.eye(2)], -1)
    params = {
        "blocks.0.weight": torch.tensor([[[1.0], [-1.0]], [[2.0], [0.0]]]),
        "blocks.0.bias": torch.tensor([[0.0, 0.0], [0.0, 4.0]]),
        "mixing.0": unit,
        "head.weight": torch.tensor([[[10.0, 1.0]], [[100.0, 1.0]]]),
        "head.bias": torch.tensor([[1.0], [2.0]]),
    }
    return learner, {name: leaf.double() for name, leaf in params.items()}


def test_by_hand_aligned():
    learner, params = hand_made("aligned")
    x = torch.tensor([[3.0], [-2.0]], dtype=torch.float64)
    out = learner.predict(params, {}, x, torch.arange(2))
    # x = 3: towers (3, 0), (6, 4); task 0 reads (2.7 + 0.6, 0.4), task 1 (0.9 + 4.2, 2.8)
    # x = −2: towers (0, 2), (0, 4); task 0 reads (0, 1.8 + 0.4), task 1 (0, 0.6 + 2.8)
    expected = [[33 + 0.4 + 1, 2.2 + 1], [510 + 2.8 + 2, 3.4 + 2]]
    assert_close(out[..., 0], torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_by_hand_grouped():
    learner, params = hand_made("grouped")
    x = torch.tensor([[[3.0]], [[-2.0]], [[3.0]]], dtype=torch.float64)
    out = learner.predict(params, {}, x, torch.tensor([1, 0, 0]))
    expected = torch.tensor([510 + 2.8 + 2, 2.2 + 1, 33 + 0.4 + 1], dtype=torch.float64)
    assert_close(out[:, 0, 0], expected, **EXACT)


def test_by_hand_with_a_unit_for_each_channel():
    learner, params = hand_made("aligned", "channel")
    out = learner.predict(params, {}, torch.tensor([[3.0]], dtype=torch.float64), torch.arange(2))
    expected = torch.tensor([33 + 0 + 1, 510 + 4 + 2], dtype=torch.float64)
    assert_close(out[:, 0, 0], expected, **EXACT)


@LAYOUTS
def test_every_destination_has_its_own_weights(layout):
    # seen in public code: one stitch vector for all destination tasks
    learner = make_learner(make_problem(layout), STITCH)
    params, _ = draw(learner)
    batch = make_batch(learner.problem)
    out = learner.predict(params, {}, batch.x, batch.tasks)
    params["mixing.1"] = params["mixing.1"].clone()
    params["mixing.1"][1, 2] += 0.5  # how task 1 reads tower 2, after the last block
    changed = learner.predict(params, {}, batch.x, batch.tasks)
    for place, task in enumerate(batch.tasks.tolist()):
        assert torch.equal(changed[place], out[place]) == (task != 1)


@UNITS
def test_start(units):
    # seen in public code: units that start as all ones
    how = {**STITCH, "sharing.units": units}
    params, _ = make_learner(make_problem(), how).init(torch.Generator().manual_seed(0))
    expected = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    for number in range(2):
        unit = params[f"mixing.{number}"]
        assert unit.shape == ((3, 3) if units == "layer" else (3, 3, 8))
        for matrix in [unit] if units == "layer" else unit.unbind(-1):
            assert_close(matrix, expected)
    independent = make_learner(make_problem(), {"sharing.kind": "independent"})
    for name, leaf in independent.init(torch.Generator().manual_seed(0))[0].items():
        assert torch.equal(params[name], leaf)
    other, _ = make_learner(make_problem(), {**how, "sharing.init_same": 0.5}).init(
        torch.Generator().manual_seed(0)
    )
    first = other["mixing.0"] if units == "layer" else other["mixing.0"][..., 3]
    assert_close(first[0], torch.tensor([0.5, 0.25, 0.25]))


def test_one_task_reads_all_of_itself():
    params, _ = make_learner(same_kind("aligned", n_tasks=1), STITCH).init(torch.Generator())
    assert params["mixing.0"].tolist() == [[1.0]]


def test_equal_channels_are_one_unit_for_the_layer():
    problem = make_problem()
    layer = make_learner(problem, STITCH)
    channel = make_learner(problem, {**STITCH, "sharing.units": "channel"})
    params, _ = draw(layer)
    wide = {n: p[..., None].repeat(1, 1, 8) if "mixing" in n else p for n, p in params.items()}
    batch = make_batch(problem)
    out, losses, grads = measure(layer, params, batch)
    out_2, losses_2, grads_2 = measure(channel, wide, batch)
    assert_close(out_2, out, **EXACT)
    assert_close(losses_2, losses, **EXACT)
    for name, grad in grads.items():
        assert_close(grads_2[name].sum(-1) if "mixing" in name else grads_2[name], grad, **EXACT)


def test_layouts_agree_on_the_same_rows():
    aligned, grouped = (same_kind(layout) for layout in ("aligned", "grouped"))
    params, _ = draw(make_learner(aligned, STITCH))
    x = make_batch(aligned).x
    out = make_learner(aligned, STITCH).predict(params, {}, x, torch.arange(3))
    tasks = torch.tensor([2, 0, 1, 2])
    found = make_learner(grouped, STITCH).predict(params, {}, x.expand(4, -1, -1), tasks)
    assert_close(found, out[tasks], **EXACT)


@LAYOUTS
def test_towers_may_share_one_head(layout):
    problem = same_kind(layout)
    one = make_learner(problem, {**STITCH, "head": "single_head"})
    heads = make_learner(problem, STITCH)
    params, _ = draw(one)
    other = {n: p.expand(3, *p.shape).clone() if "head" in n else p for n, p in params.items()}
    batch = make_batch(problem)
    out, losses, grads = measure(one, params, batch)
    out_2, losses_2, grads_2 = measure(heads, other, batch)
    assert_close(out_2, out, **EXACT)
    assert_close(losses_2, losses, **EXACT)
    assert_close(grads_2["head.weight"].sum(0), grads["head.weight"], **EXACT)


@LAYOUTS
@pytest.mark.parametrize("kind", ["cross_stitch", "sluice"])
def test_heads_are_private_and_towers_are_not(layout, kind):
    learner = make_learner(make_problem(layout), {"sharing.kind": kind})
    params = trainable(draw(learner)[0])
    batch = make_batch(learner.problem)
    _, losses, _ = learner.loss(params, {}, batch, Step())
    for place, task in enumerate(batch.tasks.tolist()):
        found = gradients(losses[place], params)
        others = [t for t in range(3) if t != task]
        assert not found["head.weight"][others].any()
        assert found["head.weight"][task].any()
        assert all(found["blocks.0.weight"][t].any() for t in range(3))


@pytest.mark.parametrize(("kind", "slots"), [("cross_stitch", 1), ("independent", 3)])
def test_prediction_takes_fewer_rows_at_once_where_each_needs_every_tower(kind, slots, monkeypatch):
    learner = make_learner(same_kind("grouped"), {"sharing.kind": kind})
    params = {name: leaf.float()[None] for name, leaf in draw(learner)[0].items()}
    x, task = torch.randn(12, 5), torch.arange(12) % 3  # 3 slots of 4 rows
    whole = predict(learner, params, {}, x, task, torch.device("cpu"))
    seen, original = [], learner.predict

    def spy(p: Params, buffers: Params, rows: Tensor, tasks: Tensor) -> Tensor:
        seen.append(len(tasks))
        return original(p, buffers, rows, tasks)

    monkeypatch.setattr(learner, "predict", spy)
    monkeypatch.setattr(predicting, "_NUMBERS", 12 * learner.row_size)
    found = predict(learner, params, {}, x, task, torch.device("cpu"))
    assert max(seen) == slots
    assert found == pytest.approx(whole, abs=1e-5)


class TestRefused:
    @pytest.mark.parametrize("kind", ["cross_stitch", "sluice"])
    def test_many_tasks_with_rows_of_their_own(self, kind):
        config = make_config({"sharing.kind": kind})
        check(config, same_kind("grouped", n_tasks=16))
        check(config, same_kind("aligned", n_tasks=17))
        with pytest.raises(
            ConfigError, match=rf"more than 16 tasks.*`sharing.kind = {kind}`.* 17 tasks\."
        ):
            check(config, same_kind("grouped", n_tasks=17))

    @pytest.mark.parametrize("kind", ["cross_stitch", "sluice"])
    def test_conditioning(self, kind):
        config = make_config({"sharing.kind": kind, "conditioning.kind": "additive"})
        with pytest.raises(ConfigError, match="`conditioning.kind` should be `none`.*additive"):
            check(config, make_problem())

    @pytest.mark.parametrize("values", [{"sharing.mixing_lr": 0.0}, {"sharing.init_same": 1.5}])
    def test_numbers_out_of_range(self, values):
        with pytest.raises(ConfigError, match=next(iter(values))):
            make_config({**STITCH, **values})
