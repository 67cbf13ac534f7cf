#!/usr/bin/env python
"""The cost of a trial outside its training: a search whose units do nothing.

Everything is what `autometa search` runs (the loop, Ray Tune's executor with its actors, the
journal on disk, tracking to MLflow on SQLite) but for the work of an actor: instead of training it
returns scores made from the learning rates. The space has 16 parameters; six are searched, and
those that fix shapes have one value, so that all runs have one shape: `mean_bundle` in the JSON
says how many a unit had.

    python scripts/bench_outer.py --n-trials 10000 --sampler random
    python scripts/bench_outer.py --n-trials 128 --pairs 5

The second says what tracking costs: searches with and without it in turns, each a process of its
own, whose actors compute one second for every trial. Counted until MLflow is written.

`outer` is the time that the driver's main thread computes for a trial, the sampler's own time taken
off; `wall` is the time on the clock. Both are of the first and the last tenth of the trials too (of
256 at least). Tracking is written by a thread beside: its processor time is given by itself, as is
that of the whole driver. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from autometa.errors import nearest
from autometa.home import Home
from autometa.searching import loop as loops
from autometa.searching.executors import InlineExecutor, Source
from autometa.searching.loop import SearchLoop, SearchSettings
from autometa.searching.ray_executor import RayExecutor, UnitTrainable
from autometa.searching.units import UnitResult, WorkUnit
from autometa.space import Space
from autometa.study import SAMPLERS, GroupedJournalBackend, StudyHandle, open_study
from autometa.tasks import load_suite
from autometa.tracking import Tracker
from autometa.tracking.runs import RunWriter
from autometa.training.population import RunResult

SPACE = """
parameters:
  backbone.kind: {type: categorical, choices: [mlp]}
  backbone.width: {type: categorical, choices: [32]}
  backbone.depth: {type: categorical, choices: [2]}
  backbone.norm: {type: categorical, choices: [layer]}
  backbone.dropout: {type: float, low: 0.0, high: 0.5}
  sharing.kind: {type: categorical, choices: [hard]}
  sharing.split_at: {type: categorical, choices: [2], when: {sharing.kind: hard}}
  conditioning.kind: {type: categorical, choices: [none]}
  head: {type: categorical, choices: [multi_head]}
  balancing.kind: {type: categorical, choices: [equal]}
  optimizer.kind: {type: categorical, choices: [sgd]}
  optimizer.lr: {type: float, low: 3.0e-4, high: 2.0e-2, log: true}
  optimizer.weight_decay: {type: float, low: 1.0e-6, high: 1.0e-1, log: true}
  optimizer.momentum: {type: float, low: 0.0, high: 0.99}
  optimizer.clip: {type: float, low: 0.1, high: 10.0, log: true}
  optimizer.schedule: {type: categorical, choices: [cosine, constant]}
