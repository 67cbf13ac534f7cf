#!/usr/bin/env python
"""What a prior is worth in a search: `--prior` against `--prior off`, seed by seed.

    AUTOMETA_DATA=FOLDER scripts/bench_prior_benefit.py --out FOLDER --jobs 2

Suites of SharingBench are searched by `autometa.search` with everything as it is by default: the
space `sharing` (three widths, of which the table knows one), both arms, ASHA, 27 epochs. The prior
is that of SharingBench without the suite's family: neither its rows, nor its tasks, nor what was
found on a part of them. With and without, the same seeds. Every number of trials is a search of its
own, since the portfolio depends on it. A search stops before the final comparison, which no prior
changes. `best` is the highest validation score of a trial that was trained to the end; the score
that is reached is in units where 1 is perfect and 0 the training constant.

Finished searches are kept in FOLDER, and a second call goes on where the first stopped. The last
line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _sharing_bench_suites import SUITES as BENCH

import autometa
from autometa.home import Home
from autometa.priors import sharing_bench
from autometa.priors.prior_file import SUFFIX, write_prior
from autometa.priors.sampler import PROPOSED_BY
from autometa.priors.shipping import bench_prior
from autometa.study import read_study, utc

SUITES = "diabetes,breast-cancer,atp1d,emotions,oes97-1,wq-plants"
"""Small ones of six families."""
BUDGETS = "8,16,32"


@dataclass(frozen=True)
class Search:
    """One search; `prior` is on or off."""

    suite: str
    n_trials: int
    seed: int
    prior: str
    max_epochs: int

    def path(self, out: Path) -> Path:
        name = f"{self.n_trials}-{self.seed}-{self.prior}.json"
        return out / f"{self.suite}-{self.max_epochs}" / name


class _Searched(Exception):
    """The trials are done."""


def run(search: Search, out: Path) -> None:
    """One search in this process; what it found is one file."""
    path = search.path(out)
    if path.exists():
        return
    entry = BENCH[search.suite]

    def progress(step: Any) -> None:
        if step.phase == "search" and step.done == step.total:
            raise _Searched

    with tempfile.TemporaryDirectory() as folder:
        prior = "off"
        if search.prior == "on":
            learned = bench_prior(sharing_bench.load(), without=entry.family)
            prior = str(write_prior(Path(folder) / f"others{SUFFIX}", learned))
        began = time.process_time()
        with contextlib.suppress(_Searched):
            autometa.search(
                entry.load(), space="sharing", study_name="bench", n_trials=search.n_trials,
                max_epochs=search.max_epochs, workers=0, device="cpu", diagnose=False, prior=prior,
                seed=search.seed, mlflow_tracking_uri="off", home=folder, progress=progress,
            )  # fmt: skip
        seconds = time.process_time() - began
        trials = read_study(Home.find(folder), "bench").trials
    ended = [t for t in trials if t.state.is_finished()]
    # of trials that were told in one go those that were asked for first
    ended.sort(key=lambda t: (utc(t.datetime_complete or t.datetime_start), t.number))
    rows = [
        {
            "arm": t.user_attrs["arm"],
            "value": t.value if t.state.name == "COMPLETE" else None,
            "by": t.system_attrs.get(PROPOSED_BY),
        }
        for t in ended
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"trials": rows, "cpu_seconds": seconds}), encoding="utf-8")
    part.replace(path)


def best_so_far(search: Search, out: Path, arm: str | None = None) -> np.ndarray:
    """[trial]: in the order in which trials ended; −1 before there is one."""
    rows = json.loads(search.path(out).read_text(encoding="utf-8"))["trials"]
    values = [
        row["value"] if row["value"] is not None and arm in (None, row["arm"]) else -1.0
        for row in rows
    ]
    return np.maximum.accumulate(values)


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean with the ends of its 95% bootstrap interval."""
    drawn = np.random.default_rng(0).integers(len(differences), size=(5000, len(differences)))
    low, high = np.quantile(differences[drawn].mean(1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def compare(
    out: Path, suite: str, n_trials: int, seeds: int, max_epochs: int
) -> dict[str, Any] | None:
    """Best scores with and without; None if a search is missing.

    `saved`: trials fewer that the prior needs to reach the best score without it, of each seed;
    all trials that it had and one more count where it does not reach it.
    """
    pairs = [
        [Search(suite, n_trials, seed, prior, max_epochs) for prior in ("on", "off")]
        for seed in range(seeds)
    ]
    if not all(search.path(out).exists() for pair in pairs for search in pair):
        return None
    curves = [[best_so_far(search, out) for search in pair] for pair in pairs]
    sharing = [[best_so_far(search, out, "sharing")[-1] for search in pair] for pair in pairs]
    on, off = (np.array([pair[k][-1] for pair in curves]) for k in (0, 1))
    saved = []
    for learned, cold in curves:
        took = [int(np.argmax(c >= cold[-1])) + 1 if c[-1] >= cold[-1] else len(c) + 1
                for c in (learned, cold)]  # fmt: skip
        saved.append(took[1] - took[0])
    mean, low, high = interval(on - off)
    return {
        "suite": suite, "n_trials": n_trials, "on": float(on.mean()), "off": float(off.mean()),
        "difference": mean, "low": low, "high": high, "wins": int((on > off).sum()),
        "losses": int((on < off).sum()), "saved": saved,
        "sharing_difference": float(np.mean([a - b for a, b in sharing])),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("bench-prior"), help="(%(default)s)")
    parser.add_argument("--suites", default=SUITES, help="(%(default)s)")
    parser.add_argument("--budgets", default=BUDGETS, help="numbers of trials (%(default)s)")
    parser.add_argument("--seeds", type=int, default=8, help="0, 1, … (%(default)s)")
    parser.add_argument("--max-epochs", type=int, default=27, help="(%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="searches at a time (%(default)s)")
    args = parser.parse_args(argv)
    suites, budgets = args.suites.split(","), [int(b) for b in args.budgets.split(",")]
    if unknown := [name for name in suites if name not in BENCH]:
        parser.error(f"--suites: {unknown[0]} is not one of {', '.join(BENCH)}")
    searches = [  # seed by seed, so that a run that is cut off has whole pairs
        Search(suite, budget, seed, prior, args.max_epochs)
        for seed, suite, budget, prior in product(range(args.seeds), suites, budgets, ("on", "off"))
    ]
    if args.jobs == 1:
        for search in searches:
            run(search, args.out)
    else:
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            for future in [pool.submit(run, search, args.out) for search in searches]:
                future.result()
    print("| suite | trials | prior | off | difference | better / worse | trials saved |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for suite, budget in product(suites, budgets):
        row = compare(args.out, suite, budget, args.seeds, args.max_epochs)
        assert row is not None
        rows.append(row)
        print(
            f"| {suite} | {budget} | {row['on']:.4f} | {row['off']:.4f} "
            f"| {row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f}) "
            f"| {row['wins']} / {row['losses']} | {np.mean(row['saved']):+.1f} |"
        )
    print(json.dumps({"seeds": args.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
