#!/usr/bin/env python
"""Few-shot classification of Omniglot characters from alphabets that were not trained on.

The 30 background alphabets are split into 20 to train on, 5 to validate and 5 to test. After
training, a model is given 1 or 5 drawings of each of 5 characters of test alphabets, and names 15
other drawings of each. Reported: accuracy over 600 such episodes, with the 95% interval of their
mean (it does not hold the chance of the training run, nor of the alphabets), where an episode mixes
the characters of all test alphabets (`mixed`), and where it is of one alphabet (`one alphabet`,
harder).

| method | learner |
|---|---|
| maml | `gradient`, all blocks adapt, second order |
| anil | `gradient`, the head alone adapts |
| protonet | `metric`, trained with 20 ways |
| neural process | `amortized`, mean aggregation |
| from scratch | `finetune` of `independent` networks: nothing is learned from other alphabets |
| nearest neighbour | of pixels |

All learned ones have the network conv-4 and the same CPU time, given by `--minutes`: the number of
epochs is what fits, judged from the first steps. Validation episodes give the learning curve, which
is printed; nothing is selected with them. Meta-training episodes have the shape of the test ones,
but for prototypes, which are trained with 20 ways (as in Snell et al. 2017, and the table says so).

    AUTOMETA_DATA=FOLDER python scripts/reproduce_omniglot.py --minutes 12 --out omniglot
    AUTOMETA_DATA=FOLDER python scripts/reproduce_omniglot.py --methods protonet --shots 1

Results are kept in OUT/<method>-<shots>.json; the same command goes on where it was stopped. The
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

from autometa.intervals import mean_interval
from autometa.tasks import EpisodeSet, EpisodeShape, EpisodicSuite, TaskSuite, load_suite
from autometa.training.budget import epochs_in_steps
from autometa.training.population import Trainer
from autometa.training.scoring import evaluate_episodes
from autometa.training.state import PopulationState, Run
from autometa.trial import TrialConfig

WAYS = 5


class Method(NamedTuple):
    """How a method is trained.

    Attributes:
        ways, queries: of training episodes; queries of each class.
        values: the trial's configuration, by dotted names.
    """

    ways: int
    queries: int
    values: Mapping[str, Any]


NETWORK = {
    "backbone.kind": "conv",
    "backbone.depth": 4,
    "backbone.width": 32,
    "sharing.kind": "hard",
    "optimizer.kind": "adamw",
    "optimizer.weight_decay": 1e-4,
    "optimizer.schedule": "cosine",
}
INNER = {
    "adaptation.kind": "gradient",
    "adaptation.steps": 5,
    "adaptation.test_steps": 10,
    "optimizer.batch_tasks": 4,
    "optimizer.lr": 1e-3,
}
METHODS = {
    "maml": Method(WAYS, 5, {**INNER, "sharing.split_at": 0, "adaptation.inner_lr": 0.1}),
    "anil": Method(WAYS, 5, {**INNER, "sharing.split_at": 4, "adaptation.inner_lr": 0.1}),
    "protonet": Method(
        20,
        5,
        {"adaptation.kind": "metric", "optimizer.batch_tasks": 1, "optimizer.lr": 2e-3},
    ),
    "neural process": Method(
        WAYS,
        5,
        {
            "adaptation.kind": "amortized",
            "conditioning.kind": "multiplicative",
            "conditioning.at": "every",
            "conditioning.dim": 64,
            "optimizer.batch_tasks": 4,
            "optimizer.lr": 1e-3,
        },
    ),
    "from scratch": Method(
        WAYS,
        5,
        {
            "adaptation.kind": "finetune",
            "adaptation.test_steps": 100,
            "adaptation.inner_lr": 0.1,
            "sharing.kind": "independent",
        },
    ),
}
NEIGHBOUR = "nearest neighbour"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*METHODS, NEIGHBOUR]
    parser.add_argument(
        "--methods", default=",".join(names), metavar="NAME,…", help="(%(default)s)"
    )
    parser.add_argument("--shots", default="1,5", help="(%(default)s)")
    parser.add_argument("--minutes", type=float, default=12, help="CPU time each (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0: this one")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("omniglot"), help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one epoch, 20 episodes")
    args = parser.parse_args(argv)
    methods = [name.strip() for name in args.methods.split(",")]
    if unknown := sorted(set(methods) - set(names)):
        parser.error(f"--methods should be of {', '.join(names)}. Found {unknown[0]}.")
    jobs = [
        Job(name, shots, args.minutes, args.seed, args.quick, str(args.out))
        for name in methods
        for shots in map(int, args.shots.split(","))
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    if args.workers:
        with get_context("spawn").Pool(args.workers) as pool:
            rows = pool.map(run, jobs, chunksize=1)
    else:
        rows = list(map(run, jobs))
    print("\n".join(table(rows)))
    print(json.dumps({f"{row['method']}, {row['shots']}-shot": row for row in rows}))


class Job(NamedTuple):
    """One method with one number of shots."""

    method: str
    shots: int
    minutes: float
    seed: int
    quick: bool
    out: str

    @property
    def path(self) -> Path:
        return Path(self.out) / f"{self.method.replace(' ', '-')}-{self.shots}.json"


def run(job: Job) -> dict[str, Any]:
    """Train and test one method, or take what an earlier call of the script found."""
    if job.path.is_file():
        kept: dict[str, Any] = json.loads(job.path.read_text(encoding="utf-8"))
        if kept["job"] == list(job):
            return kept
    torch.set_num_threads(1)
    table_suite = load_suite("omniglot_background")
    began = time.process_time()
    if job.method == NEIGHBOUR:
        row = neighbour(job, table_suite)
    else:
        row = learned(job, table_suite, METHODS[job.method])
    row |= {"cpu_minutes": round((time.process_time() - began) / 60, 2), "job": list(job)}
    job.path.write_text(json.dumps(row), encoding="utf-8")
    return row


def learned(job: Job, source: TaskSuite, method: Method) -> dict[str, Any]:
    shape = EpisodeShape(ways=method.ways, shots=job.shots, queries=method.queries)
    mixed, alone = suites(job, source, shape)
    config = TrialConfig.from_flat({**NETWORK, **method.values})
    runs = [Run(config, job.seed)]
    trains = config.flat()["sharing.kind"] != "independent"
    epochs = epochs_in(mixed, runs, job) if trains else 1
    an_epoch = epochs_in_steps(mixed, 1, config.optimizer)
    trainer = Trainer(mixed.without_test(), epochs * an_epoch, torch.device("cpu"))
    state = trainer.start(runs)
    curve: list[tuple[float, float]] = []
    began = time.process_time()
    if trains:
        for point in sorted({max(1, round(epochs * k / 10)) for k in range(1, 11)}):
            (result,), state = trainer.train(runs, state, point * an_epoch)
            if result.value is None:
                raise SystemExit(f"{job.method}: {result.reason}")
            # the score is 1 − error / chance's error
            accuracy = 1 - (1 - result.value) * (1 - 1 / WAYS)
            curve.append((round((time.process_time() - began) / 60, 2), round(accuracy, 4)))
            print(
                f"{job.method}, {job.shots}-shot: epoch {point} of {epochs}, "
                f"{curve[-1][0]} min, validation {100 * accuracy:.1f}%",
                flush=True,
            )
    n = 20 if job.quick else None
    return {
        "method": job.method,
        "shots": job.shots,
        "ways_in_training": method.ways if trains else None,
        "epochs": epochs if trains else 0,
        "curve": curve,
        "mixed": accuracy_of(trainer, runs, state, mixed.open_test_episodes(n)),
        "one_alphabet": accuracy_of(trainer, runs, state, alone.open_test_episodes(n)),
    }


def suites(job: Job, source: TaskSuite, shape: EpisodeShape) -> tuple[EpisodicSuite, EpisodicSuite]:
    """The same alphabets held out, with classes of an episode from all of them, and from one."""
    test = EpisodeShape(ways=WAYS, shots=job.shots)
    mixed, alone = (
        EpisodicSuite.from_suite(source, shape, seed=job.seed, one_task=one_task, test_shape=test)
        for one_task in (False, True)
    )
    return mixed, alone


def epochs_in(suite: EpisodicSuite, runs: list[Run], job: Job) -> int:
    """How many epochs fit the CPU time, less a tenth for validation and a margin."""
    if job.quick:
        return 1
    an_epoch = epochs_in_steps(suite, 1, runs[0].config.optimizer)
    trainer = Trainer(suite.without_test(), an_epoch, torch.device("cpu"))
    began = time.process_time()
    trainer.train(runs, trainer.start(runs), an_epoch)  # validation included
    one = time.process_time() - began
    return max(1, int(0.9 * 60 * job.minutes / one))


def accuracy_of(
    trainer: Trainer, runs: list[Run], state: PopulationState, episodes: EpisodeSet
) -> dict[str, Any]:
    found = evaluate_episodes(trainer.predict_episodes(runs, state, episodes), episodes)
    return summary(1.0 - found.error[0] / found.n)


def neighbour(job: Job, source: TaskSuite) -> dict[str, Any]:
    shape = EpisodeShape(ways=WAYS, shots=job.shots)
    rows: dict[str, Any] = {}
    for name, suite in zip(("mixed", "one_alphabet"), suites(job, source, shape), strict=True):
        episodes = suite.open_test_episodes(20 if job.quick else None)
        support, query = episodes.support, episodes.query
        distance = torch.cdist(query.x.flatten(2), support.x.flatten(2))
        chosen = support.y.gather(1, distance.argmin(-1))
        rows[name] = summary((chosen == query.y).double().mean(-1).numpy())
    return {
        "method": job.method,
        "shots": job.shots,
        "ways_in_training": None,
        "epochs": 0,
        "curve": [],
        **rows,
    }


def summary(accuracies: np.ndarray) -> dict[str, Any]:
    """Mean over the episodes and its 95% interval, in percent."""
    mean = mean_interval(100 * accuracies)
    return {
        "accuracy": round(mean.estimate, 2),
        "interval": [round(mean.low, 2), round(mean.high, 2)],
        "episodes": len(accuracies),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| method | shots | ways in training | mixed % | one alphabet % | epochs | CPU min |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for name in ("mixed", "one_alphabet"):
            low, high = row[name]["interval"]
            cells.append(f"{row[name]['accuracy']:.1f} ({low:.1f}–{high:.1f})")
        lines.append(
            f"| {row['method']} | {row['shots']} | {row['ways_in_training'] or '–'} | "
            f"{' | '.join(cells)} | {row['epochs'] or '–'} | {row['cpu_minutes']:.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
