#!/usr/bin/env python
"""Is the delivered model as good as what people try first? `autometa search` as it is by default
against one untuned hard-shared network and six tuned methods of other libraries.

    pip install lightgbm catboost
    AUTOMETA_DATA=FOLDER python benchmarks/bench_quality.py --out FOLDER

Every cell (suite, split, contender) is written to `--out` when it is done, and is not computed
again; a run that was stopped goes on. All contenders see the same training, validation and test
rows, are tuned on the validation rows and fitted again on both; test rows are read once, at the
end. The last line is one JSON object: `suites` with the table's rows, `mean_rank`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from outside_peers import METHODS, find  # beside this file

from autometa import load_suite
from autometa.api.training import load_model
from autometa.intervals import t_interval
from autometa.metrics import TaskSpec, constant_errors, evaluate, labels, row_errors
from autometa.tasks import Rows, TaskSuite
from autometa.training.budget import full_length, with_batch_size
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import Run
from autometa.trial import TrialConfig

#: settings, defaults and rules were chosen on the first half; the second half was not looked at
CHOSEN_ON = ("oes97", "wq", "sarcos", "emotions", "school", "atp1d", "slump", "edm", "multidigits")
HELD_OUT = ("osales", "scpf", "yeast", "scene", "landmine", "andro", "sf1", "sf2", "diabetes",
            "breast-cancer")  # fmt: skip
OURS, UNTUNED = "autometa", "hard_untuned"
NETWORKS = ("sharing", "independent")
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suites", default=",".join((*CHOSEN_ON, *HELD_OUT)))
    parser.add_argument("--splits", default="0,1,2", help="seeds of split and search")
    parser.add_argument("--contenders", default=",".join((UNTUNED, *METHODS, OURS)))
    parser.add_argument("--n-trials", type=int, default=48)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="folder of finished cells")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split in map(int, args.splits.split(",")):
        for name in args.suites.split(","):
            for contender in args.contenders.split(","):
                cell(args.out, name, split, contender, args)
    found = summary(args.out, args.suites.split(","))
    print_table(found)
    print(json.dumps(found))


def cell(out: Path, name: str, split: int, contender: str, args: argparse.Namespace) -> None:
    """Compute one cell unless it is there: facts as JSON, test outputs as an array."""
    stem = out / f"{name}.{split}.{contender}"
    if stem.with_name(stem.name + ".json").exists():
        return
    suite = load_suite(name, seed=split)
    specs, test = task_specs(suite.without_test()), suite.open_test()
    began = time.monotonic()
    if contender == OURS:
        outputs, facts = search(suite, test, name, split, args)
    elif contender == UNTUNED:
        outputs, facts = untuned(suite, test, split), {}
    else:
        found = find(contender, suite, specs, test)
        outputs = found.outputs
        facts = {"setting": found.setting, "value": found.value, "tried": found.tried}
    facts["seconds"] = round(time.monotonic() - began, 1)
    facts["score"] = float(_evaluate(outputs, test, specs))
    np.save(stem.with_name(stem.name + ".npy"), outputs.astype(np.float32))
    stem.with_name(stem.name + ".json").write_text(json.dumps(facts), encoding="utf-8")
    print(f"{name} {split} {contender}: {facts['score']:.4f}, {facts['seconds']:.0f} s", flush=True)


def search(
    suite: TaskSuite, test: Rows, name: str, split: int, args: argparse.Namespace
) -> tuple[np.ndarray, dict[str, Any]]:
    """The model that a search through the command line delivers, on the test rows."""
    with tempfile.TemporaryDirectory() as home:
        command = [
            sys.executable, "-m", "autometa.cli", "search", name, "--n-trials", str(args.n_trials),
            "--workers", str(args.workers), "--seed", str(split), "--prior", "off",
            "--no-diagnosis", "--mlflow-tracking-uri", "off", "--home", home, "--json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        model = load_model(found["model"])
        outputs = model.outputs(test.x, test.task)
    verdict = found["test"]
    kept = ("verdict", "outcome", "recommended", "difference", "difference_ci", "budget")
    methods = [
        {key: method.get(key) for key in ("name", "score", "score_ci", "seconds")}
        for method in verdict["methods"]
    ]
    facts = {key: verdict.get(key) for key in kept}
    return outputs, {**facts, "delivered": found["delivered"], "methods": methods}


def untuned(suite: TaskSuite, test: Rows, seed: int) -> np.ndarray:
    """The default configuration with every block shared, trained once on all but the test rows."""
    config = with_batch_size(TrialConfig.from_flat({"sharing.kind": "hard"}), suite)
    steps = full_length(suite)
    trainer = Trainer(suite.merged(), steps, torch.device("cpu"))
    runs = [Run(config, seed)]
    state = trainer.train(runs, trainer.start(runs), steps)[1]
    return trainer.predict(runs, state, test)[0]


def _evaluate(outputs: np.ndarray, test: Rows, specs: tuple[TaskSpec, ...]) -> np.ndarray:
    task = None if test.task is None else test.task.numpy()
    return evaluate(outputs, test.y.numpy(), specs, mask=test.mask.numpy(), task=task).value()


# --- the table ------------------------------------------------------------------------------------


def summary(out: Path, names: Sequence[str]) -> dict[str, Any]:
    """Means over the splits that are complete, paired differences, ranks."""
    rows = []
    for name in names:
        splits = _complete(out, name)
        if splits:
            rows.append(_row(out, name, splits))
    ranks: dict[str, list[float]] = {}
    for row in rows:
        order = sorted(row["scores"], key=lambda c: -row["scores"][c])
        for place, contender in enumerate(order, 1):
            ranks.setdefault(contender, []).append(place)
    halves = {"chosen_on": CHOSEN_ON, "held_out": HELD_OUT}
    return {
        "suites": rows,
        "mean_rank": {c: round(float(np.mean(r)), 2) for c, r in ranks.items()},
        "below": {
            half: [r["suite"] for r in rows if r["suite"] in of and r["against_best"]["high"] < 0]
            for half, of in halves.items()
        },
    }


def _complete(out: Path, name: str) -> list[int]:
    contenders = (OURS, UNTUNED, *METHODS)
    return [
        split for split in range(100)
        if all((out / f"{name}.{split}.{c}.json").exists() for c in contenders)
    ]  # fmt: skip


def _row(out: Path, name: str, splits: list[int]) -> dict[str, Any]:
    contenders = (OURS, UNTUNED, *METHODS)
    facts = {
        (split, c): json.loads((out / f"{name}.{split}.{c}.json").read_text(encoding="utf-8"))
        for split in splits
        for c in contenders
    }
    scores = {c: float(np.mean([facts[s, c]["score"] for s in splits])) for c in contenders}
    seconds = {c: float(np.mean([facts[s, c]["seconds"] for s in splits])) for c in contenders}
    best = max(METHODS, key=lambda c: scores[c])
    network = [
        max(
            m["score"] for m in facts[s, OURS]["methods"] if m["name"] in ("sharing", "independent")
        )
        for s in splits
    ]
    return {
        "suite": name,
        "splits": splits,
        "scores": scores,
        "seconds": seconds,
        "best_peer": best,
        "best_network": float(np.mean(network)),
        "delivered": [facts[s, OURS]["delivered"]["method"] for s in splits],
        "outcomes": [facts[s, OURS]["outcome"] for s in splits],
        "against_best": _difference(out, name, splits, best),
        "against_untuned": _difference(out, name, splits, UNTUNED),
    }


def _difference(out: Path, name: str, splits: list[int], other: str) -> dict[str, float]:
    """Score of the delivered model minus another's, mean over splits, with a 95% interval: test
    rows resampled within a split, and the spread between splits where it is larger."""
    gaps, variances = [], []
    for split in splits:
        suite = load_suite(name, seed=split)
        specs, test = task_specs(suite.without_test()), suite.open_test()
        pair = np.stack([np.load(out / f"{name}.{split}.{c}.npy") for c in (OURS, other)])
        gap, variance = _paired(pair, test, specs)
        gaps.append(gap)
        variances.append(variance)
    n = len(splits)
    within = float(np.mean(variances)) / n
    between = float(np.var(gaps, ddof=1)) / n if n > 1 else 0.0
    df = float(n - 1) if between > within else 100.0
    found = t_interval(float(np.mean(gaps)), max(within, between), df)
    return {"gap": found.estimate, "low": found.low, "high": found.high}


def _paired(pair: np.ndarray, test: Rows, specs: tuple[TaskSpec, ...]) -> tuple[float, float]:
    """Difference of scores on one split's test rows, and its variance over resampled rows."""
    task = None if test.task is None else test.task.numpy()
    values = _evaluate(pair, test, specs)
    rng, n = np.random.default_rng(0), len(test.x)
    y, mask = test.y.numpy(), test.mask.numpy()
    drawn = []
    if any(spec.metric == "auc" for spec in specs):
        for _ in range(200):
            at = rng.integers(0, n, n)
            some = pair[:, at] if task is not None else pair[:, :, at]
            found = evaluate(
                some, y[at], specs, mask=mask[at], task=None if task is None else task[at]
            ).value()
            drawn.append(found[0] - found[1])
        return float(values[0] - values[1]), float(np.var(drawn))
    error = np.zeros((2, len(specs), n))
    constant = np.zeros((len(specs), n))
    for t, spec in enumerate(specs):
        rows, truth = labels(y, t, mask, task)
        own = pair[:, rows] if task is not None else pair[:, t, rows]
        error[:, t, rows] = row_errors(spec, truth, own)
        constant[t, rows] = constant_errors(spec, truth)
    metrics = [spec.metric + spec.kind for spec in specs]
    for _ in range(RESAMPLES):
        weight = np.bincount(rng.integers(0, n, n), minlength=n)
        e, e0 = error @ weight, constant @ weight
        scores = np.zeros(2)
        for metric in set(metrics):
            own = [t for t, m in enumerate(metrics) if m == metric]
            scores += len(own) * (1.0 - e[:, own].sum(1) / e0[own].sum())
        drawn.append((scores[0] - scores[1]) / len(specs))
    return float(values[0] - values[1]), float(np.var(drawn))


def print_table(found: dict[str, Any]) -> None:
    columns = (OURS, UNTUNED, *METHODS)
    last = "best network | against the best peer (95%) | delivered"
    print(f"| suite | {' | '.join(columns)} | {last} |")
    print("|" + "---|" * (len(columns) + 4))
    for row in found["suites"]:
        gap = row["against_best"]
        cells = [f"{row['scores'][c]:.3f} ({row['seconds'][c]:.0f} s)" for c in columns]
        print(
            f"| {row['suite']} | {' | '.join(cells)} | {row['best_network']:.3f} | "
            f"{gap['gap']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}), {row['best_peer']} | "
            f"{', '.join(row['delivered'])} |"
        )
    ranks = sorted(found["mean_rank"].items(), key=lambda pair: pair[1])
    print("Mean rank: " + ", ".join(f"{name} {rank}" for name, rank in ranks))


if __name__ == "__main__":
    main()
