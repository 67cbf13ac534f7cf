#!/usr/bin/env python
"""Build SharingBench: real suites × configurations of the default space, trained to the end.

    AUTOMETA_DATA=FOLDER python scripts/build_sharing_bench.py --out FOLDER --workers 2
    AUTOMETA_DATA=FOLDER python scripts/build_sharing_bench.py --out FOLDER --pack

The first command trains; it goes on where it was stopped, and several of them can share one folder
(`--only-part 1/2`, `--only-part 2/2`). The second writes the table that the package ships. What is
trained, and what a row means, is said in the data card that it writes beside the table.

A suite has 32 cells, structures with 8 draws of their numbers each. The 8 draws × 2 seeds of a cell
have one shape key and are trained as one population; what they reached at three rungs is one file,
FOLDER/cells/SUITE/NN.json, written in one go when it is done. FOLDER/plans/SUITE.json holds the
configurations. Every population is trained by one thread. The last line of stdout is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from _sharing_bench_pack import TABLE, pack
from _sharing_bench_plan import QUOTA, plan_cells, suite_space
from _sharing_bench_suites import SUITES

from autometa.metrics import evaluate
from autometa.networks import Problem
from autometa.priors.probes import measure
from autometa.searching.costs import parameter_count
from autometa.searching.settings import run_seed
from autometa.tasks import Rows, TaskSuite
from autometa.training.data import TrainingRows
from autometa.training.population import Trainer, task_specs
from autometa.training.state import PopulationState, Run
from autometa.trial import OptimizerConfig, TrialConfig

RUNGS = (9, 3, 1)
"""A run is scored after 1/9, 1/3 and all of its epochs."""
#: rows a step, of each task in a grouped suite
BATCH_SIZE = 64
#: a stream of seeds for the runs of the benchmark
_STREAM = 5_000_011
QUICK = {"independent": 1, "hard": 2, "tree": 1}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("sharing-bench"), help="(%(default)s)")
    parser.add_argument("--suites", help="NAME,… (all if not given)")
    parser.add_argument("--only-part", default="1/1", metavar="I/N", help="every Nth cell")
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s: this one)")
    parser.add_argument("--draws", type=int, default=8, help="of a structure (%(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="of a configuration (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of a run, about (%(default)s)")
    parser.add_argument("--pack", action="store_true", help="write the table, train nothing")
    parser.add_argument("--table", type=Path, default=TABLE, help="of --pack (%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="diabetes, 4 structures, 2 draws, 9 epochs"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.suites, args.draws, args.steps = args.suites or "diabetes", 2, 1
    names = args.suites.split(",") if args.suites else list(SUITES)
    if unknown := [name for name in names if name not in SUITES]:
        parser.error(f"--suites: {unknown[0]} is not one of {', '.join(SUITES)}")
    if min(args.draws, args.seeds, args.steps, args.workers) < 1:
        parser.error("--draws, --seeds, --steps and --workers should be at least 1")
    try:
        part, parts = map(int, args.only_part.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        parser.error(f"--only-part should be I/N with 1 ≤ I ≤ N, found {args.only_part}")
    if args.pack:
        print(json.dumps(pack(args.out, names, args.table)))
        return
    settings = {"draws": args.draws, "seeds": args.seeds, "steps": args.steps}
    settings["quota"] = QUICK if args.quick else QUOTA
    build(args.out, names, settings, args.workers, slice(part - 1, None, parts))


def build(
    out: Path, names: Sequence[str], settings: dict[str, Any], workers: int, part: slice
) -> None:
    """Train what is not there yet, suite by suite."""
    one_thread()
    jobs = []
    for name in names:
        plan = plan_of(out, name, settings)
        cells = [(name, number) for number in range(len(plan["cells"]))]
        jobs += cells[part]
    todo = [job for job in jobs if not cell_path(out, *job).exists()]
    print(f"{len(jobs) - len(todo)} of {len(jobs)} cells are there", flush=True)
    began, seconds = time.perf_counter(), 0.0
    for done, (name, number, took) in enumerate(run_jobs(out, todo, workers), 1):
        seconds += took
        print(f"{name} {number:02d}: {took:.1f} s, {done} of {len(todo)}", flush=True)
    wall = round(time.perf_counter() - began, 1)
    print(json.dumps({"cells": len(todo), "cpu_seconds": round(seconds, 1), "seconds": wall}))


def run_jobs(
    out: Path, jobs: Sequence[tuple[str, int]], workers: int
) -> Iterator[tuple[str, int, float]]:
    """Suite, cell and CPU seconds of each cell as it is done, in this process or in several."""
    if workers == 1 or not jobs:
        yield from (run_job(out, *job) for job in jobs)
        return
    # spawned: a fork of a process that has run torch can hang
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), one_thread) as pool:
        futures = [pool.submit(run_job, out, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def one_thread() -> None:
    torch.set_num_threads(1)


def run_job(out: Path, name: str, number: int) -> tuple[str, int, float]:
    path = cell_path(out, name, number)
    if path.exists():  # another process was faster
        return name, number, 0.0
    began = time.process_time()
    write(path, run_cell(name, read(plan_path(out, name)), number))
    return name, number, time.process_time() - began


# --- plans ----------------------------------------------------------------------------------------


def plan_of(out: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What is trained of a suite, from its file or made now.

    Raises:
        SystemExit: the file comes from other settings or other data.
    """
    path = plan_path(out, name)
    if not path.exists():
        write(path, make_plan(name, settings))
    plan = read(path)
    if plan["settings"] != settings:
        raise SystemExit(
            f"{path} was made with {plan['settings']}, not {settings}. Choose another --out."
        )
    return plan


