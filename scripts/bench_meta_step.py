#!/usr/bin/env python
"""Time a MAML step that takes all tasks at once against a Python loop over the tasks.

Second order, one inner step at rate 0.01, the sinusoid network (2 blocks of 40 ReLU units, no
normalisation), 10 support and 10 query rows for each of 25 tasks, one thread. The step is that of
training: losses of one run stacked as a population, their gradient, clipping, AdamW. The loop
computes each task's loss and second-order gradient with `torch.autograd` in plain functions, adds
them up, and has the same clipping and AdamW; that both find the same gradient is checked first.

In every round both are timed, a few steps each and in turns, so that other work on the machine
disturbs both alike. The table has the medians over the rounds; ranges are in brackets.

    OMP_NUM_THREADS=1 python scripts/bench_meta_step.py --rounds 15

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from autometa.learners import Batch, Episode, Learner
from autometa.networks import Problem, Step
from autometa.networks.keys import fold, new_key
from autometa.sharing import Params
from autometa.tasks.episodes import EpisodeShape
from autometa.training.optimizers import OPTIMIZERS, Rates
from autometa.trial import TrialConfig, build

ROWS = 10
INNER_LR, LR, CLIP = 0.01, 1e-3, 1.0
CONFIG = {
    "backbone.width": 40,
    "backbone.depth": 2,
    "backbone.norm": "none",
    "sharing.split_at": 0,
    "adaptation.kind": "gradient",
    "adaptation.steps": 1,
    "adaptation.inner_lr": INNER_LR,
}
PROBLEM = Problem(
    layout="aligned",
    feature_shape=(1,),
    kinds=("regression",),
    n_outputs=(1,),
    episode=EpisodeShape(shots=ROWS, queries=ROWS),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default="25", help="tasks of a step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="steps a measurement (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 step")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.steps = 2, 1
    sizes = [int(n) for n in args.tasks.split(",")]
    if min(args.rounds, args.steps, *sizes) < 1:
        parser.error("--tasks, --rounds and --steps should be at least 1")
    torch.set_num_threads(1)
    print("| tasks | ms vectorised | ms loop | loop / vectorised |")
    print("|---|---|---|---|")
    rows = []
    for n_tasks in sizes:
        rows.append(measure(n_tasks, args.rounds, args.steps))
        print(line(rows[-1]), flush=True)
    facts = {"rounds": args.rounds, "steps": args.steps, "torch": torch.__version__}
    print(json.dumps({**facts, "rows": rows, "ratio": rows[0]["ratio"]}))


def measure(n_tasks: int, rounds: int, steps: int) -> dict[str, float]:
    """Seconds of both steps, and their ratio, over the rounds."""
    episode = sinusoids(n_tasks, torch.Generator().manual_seed(0))
    learner = build(TrialConfig.from_flat(CONFIG), PROBLEM)
    both = [Vectorised(learner, episode), Loop(learner, episode)]
    gradients = [way.gradient() for way in both]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    times: list[list[float]] = [[], []]
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for which in order:
            times[which].append(seconds(both[which].step, steps))
    ratios = [loop / vectorised for vectorised, loop in zip(*times, strict=True)]
    return {
        "tasks": n_tasks,
        "vectorised": statistics.median(times[0]),
        "loop": statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def sinusoids(n_tasks: int, generator: torch.Generator) -> Episode:
    """Episodes of a·sin(x + φ), a in [0.1, 5], φ in [0, π], x in [−5, 5] (Finn et al. 2017)."""
    amplitude = 0.1 + 4.9 * torch.rand(n_tasks, 1, generator=generator)
    phase = math.pi * torch.rand(n_tasks, 1, generator=generator)

    def part() -> Batch:
        x = 10.0 * torch.rand(n_tasks, ROWS, generator=generator) - 5.0
        y = amplitude * torch.sin(x + phase)
        mask = torch.ones(n_tasks, ROWS, dtype=torch.bool)
        return Batch(x[..., None], y, mask, torch.arange(n_tasks))

    return Episode(part(), part())


class _Way(ABC):
    """What both have in common: one run's parameters, clipping and AdamW."""

    def __init__(self, learner: Learner, episode: Episode) -> None:
        params, _ = learner.init(torch.Generator().manual_seed(0))
        self.learner, self.episode = learner, episode
        values = {name: leaf[None].clone() for name, leaf in params.items()}
        self.leaves = {n: leaf.detach().requires_grad_() for n, leaf in values.items()}
        rule = OPTIMIZERS["adamw"]
        slots = {s: {n: torch.zeros_like(v) for n, v in values.items()} for s in rule.slots}
        self._optimizer = rule(values, slots)
        self.number = 0

    @abstractmethod
    def gradient(self) -> Params:
        """Gradients of the mean loss, by leaf [run, …]."""

    def step(self) -> None:
        self.number += 1
        grads = self.gradient()
        with torch.no_grad():
            norms = [torch.linalg.vector_norm(grad) for grad in grads.values()]
            clipped = (CLIP / (torch.stack(norms).norm() + 1e-6)).clamp(max=1.0)
            grads = {name: grad * clipped for name, grad in grads.items()}
            self._optimizer.step(grads, [Rates(LR, 0.0, 0.0)], self.number)


