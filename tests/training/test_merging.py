"""Runs whose networks differ a little, trained as one: each is what it is alone.

Alone is `tests.contracts.test_training.Reference`: plain loops and torch's own optimizer.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.tasks import TaskSuite
from autometa.training.merging import Merged
from autometa.training.population import Run, Trainer
from autometa.training.state import Layout, PopulationState, load_run, save_run
from autometa.trial import build, check
from tests.contracts.test_training import DROPOUT, PER_RUN, Reference
from tests.small import double_precision, in_double, in_steps, make_config

CPU = torch.device("cpu")
EPOCHS = 2
#: where runs are only compared with each other
STEPS = 7
LAYOUTS = ("aligned", "grouped")
PLACES = ("input", "every", "last", "head")
SHARING = [
    {"sharing.kind": "hard", "sharing.split_at": 1},
    {"sharing.kind": "hard", "sharing.split_at": 2},
    {"sharing.kind": "tree", "sharing.partitions": "001/012"},
    {"sharing.kind": "tree", "sharing.partitions": "001/001"},
    {"sharing.kind": "mtan"},
    {"sharing.kind": "soft"},
    {"sharing.kind": "independent"},
]
#: kind, place and head of what is trained together: all, but that `additive` has `concat`'s graph
WAYS = [
    ("none", "every", "multi_head"),
    ("none", "every", "single_head"),
    ("additive", "head", "multi_head"),
    *itertools.product(("concat", "multiplicative"), PLACES, ("multi_head", "single_head")),
]
BALANCERS = ("equal", "uncertainty", "imtl_l", "geometric_mean")
SLOTS = {"mean": "exp_avg", "square": "exp_avg_sq", "momentum": "momentum_buffer"}


def small_suite(layout: str) -> TaskSuite:
    """Three regression tasks, which may share a head; missing labels where aligned."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(45, 4)).astype(np.float32)
    y = x @ rng.normal(size=(4, 3)) + np.tanh(x[:, :3])
    part = np.array(["train", "train", "val", "train", "test"])[np.arange(45) % 5]
    if layout == "aligned":
        y[::7, 1] = np.nan
        return TaskSuite.from_arrays(x, y, splits=part)
    task = np.arange(45) // 5 % 3
    table = pd.DataFrame(x, columns=list("abcd"))
    table = table.assign(y=y[np.arange(45), task], task=[f"t{t}" for t in task], part=part)
    return TaskSuite.from_frame(table, target="y", task_column="task", split_column="part")


def populations(layout: str, values: dict[str, Any]) -> list[list[Run]]:
    """`WAYS` with `values`, as far as they can be built, by shape key.

    Rates and balancers differ from run to run.
    """
    problem = Trainer(small_suite(layout), 1, CPU).problem
    found: dict[str, list[Run]] = defaultdict(list)
    for k, (kind, at, head) in enumerate(WAYS):
        own: dict[str, Any] = {f"optimizer.{name}": v for name, v in PER_RUN[k % 3].items()}
        own |= {"backbone.dropout": DROPOUT[k % 3], "balancing.kind": BALANCERS[k % 4]}
        own |= {"optimizer.batch_size": 10, "head": head}
        own |= {"conditioning.kind": kind, "conditioning.at": at}
        config = make_config({**own, **values})
        with suppress(ConfigError):  # one head that tells nothing apart
            check(config, problem)
            found[config.shape_key()].append(Run(config, seed=5 + 3 * k))
    mixed = [runs for runs in found.values() if len({r.config.graph_key() for r in runs}) > 1]
    assert mixed, "nothing is merged"
    return mixed


CASES = [(layout, values) for layout in LAYOUTS for values in SHARING]
CASES.append(("aligned", {"sharing.split_at": 1, "optimizer.kind": "sgd"}))
CASES.append(("aligned", {"sharing.split_at": 1, "conditioning.embedding": "one_hot"}))
AROUND = {"backbone.linear": "path", "backbone.inputs": "piecewise", "backbone.bins": 3}
CASES += [(layout, {"sharing.split_at": 1, **AROUND}) for layout in LAYOUTS]
every_case = pytest.mark.parametrize(
    ("layout", "values"), CASES, ids=["-".join([c[0], *map(str, c[1].values())]) for c in CASES]
)

