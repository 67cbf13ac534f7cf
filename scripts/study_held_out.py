#!/usr/bin/env python
"""Whole tasks held out, ten labelled rows each: does learning from other tasks pay?

For each suite and each of some random splits of its tasks (two thirds to train on, a sixth each to
validate and to test):

1. Every way to learn new tasks is tuned alike: `--configs` configurations, drawn at random from the
   space `meta` with its kind held, are trained, and the one of the best score on episodes of the
   validation tasks is kept. The same holds for training from scratch on the support rows.
2. It adapts to ten rows of each test task (several draws) and predicts the others.

Beside them stand ridge (or logistic) regression on the ten rows alone, and models of all rows of
the training tasks, which do not adapt. All see the same test episodes.

The table has the mean score over the splits (0 the training constant, or a random order; 1 perfect)
and its 95% t interval, and the difference to the best that does not learn from other tasks and to
the best pooled model, both chosen by their mean score over the splits, in their favour. Test tasks
of one split are training tasks of another, so the intervals are a little too narrow.

    AUTOMETA_DATA=FOLDER python scripts/study_held_out.py --out held-out
    AUTOMETA_DATA=FOLDER python scripts/study_held_out.py --suites school --splits 2 --configs 2

Results are kept in OUT/<suite>-<split>.json; the same command goes on where it was stopped. The
last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from autometa.baselines.episodes import pooled_baselines, support_baselines
from autometa.intervals import mean_interval
from autometa.space import Space
from autometa.tasks import EpisodeSet, EpisodeShape, EpisodicSuite, load_suite
from autometa.training.budget import epochs_in_steps
from autometa.training.population import Trainer
from autometa.training.scoring import evaluate_episodes
from autometa.training.state import Run
from autometa.trial import TrialConfig

KINDS = ("gradient", "reptile", "metric", "amortized", "bayesian", "finetune")
SCRATCH = "from scratch"
#: what does not learn from other tasks, and what does not adapt
ALONE, POOLED = (SCRATCH, "ridge", "logistic"), ("pooled_ridge", "pooled_logistic", "pooled_trees")
WORDS = {
    "gradient": "gradient",
    "reptile": "Reptile",
    "metric": "prototypes",
    "amortized": "neural process",
    "bayesian": "Bayesian head",
    "finetune": "joint training, fine-tuned",
    "ridge": "ridge on the ten rows",
    "logistic": "logistic regression on the ten rows",
    "pooled_ridge": "one ridge of all tasks",
    "pooled_logistic": "one logistic regression of all tasks",
    "pooled_trees": "boosted trees of all tasks",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suites", default="school,landmine", help="(%(default)s)")
    parser.add_argument("--shots", type=int, default=10, help="support rows (%(default)s)")
    parser.add_argument("--splits", type=int, default=5, help="of the tasks (%(default)s)")
    parser.add_argument("--configs", type=int, default=6, help="of each kind (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0: this one")
    parser.add_argument("--out", type=Path, default=Path("held-out"), help="(%(default)s)")
    args = parser.parse_args(argv)
    if min(args.splits - 1, args.configs, args.epochs, args.shots) < 1:
        parser.error("there should be at least 2 splits, and 1 of everything else")
    args.out.mkdir(parents=True, exist_ok=True)
    names = args.suites.split(",")
    jobs = [
        Job(name, split, args.shots, args.configs, args.epochs, str(args.out))
        for split in range(args.splits)
        for name in names
    ]
    if args.workers:
        with get_context("spawn").Pool(args.workers) as pool:
            found = pool.map(run, jobs, chunksize=1)
    else:
        found = list(map(run, jobs))
    result = {}
    for name in names:
        rows = [row for job, row in zip(jobs, found, strict=True) if job.suite == name]
        result[name] = summary(rows)
        print("\n".join(["", f"{name}, {args.splits} splits:", "", *table(result[name])]))
    print(json.dumps(result))


class Job(NamedTuple):
    """One split of one suite's tasks."""

    suite: str
    split: int
    shots: int
    configs: int
    epochs: int
    out: str


