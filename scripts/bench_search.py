#!/usr/bin/env python
"""Search suites with several seeds and print what each search found, and how long it took.

Every search runs through the command line in its own home folder, as a user
would run it but for `--prior off`:

    AUTOMETA_DATA=FOLDER python scripts/bench_search.py --suites wq,school --seeds 0,1,2

The last line of stdout is one JSON object: `{"runs": [...], "flips": {...}}`; `flips` says for
each suite whether two seeds gave significant verdicts of opposite signs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suites", default="multidigits,wq,school,landmine,sarcos")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--n-trials", type=int, default=64)
    parser.add_argument("--max-epochs", type=int, default=27)
    parser.add_argument("--space", help="the suite's default space if not given")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    runs = []
    print(
        "| suite | seed | sharing | independent | best peer | Δm % (95%) | outcome | delivered | "
        "seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in map(int, args.seeds.split(",")):
        for suite in args.suites.split(","):
            runs.append(search(suite, seed, args))
            print(row(runs[-1]), flush=True)
    print(json.dumps({"runs": runs, "flips": flips(runs)}))


def search(suite: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One search through the command line."""
    command = [
        sys.executable, "-m", "autometa.cli", "search", suite, "--n-trials", str(args.n_trials),
        "--max-epochs", str(args.max_epochs), "--workers", str(args.workers),
        "--seed", str(seed), "--prior", "off", "--json",
        *(["--space", args.space] if args.space else []),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        began = time.monotonic()
        done = subprocess.run([*command, "--home", home], capture_output=True, text=True)
        seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    test = found["test"]
    kept = ("score", "independent_score", "delta_m", "delta_m_ci", "outcome")
    peers = [m for m in test["methods"] if m["kind"] == "baseline" and m["score"] is not None]
    peer = max(peers, key=lambda m: m["score"], default={"name": None, "score": None})
    return {
        "suite": suite,
        "seed": seed,
        "seconds": round(seconds, 1),
        "states": found["states"],
        "verdict": test["verdict"],
        "peer": peer["name"],
        "peer_score": peer["score"],
        "delivered": found["delivered"]["method"],
        **{key: test[key] for key in kept},
    }


def row(run: dict[str, Any]) -> str:
    """A line of the table."""

    def number(key: str) -> str:
        return "–" if run[key] is None else f"{run[key]:.3f}"

    gain = "–"
    if run["delta_m_ci"] is not None:
        low, high = run["delta_m_ci"]
        gain = f"{run['delta_m']:+.1f} ({low:+.1f} to {high:+.1f})"
    return (
        f"| {run['suite']} | {run['seed']} | {number('score')} | {number('independent_score')} | "
        f"{run['peer'] or 'none'} {number('peer_score')} | {gain} | {run['outcome']} | "
        f"{run['delivered']} | {run['seconds']:.0f} |"
    )


def flips(runs: list[dict[str, Any]]) -> dict[str, bool]:
    """Suite → whether both arms won significantly with different seeds."""
    outcomes: dict[str, set[str]] = {}
    for run in runs:
        outcomes.setdefault(run["suite"], set()).add(run["outcome"])
    return {suite: {"sharing", "independent"} <= found for suite, found in outcomes.items()}


if __name__ == "__main__":
    main()
