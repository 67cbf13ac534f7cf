#!/usr/bin/env python
"""Time a training step of every sharing mechanism and conditioning against the plain trunk.

The plain trunk shares every block (`hard`, split_at = depth, a head a task); each mechanism is
timed beside it, in the same population size K, with the defaults of its configuration. Suites:

    multidigits  2 tasks, 121 inputs, aligned (mlp, 3 blocks of 96)
    table6       6 regression tasks, 24 random inputs, aligned (mlp, 3 blocks of 96)
    grouped6     the same with a task column: each row belongs to one task
    image2       2 regression tasks, random images of 28 x 28 (conv, 4 blocks of 32 channels)

A measurement is the fastest of a few steps of 64 rows (`Trainer.step_seconds`: forward, backward
and update of K runs). On a machine that is busy with other work, where a step's wall time says
little, `--clock cpu` takes the mean processor time of a step instead. In every round each mechanism
is measured right after (in odd rounds right before) the plain trunk and the two are divided, so
that other work disturbs both alike. The table has the median and the range of that ratio over the
rounds. What a mechanism does only every n steps (`deep_relation` estimates covariances) is added
with weight 1/n. A mechanism that a suite cannot build is named below the table. With `--balancing`
the ways to balance the tasks' losses or gradients are timed instead, all on the plain trunk.

    OMP_NUM_THREADS=1 python scripts/bench_sharing_steps.py --suites table6 --runs 1,16 --rounds 5

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from autometa.balancing import BALANCING
from autometa.errors import ConfigError
from autometa.networks import Problem
from autometa.networks.conditioning import CONDITIONING
from autometa.sharing import SHARING
from autometa.tasks import TaskSuite, load_suite
from autometa.training.population import Trainer
from autometa.training.state import Run
from autometa.trial import TrialConfig, check

SUITES = ("multidigits", "table6", "grouped6", "image2")
MLP = {"backbone.kind": "mlp", "backbone.width": 96, "backbone.depth": 3}
CONV = {"backbone.kind": "conv", "backbone.width": 32, "backbone.depth": 4}
PLAIN = "plain trunk"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suites", default=",".join(SUITES), help="(%(default)s)")
    parser.add_argument("--runs", default="1,16", help="population sizes K (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps a measurement (%(default)s)")
    parser.add_argument(
        "--balancing", action="store_true", help="the balancers, instead of ways to share"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="(%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="table6 with K = 1 and 2, 1 round of 1 step"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.suites, args.runs, args.rounds, args.steps = "table6", "1,2", 1, 1
    names, sizes = args.suites.split(","), [int(k) for k in args.runs.split(",")]
    if unknown := [name for name in names if name not in SUITES]:
        parser.error(f"--suites takes {', '.join(SUITES)}; found {unknown[0]}")
    if min(args.rounds, args.steps, *sizes) < 1:
        parser.error("--runs, --rounds and --steps should be at least 1")
    torch.set_num_threads(1)
    print("| suite | K | mechanism | weights a run | ms a step | × plain (range) |")
    print("|---|---|---|---|---|---|")
    rows, left_out = [], {}
    for name in names:
        trainer = Trainer(make_suite(name), 1, torch.device("cpu"))
        network = CONV if name == "image2" else MLP
        values = balancers() if args.balancing else mechanisms(network, trainer.problem.n_tasks)
        configs, refused = built(values, network, trainer.problem)
        left_out[name] = refused
        for size in sizes:
            for found in measure(trainer, configs, size, args):
                rows.append({"suite": name, "runs": size, **found})
                print(line(rows[-1]), flush=True)
    for name, refused in left_out.items():
        for mechanism, reason in refused.items():
            print(f"Not on {name}: {mechanism} ({reason})")
    facts = {
        "clock": args.clock,
        "rounds": args.rounds,
        "steps": args.steps,
        "torch": torch.__version__,
    }
    print(json.dumps({**facts, "rows": rows, "left_out": left_out}))


def make_suite(name: str) -> TaskSuite:
    """A suite by name, without its test rows."""
    if name == "multidigits":
        return load_suite(name).without_test()
    rng = np.random.default_rng(0)
    if name == "image2":
        suite = TaskSuite.from_arrays(rng.normal(size=(400, 28, 28)), rng.normal(size=(400, 2)))
    elif name == "grouped6":
        suite = TaskSuite.from_arrays(
            rng.normal(size=(2400, 24)), rng.normal(size=2400), task=np.arange(2400) % 6
        )
    else:
        suite = TaskSuite.from_arrays(rng.normal(size=(400, 24)), rng.normal(size=(400, 6)))
    return suite.without_test()


def mechanisms(network: dict[str, Any], n_tasks: int) -> dict[str, dict[str, Any]]:
    """Name → what makes it differ, of the plain trunk and every sharing and conditioning."""
    depth = network["backbone.depth"]
    values: dict[str, dict[str, Any]] = {PLAIN: {"sharing.kind": "hard"}}
    for kind in SHARING:
        values[kind] = {"sharing.kind": kind}
    half = depth // 2
    values["hard"] |= {"sharing.split_at": half}
    # one trunk, then two branches from the middle on
    parts = ["0" * n_tasks] * half
    parts += ["0" * (n_tasks // 2) + "1" * (n_tasks - n_tasks // 2)] * (depth - half)
    values["tree"] |= {"sharing.partitions": "/".join(parts)}
    for kind in CONDITIONING:
        if kind != "none":
            values[f"hard, {kind}"] = {"sharing.kind": "hard", "conditioning.kind": kind}
    values[f"hard, split_at {half}"] = values.pop("hard")
    values[f"tree, 2 branches from {half}"] = values.pop("tree")
    return values


def balancers() -> dict[str, dict[str, Any]]:
    """The same for every balancer, on the plain trunk."""
    values = {kind: {"sharing.kind": "hard", "balancing.kind": kind} for kind in BALANCING}
    return {PLAIN: values.pop("equal"), **values}


def built(
    values: dict[str, dict[str, Any]], network: dict[str, Any], problem: Problem
) -> tuple[dict[str, TrialConfig], dict[str, str]]:
    """Name → configuration of what the suite can build, and why of what it cannot."""
    configs, refused = {}, {}
    for name, chosen in values.items():
        try:
            config = TrialConfig.from_flat({**network, **chosen})
            check(config, problem)
        except ConfigError as exc:
            refused[name] = str(exc)
            continue
        configs[name] = config
    return configs, refused


def measure(
    trainer: Trainer, configs: dict[str, TrialConfig], size: int, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Seconds of a step of every mechanism, and the ratio to the plain trunk in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    ratios: dict[str, list[float]] = {name: [] for name in configs}
    for number in range(args.rounds):
        for name, config in configs.items():
            if name == PLAIN:
                continue
            pair = [configs[PLAIN], config]
            if number % 2:
                pair.reverse()
            times = [step_seconds(trainer, c, size, args.steps, args.clock) for c in pair]
            if number % 2:
                times.reverse()
            seconds[PLAIN].append(times[0])
            seconds[name].append(times[1])
            ratios[name].append(times[1] / times[0])
    ratios[PLAIN] = [1.0]
    for name, config in configs.items():
        yield {
            "mechanism": name,
            "weights": trainer.start([Run(config, 0)]).values.shape[1],
            "seconds": statistics.median(seconds[name]),
            "ratio": statistics.median(ratios[name]),
            "ratio_low": min(ratios[name]),
            "ratio_high": max(ratios[name]),
        }


def step_seconds(trainer: Trainer, config: TrialConfig, size: int, steps: int, clock: str) -> float:
    """Seconds of a step, with what happens only every n steps counted once in n."""
    time_of = wall_seconds if clock == "wall" else cpu_seconds
    found = time_of(trainer, config, size, steps)
    every = getattr(config.sharing, "update_every", 1)
    if every > 1:
        flat = {**config.flat(), "sharing.update_every": 1}
        often = time_of(trainer, TrialConfig.from_flat(flat), size, steps)
        found += max(0.0, often - found) / every
    return found


def wall_seconds(trainer: Trainer, config: TrialConfig, size: int, steps: int) -> float:
    """The fastest of `steps` steps."""
    return trainer.step_seconds([Run(config, seed) for seed in range(size)], steps)


def cpu_seconds(trainer: Trainer, config: TrialConfig, size: int, steps: int) -> float:
    """Mean processor time of `steps` steps: that of 1 + `steps` less that of one."""
    runs = [Run(config, seed) for seed in range(size)]
    used = []
    for number in (1, 1 + steps):
        began = time.process_time()
        trainer.step_seconds(runs, number)
        used.append(time.process_time() - began)
    return (used[1] - used[0]) / steps


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
    return (
        f"| {row['suite']} | {row['runs']} | {row['mechanism']} | {row['weights']:,} | "
        f"{1000 * row['seconds']:.2f} | {'1' if row['mechanism'] == PLAIN else ratio} |"
    )


if __name__ == "__main__":
    main()