class Vectorised(_Way):
    """As the trainer has it: runs by `vmap`, here one; tasks inside the learner."""

    def __init__(self, learner: Learner, episode: Episode) -> None:
        super().__init__(learner, episode)
        self.key = new_key(0)[None]
        self.rates = {"inner_lr": torch.tensor([INNER_LR])}
        self.rows = Episode(*(Batch(*(rows[None] for rows in part)) for part in episode))

    def gradient(self) -> Params:
        def one(p: Params, rows: Episode, key: Tensor, rates: Params) -> tuple[Tensor, Tensor]:
            step = Step(True, key, rates)
            phi = self.learner.adapt(p, {}, rows.support, step)
            return self.learner.loss(phi, {}, rows.query, step)[:2]

        losses, _ = vmap(one)(self.leaves, self.rows, fold(self.key, self.number), self.rates)
        found = torch.autograd.grad(losses.sum(), list(self.leaves.values()))
        return dict(zip(self.leaves, found, strict=True))


class Loop(_Way):
    """One task after the other, in plain functions."""

    def gradient(self) -> Params:
        leaves = list(self.leaves.values())
        theta = {name: leaf[0, 0] for name, leaf in self.leaves.items()}
        support, query = self.episode
        n_tasks = len(query.x)
        losses = []
        for task in range(n_tasks):
            inner = F.mse_loss(forward(theta, support.x[task]), support.y[task])
            found = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
            phi = {
                name: leaf - INNER_LR * grad
                for (name, leaf), grad in zip(theta.items(), found, strict=True)
            }
            losses.append(F.mse_loss(forward(phi, query.x[task]), query.y[task]))
        total = torch.autograd.grad(torch.stack(losses).mean(), leaves)
        return dict(zip(self.leaves, total, strict=True))


def forward(params: Params, x: Tensor) -> Tensor:
    """Predictions [row] for rows [row, 1]."""
    for number in range(2):
        x = torch.relu(
            F.linear(x, params[f"blocks.{number}.weight"], params[f"blocks.{number}.bias"])
        )
    return F.linear(x, params["head.weight"], params["head.bias"])[:, 0]


def seconds(step: Callable[[], None], steps: int) -> float:
    """Mean seconds of a step, after one that is not timed."""
    step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - began) / steps


def line(row: dict[str, float]) -> str:
    """A line of the table."""
    ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
    return (
        f"| {row['tasks']} | {1000 * row['vectorised']:.2f} | {1000 * row['loop']:.2f} | {ratio} |"
    )


if __name__ == "__main__":
    main()
