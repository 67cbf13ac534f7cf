#!/usr/bin/env python
"""Does the best sharing that a search finds beat the best independent networks, suite by suite?

For each suite:

1. One search over the default space on split 0 (half of the trials tune independent networks) names
   the winner of each arm: of its best trials the one that does best on validation rows with the
   paired seeds of the final comparison.
2. Both winners are trained from scratch on other random splits of the rows, 16 pairs of one split
   and one seed, the same for both, and scored on the test rows of that split.
3. The 16 differences (sharing - independent) get a mean, an interval and a p value; Holm's
   correction over the suites decides.

p values. Test rows of one split are training rows of another, so the 16 differences are not
independent and a plain paired t test (`plain`) claims too much. The decision takes the corrected
resampled t test of Nadeau & Bengio 2003, "Inference for the Generalization Error":
t = mean / sqrt((1/J + n_test/n_train) * variance), J - 1 degrees of freedom, J pairs.

What was selected where. Kind of sharing, conditioning and hyperparameters were selected on training
and validation rows of split 0 only. The other splits are drawn from the same rows, so some of their
test rows were seen by that selection: a mild leak, the same for both arms but for the number of
choices each had. No weights are carried over.

What varies. The suites of the catalog have random splits, drawn from a seed. Where a suite has test
rows of its own (or a split of its own) these stay the same in all pairs, and `varies` in the result
says so: then the interval is about other training rows (or seeds), not about other test rows.

    AUTOMETA_DATA=FOLDER python scripts/study_sharing.py --n-trials 32 --out study-sharing
    AUTOMETA_DATA=FOLDER python scripts/study_sharing.py --suites yeast,landmine --repeats 4

Each suite's numbers are kept in OUT/<suite>.json after the search and after every pair, and the
studies in OUT/home; the same command goes on where it was stopped. The last line of stdout is one
JSON object. `pairs s` is summed over the processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import autometa
from autometa.home import Home
from autometa.intervals import Interval, mean_interval, t_interval
from autometa.metrics import evaluate
from autometa.searching.progress import Progress
from autometa.searching.settings import run_seed
from autometa.study import read_study
from autometa.tasks import Rows, TaskSuite, load_suite
from autometa.training.budget import full_length
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import Run
from autometa.trial import TrialConfig

SUITES = "multidigits,wq,school,landmine,sarcos,yeast,omniglot_background"
ARMS = ("sharing", "independent")
LEVEL = 0.05
#: what a stopped suite must have been started with to go on
_FIXED = ("n_trials", "max_epochs", "tasks", "seeds")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suites", default=SUITES, help="(%(default)s)")
    parser.add_argument("--n-trials", type=int, default=32, help="of each search (%(default)s)")
    parser.add_argument("--max-epochs", type=int, default=27, help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=16, help="pairs a suite (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of an arm a pair (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes; 0: this one (%(default)s)"
    )
    parser.add_argument(
        "--tasks",
        default="omniglot_background=10",
        metavar="SUITE=N,…",
        help="keep the first N tasks of a suite with a task column (%(default)s)",
    )
    parser.add_argument(
        "--suite-epochs",
        default="sarcos=15,omniglot_background=9",
        metavar="SUITE=N,…",
        help="another --max-epochs for some suites (%(default)s)",
    )
    parser.add_argument(
        "--suite-trials",
        default="sarcos=24,omniglot_background=16",
        metavar="SUITE=N,…",
        help="another --n-trials for some suites (%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("study-sharing"), help="(%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="breast-cancer, 2 trials, 1 epoch, 2 pairs, no workers"
    )
    args = parser.parse_args(argv)
    if args.repeats < 2 or min(args.n_trials, args.max_epochs, args.seeds) < 1:
        parser.error("there should be at least 2 repeats, 1 trial, 1 epoch and 1 seed")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            args.suites, args.n_trials, args.max_epochs = "breast-cancer", 2, 1
            args.repeats, args.workers, args.out = 2, 0, Path(folder)
        study(args)


def study(args: argparse.Namespace) -> None:
    """Every suite in turn; rows while it runs, then Holm's verdicts and the JSON line."""
    keep, epochs, trials = map(by_suite, (args.tasks, args.suite_epochs, args.suite_trials))
    print("| suite | sharing | independent | difference (95%) | p | p plain | wins | search s |"
          " pairs s |\n|---|---|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
    found = []
    for name in args.suites.split(","):
        own = {
            **vars(args),
            "max_epochs": epochs.get(name, args.max_epochs),
            "n_trials": trials.get(name, args.n_trials),
        }
        found.append(run_suite(name, argparse.Namespace(**own), keep.get(name)))
        print(row(found[-1]), flush=True)
    decided = decide(found)
    print("\nAfter Holm's correction over the suites:")
    for suite in decided["suites"]:
        print(
            f"  {suite['suite']}: {suite['outcome']} (p = {suite['p_holm']:.3g}); "
            f"{suite['varies']} varies; {suite['verdict']}"
        )
    print(json.dumps(decided))


def by_suite(text: str) -> dict[str, int]:
    """`a=1,b=2` to a mapping."""
    pairs = (part.rpartition("=") for part in text.split(",") if part)
    try:
        return {name: int(number) for name, _, number in pairs}
    except ValueError:
        raise SystemExit(f"This should be SUITE=NUMBER, …; found `{text}`.") from None


# --- one suite ------------------------------------------------------------------------------------


def run_suite(name: str, args: argparse.Namespace, n_tasks: int | None) -> dict[str, Any]:
    """Search, winners and pairs of one suite, each kept on disk as soon as it is there.

    Raises:
        SystemExit: the file of this suite comes from other settings, or the search was stopped.
    """
    path = args.out / f"{Path(name).name}.json"
    settings = dict(zip(_FIXED, (args.n_trials, args.max_epochs, n_tasks, args.seeds), strict=True))
    kept: dict[str, Any] = {"suite": name, "settings": settings, "pairs": []}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] != settings:
            raise SystemExit(
                f"{path} was made with {kept['settings']}, not {settings}. Choose another --out."
            )
    if "winners" not in kept:
        kept |= find_winners(name, args, n_tasks)
        keep_json(kept, path)
    done = {pair["split"] for pair in kept["pairs"]}
    # split 0 is the one that was searched
    wanted = [split for split in range(1, args.repeats + 1) if split not in done]
    configs = {arm: winner["config"] for arm, winner in kept["winners"].items()}
    jobs = [(name, split, args.seeds, configs, args.max_epochs, n_tasks) for split in wanted]
    for pair in run_pairs(jobs, args.workers):
        kept["pairs"] = sorted([*kept["pairs"], pair], key=lambda p: p["split"])
        keep_json(kept, path)
        say(f"{name}: pair {len(kept['pairs'])} of {args.repeats}")
    pairs = [pair for pair in kept["pairs"] if pair["split"] <= args.repeats]
    return {**kept, "pairs": pairs, **summary(pairs)}