SOME = [("aligned", SHARING[0]), ("grouped", SHARING[1]), ("aligned", SHARING[4])]
some_cases = pytest.mark.parametrize(("layout", "values"), SOME, ids=["hard", "grouped", "mtan"])


def own_leaves(run: Run, trainer: Trainer, row: Tensor) -> dict[str, Tensor]:
    """A run's leaves by name, from a row that has them and nothing else."""
    layout = Layout(build(run.config, trainer.problem).init(torch.Generator())[0])
    assert len(row) == layout.size
    return layout.unpack(row)


@every_case
def test_merged_is_one_by_one(layout, values):
    """Losses, weights, the optimizer's averages of gradients, and predictions."""
    with double_precision():
        suite = in_double(small_suite(layout))
        for runs in populations(layout, values):
            length = in_steps(suite, runs[0].config, EPOCHS)
            trainer = Trainer(suite, length, CPU)
            results, state = trainer.train(runs, trainer.start(runs), length)
            predicted = trainer.predict(runs, state, suite.rows("val"))
            for k, run in enumerate(runs):
                reference = Reference(suite, run, EPOCHS)
                assert results[k].train_loss == pytest.approx(reference.train(EPOCHS), rel=1e-9)
                alone = state.select([k])
                leaves = own_leaves(run, trainer, alone.values[0])
                assert leaves.keys() == reference.params.keys()
                for name, leaf in reference.params.items():
                    assert_close(leaves[name], leaf.detach(), rtol=1e-7, atol=1e-9)
                for slot, rows in alone.slots.items():
                    found = own_leaves(run, trainer, rows[0])
                    for name, expected in reference.slot(SLOTS[slot]).items():
                        assert_close(found[name], expected, rtol=1e-6, atol=1e-9)
                outputs = trainer.predict([run], alone, suite.rows("val"))[0]
                np.testing.assert_allclose(predicted[k], outputs, rtol=1e-6, atol=1e-7)


@some_cases
def test_neighbours_of_other_kinds_change_nothing(layout, values):
    """No bit where torch adds up the same numbers in the same order."""
    trainer = Trainer(small_suite(layout), STEPS, CPU)
    for runs in populations(layout, values):
        results, state = trainer.train(runs, trainer.start(runs), STEPS)
        for k, run in enumerate(runs):
            twins = [run, Run(run.config, seed=99)]
            (expected, _), calm = trainer.train(twins, trainer.start(twins), STEPS)
            found = state.select([k]).values
            if adds_up_alike(run, runs, layout):
                assert torch.equal(found, calm.values[:1])
                assert results[k].value == expected.value
            else:
                assert_close(found, calm.values[:1], rtol=1e-3, atol=1e-5)
                assert results[k].value == pytest.approx(expected.value, abs=1e-4)


def adds_up_alike(run: Run, runs: list[Run], layout: str) -> bool:
    """Whether a run's gradients are summed in one order among `runs` and among its like."""
    config: Any = run.config
    if config.sharing.kind == "mtan":  # a block's output is read by three others
        return False
    if config.head == "single_head" and {r.config.head for r in runs} == {
        "multi_head",
        config.head,
    }:
        return False  # one head sums over the rows of all tasks
    # FiLM acts after the norm: there the first block that is told the task is normalised once
    film = config.conditioning.kind == "multiplicative" and layout == "aligned"
    return not film or {r.config.conditioning.kind for r in runs} == {"multiplicative"}


