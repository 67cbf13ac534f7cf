#!/usr/bin/env python
"""What a prior costs: reading and keeping its sources, a suggestion, and the whole of a search.

    scripts/bench_prior.py [--sources 20] [--trials 100] [--suite breast-cancer] [--n-trials 32]

Sources are random configurations of the suite's space in both arms, `--trials` in each, with
made-up scores: what they say does not matter to the time. Seconds are of this process's processor,
so that other work on the machine counts for less. Suggestions are those of a search of 50 trials
in the sharing arm, the result of each known before the next; `model` are those that the sources'
model made. The search stops before the final comparison, which no prior changes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler

import autometa
from autometa.api import front
from autometa.home import Home
from autometa.priors import TransferSampler, probes, shelf
from autometa.priors.chosen import Chosen
from autometa.priors.records import Record, record_of
from autometa.searching import executors
from autometa.searching.progress import Progress
from autometa.space import Space
from autometa.tasks import load_suite

N_SUGGESTIONS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, default=20)
    parser.add_argument("--trials", type=int, default=100, help="of each arm of a source")
    parser.add_argument("--suite", default="breast-cancer")
    parser.add_argument("--n-trials", type=int, default=32)
    parser.add_argument("--max-epochs", type=int, default=9)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = Space.load("sharing").bind(load_suite(args.suite))
    records = [made_up(space, seed, args.trials) for seed in range(args.sources)]
    print(json.dumps({"parameters": len(space.distributions("sharing")), **vars(args)}))
    print(json.dumps({"suggestions": suggestions(space, records)}))
    for prior in ("off", "auto"):
        print(json.dumps({"search": searched(args, prior, records)}), flush=True)


def made_up(space: Space, seed: int, n: int) -> Record:
    """A source: random configurations, the better the nearer to a rate that depends on the seed."""
    study = optuna.create_study(
        study_name=f"source-{seed}", direction="maximize", sampler=RandomSampler(seed=seed)
    )
    facts = {"suite": {"name": f"s{seed}", "fingerprint": ""}, "settings": {"max_steps": 9}}
    for key, value in {**facts, "id": f"{seed:032x}", "space": space.text}.items():
        study.set_user_attr(key, value)
    for number in range(2 * n):
        arm = ("sharing", "independent")[number % 2]
        trial = study.ask()
        trial.set_user_attr("arm", arm)
        space.suggest(trial, arm)
        study.tell(trial, score(trial.params, seed))
    rng = np.random.default_rng(seed)
    return record_of(study, {name: float(rng.normal()) for name in probes.PROBES})


def score(params: dict[str, Any], seed: int) -> float:
    return -abs(float(np.log10(params["optimizer.lr"])) + 2 + seed / 20)


def suggestions(space: Space, records: list[Record]) -> dict[str, float]:
    """Seconds to keep and give back the sources; milliseconds of the first suggestion, which fits
    them, and of later ones."""
    target = dict.fromkeys(probes.PROBES, 0.5)
    began = time.process_time()
    pieces = Chosen.of(records, target).nearest().pack()
    chosen = Chosen.unpack(pieces, target, "bench")
    kept = time.process_time() - began
    study = optuna.create_study(
        direction="maximize", sampler=chosen.sampler("sharing", seed=0, n_portfolio=7)
    )
    spent = []
    for _ in range(N_SUGGESTIONS):
        began = time.process_time()
        trial = study.ask()
        space.suggest(trial, "sharing")
        spent.append(1000 * (time.process_time() - began))
        study.tell(trial, score(trial.params, 10))
    by = [t.system_attrs["transfer:by"] for t in study.trials]
    model = [ms for ms, b in zip(spent, by, strict=True) if b == "model"]
    return {
        "kept_s": round(kept, 2),
        "kept_characters": sum(map(len, pieces)),
        "first_ms": round(spent[0], 1),
        "median_ms": round(float(np.median(spent[1:])), 1),
        "model_median_ms": round(float(np.median(model)), 1),
        "model_max_ms": round(max(model), 1),
    }


def searched(args: argparse.Namespace, prior: str, records: list[Record]) -> dict[str, Any]:
    """Processor seconds of a search up to its last trial, and of what the prior adds to it."""
    spent: dict[str, float] = defaultdict(float)

    def progress(step: Progress) -> None:
        if step.phase == "search" and step.done == step.total:
            raise _Searched

    watched: list[tuple[Any, str, str]] = [
        (front, "settle_prior", "choosing"),
        (probes, "measure", "probes"),
        (TransferSampler, "_propose", "suggestions"),
        (executors, "run_unit", "training"),
    ]
    originals = [getattr(owner, name) for owner, name, _ in watched]
    with tempfile.TemporaryDirectory() as home:
        for record in records:
            shelf.keep(Home.find(home), record)
        for (owner, name, key), original in zip(watched, originals, strict=True):
            setattr(owner, name, _timed(original, spent, key))
        began = time.process_time()
        try:
            autometa.search(
                args.suite, space="sharing", study_name="bench", n_trials=args.n_trials,
                max_epochs=args.max_epochs, workers=0, device="cpu", diagnose=False, prior=prior,
                mlflow_tracking_uri="off", home=Path(home), progress=progress,
            )  # fmt: skip
        except _Searched:
            pass
        finally:
            for (owner, name, _), original in zip(watched, originals, strict=True):
                setattr(owner, name, original)
        total = time.process_time() - began
    return {"prior": prior, "total": round(total, 2), **{k: round(v, 2) for k, v in spent.items()}}


def _timed(call: Callable[..., Any], spent: dict[str, float], key: str) -> Callable[..., Any]:
    def timed(*args: Any, **options: Any) -> Any:
        began = time.process_time()
        try:
            return call(*args, **options)
        finally:
            spent[key] += time.process_time() - began

    return timed


class _Searched(Exception):
    """The trials are done."""


if __name__ == "__main__":
    main()
