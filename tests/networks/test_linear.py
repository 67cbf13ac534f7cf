"""The linear path beside the network: what it adds, and that without it nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from autometa.networks import Step
from autometa.searching.costs import parameter_count
from autometa.sharing import SHARING
from tests.small import (
    IMAGE,
    draw,
    gradients,
    make_batch,
    make_config,
    make_learner,
    make_problem,
    same_kind,
    trainable,
)

PATH = {"backbone.linear": "path"}
EXACT = {"rtol": 1e-10, "atol": 1e-12}
LAYOUTS = pytest.mark.parametrize("layout", ["aligned", "grouped"])


@LAYOUTS
@pytest.mark.parametrize("kind", list(SHARING))
def test_at_the_start_it_is_the_plain_network(layout, kind):
    problem, batch = make_problem(layout), make_batch(make_problem(layout))
    plain = make_learner(problem, {"sharing.kind": kind})
    beside = make_learner(problem, {"sharing.kind": kind, **PATH})
    params, buffers = plain.init(torch.Generator().manual_seed(4))
    started, _ = beside.init(torch.Generator().manual_seed(4))
    weight = started.pop("linear.weight")
    assert weight.shape == (3, problem.width, 5)
    assert not weight.any()
    assert started.keys() == params.keys()
    assert all(torch.equal(started[name], params[name]) for name in params)
    x, both = batch.x.float(), {**params, "linear.weight": weight}
    found = beside.predict(both, buffers, x, batch.tasks)
    assert torch.equal(found, plain.predict(params, buffers, x, batch.tasks))
    own = batch._replace(x=x, y=batch.y.float())
    grads = [
        gradients(learner.loss(leaves, buffers, own, Step())[0], leaves)
        for learner, leaves in ((plain, trainable(params)), (beside, trainable(both)))
    ]
    assert all(torch.equal(grads[1][name], grads[0][name]) for name in params)
    assert grads[1]["linear.weight"].any()


@LAYOUTS
@pytest.mark.parametrize("shape", [(5,), IMAGE])
def test_it_adds_a_linear_function_of_the_tasks_rows(layout, shape):
    problem = same_kind(layout, shape)
    plain, beside = make_learner(problem), make_learner(problem, PATH)
    params, _ = draw(beside)
    weight = params["linear.weight"]
    batch = make_batch(problem, rows=4)
    network = plain.predict(params, {}, batch.x, batch.tasks)
    found = beside.predict(params, {}, batch.x, batch.tasks)
    for place, task in enumerate(batch.tasks.tolist()):
        rows = batch.x if layout == "aligned" else batch.x[place]
        linear = rows.flatten(1) @ weight[task].T
        assert_close(found[place], network[place] + linear, **EXACT)


@LAYOUTS
@pytest.mark.parametrize("kind", ["hard", "independent"])
def test_tasks_with_one_head_have_one_path(layout, kind):
    problem = same_kind(layout)
    values = {**PATH, "head": "single_head", "conditioning.kind": "additive", "sharing.kind": kind}
    learner = make_learner(problem, values)
    params, _ = learner.init(torch.Generator().manual_seed(0))
    own = kind == "independent"  # its tasks have heads of their own all the same
    assert params["linear.weight"].shape == ((3, 1, 5) if own else (1, 5))
    assert learner.roles()["linear.weight"] == ("task" if own else "shared")


def test_its_weights_are_counted():
    problem = make_problem()
    plain, beside = (parameter_count(make_config(values), problem) for values in ({}, PATH))
    assert beside == plain + 3 * 3 * 5
