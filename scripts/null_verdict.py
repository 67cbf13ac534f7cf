#!/usr/bin/env python
"""How often does the verdict find a difference where there is none, and one that is planted?

Two searches of the *same* arm are judged as if they were the two arms. They differ by luck alone,
so a significant difference is a false finding; with 95% intervals 5 of 100 are expected. And the
twin: one side's errors are scaled so that it is better by 1, 2 or 4 standard deviations of the luck
(of a winner's test score over searches), and a finding on that side is counted.

Simulated searches (the default). For each suite and arm N random configurations of the default
space are really trained, each with one seed as a search does and with K paired seeds as the finals
do (`--pool`, resumable). A search is then a draw of n of them: its finalists are the best by the
score of the one run, its winner the best finalist by the mean of the paired runs. Two searches of a
pair have no configuration in common.

`--real N`: N pairs of complete searches of one arm (`autometa.search` with its defaults, fresh
seeds of everything), the finalists of each trained again with paired seeds.

`--clustered`: no networks; two equally good methods on rows that come in groups, whose errors are
alike within a group, judged with and without the groups.

    AUTOMETA_DATA=FOLDER python scripts/null_verdict.py --suites slump,edm --pool POOL
    AUTOMETA_DATA=FOLDER python scripts/null_verdict.py --real 40 --suites slump,edm --pool POOL
    python scripts/null_verdict.py --clustered
    python scripts/null_verdict.py --quick

The last line of stdout is one JSON object: `n` pairs, `false_findings` (a share), `without_luck`
(the same where the interval knows of rows and seeds alone), `power` (planted size → share found),
`suites` (the same for each, and the standard deviation of the luck).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _null_pool import Pool, Truth, make_pool, planted_suite, real_searches

from autometa.comparison import Candidate, Method, compare_rows
from autometa.ensembles import combine
from autometa.metrics import TaskSpec, evaluate
from autometa.tasks import TaskSuite, load_suite

SUITES = "slump,edm,oes97,wq,emotions,atp1d,yeast,sf2,scpf,andro"
#: planted differences, in standard deviations of the luck
SIZES = (1, 2, 4)
#: an improvement that is planted leaves at least this share of the errors
_LEAST = 0.02


@dataclass(frozen=True, eq=False)
class Searched:
    """A search of one arm: finalists, the best on validation first, and all its scores."""

    values: np.ndarray
    outputs: np.ndarray
    trials: np.ndarray

    def method(self, name: str, luck: bool) -> Method:
        candidates = tuple(
            Candidate(number, float(value), one)
            for number, (value, one) in enumerate(zip(self.values, self.outputs, strict=True))
        )
        n = len(self.trials)
        if not luck:
            return Method(name, name, "network", candidates[:1])
        return Method(name, name, "network", candidates, tuple(self.trials.tolist()), n, n, n)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suites", default=SUITES, help="(%(default)s)")
    parser.add_argument("--arms", default="independent,sharing", help="(%(default)s)")
    parser.add_argument("--pool", type=Path, help="folder of what is trained; temporary if none")
    parser.add_argument("--configs", type=int, default=48, help="a suite and arm (%(default)s)")
    parser.add_argument("--paired", type=int, default=5, help="paired seeds (%(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="of a training (%(default)s)")
    parser.add_argument("--trials", type=int, default=16, help="of a search (%(default)s)")
    parser.add_argument("--finalists", type=int, default=5, help="of a search (%(default)s)")
    parser.add_argument("--pairs", type=int, default=200, help="a suite and arm (%(default)s)")
    parser.add_argument("--resamples", type=int, default=400, help="(%(default)s)")
    parser.add_argument("--single", action="store_true", help="single networks, no ensembles")
    parser.add_argument("--real", type=int, metavar="N", help="pairs of complete searches")
    parser.add_argument("--max-steps", type=int, default=2000, help="of real ones (%(default)s)")
    parser.add_argument("--clustered", action="store_true", help="rows in groups, no networks")
    parser.add_argument("--quick", action="store_true", help="a tiny pool on a planted suite")
    args = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.quick:
        tiny = {"configs": 8, "paired": 3, "steps": 30, "trials": 4, "finalists": 3}
        vars(args).update(tiny, pairs=12, resamples=100, suites="planted", arms="sharing")
    if args.clustered:
        print(json.dumps(clustered(args.pairs, args.resamples)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.pool or Path(temporary)
        found = {}
        for name in args.suites.split(","):
            suite = planted_suite() if name == "planted" else load_suite(name)
            for arm in args.arms.split(","):
                found[f"{name} {arm}"] = judge_suite(suite, arm, folder / name, args)
                print(_line(f"{name} {arm}", found[f"{name} {arm}"]), file=sys.stderr, flush=True)
    print(json.dumps(total(found)))


def judge_suite(
    suite: TaskSuite, arm: Any, folder: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Shares of one suite and arm."""
    truth = Truth.of(suite)
    if args.real is not None:
        real = real_searches(
            suite, arm, folder, 2 * args.real, finalists=args.finalists, seeds=args.paired,
            n_trials=args.trials, max_steps=args.max_steps,
        )  # fmt: skip
        searches = [_ordered(*parts) for parts in real]
        pairs = list(zip(searches[::2], searches[1::2], strict=True))
    else:
        pool = make_pool(suite, arm, folder, args.configs, args.paired, args.steps)
        pairs = list(draw_pairs(pool, args.pairs, args.trials, args.finalists))
    winners = np.array(
        [_score(one.outputs[0], truth, args.single) for pair in pairs for one in pair]
    )
    luck = float(winners.std(ddof=1))

    def share(size: float, tuning: bool = True) -> float:
        gain = size * luck / max(1.0 - float(winners.mean()), 1e-9)
        counts = 0
        for number, pair in enumerate(pairs):
            first = improve(pair[0], truth, gain, number) if size else pair[0]
            methods = [first.method("sharing", tuning), pair[1].method("independent", tuning)]
            test = compare_rows(
                methods, truth.y, truth.specs, mask=truth.mask, task=truth.task,
                groups=truth.groups, ensemble=not args.single, resamples=args.resamples,
                seed=number,
            )  # fmt: skip
            wanted = ("sharing",) if size else ("sharing", "independent")
            counts += test["outcome"] in wanted
        return counts / len(pairs)

    return {
        "n": len(pairs),
        "luck": luck,
        "score": float(winners.mean()),
        "false_findings": share(0.0),
        "without_luck": share(0.0, tuning=False),
        "power": {str(size): share(float(size)) for size in SIZES},
    }


