"""Reproduces two toys of the balancing literature with autometa's own trainer.

1. GradNorm (Chen et al. 2018, section 4): ten regression tasks y_i = σ_i tanh((B + ε_i) x) with
   loss scales σ_i from 1 to 100 and one network. Reported: each task's test loss over its loss at
   the start, averaged; and, for GradNorm, its weights.
2. Two quadratics in the plane whose gradients conflict, one of them 100 times as steep. Reported:
   how far the optimum is from the Pareto set (0: on it), the regret of both tasks (0: its own
   optimum, 1: the loss it has where the other task is optimal), and the largest rise of a task's
   loss on the way.

usage: python scripts/reproduce_balancing.py [--steps N]

Prints a table, and one JSON object as the last line. About a minute on one free core. Balancers
whose extra is not installed are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from autometa.balancing import BALANCING, Balancer
from autometa.config import Config
from autometa.errors import ConfigError
from autometa.learners import LEARNERS, Batch, Learner
from autometa.networks import ConditioningConfig, Problem, Step
from autometa.sharing import Params, Role, Sharing
from autometa.sharing.base import subset
from autometa.tasks import TaskSuite
from autometa.training.population import Run, Trainer
from autometa.training.state import Layout
from autometa.trial import TrialConfig, build

CPU = torch.device("cpu")
SCALES = np.geomspace(1.0, 100.0, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700, help="optimizer steps of the first toy")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    kinds = available()
    toy = gradnorm_toy(["equal", "gradnorm", "famo", "upgrad"], args.steps)
    conflict = {kind: quadratic_conflict(kind) for kind in kinds}

    print("Ten regression tasks, σ = 1 … 100: test loss / loss at the start, mean over tasks\n")
    print(f"{'balancer':<16}{'mean':>9}{'σ = 1':>9}{'σ = 100':>9}   weights, σ = 1 … 100")
    for kind, row in toy.items():
        weights = " ".join(f"{w:.3g}" for w in row["weights"] or [])
        first, last = row["ratios"][0], row["ratios"][-1]
        print(f"{kind:<16}{row['mean']:>9.4f}{first:>9.4f}{last:>9.4f}   {weights}")
    print("\nTwo quadratics in conflict, one 100 times as steep\n")
    print(f"{'balancer':<16}{'off Pareto':>11}{'regret 1':>10}{'regret 2':>10}{'largest rise':>14}")
    for kind, found in conflict.items():
        print(
            f"{kind:<16}{found['off_pareto']:>11.4f}{found['regret'][0]:>10.4f}"
            f"{found['regret'][1]:>10.4f}{found['rise']:>14.5f}"
        )
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"gradnorm": toy, "conflict": conflict, "seconds": seconds}))


def available() -> list[str]:
    """The balancers whose packages are installed."""
    found = []
    for kind, entry in BALANCING.items():
        try:
            entry.check()
        except ConfigError:
            continue
        found.append(kind)
    return found


# --- GradNorm's toy -------------------------------------------------------------------------------


def gradnorm_suite(seed: int = 0, rows: int = 3000, features: int = 32) -> TaskSuite:
    """y_i = σ_i z_i, z_i = tanh((B + ε_i) x) standardised, B and ε_i with variances 10 and 3.5.

    x is scaled so that the argument of tanh has standard deviation 2.
    """
    rng = np.random.default_rng(seed)
    common = rng.normal(scale=np.sqrt(10.0), size=(1, features))
    own = rng.normal(scale=np.sqrt(3.5), size=(len(SCALES), features))
    x = rng.normal(size=(rows, features)) * 2.0 / np.sqrt(13.5 * features)
    part = np.array(["train", "train", "val"])[np.arange(rows) % 3]
    part[:3] = "test"
    suite = TaskSuite.from_arrays(x.astype(np.float32), np.tanh(x @ (common + own).T), splits=part)
    return dataclasses.replace(suite, y=suite.y * torch.tensor(SCALES, dtype=suite.y.dtype))


def gradnorm_toy(kinds: list[str], steps: int = 700, seed: int = 0) -> dict[str, Any]:
    """Train the toy with each balancer; all other settings are the same."""
    suite = gradnorm_suite(seed)
    rows = suite.rows("val")
    trainer = Trainer(suite, steps, CPU)
    out = {}
    for kind in kinds:
        config = TrialConfig.from_flat(
            {
                "balancing.kind": kind,
                "backbone.width": 64,
                "backbone.depth": 3,
                "backbone.norm": "none",
                "optimizer.lr": 3e-3,
                "optimizer.clip": 1e9,
                "optimizer.weight_decay": 0.0,
                "optimizer.batch_size": 128,
                "optimizer.schedule": "constant",
            }
        )
        runs = [Run(config, seed)]
        start = trainer.start(runs)
        before = _errors(trainer.predict(runs, start, rows), rows.y)
        _, state = trainer.train(runs, start, steps)
        ratios = _errors(trainer.predict(runs, state, rows), rows.y) / before
        weights = None
        if kind == "gradnorm":
            logits = state.buffers["balancing.logits"][0]
            weights = (logits.softmax(0) * len(logits)).tolist()
        out[kind] = {"mean": float(ratios.mean()), "ratios": ratios.tolist(), "weights": weights}
    return out


def _errors(pred: np.ndarray, y: Tensor) -> np.ndarray:
    """Mean squared error of each task; `pred` [run, task, row, output]."""
    return ((pred[0, :, :, 0].T - y.numpy()) ** 2).mean(0)


# --- two quadratics -------------------------------------------------------------------------------

#: L_t(θ) = ½ Σ_i curvature[t, i] (θ_i − optimum[t, i])²
CURVATURE = torch.tensor([[100.0, 50.0], [0.5, 1.0]])
OPTIMUM = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
START = torch.tensor([-0.5, 1.5])


class QuadraticConfig(Config):
    """A learner without data."""

    kind: Literal["quadratic"] = "quadratic"


class Quadratic(Learner):
    """θ is a point in the plane that two tasks share; their losses are quadratic in it."""

    Config = QuadraticConfig
    balances = True

    def __init__(
        self,
        config: QuadraticConfig,
        problem: Problem,
        network: Sharing,
        conditioning: ConditioningConfig,
        balancer: Balancer,
    ) -> None:
        self.problem, self.balancer = problem, balancer

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params = {"point": START.clone()}
        params |= {f"balancing.{n}": leaf for n, leaf in self.balancer.init(2).items()}
        return params, {f"balancing.{n}": leaf for n, leaf in self.balancer.state(2).items()}

    def roles(self) -> dict[str, Role]:
        return {"point": "shared"} | dict.fromkeys(
            (f"balancing.{n}" for n in self.balancer.init(2)), "task"
        )

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        return params

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        losses = quadratic_losses(params["point"])
        weights = subset(params, "balancing") | subset(buffers, "balancing")
        here = batch.mask.any(-1)
        return self.balancer.combine(weights, losses, here, batch.tasks, step), losses, buffers

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        return torch.zeros(len(tasks), len(x), 1)


def quadratic_losses(point: Tensor) -> Tensor:
    return 0.5 * (CURVATURE * (point - OPTIMUM) ** 2).sum(-1)


def quadratic_conflict(kind: str, steps: int = 400) -> dict[str, Any]:
    """Gradient descent from `START`, looked at every 20."""
    LEARNERS.setdefault("quadratic", Quadratic)
    rows = np.arange(10, dtype=np.float32)[:, None]
    part = np.where(np.arange(10) < 8, "train", "test")
    suite = TaskSuite.from_arrays(rows, np.hstack([rows, -rows]), splits=part)
    values = {"kind": "sgd", "lr": 0.02, "momentum": 0.0, "weight_decay": 0.0, "clip": 1e9}
    config = TrialConfig.from_flat(
        {f"optimizer.{name}": value for name, value in values.items()}
        | {"balancing.kind": kind, "adaptation.kind": "quadratic"}
    )
    trainer, runs = Trainer(suite, steps, CPU), [Run(config, 0)]
    state = trainer.start(runs)
    layout = Layout(build(config, trainer.problem).init(torch.Generator())[0])
    losses = [quadratic_losses(START)]
    for step in range(20, steps + 1, 20):
        _, state = trainer.train(runs, state, step)
        point = layout.unpack(state.values)["point"][0]
        losses.append(quadratic_losses(point))
    path = torch.stack(losses)
    return {
        "point": point.tolist(),
        "off_pareto": _off_pareto(point),
        "regret": (path[-1] / _at_other()).tolist(),
        "rise": max(0.0, float((path.diff(dim=0)).max())),
    }


def _at_other() -> Tensor:
    """Each task's loss at the optimum of the other."""
    return torch.stack([quadratic_losses(OPTIMUM[1 - t])[t] for t in (0, 1)])


def _off_pareto(point: Tensor) -> float:
    """Distance from the points where some weighted mean of the losses has its minimum."""
    share = torch.cat([torch.zeros(1), torch.logspace(-6, 0, 2001)])[:, None]
    weight = torch.stack([share * CURVATURE[0], (1 - share) * CURVATURE[1]])
    best = (weight * OPTIMUM[:, None]).sum(0) / weight.sum(0)
    return float((best - point).norm(dim=1).min())


if __name__ == "__main__":
    main()