"""
#: trials at the start and at the end that are compared, at least
WINDOW = 256


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-trials", type=int, default=10_000, help="(%(default)s)")
    parser.add_argument("--sampler", default="tpe", help=f"{', '.join(SAMPLERS)} (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="0: no Ray (%(default)s)"
    )
    parser.add_argument("--no-tracking", action="store_true", help="without MLflow")
    parser.add_argument(
        "--trial-seconds", type=float, default=0.0, help="that an actor computes for a trial"
    )
    parser.add_argument("--pairs", type=int, help="of searches with tracking and without")
    parser.add_argument("--quick", action="store_true", help="40 trials")
    args = parser.parse_args(argv)
    if args.quick:
        args.n_trials = 40
    if args.sampler not in SAMPLERS:
        parser.error(
            f"--sampler takes {', '.join(SAMPLERS)}; found {args.sampler}."
            f"{nearest(args.sampler, SAMPLERS)}"
        )
    if args.pairs is not None:
        print(json.dumps(tracked_and_not(args)))
        return
    NoTraining.seconds = args.trial_seconds
    with tempfile.TemporaryDirectory() as folder:
        found = search(args, Home.find(folder))
    for text in table(found):
        print(text)
    print(json.dumps(found))


def tracked_and_not(args: argparse.Namespace) -> dict[str, Any]:
    """Pairs of searches, and how much longer the one with tracking took."""
    seconds = args.trial_seconds or 1.0
    command = [sys.executable, __file__, "--n-trials", str(args.n_trials),
               "--sampler", args.sampler, "--workers", str(args.workers),
               "--trial-seconds", str(seconds)]  # fmt: skip
    pairs = []
    print("| pair | seconds with tracking | without | ratio | tracking, ms of CPU a trial |")
    print("|---|---|---|---|---|")
    for pair in range(args.pairs):
        found: dict[bool, dict[str, Any]] = {}
        for tracked in (pair % 2 == 0, pair % 2 == 1):
            options = [] if tracked else ["--no-tracking"]
            run = subprocess.run(
                [*command, *options], check=True, stdout=subprocess.PIPE, text=True
            )
            found[tracked] = json.loads(run.stdout.splitlines()[-1])
        with_, without = (found[t]["search_seconds"] for t in (True, False))
        cost = found[True]["tracking_cpu_ms_a_trial"]
        pairs.append({"with": with_, "without": without, "tracking_cpu_ms_a_trial": cost})
        print(f"| {pair} | {with_:.1f} | {without:.1f} | {with_ / without:.3f} | {cost:.1f} |",
              flush=True)  # fmt: skip
    ratios = [pair["with"] / pair["without"] for pair in pairs]
    return {
        "n_trials": args.n_trials,
        "workers": args.workers,
        "trial_seconds": seconds,
        "ratio": statistics.median(ratios) if ratios else None,
        "pairs": pairs,
    }


class NoTraining(UnitTrainable):
    """An actor that trains nothing.

    Attributes:
        seconds: of processor time that it takes for a trial all the same, before its first rung.
    """

    seconds: ClassVar[float] = 0.0

    @staticmethod
    def work(unit: WorkUnit) -> UnitResult:
        """Scores that grow with the steps and differ between the runs."""
        ends = time.thread_time() + NoTraining.seconds * len(unit.configs) * (unit.from_step == 0)
        while time.thread_time() < ends:
            pass
        results = []
        for config in unit.configs:
            value = 1.0 - 1.0 / (1 + unit.to_step) - 10 * float(config["optimizer.lr"])
            tasks: dict[str, float | None] = {"left": value, "right": value}
            results.append(RunResult(unit.to_step, value, tasks, 1.0 - value, 0.001))
        return UnitResult(tuple(results), len(results) if unit.chunk is None else None, 0.01)


class NoTrainingInline(InlineExecutor):
    """The same in this process."""

    def run(self, source: Source) -> bool:
        while isinstance(unit := source.next_unit(), WorkUnit):
            source.complete(unit, NoTraining.work(unit))
        return True


class Clocks:
    """Processor time of the calling thread in several functions, and what came of the search."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Count the time in a function under `label`, and not under the labels around it."""
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            self._inside.append(label)
            try:
                return call(*args, **options)
            finally:
                spent = time.thread_time() - began
                self._inside.pop()
                self.seconds[label] += spent
                if self._inside:
                    self.seconds[self._inside[-1]] -= spent

        setattr(owner, name, timed)


class TimedSource:
    """The loop, with a record of the clocks whenever a unit is done."""

    def __init__(self, loop: SearchLoop, clocks: Clocks, folders: Sequence[Path]) -> None:
        self._loop, self._clocks, self._folders = loop, clocks, folders
        self.done = 0
        self.records: list[dict[str, float]] = []
        self.units: list[int] = []
        self.tune_bytes = 0

    def next_unit(self, workers: int = 1) -> Any:
        return self._loop.next_unit(workers)

    def complete(self, unit: WorkUnit, result: UnitResult) -> None:
        self._loop.complete(unit, result)
        self.units.append(len(unit.names))
        self.note()

    def note(self) -> None:
        self.records.append(
            {
                "trials": float(self.done),
                "wall": time.perf_counter(),
                "thread": time.thread_time(),
                "driver": time.process_time(),
                **self._clocks.seconds,
            }
        )
        if len(self.units) % 50 == 1:
            self.tune_bytes = max([self.tune_bytes, *map(size_of, self._folders)])


