#!/usr/bin/env python
"""Reproduce the order of sharing mechanisms on MultiDigits, paired by split and seed.

Nine networks, 2 x 64 units each, learn to name both of two overlaid digits (suite `multidigits`,
6,000 training pairs). They are compared on the test rows by Δm, in percent of the accuracy of
independent networks. Expected, best group first:

    1  cross-stitch that starts from A = I; from 0.9/0.1
    2  cross-stitch that starts from all ones; FiLM with a head a task; hard; soft
    3  one head for both tasks: concat; additive

Independent networks are expected between groups 1 and 2.

Every arm has the same settings, which are the defaults of autometa and were not tuned here: AdamW,
learning rate 3e-3 falling to zero (cosine), weight decay 1e-4, batches of 64, gradients clipped at
norm 1, no dropout, LayerNorm; soft pulls with λ = 1e-2; cross-stitch units learn 10 times faster
than the rest; conditioning enters every block through a learned vector with 8 entries. The network
after the last epoch counts; validation rows are not used.

The start from all ones is a known mistake, so no option of autometa makes it: here the units are
overwritten before training.

A pair is one split of the source digits and one seed of initialisation and order, the same for all
arms. Δm of a pair is 100/T Σ_t (M_t - M_t,ind) / M̄_t,ind, with M the accuracies of the pair and M̄
the mean over all pairs. Intervals (95%) are t intervals over the splits, or over the seeds where
there is one split; the test digits of different splits overlap, so those are a little too narrow.

Eight pairs take about six minutes of one core.

    python scripts/reproduce_multidigits.py                       # 8 splits, one seed each
    python scripts/reproduce_multidigits.py --splits 1 --seeds 8  # 8 seeds of one split, fused

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from autometa.intervals import Interval, mean_interval
from autometa.metrics import delta_m, evaluate
from autometa.tasks import load_suite
from autometa.training.budget import epochs_in_steps
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import Layout, PopulationState, Run
from autometa.trial import OptimizerConfig, TrialConfig, build

NETWORK = {"backbone.kind": "mlp", "backbone.width": 64, "backbone.depth": 2}
SETTINGS = {
    "optimizer.kind": "adamw",
    "optimizer.lr": 3e-3,
    "optimizer.schedule": "cosine",
    "optimizer.weight_decay": 1e-4,
    "optimizer.batch_size": 64,
    "optimizer.clip": 1.0,
}
STITCH = {"sharing.kind": "cross_stitch", "sharing.units": "layer", "sharing.mixing_lr": 10.0}
EVERY = {"conditioning.at": "every", "conditioning.embedding": "learned", "conditioning.dim": 8}
ONE_HEAD = {**EVERY, "sharing.kind": "hard", "head": "single_head"}
BASE, ONES, STITCHED = "independent", "cross-stitch, all ones", "cross-stitch, 0.9/0.1"
ARMS: dict[str, dict[str, Any]] = {
    BASE: {"sharing.kind": "independent"},
    "cross-stitch, A = I": {**STITCH, "sharing.init_same": 1.0},
    STITCHED: {**STITCH, "sharing.init_same": 0.9},
    ONES: STITCH,
    "FiLM + heads": {**EVERY, "sharing.kind": "hard", "conditioning.kind": "multiplicative"},
    "hard": {"sharing.kind": "hard"},
    "soft": {"sharing.kind": "soft", "sharing.tie": 1e-2},
    "concat, one head": {**ONE_HEAD, "conditioning.kind": "concat"},
    "additive, one head": {**ONE_HEAD, "conditioning.kind": "additive"},
}
GROUPS = (
    ("cross-stitch, A = I", STITCHED),
    (ONES, "FiLM + heads", "hard", "soft"),
    ("concat, one head", "additive, one head"),
)
#: Δm % of an earlier study of ours (8 paired seeds)
REPORTED = dict(zip(ARMS, (0.0, 0.8, 0.5, -0.6, -0.7, -1.0, -1.0, -2.4, -3.2), strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=8, help="splits of the digits (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds a split (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="(%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="2 seeds of one split, 1 epoch of 1,280 pairs"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.splits, args.seeds, args.epochs = 1, 2, 1
    n_rows = 1280 if args.quick else None
    if min(args.splits, args.seeds, args.epochs) < 1 or args.splits * args.seeds < 2:
        parser.error("there should be at least 2 pairs of split and seed, and 1 epoch")
    torch.set_num_threads(1)
    began = time.perf_counter()
    values = []
    for split in range(args.splits):
        values.append(accuracies(split, args.seeds, args.epochs, n_rows))
        done = ", ".join(f"{name} {100 * v.mean():.1f}" for name, v in values[-1].items())
        print(f"split {split}, accuracy %: {done}", flush=True)
    found = compare({arm: np.stack([part[arm] for part in values]) for arm in ARMS})
    print("\n".join(["", *table(found), "", *sentences(found)]))
    facts = {
        "splits": args.splits,
        "seeds": args.seeds,
        "epochs": args.epochs,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time(), 1),
    }
    print(json.dumps({**facts, **found}))


def accuracies(
    split: int, n_seeds: int, epochs: int, n_rows: int | None = None
) -> dict[str, np.ndarray]:
    """Arm → accuracy [seed, task] on the test rows of one split; runs of one shape are fused.

    Args:
        n_rows: train on the first rows only, without validation rows.
    """
    suite = load_suite("multidigits", seed=split)
    stripped, test = suite.without_test(), suite.open_test()
    if n_rows is not None:  # training rows come first
        first = {key: getattr(stripped, key)[:n_rows] for key in ("x", "y", "mask", "split")}
        stripped = replace(stripped, **first)
    length = epochs_in_steps(stripped, epochs, OptimizerConfig(batch_size=64))
    trainer, specs = Trainer(stripped, length, torch.device("cpu")), task_specs(stripped)
    out = {}
    for arms in populations():
        # a seed of its own for every pair, the same in all arms
        seeds = range(split * n_seeds, (split + 1) * n_seeds)
        runs = [Run(config(arm), seed) for arm in arms for seed in seeds]
        results, state = trainer.train(runs, start(trainer, arms, runs), length)
        failed = [result.reason for result in results if result.reason]
        if failed:
            raise SystemExit(f"A run of {', '.join(arms)} on split {split} failed: {failed[0]}")
        pred = trainer.predict(runs, state, test)
        reached = evaluate(pred, test.y.numpy(), specs, mask=test.mask.numpy()).task_values()
        out.update(zip(arms, np.split(reached, len(arms)), strict=True))
    return {arm: out[arm] for arm in ARMS}


def config(arm: str) -> TrialConfig:
    return TrialConfig.from_flat({**NETWORK, **SETTINGS, **ARMS[arm]})


def populations() -> list[list[str]]:
    """Arms by graph: those of one network are trained as one population."""
    found: dict[str, list[str]] = {}
    for arm in ARMS:
        found.setdefault(config(arm).graph_key(), []).append(arm)
    return list(found.values())


def start(trainer: Trainer, arms: Sequence[str], runs: Sequence[Run]) -> PopulationState:
    """Fresh runs, arm by arm; those of the arm `ONES` have every cross-stitch unit at 1."""
    state = trainer.start(runs)
    if ONES in arms:
        one, _ = build(runs[0].config, trainer.problem).init(torch.Generator().manual_seed(0))
        n_seeds = len(runs) // len(arms)
        first = arms.index(ONES) * n_seeds
        leaves = Layout(one).unpack(state.values)  # views: writing here changes the state
        for name, leaf in leaves.items():
            if name.startswith("mixing."):
                leaf[first : first + n_seeds] = 1.0
    return state


def compare(accuracy: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Δm of every arm, and whether the groups come in the expected order.

    Args:
        accuracy: arm → [split, seed, task].
    """
    n_splits, n_seeds, n_tasks = accuracy[BASE].shape
    base = accuracy[BASE].reshape(-1, n_tasks)
    specs = task_specs(load_suite("multidigits").without_test())
    own = delta_m(base, base, specs)
    gain = {
        arm: delta_m(values.reshape(-1, n_tasks), base, specs) - own
        for arm, values in accuracy.items()
    }

    def over_pairs(pairs: np.ndarray) -> dict[str, Any]:
        """Mean and interval; the seeds of a split are averaged first."""
        by_split = pairs.reshape(n_splits, n_seeds).mean(1)
        return plain(mean_interval(by_split if n_splits > 1 else pairs))

    arms = {
        arm: {
            "accuracy": float(accuracy[arm].mean()),
            "reported": REPORTED[arm],
            "delta_m": over_pairs(gain[arm]),
            "pairs": [round(float(g), 3) for g in gain[arm]],
        }
        for arm in ARMS
    }
    mean = {arm: float(gain[arm].mean()) for arm in ARMS}
    steps = []
    for upper, lower in itertools.pairwise(GROUPS):
        high, low = (np.mean([gain[arm] for arm in group], axis=0) for group in (upper, lower))
        steps.append(
            {
                "upper": upper,
                "lower": lower,
                "holds": min(mean[arm] for arm in upper) > max(mean[arm] for arm in lower),
                "gap": over_pairs(high - low),
            }
        )
    best = np.mean([gain[arm] for arm in GROUPS[0]], axis=0)
    return {
        "arms": arms,
        "groups": steps,
        "first_above_independent": {
            "holds": all(mean[arm] > 0 for arm in GROUPS[0]),
            "difference": over_pairs(best),
        },
        "order_holds": all(step["holds"] for step in steps),
        "ones_below": {
            "holds": mean[ONES] < mean[STITCHED],
            "difference": over_pairs(gain[ONES] - gain[STITCHED]),
        },
    }


