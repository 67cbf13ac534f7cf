#!/usr/bin/env python
"""Sinusoid regression, the classic check of meta-learning, with every learner.

A task is y = A sin(x - φ), A in [0.1, 5], φ in [0, π], x in [-5, 5] (Finn et al. 2017). A model is
trained on episodes of 20,000 such tasks, 25 a step, and then adapts to 10 points (5 where it says
so) of each of 1,000 new ones. The first table has the mean squared error on 100 other points of
each, after 1, 5 and 10 gradient steps; learners without steps have one figure. `expected` are the
figures that an earlier, separate implementation reached.

The network is an MLP of 2 x 40 without normalisation, as in the paper; the Bayesian learner and the
neural processes have one of their own size (see METHODS). Methods with inner steps are trained for
15,000 steps, with inner rate 0.01 and one inner step, the others for as long as their row says.

The second table is about the variances that three of them give, under noise of σ = 0.3 in all rows:
how many of the noisy points lie in the 90% intervals, and the error against the noisy points, whose
floor is 0.09.

    python scripts/reproduce_sinusoid.py             # under 5 minutes on two cores
    python scripts/reproduce_sinusoid.py --workers 0 --quick

Intervals (95%) are over the test tasks; they do not hold the chance of the training run. The last
line of stdout is one JSON object: method → steps → error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
from scipy.stats import norm

from autometa.intervals import mean_interval
from autometa.learners import Batch
from autometa.networks import Step
from autometa.tasks import EpisodeShape
from autometa.tasks.sinusoid import sinusoid_episodes
from autometa.training.budget import epochs_in_steps
from autometa.training.population import Trainer
from autometa.training.scoring import evaluate_episodes
from autometa.training.state import Layout, Run
from autometa.trial import TrialConfig, build

NOISE, LEVEL = 0.3, 0.9
STEPS = (1, 5, 10)
TASKS, QUERIES = 20_000, 10

NETWORK = {
    "backbone.kind": "mlp",
    "backbone.width": 40,
    "backbone.depth": 2,
    "backbone.norm": "none",
    "sharing.kind": "hard",
    "optimizer.kind": "adamw",
    "optimizer.weight_decay": 0.0,
    "optimizer.lr": 3e-3,
    "optimizer.clip": 10.0,
    "optimizer.schedule": "cosine",
    "optimizer.batch_tasks": 25,
}
MAML = {
    "adaptation.kind": "gradient",
    "adaptation.inner_lr": 0.01,
    "adaptation.steps": 1,
    "sharing.split_at": 0,
}
FINE = {"adaptation.kind": "finetune", "adaptation.inner_lr": 0.01}
BAYES = {"adaptation.kind": "bayesian", "backbone.width": 64, "optimizer.lr": 1e-3}
PROCESS = {
    "adaptation.kind": "amortized",
    "backbone.width": 64,
    "backbone.depth": 3,
    "backbone.norm": "layer",
    "conditioning.kind": "concat",
    "conditioning.dim": 64,
    "optimizer.lr": 2e-3,
}


class Method(NamedTuple):
    """What is trained.

    Attributes:
        shots: support rows.
        steps: of training; 0 where nothing is learned.
        values: the trial's configuration, by dotted names, over `NETWORK`.
        expected: errors after `STEPS` steps, or one.
    """

    shots: int
    steps: int
    values: Mapping[str, Any]
    expected: tuple[float, ...] = ()


METHODS = {
    "MAML": Method(10, 15_000, MAML, (0.43, 0.16, 0.12)),
    "MAML, 5 shots": Method(5, 15_000, MAML, (0.58, 0.32, 0.30)),
    "FOMAML": Method(10, 15_000, {**MAML, "adaptation.first_order": True}, (0.51, 0.17, 0.14)),
    "ANIL": Method(10, 15_000, {**MAML, "sharing.split_at": 2}),
    "pretraining + fine-tuning": Method(
        10, 15_000, {**FINE, "sharing.split_at": 0}, (2.2, 1.6, 1.4)
    ),
    "from scratch": Method(10, 0, {**FINE, "sharing.kind": "independent"}, (3.9,)),
    "Bayesian": Method(10, 5_000, BAYES, (0.01,)),
    "neural process": Method(10, 8_000, PROCESS, (0.07,)),
    "attentive neural process": Method(
        10, 5_000, {**PROCESS, "adaptation.aggregation": "attention"}, (0.05,)
    ),
}
#: those with a variance, and the coverage that is expected of their 90% intervals
CALIBRATED = {"Bayesian": 90.0, "neural process": 92.5, "attentive neural process": 93.0}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="", metavar="NAME;…", help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0: this one")
    parser.add_argument("--quick", action="store_true", help="300 tasks and 1 epoch of them")
    args = parser.parse_args(argv)
    chosen = [name.strip() for name in args.methods.split(";") if name.strip()] or list(METHODS)
    if unknown := sorted(set(chosen) - set(METHODS)):
        parser.error(f"--methods should be of {'; '.join(METHODS)}. Found {unknown[0]}.")
    began = time.perf_counter()
    jobs = [Job(name, noise, args.seed, args.quick) for name in chosen for noise in noises(name)]
    # the long ones first
    jobs.sort(key=lambda job: -METHODS[job.method].steps)
    if args.workers:
        with get_context("spawn").Pool(args.workers) as pool:
            found = pool.map(run, jobs, chunksize=1)
    else:
        found = list(map(run, jobs))
    rows = dict(zip(jobs, found, strict=True))
    print("\n".join(errors_table(rows, chosen)))
    if calibrated := [job for job in jobs if job.noise]:
        print("\n".join(["", *coverage_table({job: rows[job] for job in calibrated})]))
    print(f"\n{time.perf_counter() - began:.0f} s, {args.workers or 1} processes")
    exact = {job.method: row["errors"] for job, row in rows.items() if not job.noise}
    print(json.dumps({name: {s: e[0] for s, e in exact[name].items()} for name in chosen}))


class Job(NamedTuple):
    """One method, trained and tested with one level of noise."""

    method: str
    noise: float
    seed: int
    quick: bool


def noises(method: str) -> tuple[float, ...]:
    return (0.0, NOISE) if method in CALIBRATED else (0.0,)


def run(job: Job) -> dict[str, Any]:
    """Errors [mean, low, high] by number of steps, and coverage in percent where it has one."""
    torch.set_num_threads(1)
    method = METHODS[job.method]
    suite = sinusoid_episodes(
        300 if job.quick else TASKS,
        method.shots + QUERIES,
        noise=job.noise,
        seed=job.seed,
        shape=EpisodeShape(shots=method.shots, queries=QUERIES),
        held_out=(20, 50) if job.quick else (200, 1000),
        held_out_rows=method.shots + 100,
    )
    config = TrialConfig.from_flat({**NETWORK, **method.values})
    an_epoch = epochs_in_steps(suite, 1, config.optimizer)
    length = an_epoch if job.quick else max(1, method.steps)
    trainer = Trainer(suite.without_test(), length, torch.device("cpu"))
    state = trainer.start([Run(config, job.seed)])
    began = time.process_time()
    if method.steps:
        (result,), state = trainer.train([Run(config, job.seed)], state, length)
        if result.value is None:
            raise SystemExit(f"{job.method}: {result.reason}")
    seconds = time.process_time() - began
    episodes = suite.open_test_episodes(len(suite.tasks_by_split["test"]))
    errors = {}
    for steps in STEPS if "test_steps" in type(config.adaptation).model_fields else (0,):
        values = {"adaptation.test_steps": steps} if steps else {}
        tested = TrialConfig.from_flat({**NETWORK, **method.values, **values})
        pred = trainer.predict_episodes([Run(tested, job.seed)], state, episodes)
        found = evaluate_episodes(pred, episodes)
        mean = mean_interval(found.error[0] / found.n)
        errors[str(steps)] = [round(v, 4) for v in (mean.estimate, mean.low, mean.high)]
    row: dict[str, Any] = {"seconds": round(seconds, 1), "steps": state.step}
    row["errors"] = errors if len(errors) > 1 else {str(s): errors["0"] for s in STEPS}
    if job.noise:
        learner = build(config, trainer.problem)
        leaves, _ = learner.init(torch.Generator().manual_seed(0))
        params = {n: leaf[0] for n, leaf in Layout(leaves).unpack(state.values).items()}
        support = episodes.support
        given = Batch(support.x, support.y, support.mask, episodes.tasks)
        with torch.no_grad():
            phi = learner.adapt(params, {}, given, Step())
            center, variance = learner.moments(phi, {}, episodes.query.x, episodes.tasks)
        reach = norm.ppf(0.5 + LEVEL / 2) * variance.sqrt()
        inside = ((episodes.query.y - center).abs() <= reach).double().mean(1).numpy()
        share = mean_interval(100 * inside)
        row["coverage"] = [round(v, 2) for v in (share.estimate, share.low, share.high)]
    return row


def errors_table(rows: Mapping[Job, Mapping[str, Any]], chosen: Sequence[str]) -> list[str]:
    lines = [
        "| method | 1 step | 5 steps | 10 steps | expected | training steps | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for job, row in rows.items():
        if job.noise:
            continue
        cells = [f"{m:.3f} ({low:.3f}–{high:.3f})" for m, low, high in row["errors"].values()]
        expected = " / ".join(f"{e:g}" for e in METHODS[job.method].expected) or "–"
        lines.append(
            f"| {job.method} | {' | '.join(cells)} | {expected} | {row['steps']} | "
            f"{row['seconds']:.0f} |"
        )
    place = {name: number for number, name in enumerate(chosen)}
    return [*lines[:2], *sorted(lines[2:], key=lambda line: place[line.split(" | ")[0][2:]])]


def coverage_table(rows: Mapping[Job, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| method, noise σ = 0.3 | coverage of 90% intervals | expected | error |",
        "|---|---|---|---|",
    ]
    for job, row in rows.items():
        share, low, high = row["coverage"]
        lines.append(
            f"| {job.method} | {share:.1f} ({low:.1f}–{high:.1f}) | "
            f"{CALIBRATED[job.method]:g} | {row['errors']['1'][0]:.3f} |"
        )
    return lines


if __name__ == "__main__":
    main()
