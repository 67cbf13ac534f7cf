#!/usr/bin/env python
"""A training step as it is, recorded, and compiled: what each takes, and when it pays.

The network is 3 × 96 with hard sharing on MultiDigits, K runs as one, batches of 64, one thread.
Timed is the part of a step that is recorded (`training/replay.py`): losses and gradients of K runs,
without the optimizer. `recorded` is what training uses; `compiled` is `torch.compile` of the
recording, with empty caches and so with a C++ compiler, whose processes are in its CPU seconds.
Times are processor time, so that other work on the machine disturbs them less; `pays from` is the
number of steps whose saving is the cost of making it, and the seconds that they take as they are.

    OMP_NUM_THREADS=1 python scripts/bench_step.py --runs 16

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from autometa.tasks import load_suite
from autometa.training.population import Run, Trainer
from autometa.training.replay import Function, Recordings, record
from autometa.trial import TrialConfig

CONFIG = {"sharing.kind": "hard", "backbone.width": 96, "backbone.depth": 3}
WAYS = ("as it is", "recorded", "compiled")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", default="2,16", help="population sizes K (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="timed (%(default)s)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--quick", action="store_true", help="K = 2, 2 steps, not compiled")
    args = parser.parse_args(argv)
    if args.quick:
        args.runs, args.steps, args.no_compile = "2", 2, True
    torch.set_num_threads(1)
    trainer = Trainer(load_suite("multidigits").without_test(), 1, torch.device("cpu"))
    print("| K | step | CPU s to make | s on the clock | CPU ms a step | pays from steps | is s |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for n_runs in map(int, args.runs.split(",")):
        function, inputs = plain_step(trainer, n_runs)
        for row in measure(function, inputs, WAYS[: 2 if args.no_compile else 3], args.steps):
            rows.append({"runs": n_runs, **row})
            print(line(rows[-1]), flush=True)
    print(json.dumps({"steps": args.steps, "torch": torch.__version__, "rows": rows}))


def plain_step(trainer: Trainer, n_runs: int) -> tuple[Function, Sequence[Tensor]]:
    """The function that a step calls through `Recordings`, and its tensors in a first step."""
    seen: list[tuple[Function, Sequence[Tensor]]] = []

    class Caught(Recordings):
        def call(self, key: Any, function: Function, inputs: Sequence[Tensor], more: int) -> Any:
            seen.append((function, inputs))
            return function(*inputs)

    kept, trainer._recordings = trainer._recordings, Caught()
    config = TrialConfig.from_flat(CONFIG)
    trainer.step_seconds([Run(config, seed) for seed in range(n_runs)], repeats=1)
    trainer._recordings = kept
    return seen[-1]


def measure(
    function: Function, inputs: Sequence[Tensor], ways: Sequence[str], steps: int
) -> list[dict[str, Any]]:
    """Cost of making and of calling each, timed in turns."""
    made: dict[str, Callable[[], object]] = {}
    rows: list[dict[str, Any]] = []
    for way in ways:
        cpu, clock = cpu_seconds(), time.perf_counter()
        made[way] = make(way, function, inputs)
        made[way]()
        rows.append({"step": way, "cpu_s": cpu_seconds() - cpu, "s": time.perf_counter() - clock})
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(steps):
        for way in ways:
            began = time.process_time()
            made[way]()
            spent[way].append(time.process_time() - began)
    as_it_is = statistics.median(spent[WAYS[0]])
    for row in rows:
        ms = 1000 * statistics.median(spent[row["step"]])
        saved = as_it_is - ms / 1000
        row["ms_a_step"] = ms
        row["pays_from"] = None
        if row["step"] != WAYS[0] and saved > 0:
            row["pays_from"] = math.ceil(row["cpu_s"] / saved)
            row["pays_from_s"] = row["pays_from"] * as_it_is
    return rows


def make(way: str, function: Function, inputs: Sequence[Tensor]) -> Callable[[], object]:
    """A call of the step on `inputs`."""
    if way == WAYS[0]:
        return lambda: function(*inputs)
    recorded = record(function, inputs, function(*inputs))
    assert recorded is not None
    chosen: Any = recorded
    if way == WAYS[2]:
        chosen = torch.compile(recorded)

    def call() -> object:
        with torch.no_grad():
            return chosen(*inputs)

    return call


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    pays = row["pays_from"]
    when = "– | –" if pays is None else f"{pays:,} | {row['pays_from_s']:.0f}"
    return (
        f"| {row['runs']} | {row['step']} | {row['cpu_s']:.2f} | {row['s']:.1f} | "
        f"{row['ms_a_step']:.2f} | {when} |"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        main()
