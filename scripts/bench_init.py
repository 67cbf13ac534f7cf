"""Does a start from an earlier model help a new suite with few rows?

    AUTOMETA_DATA=FOLDER python scripts/bench_init.py --suite landmine --splits 8

The tasks of a suite are split at random into two halves. On the first half a network is trained,
all blocks shared, or its initialisation is meta-learned in episodes of ten support rows (MAML, all
blocks adapt). The second half is a suite of its own, with splits and standardisation of its own, of
which a part of the training rows is kept. Its networks start at random or from either model, as
with `--init-from`. Each start is tuned alike: of four learning rates that with the best validation
score (mean of two seeds). What is compared are scores on the test rows, paired over the splits of
tasks.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

import autometa
from autometa.api.earlier import candidate
from autometa.intervals import mean_interval
from autometa.metrics import evaluate
from autometa.networks import Problem
from autometa.tasks import TaskSuite
from autometa.tasks.catalog import DATA_VARIABLE, data_folder
from autometa.training.data import TrainingRows
from autometa.training.initial import Initial
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import Run
from autometa.trial import TrialConfig

NETWORK = {"backbone.width": 64, "backbone.depth": 2, "optimizer.batch_size": 16}
META = {
    "adaptation.kind": "gradient",
    "adaptation.steps": 3,
    "adaptation.inner_lr": 0.05,
    "sharing.split_at": 0,
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = 2
ARMS = ("hard", "independent")
STARTS = ("random", "trained", "meta-learned")
#: steps of a training at least, however few rows there are
STEPS = 300
EPOCHS = 27


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="landmine", help="a grouped suite (%(default)s)")
    parser.add_argument("--splits", type=int, default=8, help="of the tasks (%(default)s)")
    parser.add_argument("--parts", default="0.05,0.25,1", help="of the rows (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("bench-init"), help="(%(default)s)")
    args = parser.parse_args(argv)
    if args.splits < 2:
        parser.error("there should be at least 2 splits")
    if data_folder() is None:
        parser.error(f"{DATA_VARIABLE} should name the folder of the suite")
    torch.set_num_threads(1)
    parts = [float(part) for part in args.parts.split(",")]
    args.out.mkdir(parents=True, exist_ok=True)
    found = [one_split(args.suite, split, parts, args.out) for split in range(args.splits)]
    print("\n".join(table([split["rows"] for split in found], parts)))
    seconds = [split["cpu_seconds"] for split in found]
    print(json.dumps({"suite": args.suite, "cpu_seconds": seconds}))


def one_split(name: str, split: int, parts: Sequence[float], out: Path) -> dict[str, Any]:
    """What a split of the tasks gives, or what an earlier call of the script found."""
    path = out / f"{name}-{split}.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["parts"] == list(parts):
            return kept
    began = time.process_time()
    rows = measured(name, split, parts)
    seconds = round(time.process_time() - began, 1)
    found = {"parts": list(parts), "cpu_seconds": seconds, "rows": rows}
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def measured(name: str, split: int, parts: Sequence[float]) -> list[dict[str, Any]]:
    """Test scores of every arm and start, for each part of the training rows."""
    rng = np.random.default_rng(split)
    folder_of_data = data_folder() or Path()
    facts = json.loads((folder_of_data / "datasets.json").read_text(encoding="utf-8"))[name]
    frame = pd.read_parquet(folder_of_data / facts["file"])
    target, column = facts["target"], facts["task_column"]
    tasks = rng.permutation(sorted(frame[column].unique()))
    first = frame[frame[column].isin(tasks[: len(tasks) // 2])]
    second = frame[~frame[column].isin(tasks[: len(tasks) // 2])].reset_index(drop=True)
    roles: dict[str, Any] = {"target": target, "task_column": column}
    binary = facts["kind"] == "binary"
    roles |= {"metrics": "auc"} if binary else {}
    place = rng.random(len(second))
    classes = [second[column], *([second[target]] if binary else [])]
    order = pd.Series(place).groupby(classes).rank().to_numpy()
    rank = pd.Series(place).groupby(second[column].to_numpy()).rank(pct=True).to_numpy()
    out = []
    with TemporaryDirectory() as folder:
        earlier = TaskSuite.from_frame(first, **roles, seed=split, name="earlier")
        models = {
            "trained": autometa.train(earlier, NETWORK, seed=split, home=folder),
            "meta-learned": autometa.train(
                earlier, {**NETWORK, **META}, episodic=True, shots=10, seed=split, home=folder
            ),
        }
        for part in parts:
            # of each task 40% of the rows to train on, at least three (of each class); 20% to
            # validate
            kept = (rank <= 0.4 * part) | (order <= 3)
            where = np.where(kept, "train", np.where(rank > 0.6, "test", "val"))
            inside = kept | (rank > 0.4)
            own = second[inside].assign(split_=where[inside])
            suite = TaskSuite.from_frame(own, **roles, split_column="split_", name="later")
            initials = {start: candidate(m.model, suite).initial for start, m in models.items()}
            found = {arm: starts(suite, arm, initials) for arm in ARMS}
            out.append({"part": part, "rows": suite.counts["train"], **found})
    return out


def starts(suite: TaskSuite, arm: str, initials: Mapping[str, Initial]) -> dict[str, float]:
    """Start → score on the test rows with the learning rate that validation chose."""
    base = {**NETWORK, "sharing.kind": arm}
    stripped, test = suite.without_test(), suite.open_test()
    specs = task_specs(stripped)
    rows = TrainingRows(stripped.rows("train"), Problem.of(stripped), torch.device("cpu"))
    steps = rows.steps(TrialConfig.from_flat(base).optimizer)
    length = steps * max(EPOCHS, math.ceil(STEPS / steps))
    scores = {}
    for start in STARTS:
        kind = "random" if start == "random" else "earlier"
        trainer = Trainer(stripped, length, torch.device("cpu"), initials.get(start))
        runs = [
            Run(TrialConfig.from_flat({**base, "optimizer.lr": lr, "init.kind": kind}), seed)
            for lr in RATES
            for seed in range(SEEDS)
        ]
        results, state = trainer.train(runs, trainer.start(runs), length)
        values = np.array([-1.0 if r.value is None else r.value for r in results])
        best = int(values.reshape(len(RATES), SEEDS).mean(1).argmax())
        pred = trainer.predict(runs, state, test)[best * SEEDS : (best + 1) * SEEDS]
        task = None if test.task is None else test.task.numpy()
        graded = evaluate(pred, test.y.numpy(), specs, mask=test.mask.numpy(), task=task)
        scores[start] = float(graded.value().mean())
    return scores


def table(found: Sequence[Sequence[Mapping[str, Any]]], parts: Sequence[float]) -> list[str]:
    lines = [
        "| rows | network | random | trained − random | meta-learned − random |",
        "|---|---|---|---|---|",
    ]
    for at in range(len(parts)):
        for arm in ARMS:
            rows = [split[at][arm] for split in found]
            score = {start: np.array([row[start] for row in rows]) for start in STARTS}
            gains = [_words(score[start] - score["random"]) for start in STARTS[1:]]
            number = round(float(np.mean([split[at]["rows"] for split in found])))
            lines.append(
                f"| {number} | {arm} | {score['random'].mean():.3f} | {' | '.join(gains)} |"
            )
    return lines


def _words(sample: np.ndarray) -> str:
    found = mean_interval(sample)
    return f"{found.estimate:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


if __name__ == "__main__":
    main()