def make_plan(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    entry = SUITES[name]
    suite = entry.load()
    stripped = suite.without_test()
    space, groups = suite_space(stripped)
    cells = plan_cells(space, name, settings["draws"], settings["quota"])
    problem = Problem.of(stripped)
    rows = TrainingRows(stripped.rows("train"), problem, torch.device("cpu"))
    steps = rows.steps(OptimizerConfig(batch_size=BATCH_SIZE))
    first = max(1, round(settings["steps"] / (RUNGS[0] * steps)))  # epochs of the first rung
    return {
        "suite": name,
        "family": entry.family,
        "what": entry.what,
        **entry.origin(),
        "problem": problem.model_dump(mode="json"),
        "rows": suite.counts,
        "tasks": [{"name": t.name, "kind": t.kind, "metric": t.metric} for t in suite.tasks],
        "fingerprint": suite.fingerprint,
        "steps_per_epoch": steps,
        "epochs": [first * RUNGS[0] // part for part in RUNGS],
        "groups": list(groups),
        "probes": {n: v if np.isfinite(v) else None for n, v in measure(stripped).items()},
        "space": space.text,
        "settings": settings,
        "cells": [asdict(cell) for cell in cells],
    }


# --- one cell -------------------------------------------------------------------------------------


def run_cell(name: str, plan: dict[str, Any], number: int) -> dict[str, Any]:
    """Train a structure's draws × seeds as one population and score them at every rung.

    Returns:
        `runs`: one a (draw, seed), draws outermost, each with its number of `parameters` and one
        record a rung: `val` and `test`, the suite's score; `val_tasks` and `test_tasks`, those of
        the tasks; all None where the run failed. `seconds`: CPU seconds of training so far and of
        scoring validation rows, the run's share of the population's.
    """
    suite, fingerprint = load(name)
    if fingerprint != plan["fingerprint"]:
        raise SystemExit(f"The data of {name} are not those that its plan was made with.")
    stripped, test = suite.without_test(), suite.open_test()
    specs = task_specs(stripped)
    trainer = Trainer(stripped, plan["epochs"][-1] * plan["steps_per_epoch"], torch.device("cpu"))
    configs = [
        TrialConfig.from_flat({**flat, "optimizer.batch_size": BATCH_SIZE})
        for flat in plan["cells"][number]["configs"]
    ]
    draws, seeds = plan["settings"]["draws"], plan["settings"]["seeds"]
    runs = [
        Run(config, run_seed(_STREAM, number * draws + draw, seed))
        for draw, config in enumerate(configs)
        for seed in range(seeds)
    ]
    state: PopulationState = trainer.start(runs)
    rungs: list[list[dict[str, Any]]] = [[] for _ in runs]
    spent, failed = 0.0, [False] * len(runs)
    for epoch in plan["epochs"]:
        began = time.process_time()
        results, state = trainer.train(runs, state, epoch * plan["steps_per_epoch"])
        spent += (time.process_time() - began) / len(runs)
        values, tasks = test_scores(trainer.predict(runs, state, test), test, specs)
        for k, result in enumerate(results):
            failed[k] |= result.value is None
            if failed[k]:  # and stays so, whatever its later losses are
                record: dict[str, Any] = dict.fromkeys(("val", "test", "val_tasks", "test_tasks"))
            else:
                record = {
                    "val": result.value,
                    "test": values[k],
                    "val_tasks": list(result.tasks.values()),
                    "test_tasks": tasks[k],
                }
            rungs[k].append({**record, "seconds": spent})
    return {
        "runs": [
            {"parameters": parameter_count(run.config, trainer.problem), "rungs": found}
            for run, found in zip(runs, rungs, strict=True)
        ]
    }


def test_scores(pred: np.ndarray, test: Rows, specs: Any) -> tuple[list[Any], list[list[Any]]]:
    """The suite's score of each run on the test rows, and its tasks' scores; None if undefined."""
    task = None if test.task is None else test.task.numpy()
    found = evaluate(pred, test.y.numpy(), specs, mask=test.mask.numpy(), task=task)
    return _plain(found.value()), [_plain(row) for row in found.task_scores()]


def _plain(values: np.ndarray) -> list[Any]:
    return [float(v) if np.isfinite(v) else None for v in values]


@lru_cache(maxsize=1)
def load(name: str) -> tuple[TaskSuite, str]:
    suite = SUITES[name].load()
    return suite, suite.fingerprint


# --- files ----------------------------------------------------------------------------------------


def plan_path(out: Path, name: str) -> Path:
    return out / "plans" / f"{name}.json"


def cell_path(out: Path, name: str, number: int) -> Path:
    return out / "cells" / name / f"{number:02d}.json"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]  # JSON


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
