#!/usr/bin/env python
"""How long do searches on three large tables take, and how much memory?

    python benchmarks/bench_scale.py                    # all three; about ten minutes on two cores
    python benchmarks/bench_scale.py --tables tasks     # one of them

`tasks`: 4,414 rows of 300 tasks, 8 trials of 9 epochs. `rows`: 200,000 rows of 12 columns, 2 trials
of one epoch. `texts`: 60,000 rows of 60 text columns, 2 trials of one epoch. Each search goes
through the command line, with its verdict. Memory is the peak of the process tree (the search, its
workers and, with workers, Ray's own processes) in proportional set size, in which a page that n
processes share counts 1/n in each; it is looked at five times a second. The last line is one JSON
object: for each table seconds, CPU seconds and MB, and the seconds and MB when each phase began.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

#: in the environment of every process of a search, so that those of Ray are found, too
MARK = "BENCH_SCALE_MARK"
#: seconds between two looks at the processes
EVERY = 0.2


def many_tasks(r: np.random.Generator) -> pd.DataFrame:
    """300 tasks of 5 to 25 rows with a regression target, whose weights are alike."""
    sizes = r.integers(5, 25, 300)
    while (gap := 4414 - int(sizes.sum())) != 0:
        sizes[r.integers(0, 300)] += int(np.sign(gap))
        sizes = sizes.clip(5)
    task = r.permutation(np.repeat(np.arange(300), sizes))
    x = r.normal(size=(len(task), 10))
    weights = r.normal(size=10) + 0.5 * r.normal(size=(300, 10))
    y = (x * weights[task]).sum(1) + 0.3 * r.normal(size=len(task))
    frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(10)])
    return frame.assign(site=[f"site {k}" for k in task], y=y)


def many_rows(r: np.random.Generator) -> pd.DataFrame:
    """200,000 rows: ten features, one number and one class to predict."""
    x = r.normal(size=(200_000, 10))
    y = x @ r.normal(size=(10, 2)) + 0.5 * r.normal(size=(len(x), 2))
    frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(10)])
    return frame.assign(price=y[:, 0], returned=np.where(y[:, 1] > 0, "yes", "no"))


def many_texts(r: np.random.Generator) -> pd.DataFrame:
    """60,000 rows of 60 text columns with 5 to 60 values each, and two numbers to predict."""
    texts, sums = {}, np.zeros((60_000, 2))
    for column in range(60):
        levels = int(r.integers(5, 60))
        code = r.integers(0, levels, len(sums))
        sums += r.normal(size=(levels, 2))[code]
        texts[f"c{column}"] = np.array([f"value {k}" for k in range(levels)], dtype=object)[code]
    return pd.DataFrame(texts).assign(price=sums[:, 0], demand=sums[:, 1])


#: name → table, arguments of the search
TABLES: dict[str, tuple[Any, list[str]]] = {
    "tasks": (
        many_tasks,
        ["--target", "y", "--task-column", "site", "--n-trials", "8", "--max-epochs", "9"],
    ),
    "rows": (
        many_rows,
        ["--targets", "price,returned", "--n-trials", "2", "--max-epochs", "1"],
    ),
    "texts": (
        many_texts,
        ["--targets", "price,demand", "--n-trials", "2", "--max-epochs", "1"],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--workers", type=int, default=None, help="as in `autometa search`")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for each search")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows, for a short look")
    args = parser.parse_args()
    found = {}
    for name in args.tables.split(","):
        make, arguments = TABLES[name]
        with tempfile.TemporaryDirectory() as folder:
            frame = make(np.random.default_rng(0))
            path = Path(folder) / f"{name}.csv"
            frame.head(int(len(frame) * args.share)).to_csv(path, index=False)
            del frame
            if args.workers is not None:
                arguments = [*arguments, "--workers", str(args.workers)]
            found[name] = measured(path, arguments, args.limit)
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps(found))


def measured(path: Path, arguments: list[str], limit: float) -> dict[str, Any]:
    """Run a search and look at its processes."""
    mark = uuid.uuid4().hex
    command = [
        sys.executable, "-m", "autometa.cli", "search", str(path), *arguments, "--prior", "off",
        "--mlflow-tracking-uri", "off", "--home", str(path.parent / "home"), "--json",
    ]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, MARK: mark},
    )  # fmt: skip
    tree = Tree(mark)
    phases: list[tuple[str, float, float]] = []
    err = process.stderr

    def listen() -> None:
        for line in err or ():
            print(f"{time.monotonic() - began:7.1f} s  {tree.now:6.0f} MB  {line}", end="",
                  file=sys.stderr, flush=True)  # fmt: skip
            phases.append((line.strip(), round(time.monotonic() - began, 1), round(tree.now)))

    listener = threading.Thread(target=listen)
    listener.start()
    while process.poll() is None:
        tree.look()
        if time.monotonic() - began > limit:
            process.terminate()
        time.sleep(EVERY)
    output = process.stdout.read() if process.stdout else ""
    listener.join()
    lines = output.splitlines()
    verdict = json.loads(lines[-1]).get("test") if process.returncode == 0 and lines else None
    return {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(tree.cpu, 1),
        "peak_mb": round(tree.peak),
        "peak_mb_of": {kind: round(mb) for kind, mb in tree.peaks.items()},
        "judged": verdict is not None,
        "phases": phases,
    }


class Tree:
    """The processes of a search: their memory now and at most, in MB, and their CPU seconds."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._cpu: dict[int, float] = {}
        self.now = self.peak = 0.0
        self.peaks = {"search and workers": 0.0, "Ray": 0.0}

    @property
    def cpu(self) -> float:
        return sum(self._cpu.values())

    def look(self) -> None:
        now = dict.fromkeys(self.peaks, 0.0)
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if self._mark not in (folder / "environ").read_bytes():
                    continue
                memory = (folder / "smaps_rollup").read_text()
                _, _, rest = (folder / "stat").read_text().rpartition(") ")
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended
                continue
            ticks = rest.split()
            spent = int(ticks[11]) + int(ticks[12])
            self._cpu[int(folder.name)] = spent / os.sysconf("SC_CLK_TCK")
            size = next(line for line in memory.splitlines() if line.startswith("Pss:"))
            own = b"autometa.cli" in words or (
                words[0].startswith(b"ray::") and b"Agent" not in words[0]
            )
            now["search and workers" if own else "Ray"] += int(size.split()[1]) / 1024
        self.now = sum(now.values())
        self.peak = max(self.peak, self.now)
        self.peaks = {kind: max(self.peaks[kind], mb) for kind, mb in now.items()}


if __name__ == "__main__":
    main()
