"""What a suggestion of `TransferSampler` costs, in CPU seconds: a busy machine is no matter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import Trial

from autometa.priors import TransferSampler

N_SOURCES, N_TRIALS = 40, 100
FIT_S, SUGGEST_S = 10.0, 0.05


def branched(best: float) -> Callable[[Trial], float]:
    """Nine parameters, three of them of one branch; `best` is the best logarithm of the rate."""

    def objective(trial: Trial) -> float:
        found = (math.log10(trial.suggest_float("rate", 1e-5, 1, log=True)) - best) ** 2
        found += trial.suggest_float("dropout", 0, 0.5)
        found += abs(math.log10(trial.suggest_float("decay", 1e-6, 1e-1, log=True)) + 4) / 10
        found += abs(math.log2(trial.suggest_int("width", 8, 512, log=True)) - 6) / 10
        found += trial.suggest_categorical("batch", [16, 32, 64]) / 640
        if trial.suggest_categorical("model", ["flat", "deep"]) == "flat":
            return found + 1
        found += abs(trial.suggest_int("depth", 1, 8) - 3) / 8 + trial.suggest_float("gate", 0, 1)
        return found + (trial.suggest_categorical("norm", ["none", "batch", "layer"]) != "layer")

    return objective


@pytest.mark.slow
def test_forty_sources_of_a_hundred_trials() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sources = [optuna.create_study(sampler=RandomSampler(seed=s)) for s in range(N_SOURCES)]
    for i, source in enumerate(sources):
        source.optimize(branched(-4 + i / 20), n_trials=N_TRIALS)
    study = optuna.create_study(sampler=TransferSampler(sources, seed=0))
    seconds = []
    for _ in range(50):
        began = time.process_time()
        study.optimize(branched(-3), n_trials=1)  # the objective itself costs nothing
        seconds.append(time.process_time() - began)
    by = [t.system_attrs["transfer:by"] for t in study.trials]
    suggestion = float(np.median([s for s, b in zip(seconds, by, strict=True) if b == "model"]))
    print(f"first {seconds[0]:.2f} s, suggestion by the model {1000 * suggestion:.0f} ms (median)")
    assert seconds[0] <= FIT_S
    assert suggestion <= SUGGEST_S