def find_winners(name: str, args: argparse.Namespace, n_tasks: int | None) -> dict[str, Any]:
    """Search split 0 and name the best configuration of each arm."""
    began = time.perf_counter()
    suite = load(name, 0, n_tasks)
    home, study_name = args.out / "home", Path(name).name

    def notify(step: Progress) -> None:
        if step.message:
            say(f"{name}: {step.message}")

    result = autometa.search(
        suite,
        study_name=study_name,
        n_trials=args.n_trials,
        max_epochs=args.max_epochs,
        workers=args.workers,
        mlflow_tracking_uri="off",
        diagnose=not args.quick,
        prior="off",
        deliver="network",
        resume=True,
        device="cpu",
        home=home,
        progress=notify,
    )
    if result.test is None:
        raise SystemExit("The search was stopped; the same command goes on with it.")
    numbers = result.test["winners"]
    for arm in ARMS:
        if arm not in numbers:
            raise SystemExit(
                f"No trial of the arm `{arm}` completed on {name}: nothing to compare."
            )
    trials = read_study(Home.find(home), study_name).get_trials(deepcopy=False)
    winners = {
        arm: {"trial": numbers[arm], "config": trials[numbers[arm]].user_attrs["config"]}
        for arm in ARMS
    }
    varies = what_varies(load(name, 1, n_tasks), load(name, 2, n_tasks))
    counts = suite.counts
    return {
        "winners": winners,
        "verdict": result.test["verdict"],
        "varies": varies,
        "n_train": counts["train"],
        "n_test": counts["test"],
        "search_seconds": round(time.perf_counter() - began, 1),
    }


