#!/usr/bin/env python
"""Trials a minute of autometa, and of Ray Tune with Optuna around a plain PyTorch loop.

What a user would write instead is in `ray_tune_peer.py`: a training loop, `OptunaSearch`,
`ASHAScheduler` and `MLflowLoggerCallback`, as their documentation shows, once as a function that
Tune starts a new actor for (`default`) and once as a class whose actors are reused (`reused`). It
does without checkpoints, which its user would need to resume and autometa writes.

Same for all: MultiDigits with its split, hard sharing (width, blocks shared, dropout, rate, decay,
schedule; one arm), TPE, seeds, 20 epochs a trial, ASHA from epoch 2 with a third promoted, workers
with one thread each, MLflow on SQLite. The rungs above are 6 and 20 (autometa) and 6 and 18
(ASHAScheduler). autometa searches through `autometa.search` with `independent_share=0` and
`diagnose=False`; its judgement, which the peer has nothing like, is left out: when the last trial
is told, the progress callback raises, and `search` closes study and tracking and ends.

Each search is a process of its own. Counted are the seconds from the call of `search` or `fit` to
its return, with MLflow written and the actors' import of torch; not counted are imports of the
driver and Ray's start (`start-up`) and end. CPU seconds (of the counted time) and peak memory
(proportional set size) are of the whole tree of processes, Ray's among them. `best` is the highest
of the trials' last validation scores (autometa: of trials that were trained to the end); equal wall
time is that of the quickest search.

    OMP_NUM_THREADS=1 python scripts/bench_throughput.py --n-trials 128 --repeats 3

`--device cuda` runs the same on a GPU, of which every worker, the peer's too, has an equal share;
without a GPU it is skipped.

The last line of stdout is one JSON object: `ratio_default` and `ratio_reused`, medians over the
repeats of autometa's trials a minute over each peer's, `score_difference`, the median of its best
score less that of the better peer after equal wall time, and the `rows`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

CONTENDERS = ("autometa", "default", "reused")
#: widths and rows a step
SIZES = {"small": ((32, 48, 64), 256), "shipped": ((32, 96, 192), 64)}
PEER = Path(__file__).with_name("ray_tune_peer.py")
#: what `ray_tune_peer.py` searches
SPACE = """
parameters:
  backbone.kind: mlp
  backbone.depth: 3
  backbone.width: {{type: categorical, choices: [{widths}]}}
  backbone.dropout: {{type: float, low: 0.0, high: 0.5}}
  sharing.kind: {{type: categorical, choices: [hard]}}
  sharing.split_at: {{type: int, low: 1, high: 3, when: {{sharing.kind: hard}}}}
  optimizer.lr: {{type: float, low: 3.0e-4, high: 2.0e-2, log: true}}
  optimizer.weight_decay: {{type: float, low: 1.0e-6, high: 1.0e-1, log: true}}
  optimizer.schedule: {{type: categorical, choices: [cosine, constant]}}
  optimizer.batch_size: {batch_size}
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-trials", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of a trial (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="seeds 0, 1, … (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="(%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--sizes", choices=SIZES, default="small",
        help="small: 32 to 64 units and 256 rows a step; shipped: 32 to 192 and 64, as in the "
        "space `hard` (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="2 trials of 1 epoch, once")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # autometa, here
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.n_trials, args.epochs, args.repeats = 2, 1, 1
    names = args.contenders.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        parser.error(f"--contenders takes {', '.join(CONTENDERS)}; found {unknown[0]}")
    if args.one:
        print(json.dumps(search(args)))
        return
    if args.device == "cuda" and not has_cuda():
        print("Skipped: torch finds no CUDA device here.")
        print(json.dumps({"skipped": "no CUDA device", "rows": []}))
        return
    print("| seed | search | trials/min | seconds | start-up | best | at equal time | CPU s | MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for seed in range(args.repeats):
        # in turns, so that what else the machine does from one minute to the next meets all
        order = names[seed % len(names) :] + names[: seed % len(names)]
        found = {name: run(name, seed, args) for name in order}
        rows += with_equal_time([found[name] for name in names])
        for row in rows[-len(names) :]:
            print(line(row), flush=True)
    keys = ("n_trials", "epochs", "workers", "device", "sizes")
    facts = {key: getattr(args, key) for key in keys}
    print(json.dumps({**facts, "torch": version("torch"), **summary(rows), "rows": rows}))


def has_cuda() -> bool:
    """Asked in a process of its own: one that has looked for a GPU keeps some of its memory."""
    look = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", look], capture_output=True).returncode == 0


# --- autometa -------------------------------------------------------------------------------------


def space_text(sizes: str) -> str:
    """The space with one of the `SIZES`."""
    widths, batch_size = SIZES[sizes]
    return SPACE.format(widths=", ".join(map(str, widths)), batch_size=batch_size)


class _Searched(Exception):
    """Ends a search before its judgement."""


def search(args: argparse.Namespace) -> dict[str, Any]:
    """One search through the public function."""
    import autometa
    from autometa.home import Home
    from autometa.searching import promotion, ray_executor
    from autometa.study import read_study, rung_values
    from autometa.tasks import load_suite
    from autometa.training.budget import epochs_in_steps
    from autometa.trial import OptimizerConfig

    rows_a_step = OptimizerConfig(batch_size=SIZES[args.sizes][1])
    an_epoch = epochs_in_steps(load_suite("multidigits"), 1, rows_a_step)
    curve: list[tuple[float, float]] = []
    ray_seconds = {"init": 0.0, "shutdown": 0.0}
    ray = ray_executor.ray
    for name in ray_seconds:
        setattr(ray, name, _timed(getattr(ray, name), name, ray_seconds))

    def progress(step: Any) -> None:
        if step.best_value is not None and (not curve or step.best_value > curve[-1][1]):
            curve.append((time.time() - started - ray_seconds["init"], step.best_value))
        if step.phase == "search" and step.done == step.total:
            raise _Searched

    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "space.yaml"
        space.write_text(space_text(args.sizes), encoding="utf-8")
        started = time.time()
        promotion.FIRST_RUNG = an_epoch  # that of the peer, which knows no shorter ones
        with contextlib.suppress(_Searched):
            autometa.search(
                "multidigits", space=space, study_name="bench", n_trials=args.n_trials,
                max_steps=args.epochs * an_epoch, workers=args.workers, independent_share=0.0,
                gpus_per_worker=1 / args.workers if args.device == "cuda" else 0.0,
                diagnose=False, prior="off", seed=args.seed, device=args.device, home=folder,
                progress=progress,
            )  # fmt: skip
        ended = time.time()
        study = read_study(Home.find(folder), "bench")
        trials = [trial for trial in study.trials if trial.state.is_finished()]
        units = study.user_attrs["units"]
    return {
        "startup": ray_seconds["init"],
        "started": started + ray_seconds["init"],
        "ended": ended - ray_seconds["shutdown"],
        "trials": len(trials),
        "trial_epochs": sum(max(rung_values(trial), default=0) for trial in trials) // an_epoch,
        "curve": curve,
        "units": units,
    }


def _timed(call: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **options: Any) -> Any:
        began = time.time()
        try:
            return call(*args, **options)
        finally:
            seconds[name] += time.time() - began

    return timed


# --- measuring ------------------------------------------------------------------------------------


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One contender in a process of its own, watched from here."""
    widths, batch_size = SIZES[args.sizes]
    sizes = ["--widths", ",".join(map(str, widths)), "--batch-size", str(batch_size)]
    programs = {
        "autometa": [__file__, "--one", "--sizes", args.sizes],
        "default": [str(PEER), *sizes],
        "reused": [str(PEER), *sizes, "--reuse-actors"],
    }
    command = [sys.executable, *programs[name], "--seed", str(seed)]
    for key in ("n_trials", "epochs", "workers", "device"):
        command += [f"--{key.replace('_', '-')}", str(getattr(args, key))]
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
        tree = ProcessTree(process.pid)
        try:
            while process.poll() is None:
                tree.look()
                time.sleep(0.1)
        finally:
            process.terminate()  # Ctrl-C; nothing where it has ended
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()}")
        found = json.loads(out.read().splitlines()[-1])
    seconds = found["ended"] - found["started"]
    pace = f"{60 * found['trials'] / seconds:.1f} trials a minute"
    print(f"seed {seed}, {name}: {pace}, units: {found.get('units')}", file=sys.stderr, flush=True)
    return {
        "search": name,
        "seed": seed,
        "trials": found["trials"],
        "trial_epochs": found["trial_epochs"],
        "seconds": seconds,
        "trials_a_minute": 60 * found["trials"] / seconds,
        "startup_seconds": found["startup"],
        "cpu_seconds": tree.cpu_until(found["ended"]) - tree.cpu_until(found["started"]),
        "peak_memory_mb": tree.peak_bytes / 1e6,
        "best": found["curve"][-1][1],
        "curve": found["curve"],
        "units": found.get("units"),
    }


class ProcessTree:
    """Processor time and memory of a process and all that come from it, read from /proc."""

    def __init__(self, pid: int) -> None:
        self._cpu: dict[tuple[int, int], float] = {}  # (pid, start) → seconds, also of the dead
        self._root = pid
        self._tick = os.sysconf("SC_CLK_TCK")
        self._history: list[tuple[float, float]] = [(0.0, 0.0)]
        self._memory_at = 0.0
        self.peak_bytes = 0

    def look(self) -> None:
        """Read all processes; memory, which takes longer, once a second."""
        found = {pid: (parent, start, cpu) for pid, parent, start, cpu in self._processes()}
        known = {pid for pid, start in self._cpu}
        mine = {self._root} | {p for p, (_, start, _) in found.items() if (p, start) in self._cpu}
        more = True
        while more:
            more = {p for p, (parent, _, _) in found.items() if parent in mine} - mine
            mine |= more
        for pid in mine & found.keys():
            _, start, cpu = found[pid]
            self._cpu[pid, start] = cpu
        self._history.append((time.time(), sum(self._cpu.values())))
        if time.time() - self._memory_at > 1.0 or not mine <= known:
            self.peak_bytes = max(self.peak_bytes, sum(map(self._memory, mine)))
            self._memory_at = time.time()

    def cpu_until(self, moment: float) -> float:
        """Seconds that the tree had used at `moment` (time.time())."""
        return max(cpu for at, cpu in self._history if at <= moment)

    def _processes(self) -> Iterator[tuple[int, int, int, float]]:
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError, IndexError):  # it ended while we looked
                # the name, in brackets, may hold spaces
                parts = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                cpu = (int(parts[11]) + int(parts[12])) / self._tick
                yield int(entry), int(parts[1]), int(parts[19]), cpu

    @staticmethod
    def _memory(pid: int) -> int:
        with contextlib.suppress(OSError):
            for text in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if text.startswith("Pss:"):
                    return 1024 * int(text.split()[1])
        return 0


def with_equal_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The searches of one seed, each with what it and the others had found when the first ended."""
    shortest = min(row["seconds"] for row in rows)
    for row in rows:
        until = [value for at, value in row["curve"] if at <= shortest + 1e-6]
        row["best_at_equal_time"] = max(until, default=None)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios and the difference of scores, medians over the seeds; None without a contender."""
    by_seed: dict[int, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], {})[row["search"]] = row
    found: dict[str, Any] = {}
    for peer in CONTENDERS[1:]:
        ratios = [
            seed["autometa"]["trials_a_minute"] / seed[peer]["trials_a_minute"]
            for seed in by_seed.values()
            if {"autometa", peer} <= seed.keys()
        ]
        found[f"ratio_{peer}"] = statistics.median(ratios) if ratios else None
    differences = []
    for seed in by_seed.values():
        peers = [seed[p]["best_at_equal_time"] for p in CONTENDERS[1:] if p in seed]
        known = [value for value in peers if value is not None]
        if "autometa" in seed and known and seed["autometa"]["best_at_equal_time"] is not None:
            differences.append(seed["autometa"]["best_at_equal_time"] - max(known))
    found["score_difference"] = statistics.median(differences) if differences else None
    bundles = [row["units"]["runs"] / row["units"]["units"] for row in rows if row["units"]]
    found["mean_bundle"] = statistics.median(bundles) if bundles else None
    return found


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    equal = row["best_at_equal_time"]
    return (
        f"| {row['seed']} | {row['search']} | {row['trials_a_minute']:.1f} | "
        f"{row['seconds']:.1f} | {row['startup_seconds']:.1f} | {row['best']:.4f} | "
        f"{'–' if equal is None else f'{equal:.4f}'} | {row['cpu_seconds']:.1f} | "
        f"{row['peak_memory_mb']:.0f} |"
    )


if __name__ == "__main__":
    main()