@some_cases
def test_a_diverging_run_leaves_other_kinds_alone(layout, values):
    trainer = Trainer(small_suite(layout), STEPS, CPU)
    for runs in populations(layout, values):
        _, calm = trainer.train(runs, trainer.start(runs), STEPS)
        for wild in range(0, len(runs), 2):
            flat = {**runs[wild].config.flat(), "optimizer.lr": 1e30}
            mixed = [*runs[:wild], Run(make_config(flat), 1), *runs[wild + 1 :]]
            results, state = trainer.train(mixed, trainer.start(mixed), STEPS)
            assert [k for k, r in enumerate(results) if r.reason is not None] == [wild]
            others = [k for k in range(len(runs)) if k != wild]
            assert torch.equal(state.select(others).values, calm.select(others).values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_go_on_with_other_neighbours(layout, tmp_path: Path):
    """Checkpoints are the runs' own, and can be joined in any order."""
    trainer = Trainer(small_suite(layout), STEPS, CPU)
    values = {"sharing.kind": "hard", "sharing.split_at": 1}
    runs = max(populations(layout, values), key=len)
    _, whole = trainer.train(runs, trainer.start(runs), STEPS)
    _, half = trainer.train(runs, trainer.start(runs), 3)
    loaded = []
    for k, run in enumerate(runs):
        path = tmp_path / f"{k}.safetensors"
        save_run(half, k, run, path)
        loaded.append(load_run(path))
        own_leaves(run, trainer, loaded[k].values[0])  # and nothing else
        assert all(slot.shape == loaded[k].values.shape for slot in loaded[k].slots.values())
    size = len(runs) // 2
    for part in (range(size, len(runs)), range(size - 1, -1, -1)):
        joined = PopulationState.join([loaded[k] for k in part])
        _, end = trainer.train([runs[k] for k in part], joined, STEPS)
        assert torch.equal(end.values, whole.select(list(part)).values)
        assert end.sizes == tuple(whole.sizes[k] for k in part)


def test_join_and_select_keep_each_run_whole():
    trainer = Trainer(small_suite("aligned"), 1, CPU)
    runs = max(populations("aligned", {"sharing.split_at": 1}), key=len)
    state = trainer.start(runs)
    assert len(set(state.sizes)) > 1
    for k, size in enumerate(state.sizes):
        assert not state.values[k, size:].any()
        assert torch.equal(state.values[k, :size], trainer.start([runs[k]]).values[0])
        assert state.select([k]).values.shape == (1, size)
    parts = [state.select([k]) for k in range(len(runs))]
    again = PopulationState.join(parts)
    assert torch.equal(again.values, state.values)
    assert again.sizes == state.sizes


def test_leaves_and_rows_are_inverse():
    trainer = Trainer(small_suite("aligned"), 1, CPU)
    runs = max(populations("aligned", {"sharing.split_at": 1}), key=len)
    state, merged = trainer.start(runs), Merged(runs, trainer.problem, CPU)
    leaves = merged.leaves(state.values)
    assert torch.equal(merged.rows(leaves), state.values)
    assert merged.absent
    for name, absent in merged.absent.items():
        assert not leaves[name][torch.tensor(absent)].any()


def test_what_is_not_merged():
    def key(**values: Any) -> str:
        return make_config({name.replace("__", "."): v for name, v in values.items()}).shape_key()

    film = {"conditioning__kind": "multiplicative"}
    # tasks are told apart before they are in the plain network, which would cost it a trunk a task
    assert key(**film, conditioning__at="input") != key()
    assert key(**film, conditioning__at="head") == key()
    # a gradient method looks at all shared leaves at once
    pcgrad = {"balancing__kind": "pcgrad"}
    assert key(**pcgrad, **film, conditioning__at="head") != key(**pcgrad)
    assert key(balancing__kind="dwa") != key(balancing__kind="equal")
    assert key(balancing__kind="uncertainty") == key(balancing__kind="equal")
    # another size of z, other sharing
    assert key(**film) != key(**film, conditioning__dim=3)
    # one head is merged with one a task, but not where nothing tells tasks apart
    assert key(head="single_head", **film) == key(head="multi_head", **film)
    assert key(head="single_head") != key(head="multi_head")
    assert key(sharing__split_at=0) != key(sharing__kind="independent")