def draw_pairs(
    pool: Pool, pairs: int, trials: int, finalists: int
) -> Iterator[tuple[Searched, Searched]]:
    """Two searches at a time that have no configuration in common."""
    done = np.flatnonzero(np.isfinite(pool.searched) & np.isfinite(pool.values).all(1))
    if len(done) < 2 * trials:
        raise SystemExit(f"{len(done)} configurations completed, {2 * trials} are needed.")
    rng = np.random.default_rng(0)
    for _ in range(pairs):
        drawn = rng.permutation(done)[: 2 * trials].reshape(2, trials)
        first, second = (_search(pool, some, finalists) for some in drawn)
        yield first, second


def _search(pool: Pool, some: np.ndarray, finalists: int) -> Searched:
    best = some[np.argsort(-pool.searched[some], kind="stable")[:finalists]]
    return _ordered(pool.values[best].mean(1), pool.outputs[best], pool.searched[some])


def _ordered(values: np.ndarray, outputs: np.ndarray, trials: np.ndarray) -> Searched:
    order = np.argsort(-values, kind="stable")
    return Searched(values[order], outputs[order], trials)


def improve(search: Searched, truth: Truth, gain: float, seed: int) -> Searched:
    """The same search with a share `gain` of its errors taken away.

    Residuals of a regression shrink; of classes that share of the rows is predicted rightly, the
    same rows in all networks.
    """
    keep = max(1.0 - gain, _LEAST)
    known = np.random.default_rng(seed).random(len(truth.y)) > keep
    outputs = search.outputs.astype(np.float64)
    for t, spec in enumerate(truth.specs):
        rows = np.ones(len(truth.y), dtype=bool) if truth.task is None else truth.task == t
        y = truth.y[:, t] if truth.task is None else truth.y
        part = outputs[:, :, t] if truth.task is None else outputs
        part[..., rows, :] = _nearer(part[..., rows, :], y[rows], spec, keep, known[rows])
    return replace(search, outputs=outputs.astype(np.float32))