def plain(interval: Interval) -> dict[str, float]:
    keys = ("low", "high", "p")
    return {"mean": interval.estimate, **{key: getattr(interval, key) for key in keys}}


def table(found: Mapping[str, Any]) -> list[str]:
    """The arms as Markdown, in the order of `ARMS`."""
    lines = [
        "| arm | group | accuracy % | Δm % (95%) | reported Δm % |",
        "|---|---|---|---|---|",
    ]
    for arm, facts in found["arms"].items():
        group = next((str(g + 1) for g, members in enumerate(GROUPS) if arm in members), "–")
        lines.append(
            f"| {arm} | {group} | {100 * facts['accuracy']:.2f} | {words(facts['delta_m'])} | "
            f"{facts['reported']:+.1f} |"
        )
    return lines


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What the table says about the expected order, whether or not it holds."""
    out = []
    for number, step in enumerate(found["groups"], 1):
        verb = "lies above" if step["holds"] else "does NOT lie wholly above"
        out.append(
            f"Group {number} {verb} group {number + 1}; difference of their means "
            f"{words(step['gap'])}, p = {step['gap']['p']:.2g}."
        )
    for key, yes, no in (
        ("first_above_independent", "Group 1 lies above independent networks",
         "Group 1 does NOT lie wholly above independent networks"),
        ("ones_below", "All ones is below 0.9/0.1", "All ones is NOT below 0.9/0.1"),
    ):  # fmt: skip
        difference = found[key]["difference"]
        out.append(
            f"{yes if found[key]['holds'] else no}; difference {words(difference)}, "
            f"p = {difference['p']:.2g}."
        )
    out.append(
        f"Order of the groups: {'reproduced' if found['order_holds'] else 'NOT reproduced'}."
    )
    return out


def words(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:+.2f} ({interval['low']:+.2f} to {interval['high']:+.2f})"


if __name__ == "__main__":
    main()