def run(job: Job) -> dict[str, Any]:
    """Score of every method, or what an earlier call of the script found."""
    path = Path(job.out) / f"{job.suite}-{job.split}.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["job"] == list(job):
            return kept
    torch.set_num_threads(1)
    began = time.process_time()
    shape = EpisodeShape(shots=job.shots, queries=job.shots)
    suite = EpisodicSuite.from_suite(load_suite(job.suite), shape, seed=job.split)
    trainer = Trainer(suite.without_test(), epochs_in_steps(suite, job.epochs), torch.device("cpu"))
    space = Space.load("meta").bind(suite)
    test = suite.open_test_episodes()
    scores: dict[str, float] = {}
    chosen: dict[str, Any] = {}
    for number, kind in enumerate((*KINDS, SCRATCH)):
        rng = np.random.default_rng([job.split, number])
        configs = draw(space, kind, job.configs, rng)
        if not configs:
            continue
        best, value, pred = tune(trainer, configs, test, job.split)
        scores[kind] = score(pred, test)
        chosen[kind] = {"validation": value, "config": best.flat()}
    scores |= {name: score(pred, test) for name, pred in baselines(suite, test).items()}
    row = {
        "job": list(job),
        "tasks": {split: len(names) for split, names in suite.tasks_by_split.items()},
        "episodes": len(test),
        "scores": scores,
        "chosen": chosen,
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    path.write_text(json.dumps(row), encoding="utf-8")
    print(f"{job.suite}, split {job.split}: {row['cpu_seconds']:.0f} s", flush=True)
    return row


def draw(space: Space, kind: str, n: int, rng: np.random.Generator) -> list[TrialConfig]:
    """Random configurations of one kind; none where the suite cannot have it."""
    arm: Any = "independent" if kind == SCRATCH else "sharing"
    choices = space.possible("sharing").get("adaptation.kind", ())
    if kind != SCRATCH and kind not in choices:
        return []
    held = _Draws(rng, {} if kind == SCRATCH else {"adaptation.kind": kind})
    return [TrialConfig.from_flat(space.suggest(held, arm)) for _ in range(n)]


def tune(
    trainer: Trainer, configs: Sequence[TrialConfig], test: EpisodeSet, seed: int
) -> tuple[TrialConfig, float, np.ndarray]:
    """The best configuration on validation, its score there, and its outputs on the test."""
    groups: dict[str, list[TrialConfig]] = {}
    for config in configs:
        groups.setdefault(config.shape_key(), []).append(config)
    best: tuple[TrialConfig, float, np.ndarray] | None = None
    for some in groups.values():
        runs = [Run(config, seed) for config in some]
        results, state = trainer.train(runs, trainer.start(runs), trainer.max_steps)
        for k, result in enumerate(results):
            if result.value is not None and (best is None or result.value > best[1]):
                pred = trainer.predict_episodes([runs[k]], state.select([k]), test)
                best = some[k], result.value, pred[0]
    if best is None:
        raise SystemExit("All configurations of a kind diverged.")
    return best


def baselines(suite: EpisodicSuite, test: EpisodeSet) -> dict[str, np.ndarray]:
    support, query, rows = test.support, test.query, suite.rows("train")
    new = query.x.numpy()
    x, y, mask = support.x.numpy(), support.y.numpy(), support.mask.numpy()
    found = support_baselines(suite.kind, suite.is_image, 0, x, y, mask, new)
    found |= pooled_baselines(suite.kind, rows.x.numpy(), rows.y.numpy(), new)
    return {name: pred for name, (_, pred) in found.items()}


def score(pred: np.ndarray, test: EpisodeSet) -> float:
    return float(evaluate_episodes(pred[None], test).value()[0])


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each method: mean score over the splits, and differences to the best of the others."""
    scores = {name: np.array([row["scores"][name] for row in rows]) for name in rows[0]["scores"]}

    def best(names: Sequence[str]) -> str:
        return max((n for n in names if n in scores), key=lambda n: scores[n].mean())

    alone, pooled = best(ALONE), best(POOLED)
    methods = {}
    for name, values in scores.items():
        methods[name] = {"score": _interval(values)}
        if name not in (*ALONE, *POOLED):
            methods[name]["against_alone"] = _interval(values - scores[alone])
            methods[name]["against_pooled"] = _interval(values - scores[pooled])
    return {
        "alone": alone,
        "pooled": pooled,
        "methods": methods,
        "tasks": rows[0]["tasks"],
        "episodes": [row["episodes"] for row in rows],
        "cpu_seconds": [row["cpu_seconds"] for row in rows],
    }


def table(found: Mapping[str, Any]) -> list[str]:
    alone, pooled = (WORDS.get(found[key], found[key]) for key in ("alone", "pooled"))
    lines = [f"| method | score (95%) | against {alone} | against {pooled} |", "|---|---|---|---|"]
    methods: Mapping[str, Any] = found["methods"]
    for name in sorted(methods, key=lambda name: -methods[name]["score"][0]):
        row = methods[name]
        mean, low, high = row["score"]
        cells = [
            "–" if key not in row else "{:+.3f} ({:+.3f} to {:+.3f})".format(*row[key])
            for key in ("against_alone", "against_pooled")
        ]
        lines.append(
            f"| {WORDS.get(name, name)} | {mean:.3f} ({low:.3f} to {high:.3f}) | "
            f"{' | '.join(cells)} |"
        )
    return lines


def _interval(values: np.ndarray) -> list[float]:
    found = mean_interval(values)
    return [round(v, 4) for v in (found.estimate, found.low, found.high)]


class _Draws:
    """Suggests at random; what is held is not."""

    def __init__(self, rng: np.random.Generator, held: Mapping[str, Any]) -> None:
        self._rng = rng
        self._held = held

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if log:
            return float(np.exp(self._rng.uniform(np.log(low), np.log(high))))
        return float(self._rng.uniform(low, high))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._rng.choice(np.arange(low, high + 1, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self._held:
            return self._held[name]
        return choices[int(self._rng.integers(len(choices)))]


if __name__ == "__main__":
    main()
