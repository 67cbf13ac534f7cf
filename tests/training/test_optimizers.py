"""Stacked optimizers against torch.optim, and the rates they are given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from autometa.training.optimizers import DECAYED, MIXING, OPTIMIZERS, PLAIN, SGD, Rates, segment
from autometa.training.population import Run, Trainer
from autometa.training.state import Layout
from autometa.trial import build
from tests.small import make_config, make_suite

RATES = [Rates(1e-2, 0.1, 0.9), Rates(1e-1, 0.0, 0.0, 3.0), Rates(1e-3, 1.0, 0.5, 20.0)]


LEAVES = {"a.weight": (2, 3), "b.weight": (4,), "a.bias": (5,), "mixing.units": (2, 2)}


@pytest.mark.parametrize("names", [LEAVES, ["a.weight"], ["a.bias", "mixing.units"]])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_equals_torch(kind, names):
    generator = torch.Generator().manual_seed(0)
    shapes = {name: LEAVES[name] for name in names}
    start = {
        n: torch.randn(3, *s, generator=generator, dtype=torch.float64) for n, s in shapes.items()
    }
    grads = {
        n: torch.randn(6, 3, *s, generator=generator, dtype=torch.float64)
        for n, s in shapes.items()
    }
    values = {name: leaf.clone() for name, leaf in start.items()}
    rule = OPTIMIZERS[kind]
    state = {slot: {n: torch.zeros_like(v) for n, v in values.items()} for slot in rule.slots}
    update = rule(values, state)
    for step in range(6):
        update.step({n: g[step].clone() for n, g in grads.items()}, RATES, step + 1)
    for k, rates in enumerate(RATES):
        leaves = {name: leaf[k].clone().requires_grad_() for name, leaf in start.items()}
        own = {
            DECAYED: (rates.lr, rates.weight_decay),
            PLAIN: (rates.lr, 0.0),
            MIXING: (rates.lr * rates.mixing, 0.0),
        }
        groups = []
        for name, leaf in leaves.items():
            lr, decay = own[segment(name)]
            groups.append({"params": [leaf], "lr": lr, "weight_decay": decay})
        reference: torch.optim.Optimizer
        if kind == "adamw":
            reference = torch.optim.AdamW(groups, lr=rates.lr, foreach=False)
        else:
            reference = torch.optim.SGD(groups, lr=rates.lr, momentum=rates.momentum)
        for step in range(6):
            for name, leaf in leaves.items():
                leaf.grad = grads[name][step, k].clone()
            reference.step()
        for name, leaf in leaves.items():
            assert_close(values[name][k], leaf.detach(), rtol=1e-10, atol=1e-12)


def test_what_is_treated_alike():
    assert segment("blocks.0.weight") == segment("head.weight") == DECAYED
    for name in ("blocks.0.bias", "embedding.weight", "balancing.log_variance"):
        assert segment(name) == PLAIN
    assert segment("mixing.0.weight") == MIXING


class Spy(SGD):
    """SGD that notes what it is given, the gradients as [run, P]."""

    seen: list[tuple[Sequence[Rates], Tensor, int]]

    def step(self, grads, rates, number):
        packed = torch.cat([grad.flatten(1) for grad in grads.values()], dim=1)
        self.seen.append((rates, packed, number))
        super().step(grads, rates, number)


@pytest.fixture
def spied(monkeypatch):
    Spy.seen = []
    monkeypatch.setitem(OPTIMIZERS, "sgd", Spy)
    return Spy.seen


def run(**values) -> Run:
    flat = {f"optimizer.{name}": value for name, value in values.items()}
    return Run(make_config({"optimizer.kind": "sgd", "optimizer.batch_size": 18, **flat}), 0)


def test_schedules_span_max_steps(spied):
    runs = [run(lr=0.1), run(lr=0.4, schedule="constant")]
    trainer = Trainer(make_suite(), 4, torch.device("cpu"))  # 36 rows: 2 steps an epoch
    _, state = trainer.train(runs, trainer.start(runs), 1)
    trainer.train(runs, state, 4)
    assert [step for _, _, step in spied] == [1, 2, 3, 4]
    cosine = [rates[0].lr for rates, _, _ in spied]
    # ½(1 + cos(π·0/4)), … 1/4, 2/4, 3/4: 0 is reached after the last step
    half = math.sqrt(0.5)
    assert cosine == pytest.approx([0.1, 0.05 * (1 + half), 0.05, 0.05 * (1 - half)])
    assert [rates[1].lr for rates, _, _ in spied] == [0.4] * 4


def test_gradients_are_clipped_run_by_run(spied):
    runs = [run(clip=1e9), run(clip=0.01), run(clip=1e-4)]
    trainer = Trainer(make_suite(), 2, torch.device("cpu"))
    trainer.train(runs, trainer.start(runs), 1)
    first = spied[0][1]
    norms = first.norm(dim=1)
    assert norms[0] > 0.1
    assert norms[1:].tolist() == pytest.approx([0.01, 1e-4], rel=1e-3)
    # same seed: the same direction
    assert_close(first[1] / norms[1], first[0] / norms[0], rtol=1e-3, atol=1e-6)


def test_no_decay_for_biases_embeddings_and_balancing():
    runs = [
        Run(
            make_config(
                {
                    "optimizer.kind": "sgd",
                    "optimizer.weight_decay": decay,
                    "optimizer.lr": 1e-3,
                    "balancing.kind": "uncertainty",
                    "conditioning.kind": "concat",
                    "optimizer.batch_size": 64,
                }
            ),
            0,
        )
        for decay in (0.0, 10.0)
    ]
    trainer = Trainer(make_suite(), 1, torch.device("cpu"))
    _, state = trainer.train(runs, trainer.start(runs), 1)  # one step
    learner = build(runs[0].config, trainer.problem)
    leaves = Layout(learner.init(torch.Generator())[0]).unpack(state.values)
    changed = {name for name, leaf in leaves.items() if not torch.equal(leaf[0], leaf[1])}
    kept = {n for n in leaves if n.endswith(".bias")}
    kept |= {"embedding.weight", "balancing.log_variance"}
    assert set(leaves) - changed == kept


def test_leaves_that_mix_have_their_own_rate_and_no_decay(spied):
    values = {
        "sharing.kind": "cross_stitch",
        "optimizer.kind": "sgd",
        "optimizer.lr": 1e-3,
        "optimizer.clip": 1e9,
        "optimizer.batch_size": 64,
    }
    names = ("sharing.mixing_lr", "optimizer.weight_decay")
    runs = [
        Run(make_config({**values, **dict(zip(names, own, strict=True))}), 0)
        for own in ((1.0, 0.0), (50.0, 0.0), (1.0, 10.0))
    ]
    trainer = Trainer(make_suite(), 1, torch.device("cpu"))
    start = trainer.start(runs)
    before = start.values.clone()
    _, state = trainer.train(runs, start, 1)  # one step
    learner = build(runs[0].config, trainer.problem)
    layout = Layout(learner.init(torch.Generator())[0])
    moved = layout.unpack(state.values - before)
    mixing = {name for name, role in learner.roles().items() if role == "mixing"}
    assert len(mixing) == 2
    for name, change in moved.items():
        factor = 50.0 if name in mixing else 1.0
        assert_close(change[1], factor * change[0], rtol=1e-3, atol=1e-5)
        same = torch.equal(change[2], change[0])
        assert same == (name in mixing or name.endswith(".bias"))
    assert all(moved[name][1].abs().max() > 1e-3 for name in mixing)
    assert {name for name in moved if segment(name) == MIXING} == mixing
