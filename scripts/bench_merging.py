#!/usr/bin/env python
"""A step of runs of different kinds trained as one, against the same runs kind by kind.

MultiDigits, 3 blocks, batches of 64, one thread. Each row is a set of networks with one shape key.
Times are the median processor time of a step, recorded as in training, in ms a run: of one run of
each kind together (`merged`); of each alone, as most were where every kind was a shape of its own;
and of two and of four of the same kind, the mean over the kinds.

    OMP_NUM_THREADS=1 python scripts/bench_merging.py

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from autometa.tasks import load_suite
from autometa.training.population import Run, Trainer
from autometa.trial import TrialConfig

KINDS = ("additive", "multiplicative")
HEADS = ("multi_head", "single_head")
BALANCERS = ("equal", "uncertainty")
#: name → networks: sharing.split_at, conditioning.kind, conditioning.at, head, balancing.kind
SETS: dict[str, list[tuple[int, str, str, str, str]]] = {
    "balancing": [(3, "none", "head", "multi_head", b) for b in BALANCERS],
    "nothing or the head, all shared": [
        (3, "none", "head", "multi_head", "equal"),
        *((3, kind, "head", "multi_head", "equal") for kind in KINDS),
    ],
    "one head or one a task": [(3, "additive", "head", head, "equal") for head in HEADS],
    "nothing, last or head, one block shared": [
        (1, "none", "head", "multi_head", "equal"),
        *(
            (1, k, at, "multi_head", "equal")
            for k, at in itertools.product(KINDS, ("last", "head"))
        ),
    ],
    "last block, all shared": [(3, kind, "last", "multi_head", "equal") for kind in KINDS],
    "input or every block": [
        (3, kind, at, "multi_head", "equal")
        for kind, at in itertools.product(KINDS, ("input", "every"))
    ],
    "all of these, both heads, both balancers": [
        (3, *rest) for rest in itertools.product(KINDS, ("input", "every"), HEADS, BALANCERS)
    ],
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", default="32,192", help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="timed (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="width 8, 2 steps, two sets")
    args = parser.parse_args(argv)
    sets = SETS
    if args.quick:
        args.widths, args.steps, sets = "8", 2, dict(list(SETS.items())[:2])
    torch.set_num_threads(1)
    trainer = Trainer(load_suite("multidigits").without_test(), 1, torch.device("cpu"))
    print("| width | networks | kinds | merged | alone | two of a kind | four of a kind |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for width, (name, networks) in itertools.product(
        map(int, args.widths.split(",")), sets.items()
    ):
        rows.append(compare(trainer, name, [config(width, *n) for n in networks], args.steps))
        print("| " + " | ".join(map(_text, rows[-1].values())) + " |", flush=True)
    print(json.dumps({"steps": args.steps, "torch": torch.__version__, "rows": rows}))


def config(width: int, split_at: int, kind: str, at: str, head: str, balancing: str) -> TrialConfig:
    return TrialConfig.from_flat(
        {
            "backbone.width": width,
            "backbone.depth": 3,
            "backbone.dropout": 0.2,
            "sharing.split_at": split_at,
            "conditioning.kind": kind,
            "conditioning.at": at,
            "head": head,
            "balancing.kind": balancing,
        }
    )


def compare(
    trainer: Trainer, name: str, configs: Sequence[TrialConfig], steps: int
) -> dict[str, Any]:
    """ms a run and step of the ways to train `configs`."""
    if len({config.shape_key() for config in configs}) > 1:
        raise ValueError(f"The networks of `{name}` should have one shape key.")

    def same(n_runs: int) -> float:
        return statistics.mean(step_ms(trainer, [c] * n_runs, steps) for c in configs)

    backbone: Any = configs[0].backbone
    return {
        "width": backbone.width,
        "networks": name,
        "kinds": len(configs),
        "merged": step_ms(trainer, configs, steps),
        "alone": same(1),
        "two": same(2),
        "four": same(4),
    }


def step_ms(trainer: Trainer, configs: Sequence[TrialConfig], steps: int) -> float:
    """Median processor time of a step, ms a run."""
    stack, plan = trainer._first_epoch([Run(config, k) for k, config in enumerate(configs)])
    stack._last_step = 10**9  # long enough to be recorded
    batch = trainer._train.batch(plan, 0)
    times = []
    for number in range(steps + 2):  # the first two are warm-up
        began = time.process_time()
        stack.step(batch, number + 1)
        times.append(time.process_time() - began)
    return 1000 * statistics.median(times[2:]) / len(configs)


def _text(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
