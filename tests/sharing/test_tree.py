"""Trees of tasks: identities with hard sharing and independent networks, by hand, and refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Batch, Learner
from autometa.networks import Step
from autometa.sharing import Params
from autometa.sharing.tree import all_trees
from autometa.training.population import Run, Trainer
from tests.backbones import BACKBONES
from tests.contracts.variants import permuted_tasks
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

EXACT = {"rtol": 1e-10, "atol": 1e-12}
LAYOUTS = pytest.mark.parametrize("layout", ["aligned", "grouped"])
CONDITIONINGS = pytest.mark.parametrize(
    "told",
    [
        {},
        {"conditioning.kind": "multiplicative"},
        {"conditioning.kind": "concat", "conditioning.at": "last"},
        {"conditioning.kind": "additive", "conditioning.at": "head"},
    ],
    ids=["plain", "film", "concat-last", "additive-head"],
)


def tree(partitions: str | None, **more: object) -> dict[str, object]:
    return {"sharing.kind": "tree", "sharing.partitions": partitions, **more}


def measure(learner: Learner, state: tuple[Params, Params], batch: Batch):
    """Outputs, task losses and gradients of the total loss."""
    params, buffers = trainable(state[0]), state[1]
    out = learner.predict(params, buffers, batch.x, batch.tasks)
    total, losses, _ = learner.loss(params, buffers, batch, Step())
    return out.detach(), losses.detach(), gradients(total, params)


def assert_same(first: Learner, second: Learner, batch: Batch) -> None:
    """Two learners with the same leaves: equal outputs, losses, gradients and roles."""
    params, buffers = draw(first)
    assert first.roles() == second.roles()
    out, losses, grads = measure(first, (params, buffers), batch)
    out_2, losses_2, grads_2 = measure(second, (params, draw(second)[1]), batch)
    assert_close(out_2, out, **EXACT)
    assert_close(losses_2, losses, **EXACT)
    for name, grad in grads.items():
        assert_close(grads_2[name], grad, **EXACT)


@LAYOUTS
@BACKBONES
@CONDITIONINGS
@pytest.mark.parametrize(
    ("partitions", "split_at"),
    [(None, 3), ("000/000/000", 3), ("000/000/012", 2), ("000/012/012", 1), ("012/012/012", 0)],
)
def test_one_group_then_singletons_is_hard(layout, backbone, shape, told, partitions, split_at):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone, "backbone.depth": 3, **told}
    hard = make_learner(problem, {**how, "sharing.split_at": split_at})
    assert_same(hard, make_learner(problem, tree(partitions, **how)), make_batch(problem))


@LAYOUTS
@BACKBONES
def test_all_singletons_is_independent(layout, backbone, shape):
    problem = make_problem(layout, shape)
    how = {"backbone.kind": backbone}
    independent = make_learner(problem, {**how, "sharing.kind": "independent"})
    assert_same(independent, make_learner(problem, tree("012/012", **how)), make_batch(problem))


@LAYOUTS
@BACKBONES
@CONDITIONINGS
@pytest.mark.parametrize(
    "partitions", ["0000/0010/0120", "0110/0110/0112", "0011/0012/0123", "0001/0102/0102"]
)
def test_any_tree_is_towers_with_copied_leaves(layout, backbone, shape, told, partitions):
    # the gradient of a group's leaf is the sum of those of its tasks' copies
    kinds = ("multiclass",) * 4
    problem = make_problem(layout, shape, kinds, (3, 2, 3, 4))
    how = {"backbone.kind": backbone, "backbone.depth": 3, **told}
    branched = make_learner(problem, tree(partitions, **how))
    towers = make_learner(problem, {**how, "sharing.split_at": 0})
    params, buffers = draw(branched)
    groups = dict(enumerate(torch.tensor([int(g) for g in p]) for p in partitions.split("/")))

    def group_of(name: str) -> Tensor | None:
        part, number = name.split(".")[:2]
        found = part in ("blocks", "conditioning") and number.isdigit()
        return groups.get(int(number)) if found else None

    copies = {}
    for name, leaf in params.items():
        group = group_of(name)
        if group is None:
            copies[name] = leaf
        else:
            copies[name] = leaf[group] if group.any() else leaf.expand(4, *leaf.shape)
    batch = make_batch(problem)
    out, losses, grads = measure(branched, (params, buffers), batch)
    out_2, losses_2, grads_2 = measure(towers, (copies, {}), batch)
    assert_close(out_2, out, **EXACT)
    assert_close(losses_2, losses, **EXACT)
    for name, grad in grads.items():
        group, summed = group_of(name), grads_2[name]
        if group is not None:
            summed = torch.zeros(int(group.max()) + 1, *summed.shape[1:], dtype=summed.dtype)
            summed.index_add_(0, group, grads_2[name])
            summed = summed if group.any() else summed[0]
        assert_close(summed, grad, **EXACT)


def test_by_hand():
    # tasks 0 and 2 share the first block, all are apart in the second; no normalisation
    problem = same_kind("aligned", (2,))
    learner = make_learner(
        problem, tree("010/012", **{"backbone.norm": "none", "backbone.width": 1})
    )
    params, buffers = learner.init(torch.Generator().manual_seed(0))
    assert {n: tuple(leaf.shape) for n, leaf in params.items()} == {
        "blocks.0.weight": (2, 1, 2),
        "blocks.0.bias": (2, 1),
        "blocks.1.weight": (3, 1, 1),
        "blocks.1.bias": (3, 1),
        "head.weight": (3, 1, 1),
        "head.bias": (3, 1),
    }
    values = {
        "blocks.0.weight": [[[1.0, 1.0]], [[2.0, -1.0]]],
        "blocks.0.bias": [[0.0], [1.0]],
        "blocks.1.weight": [[[1.0]], [[-1.0]], [[2.0]]],
        "blocks.1.bias": [[1.0], [6.0], [0.0]],
        "head.weight": [[[1.0]], [[1.0]], [[3.0]]],
        "head.bias": [[0.0], [0.5], [-1.0]],
    }
    params = {name: torch.tensor(value) for name, value in values.items()}
    x = torch.tensor([[1.0, 2.0], [-3.0, 1.0]])
    # block 0: group 0 gives 3, 0; group 1 gives 1, 0 (from -6)
    out = learner.predict(params, buffers, x, torch.arange(3))
    assert out[..., 0].tolist() == [[4.0, 1.0], [5.5, 6.5], [17.0, -1.0]]


def test_a_group_is_computed_once(monkeypatch):
    seen = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda h, *p: seen.append(p[0].shape) or linear(h, *p))
    learner = make_learner(same_kind("aligned", n_tasks=6), tree("001111/001122"))
    params, buffers = draw(learner)
    out = learner.predict(params, buffers, torch.randn(4, 5).double(), torch.arange(6))
    assert len(seen) == 3
    assert params["blocks.0.weight"].shape[0] == 2
    assert params["blocks.1.weight"].shape[0] == 3
    assert out.shape == (6, 4, 1)


@LAYOUTS
@pytest.mark.parametrize("partitions", all_trees(3, 2))
def test_permuting_tasks_permutes_outputs(layout, partitions):
    problem = same_kind(layout)
    batch = make_batch(problem)
    settings = tree(partitions, **{"conditioning.kind": "additive", "conditioning.at": "last"})
    learner = make_learner(problem, settings)
    params, buffers = draw(learner)
    out = learner.predict(params, buffers, batch.x, batch.tasks)
    for order in itertools.permutations(range(3)):
        values, moved = permuted_tasks(settings, params, learner.roles(), list(order))
        other = make_learner(problem, values)
        at = torch.tensor(order)
        tasks = batch.tasks if layout == "aligned" else at.argsort()[batch.tasks]
        found = other.predict(moved, draw(other)[1], batch.x, tasks)
        assert_close(found, out[at] if layout == "aligned" else out, **EXACT)


def test_private_leaves_are_disjoint_and_groups_share():
    problem = same_kind("aligned")
    learner = make_learner(problem, tree("010/012"))
    params, buffers = draw(learner)
    params = trainable(params)
    _, losses, _ = learner.loss(params, buffers, make_batch(problem), Step())
    for task, group in enumerate([0, 1, 0]):
        grads = gradients(losses[task], params)
        reached = grads["blocks.0.weight"].flatten(1).any(1)
        assert reached.tolist() == [group == g for g in range(2)]
        for name in ("blocks.1.weight", "head.weight"):
            assert grads[name].flatten(1).any(1).tolist() == [task == t for t in range(3)]


@LAYOUTS
def test_different_trees_of_one_shape_are_one_population(layout):
    with double_precision():
        if layout == "aligned":
            suite, trees = in_double(make_suite()), ["010/012", "001/012", "011/012"]
        else:
            suite, trees = in_double(make_suite("grouped")), ["00/01", "00/01"]
        settings = [tree(partitions, **{"optimizer.lr": 1e-3}) for partitions in trees]
        runs = [Run(make_config(values), seed) for seed, values in enumerate(settings)]
        assert len({run.config.shape_key() for run in runs}) == 1
        trainer = Trainer(suite, 6, torch.device("cpu"))
        results, together = trainer.train(runs, trainer.start(runs), 6)
        for k, run in enumerate(runs):
            alone, state = trainer.train([run], trainer.start([run]), 6)
            assert_close(state.values[0], together.values[k], rtol=1e-9, atol=1e-11)
            assert alone[0].value == pytest.approx(results[k].value)
            for name, index in state.buffers.items():
                assert torch.equal(index[0], together.buffers[name][k])
        if layout == "aligned":
            assert not torch.equal(together.buffers["group.0"][0], together.buffers["group.0"][1])


def test_shape_key_depends_on_the_numbers_of_groups():
    def key(partitions: str | None) -> str:
        return make_config(tree(partitions)).shape_key()

    assert key("0011/0123") == key("0101/0123")
    assert len({key(p) for p in ("0011/0123", "0011/0012", "0000/0123", "0000/0000")}) == 4
    assert key(None) == key("0000/0000")


def test_a_tree_that_is_hard_sharing_has_its_shape_key():
    def hard(split_at: int | None) -> str:
        return make_config({"sharing.split_at": split_at}).shape_key()

    trees = {"0000/0000": 2, "0000/0123": 1, "0123/0123": 0, None: None}
    for partitions, split_at in trees.items():
        assert make_config(tree(partitions)).shape_key() == hard(split_at)
    assert hard(None) == hard(2)
    assert make_config(tree("0011/0123")).shape_key() not in {hard(s) for s in range(3)}


class TestAllTrees:
    @pytest.mark.parametrize(
        ("n_tasks", "n_blocks", "count"),
        [(1, 3, 1), (3, 1, 5), (3, 2, 12), (3, 3, 22), (4, 3, 154), (5, 3, 1304)],
    )
    def test_count(self, n_tasks, n_blocks, count):
        found = all_trees(n_tasks, n_blocks)
        assert len(set(found)) == len(found) == count
        for text in found[:30]:
            config = make_config(tree(text))
            assert config.flat()["sharing.partitions"] == text

    def test_two_tasks(self):
        assert all_trees(2, 2) == ["00/00", "00/01", "01/01"]


def test_a_list_is_the_same_tree():
    assert make_config(tree(["001", "012"])) == make_config(tree("001/012"))


class TestRefused:
    @pytest.mark.parametrize(
        ("partitions", "message"),
        [
            ("110/012", "written alike: `001/012`"),
            ("002/012", "written alike: `001/012`"),
            ("012/001", "only split groups.*`001` joins tasks that `012` keeps apart"),
            ("00/012", "equally many tasks"),
            ("", "one group number a task for each block, in quotes"),
            ("00//01", "one group number a task"),
            ("0-1", "one group number a task"),
            (12, "in quotes.*partitions = 12"),
            ([9, 83], "in quotes"),
        ],
    )
    def test_not_a_tree(self, partitions, message):
        with pytest.raises(ConfigError, match=message):
            make_config(tree(partitions))

    def test_wrong_number_of_blocks(self):
        with pytest.raises(ConfigError, match="each of the 2 blocks. Found.*000/001/012"):
            make_learner(make_problem(), tree("000/001/012"))

    def test_wrong_number_of_tasks(self):
        with pytest.raises(ConfigError, match=r"each of the 3 tasks. Found.*0000/0123"):
            make_learner(make_problem(), tree("0000/0123"))

    def test_single_head_that_tells_nothing_apart(self):
        one_head = {"head": "single_head"}
        with pytest.raises(ConfigError, match="`head` should be `multi_head`.*are equal"):
            make_learner(same_kind("aligned"), tree("001/001", **one_head))
        make_learner(same_kind("aligned"), tree("001/012", **one_head))
        make_learner(same_kind("grouped"), tree("001/001", **one_head))