def search(args: argparse.Namespace, home: Home) -> dict[str, Any]:
    """One search, and where its time went."""
    suite = load_suite("multidigits")
    settings = SearchSettings(
        n_trials=args.n_trials, max_steps=2000, sampler=args.sampler, independent_share=0.0,
        device="cpu",
    )  # fmt: skip
    space = Space.from_yaml(SPACE).bind(suite)
    clocks = Clocks()
    watch_all(clocks)
    executor = RayExecutor(args.workers, trainable=NoTraining) if args.workers else None
    folders = [Path(executor.folder)] if executor else []
    uri = "off" if args.no_tracking else None
    sending = Clocks()
    sending.watch(RunWriter, "send", "tracking")
    memory = [resident()]
    with (
        Tracker.open(uri, home, "outer") as tracker,
        open_study(home, "outer", fingerprint="none", attrs={"space": SPACE}) as handle,
    ):
        loop = SearchLoop(
            handle,
            space,
            settings,
            suite=home.checkpoints("outer") / "suite",
            fingerprint="none",
            checkpoints=home.checkpoints("outer"),
            tracker=tracker,
            notify=lambda step: setattr(source, "done", step.done),
        )
        source = TimedSource(loop, clocks, folders)
        source.note()
        began = time.perf_counter()
        (executor or NoTrainingInline()).run(source)
        source.note()
        memory.append(resident())
        searched = time.perf_counter()
        tracker.flush(600.0)
        flushed = time.perf_counter() - searched
    if executor:
        executor.close()
    assert source.done == args.n_trials, source.done
    n = args.n_trials
    return {
        "n_trials": n,
        "sampler": args.sampler,
        "workers": args.workers,
        "tracking": not args.no_tracking,
        "units": len(source.units),
        "mean_bundle": sum(source.units) / len(source.units),
        "ms_a_trial": parts(source.records[0], source.records[-1]),
        "ms_at_start": parts(*window(source.records, 0, max(WINDOW, n // 10))),
        "ms_at_end": parts(*window(source.records, n - max(WINDOW, n // 10), n)),
        "search_seconds": searched + flushed - began,
        "tracking_cpu_ms_a_trial": 1000 * sending.seconds["tracking"] / n,
        "tracking_left_over_seconds": flushed,
        "driver_mb_at_start": memory[0] / 1e6,
        "driver_mb_at_end": memory[1] / 1e6,
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "tune_folder_mb": source.tune_bytes / 1e6,
        "home_mb": size_of(home.root) / 1e6,
        "journal_mb": size_of(home.studies) / 1e6,
        "mlflow_mb": home.mlflow_db.stat().st_size / 1e6 if home.mlflow_db.exists() else 0.0,
    }


def watch_all(clocks: Clocks) -> None:
    """Time what the loop calls: sampler, suggestion, storage, and what it hands to tracking."""
    make = loops.make_sampler

    def make_timed(*args: Any) -> Any:
        sampler = make(*args)
        for name in ("infer_relative_search_space", "sample_relative", "sample_independent",
                     "before_trial", "after_trial"):  # fmt: skip
            clocks.watch(sampler, name, "sampler")
        return sampler

    loops.make_sampler = make_timed
    clocks.watch(SearchLoop, "next_unit", "loop")
    clocks.watch(SearchLoop, "complete", "loop")
    clocks.watch(SearchLoop, "_configure", "suggest")
    for name in ("ask", "report", "tell", "set_attr", "commit"):
        clocks.watch(StudyHandle, name, "storage")
    clocks.watch(GroupedJournalBackend, "append_logs", "storage")
    for name in ("trial_started", "trial_rung", "trial_finished"):
        clocks.watch(Tracker, name, "queueing")


def window(
    records: list[dict[str, float]], first: int, last: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The records between which trials `first` to `last` were told."""
    begin = max((r for r in records if r["trials"] <= max(0, first)), key=lambda r: r["wall"])
    end = min((r for r in records if r["trials"] >= last), key=lambda r: r["wall"],
              default=records[-1])  # fmt: skip
    return begin, end


def parts(begin: dict[str, float], end: dict[str, float]) -> dict[str, float]:
    """Milliseconds a trial between two records."""
    trials = max(1.0, end["trials"] - begin["trials"])
    spent = {
        key: 1000 * (end[key] - begin.get(key, 0.0)) / trials for key in end if key != "trials"
    }
    own = {
        key: spent.get(key, 0.0) for key in ("sampler", "suggest", "storage", "queueing", "loop")
    }
    return {
        "wall": spent["wall"],
        "outer": spent["thread"] - own["sampler"],
        **own,
        "ray": spent["thread"] - sum(own.values()),
        "driver": spent["driver"],
    }


def table(found: dict[str, Any]) -> list[str]:
    """The table."""
    columns = ("ms_a_trial", "ms_at_start", "ms_at_end")
    lines = ["| ms a trial | all | start | end |", "|---|---|---|---|"]
    for key in found["ms_a_trial"]:
        lines.append(f"| {key} | " + " | ".join(f"{found[c][key]:.2f}" for c in columns) + " |")
    rest = [key for key, value in found.items() if isinstance(value, float)]
    return [*lines, *(f"{key}: {found[key]:.2f}" for key in rest)]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


if __name__ == "__main__":
    main()