def _nearer(
    part: np.ndarray, y: np.ndarray, spec: TaskSpec, keep: float, known: np.ndarray
) -> np.ndarray:
    out = part.copy()
    if spec.kind == "regression":
        out[..., 0] = y + np.sqrt(keep) * (part[..., 0] - y)
    elif spec.kind == "binary":
        out[..., known, 0] = np.where(y[known] == 1, 1e3, -1e3)
    else:
        out[..., known, :] = np.where(np.arange(part.shape[-1]) == y[known][:, None], 1e3, -1e3)
    return out


def _score(outputs: np.ndarray, truth: Truth, single: bool) -> float:
    """The test score of a winner."""
    runs = outputs if single else combine(outputs, truth.specs, truth.task)[None]
    found = evaluate(runs, truth.y, truth.specs, mask=truth.mask, task=truth.task)
    return float(found.value().mean())


def clustered(pairs: int, resamples: int, n_groups: int = 20, each: int = 15) -> dict[str, Any]:
    """Two equally good methods on rows whose errors are alike within a group."""
    specs = [TaskSpec("y", "regression", "rmse")]
    groups = np.repeat(np.arange(n_groups), each)
    counts = dict.fromkeys(("groups", "rows", "independent_rows"), 0)
    for number in range(pairs):
        rng = np.random.default_rng([1, number])
        y = rng.normal(size=(n_groups * each, 1))
        for alike in (True, False):
            methods = []
            for name in ("sharing", "independent"):
                of_group = rng.normal(size=n_groups)[groups] if alike else rng.normal(size=len(y))
                error = 0.4 * of_group + 0.2 * rng.normal(size=(3, len(y)))
                outputs = (y[:, 0] + error)[:, None, :, None]
                methods.append(Method(name, name, "network", (Candidate(None, 0.0, outputs),)))
            ways: Mapping[str, np.ndarray | None] = {"groups": groups, "rows": None}
            for way, of in ways.items() if alike else [("independent_rows", None)]:
                test = compare_rows(methods, y, specs, groups=of, resamples=resamples, seed=number)
                counts[way] += test["outcome"] != "undecided"
    return {
        "n": pairs,
        "false_findings": counts["groups"] / pairs,
        "without_groups": counts["rows"] / pairs,
        "independent_rows": counts["independent_rows"] / pairs,
    }


def total(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Shares over all suites."""
    n = sum(one["n"] for one in found.values())

    def share(get: Any) -> float:
        return sum(one["n"] * get(one) for one in found.values()) / n

    return {
        "n": n,
        "false_findings": share(lambda one: one["false_findings"]),
        "without_luck": share(lambda one: one["without_luck"]),
        "power": {str(s): share(lambda one, s=s: one["power"][str(s)]) for s in SIZES},
        "suites": found,
    }


def _line(name: str, one: Mapping[str, Any]) -> str:
    power = ", ".join(f"{size} SD {share:.2f}" for size, share in one["power"].items())
    return (
        f"{name}: {one['n']} pairs, score {one['score']:.3f}, luck {one['luck']:.4f}; false "
        f"findings {one['false_findings']:.3f} (without luck {one['without_luck']:.3f}); {power}"
    )


if __name__ == "__main__":
    main()