def run_pairs(jobs: Sequence[tuple[Any, ...]], workers: int) -> Any:
    """The pairs as they finish, over processes of one thread each, or in this one."""
    if workers == 0 or not jobs:
        yield from (run_pair(*job) for job in jobs)
        return
    # spawned: a fork of a process that has run torch or Ray can hang
    pool: Executor = ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), one_thread)
    with pool:
        futures: list[Future[dict[str, Any]]] = [pool.submit(run_pair, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def one_thread() -> None:
    torch.set_num_threads(1)


def run_pair(
    name: str,
    split: int,
    n_seeds: int,
    configs: Mapping[str, dict[str, Any]],
    max_epochs: int,
    n_tasks: int | None,
) -> dict[str, Any]:
    """Both winners on one new split: mean scores on its test rows over the same seeds.

    A run that diverges scores -1, the least there is, and is counted in `diverged`.
    """
    began = time.perf_counter()
    suite = load(name, split, n_tasks)
    stripped, test = suite.without_test(), suite.open_test()
    max_steps = full_length(stripped, max_epochs=max_epochs)
    trainer, specs = Trainer(stripped, max_steps, torch.device("cpu")), task_specs(stripped)
    seeds = [run_seed(split, k) for k in range(n_seeds)]
    pair: dict[str, Any] = {"split": split, "diverged": 0}
    for arm, flat in configs.items():
        runs = [Run(TrialConfig.from_flat(flat), seed) for seed in seeds]
        results, state = trainer.train(runs, trainer.start(runs), max_steps)
        scores = score(trainer.predict(runs, state, test), test, specs)
        bad = np.array([result.reason is not None for result in results]) | ~np.isfinite(scores)
        pair[arm] = float(np.where(bad, -1.0, scores).mean())
        pair["diverged"] += int(bad.sum())
    return {**pair, "seconds": round(time.perf_counter() - began, 2)}


def score(pred: np.ndarray, test: Rows, specs: Any) -> np.ndarray:
    """The suite's score of each run on the test rows (1 perfect, 0 the training constant)."""
    task = None if test.task is None else test.task.numpy()
    return evaluate(pred, test.y.numpy(), specs, mask=test.mask.numpy(), task=task).value()


# --- suites and splits ----------------------------------------------------------------------------


def load(name: str, split: int, n_tasks: int | None) -> TaskSuite:
    """A suite with the random split of this seed, and its first tasks only if asked for."""
    suite = load_suite(name, seed=split)
    return suite if n_tasks is None or n_tasks >= suite.n_tasks else first_tasks(suite, n_tasks)


def first_tasks(suite: TaskSuite, n: int) -> TaskSuite:
    """The rows of the first n tasks of a grouped suite, split as they are."""
    if not suite.is_grouped:
        raise SystemExit(f"--tasks is for suites with a task column, not for `{suite.name}`.")
    parts = [suite.rows("train"), suite.rows("val"), suite.open_test()]
    split = torch.cat([torch.full((len(p.x),), k, dtype=torch.int8) for k, p in enumerate(parts)])
    task = torch.cat([p.task for p in parts if p.task is not None])
    keep = task < n
    return replace(
        suite,
        name=f"{suite.name}-{n}",
        tasks=suite.tasks[:n],
        x=torch.cat([p.x for p in parts])[keep],
        y=torch.cat([p.y for p in parts])[keep],
        mask=torch.cat([p.mask for p in parts])[keep],
        task=task[keep],
        split=split[keep],
        fingerprint="",
        _test=None,
    )


def what_varies(one: TaskSuite, two: TaskSuite) -> str:
    """What differs between the pairs, from two splits drawn with different seeds."""
    if one.fingerprint == two.fingerprint:
        return "the seed alone"
    same = one.counts["test"] == two.counts["test"] and np.array_equal(
        test_labels(one), test_labels(two)
    )
    return "the split of training and validation rows" if same else "the whole split"


def test_labels(suite: TaskSuite) -> np.ndarray:
    """Labels of the test rows in original units, by task and row, as text, numbers to 3 digits."""
    test = suite.open_test()
    out = []
    for number, task in enumerate(suite.tasks):
        if test.task is None:
            values = test.y[:, number][test.mask[:, number]]
        else:
            values = test.y[(test.task == number) & test.mask]
        restored = task.restore(values.numpy())
        # standardised with other training rows, so that the last digits of float32 may differ
        out += [f"{v:.3g}" if task.kind == "regression" else str(v) for v in restored]
    return np.array(out)


# --- statistics -----------------------------------------------------------------------------------


def summary(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the pairs."""
    by_arm = {arm: np.array([pair[arm] for pair in pairs]) for arm in ARMS}
    return {
        **{arm: float(values.mean()) for arm, values in by_arm.items()},
        "wins": int((by_arm["sharing"] > by_arm["independent"]).sum()),
        "diverged": sum(pair["diverged"] for pair in pairs),
        "pairs_seconds": round(sum(pair["seconds"] for pair in pairs), 1),
    }


def corrected_interval(differences: np.ndarray, n_train: int, n_test: int) -> Interval:
    """Nadeau & Bengio 2003: the mean's variance is (1/J + n_test/n_train) times the sample's."""
    n = len(differences)
    variance = (1 / n + n_test / n_train) * float(np.var(differences, ddof=1))
    return t_interval(float(np.mean(differences)), variance, float(n - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm 1979: p values adjusted for the number of tests, in the order given."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    return [float(min(1.0, value)) for value in adjusted]


def decide(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Intervals and outcomes of all suites, Holm's correction over them."""
    suites = []
    for suite in found:
        differences = np.array([pair["sharing"] - pair["independent"] for pair in suite["pairs"]])
        corrected = corrected_interval(differences, suite["n_train"], suite["n_test"])
        intervals = {"corrected": corrected, "plain": mean_interval(differences)}
        stated = {key: {"low": i.low, "high": i.high, "p": i.p} for key, i in intervals.items()}
        suites.append({**suite, "difference": corrected.estimate, **stated})
    adjusted = {key: holm([suite[key]["p"] for suite in suites]) for key in ("corrected", "plain")}
    for place, suite in enumerate(suites):
        for key, suffix in (("corrected", ""), ("plain", "_plain")):
            p = adjusted[key][place]
            suite[f"p_holm{suffix}"] = p
            suite[f"outcome{suffix}"] = outcome(suite["difference"], p)
    outcomes = [suite["outcome"] for suite in suites]
    return {
        "suites": suites,
        "level": LEVEL,
        "sharing_better": outcomes.count("sharing better"),
        "independent_better": outcomes.count("independent better"),
        "undecided": outcomes.count("undecided"),
    }


def outcome(difference: float, p: float) -> str:
    if p > LEVEL:
        return "undecided"
    return "sharing better" if difference > 0 else "independent better"


def row(suite: dict[str, Any]) -> str:
    """A line of the table, before the correction for several suites."""
    (found,) = decide([suite])["suites"]
    ci = found["corrected"]
    return (
        f"| {found['suite']} | {found['sharing']:.3f} | {found['independent']:.3f} | "
        f"{found['difference']:+.4f} ({ci['low']:+.4f} to {ci['high']:+.4f}) | {ci['p']:.3g} | "
        f"{found['plain']['p']:.3g} | {found['wins']}/{len(found['pairs'])} | "
        f"{found['search_seconds']:.0f} | {found['pairs_seconds']:.0f} |"
    )


def keep_json(facts: Mapping[str, Any], path: Path) -> None:
    """Written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    os.replace(part, path)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
