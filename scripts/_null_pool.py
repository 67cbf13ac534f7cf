"""Pools of trained networks for `null_verdict.py`: random configurations, really trained.

A pool holds, for N configurations of one arm on one suite, the validation score of one run with a
seed of its own (what a search sees), and of K runs with paired seeds (what the finals see, each
validated on a fold of its own where they would be) their validation scores and test outputs. Each
configuration is one file, so that training goes on where it was stopped.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch

import autometa
from autometa.home import Home
from autometa.metrics import TaskSpec
from autometa.space import Arm, Space, default_space
from autometa.study import BEST_STEP, is_eligible, read_study, score_of
from autometa.tasks import TaskSuite
from autometa.tasks.folds import fold_numbers
from autometa.training.budget import with_batch_size
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import Run
from autometa.trial import TrialConfig

#: streams of seeds: the run of the search, and the paired ones
_SEARCH, _PAIRED = 7_000_000, 7_500_000


@dataclass(frozen=True, eq=False)
class Pool:
    """Trained configurations of one arm.

    Attributes:
        searched: validation score of the run that a search sees, [N]; NaN where it failed.
        values: validation scores with the paired seeds, [N, K]; NaN where a run failed.
        outputs: test outputs, [N, K, T, rows, O] or [N, K, rows, O].
    """

    searched: np.ndarray
    values: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True, eq=False)
class Truth:
    """The test rows as `metrics.evaluate` takes them, and the group of each, if it has one."""

    y: np.ndarray
    mask: np.ndarray
    task: np.ndarray | None
    groups: np.ndarray | None
    specs: tuple[TaskSpec, ...]

    @classmethod
    def of(cls, suite: TaskSuite) -> Truth:
        rows = suite.open_test()
        task, groups = (None if part is None else part.numpy() for part in (rows.task, rows.group))
        specs = task_specs(suite.without_test())
        return cls(rows.y.numpy(), rows.mask.numpy(), task, groups, specs)


def make_pool(suite: TaskSuite, arm: Arm, folder: Path, n: int, seeds: int, steps: int) -> Pool:
    """Train what is missing of a pool in `folder`, and read it."""
    folder.mkdir(parents=True, exist_ok=True)
    space = default_space(suite).bind(suite)
    parts = []
    for number in range(n):
        path = folder / f"{arm}-{number}.npz"
        if not path.is_file():
            config = with_batch_size(_draw(space, arm, number), suite)
            paired = [_PAIRED + k for k in range(seeds)]
            searched, _ = _train(suite, config, [_SEARCH + number], steps, steps)
            values, outputs = _train(suite, config, paired, steps, steps, folded=True)
            _keep(path, {"values": np.concatenate([searched, values]), "outputs": outputs})
        parts.append(_read(path))
    values = np.stack([part["values"] for part in parts])
    outputs = np.stack([part["outputs"] for part in parts])
    return Pool(values[:, 0], values[:, 1 : seeds + 1], outputs[:, :seeds])


def real_searches(
    suite: TaskSuite,
    arm: Arm,
    folder: Path,
    n: int,
    *,
    finalists: int,
    seeds: int,
    n_trials: int,
    max_steps: int,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Complete searches of one arm with fresh seeds: validation scores of their finalists (mean
    over the paired seeds) [k], test outputs [k, seed, …], and the scores of all trials."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(n):
        path = folder / f"real-{arm}-{number}.npz"
        if not path.is_file():
            with tempfile.TemporaryDirectory() as home:
                result = autometa.search(
                    suite, n_trials=n_trials, max_steps=max_steps, seed=1000 + number,
                    independent_share=float(arm == "independent"), workers=0, prior="off",
                    diagnose=False, mlflow_tracking_uri="off", home=home, device="cpu",
                )  # fmt: skip
                trials = read_study(Home.find(home), result.study).trials
            done = [t for t in trials if is_eligible(t)]
            best = sorted(done, key=lambda t: -(score_of(t) or 0.0))[:finalists]
            paired = [_PAIRED + 1000 * number + k for k in range(seeds)]
            configs = [TrialConfig.from_flat(t.user_attrs["config"]) for t in best]
            lengths = [int(t.user_attrs[BEST_STEP]) for t in best]
            parts = [
                _train(suite, config, paired, max_steps, length, folded=True)
                for config, length in zip(configs, lengths, strict=True)
            ]
            values, outputs = (np.stack(some) for some in zip(*parts, strict=True))
            scores = np.array([score_of(t) for t in done])
            _keep(path, {"values": values.mean(1), "outputs": outputs, "trials": scores})
        part = _read(path)
        found.append((part["values"], part["outputs"], part["trials"]))
    return found


def planted_suite() -> TaskSuite:
    """A small suite of two related tasks, for a quick look."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = np.stack([x[:, 0] + x[:, 1] ** 2, x[:, 0] - x[:, 2]], 1) + 0.3 * rng.normal(size=(200, 2))
    return TaskSuite.from_arrays(x, y, name="planted")


def _draw(space: Space, arm: Arm, number: int) -> TrialConfig:
    """A configuration drawn at random, as the sampler `random` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
        return TrialConfig.from_flat(space.suggest(study.ask(), arm))


def _train(
    suite: TaskSuite,
    config: TrialConfig,
    seeds: Sequence[int],
    max_steps: int,
    to_step: int,
    folded: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Validation scores [seed] (NaN where a run failed) and test outputs [seed, …].

    Args:
        folded: each seed has a fold of its own, where the finals would give it one.
    """
    fold = fold_numbers(suite.without_test(), len(seeds)) if folded else None
    trainer = Trainer(suite.without_test(), max_steps, torch.device("cpu"), fold=fold)
    runs = [Run(config, seed, None if fold is None else k) for k, seed in enumerate(seeds)]
    results, state = trainer.train(runs, trainer.start(runs), to_step)
    values = np.array([np.nan if one.value is None else one.value for one in results])
    return values, trainer.predict(runs, state, suite.open_test()).astype(np.float32)


def _keep(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a file as a whole, so that a stopped run leaves none that is broken."""
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)  # type: ignore[arg-type]  # or allow_pickle
    part.replace(path)


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {key: file[key] for key in file.files}
