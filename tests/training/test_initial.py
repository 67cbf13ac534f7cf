"""Starting from an earlier model: what is taken over, and what is drawn as if there were none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from autometa.errors import ConfigError, InfrastructureError
from autometa.learners import Learner
from autometa.networks import Problem, Step
from autometa.sharing import Params
from autometa.tasks import TaskSuite
from autometa.training.initial import Initial, draw
from autometa.training.population import Trainer
from autometa.training.state import Run, write_tensors
from autometa.trial import TrialConfig, build
from tests.small import (
    IMAGE,
    make_config,
    make_episode_problem,
    make_problem,
    make_suite,
    same_kind,
)

CPU = torch.device("cpu")
EARLIER = {"init.kind": "earlier"}


def trained(problem: Problem, values: dict[str, Any] | None = None, seed: int = 5) -> Params:
    """Parameters in which no leaf is at its start."""
    params, _ = build(make_config(values), problem).init(torch.Generator().manual_seed(seed))
    noise = torch.Generator().manual_seed(seed + 1)
    return {
        name: leaf + 0.1 * torch.randn(leaf.shape, generator=noise) for name, leaf in params.items()
    }


def initial_of(
    problem: Problem, values: dict[str, Any] | None = None, head: bool = True
) -> tuple[Initial, Params]:
    params = trained(problem, values)
    return Initial.of(make_config(values), problem, params, head=head), params


def features(learner: Any, params: Params, x: torch.Tensor) -> torch.Tensor:
    """What the heads of a network with hard sharing read, [task, row, feature]."""
    network = getattr(learner.network, "towers", learner.network)
    tasks = torch.arange(learner.problem.n_tasks)
    rows = x if learner.problem.layout == "aligned" else x.expand(len(tasks), *x.shape)
    found: torch.Tensor = network.features(params, rows, tasks=tasks, z=None, step=Step())
    return found


@pytest.mark.parametrize("layout", ["aligned", "grouped"])
@pytest.mark.parametrize(
    "sharing",
    [
        {"sharing.kind": "hard"},
        {"sharing.kind": "hard", "sharing.split_at": 1},
        {"sharing.kind": "independent"},
    ],
)
@pytest.mark.parametrize("backbone", [{}, {"backbone.kind": "conv"}])
def test_before_the_first_step_the_trunk_is_that_of_the_earlier_model(
    layout: str, sharing: dict[str, Any], backbone: dict[str, Any]
) -> None:
    shape = IMAGE if backbone else (5,)
    old, new = make_problem(layout, shape), same_kind("grouped", shape, n_tasks=4)
    initial, params = initial_of(old, backbone)
    config = make_config({**backbone, **sharing, **EARLIER})
    assert initial.blocks == config.flat()["backbone.depth"]
    x = torch.randn(7, *shape, generator=torch.Generator().manual_seed(2))
    before = features(build(make_config(backbone), old), params, x)
    start, _ = draw(config, new, 3, initial)
    after = features(build(config, new), start, x)
    if layout == "grouped" and sharing == {"sharing.kind": "hard"}:
        assert torch.equal(after, before[:1].expand_as(after))
    else:  # the same numbers, multiplied by another kernel
        torch.testing.assert_close(after, before[:1].expand_as(after))


@pytest.mark.parametrize(
    "values",
    [
        {"sharing.kind": "hard", "sharing.split_at": 1, "conditioning.kind": "multiplicative"},
        {"sharing.kind": "tree", "sharing.partitions": "001/012"},
        {"sharing.kind": "soft"},
        {"sharing.kind": "cross_stitch"},
        {"sharing.kind": "sluice"},
        {"sharing.kind": "mtan"},
        {"sharing.kind": "deep_relation"},
        {"sharing.kind": "independent"},
    ],
)
def test_every_mechanism_starts_all_copies_of_a_block_from_it(values: dict[str, Any]) -> None:
    problem = make_problem()
    initial, params = initial_of(make_problem("grouped"))
    random, _ = draw(make_config(values), problem, 3, None)
    start, _ = draw(make_config({**values, **EARLIER}), problem, 3, initial)
    blocks = {name for name in params if name.startswith("blocks.")}
    assert blocks
    assert start.keys() == random.keys()
    for name, leaf in start.items():
        if name in blocks:
            assert torch.equal(leaf, params[name].expand_as(leaf))
        else:  # heads, masks, mixing and conditioning belong to the new tasks
            assert torch.equal(leaf, random[name])
    taken = initial.taken(make_config(values), problem)
    assert taken.leaves == len(blocks)
    assert taken.parameters == sum(start[name].numel() for name in blocks)
    assert taken.of == sum(leaf.numel() for leaf in start.values())


class TestPopulation:
    @pytest.fixture
    def suite(self) -> TaskSuite:
        return make_suite()

    @pytest.fixture
    def initial(self, suite: TaskSuite) -> Initial:
        return initial_of(Problem.of(suite))[0]

    def test_the_two_starts_train_together_and_random_runs_as_ever(
        self, suite: TaskSuite, initial: Initial
    ) -> None:
        random, earlier = make_config({"backbone.dropout": 0.2}), make_config(EARLIER)
        earlier = TrialConfig.from_flat({**random.flat(), **EARLIER})
        assert random.shape_key() == earlier.shape_key()
        with_it = [Run(random, 0), Run(earlier, 0), Run(random, 2)]
        without = [Run(random, 0), Run(random, 1), Run(random, 2)]
        states = []
        for runs, given in ((with_it, initial), (without, None)):
            trainer = Trainer(suite, 9, CPU, given)
            states.append(trainer.train(runs, trainer.start(runs), 9)[1])
        for k in (0, 2):
            assert torch.equal(states[0].values[k], states[1].values[k])
        assert not torch.equal(states[0].values[1], states[0].values[0])

    @pytest.mark.parametrize("other", [{"backbone.width": 12}, {"backbone.norm": "none"}])
    def test_where_nothing_fits_the_start_is_random(
        self, suite: TaskSuite, initial: Initial, other: dict[str, Any]
    ) -> None:
        trainer = Trainer(suite, 1, CPU, initial)
        random, earlier = ([Run(make_config({**other, **more}), 4)] for more in ({}, EARLIER))
        assert torch.equal(trainer.start(earlier).values, trainer.start(random).values)
        assert initial.taken(make_config(other), trainer.problem)[:2] == (0, 0)

    def test_without_an_earlier_model_it_is_refused(self, suite: TaskSuite) -> None:
        with pytest.raises(ConfigError, match=r"`init\.kind` should be `random`"):
            Trainer(suite, 1, CPU).start([Run(make_config(EARLIER), 0)])


class TestWhatIsTakenOver:
    @pytest.mark.parametrize(
        ("values", "blocks"),
        [
            ({"sharing.kind": "independent"}, 0),
            ({"sharing.kind": "soft"}, 0),
            ({"sharing.kind": "hard", "sharing.split_at": 1}, 1),
            ({"sharing.kind": "tree", "sharing.partitions": "000/001"}, 1),
            ({"sharing.kind": "tree", "sharing.partitions": "001/001"}, 0),
            ({"sharing.kind": "mtan"}, 2),
        ],
    )
    def test_blocks_that_all_tasks_have_in_common(
        self, values: dict[str, Any], blocks: int
    ) -> None:
        assert initial_of(make_problem("grouped"), values)[0].blocks == blocks

    def test_deeper_and_shallower_networks_have_the_first_blocks(self) -> None:
        problem = make_problem()
        initial, params = initial_of(problem)
        for depth, leaves in ((1, 2), (2, 4), (3, 4)):
            config = make_config({"backbone.depth": depth, **EARLIER})
            start, _ = draw(config, problem, 1, initial)
            assert initial.taken(config, problem).leaves == leaves
            assert torch.equal(start["blocks.0.weight"], params["blocks.0.weight"])

    @pytest.mark.parametrize(("depth", "leaves"), [(2, 2), (3, 0)])
    def test_a_head_of_all_tasks_only_on_top_of_what_it_read(self, depth: int, leaves: int) -> None:
        one = {"head": "single_head", "conditioning.kind": "additive"}
        initial, params = initial_of(same_kind("grouped"), one)
        config = make_config({"backbone.depth": depth, **EARLIER})
        given = initial.given(config, draw(config, same_kind("grouped", n_tasks=4), 0, initial)[0])
        heads = {name: leaf for name, leaf in given.items() if name.startswith("head.")}
        assert len(heads) == leaves
        for name, leaf in heads.items():  # a head for each of four tasks
            assert torch.equal(leaf, params[name].expand(4, *params[name].shape))
        assert not [n for n in given if n.startswith(("conditioning.", "embedding."))]

    def test_heads_of_other_tasks_stay_behind(self) -> None:
        initial, _ = initial_of(same_kind("grouped"))
        assert not [name for name in initial.params if name.startswith("head.")]

    @pytest.mark.parametrize("split", [0, 1, 2])
    def test_all_of_a_meta_learned_initialisation(self, split: int) -> None:
        values = {
            "adaptation.kind": "gradient",
            "adaptation.learned_rates": True,
            "sharing.split_at": split,
        }
        problem = make_episode_problem()
        initial, params = initial_of(problem, values)
        assert initial.blocks == 2
        config = make_config({**values, **EARLIER})
        start, _ = draw(config, problem, 1, initial)
        assert start.keys() == params.keys()
        for name, leaf in start.items():  # learned rates included
            assert torch.equal(leaf, params[name])
        joint, _ = draw(make_config(EARLIER), same_kind("grouped"), 1, initial)
        for name in ("blocks.0.weight", "blocks.1.bias"):
            assert torch.equal(joint[name], params[name].reshape(joint[name].shape))
        assert torch.equal(joint["head.weight"], params["head.weight"].expand(3, -1, -1))

    def test_another_learner_gets_the_network_alone(self) -> None:
        problem = make_episode_problem("multiclass")
        initial, params = initial_of(problem, {"adaptation.kind": "finetune"})
        assert "base_head.weight" in params
        assert "base_head.weight" not in initial.params
        config = make_config({"adaptation.kind": "reptile", **EARLIER})
        names = set(initial.given(config, draw(config, problem, 0, initial)[0]))
        assert names == {n for n in params if n.startswith(("blocks.", "head."))}

    def test_other_features(self) -> None:
        old, new = make_problem("grouped"), make_problem("grouped", (4,))
        initial, params = initial_of(old)
        moved = initial.with_inputs([3, None, 0, 1])
        assert moved.params.keys() == initial.params.keys()
        learner: Learner = build(make_config(), new)
        start, _ = draw(make_config(EARLIER), new, 0, moved)
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        # feature 2 and 4 of the earlier model are missing: at their mean, 0
        before = torch.zeros(6, 5)
        before[:, [3, 0, 1]] = x[:, [0, 2, 3]]
        expected = features(build(make_config(), old), params, before)
        torch.testing.assert_close(features(learner, start, x), expected)

    def test_other_features_have_no_learned_rates(self) -> None:
        values = {"adaptation.kind": "gradient", "adaptation.learned_rates": True}
        values["sharing.split_at"] = 0
        initial, _ = initial_of(make_episode_problem(), values)
        lost = initial.params.keys() - initial.with_inputs([4, 3, 2, 1, 0]).params.keys()
        assert lost == {"inner_lr.blocks.0.weight.rate"}


class TestFile:
    def test_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        initial, _ = initial_of(make_problem())
        again = Initial.load(initial.save(tmp_path / "initial.safetensors"))
        assert again.sha256() == initial.sha256()
        assert (again.backbone, again.depth, again.learner) == (initial.backbone, 2, None)
        again.params["blocks.1.bias"][0] += 1e-7
        assert again.sha256() != initial.sha256()

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "other.safetensors"
        write_tensors({"x": torch.zeros(2)}, {}, path)
        with pytest.raises(InfrastructureError, match="holds no starting parameters"):
            Initial.load(path)
        with pytest.raises(InfrastructureError, match="Cannot read"):
            Initial.load(tmp_path / "absent.safetensors")
