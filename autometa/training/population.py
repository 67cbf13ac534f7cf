"""Training of many runs as one, from initialisation to scores; `stack` has the step."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autometa.networks import Problem
from autometa.tasks import EpisodeSet, EpisodicSuite, Rows, TaskSuite
from autometa.training.allocator import keep_freed_memory
from autometa.training.data import TrainingRows
from autometa.training.episodes import TrainingEpisodes
from autometa.training.initial import Initial, draw
from autometa.training.memory import AllocationPeak, RunMemory
from autometa.training.optimizers import OPTIMIZERS
from autometa.training.predicting import predict
from autometa.training.replay import Recordings
from autometa.training.scoring import (
    EpisodeScorer,
    FoldScorer,
    RowScorer,
    Scorer,
    predict_episodes,
    task_specs,
)
from autometa.training.stack import BeforeStep, Stack
from autometa.training.state import Layout, PopulationState, Run, stack_rows
from autometa.trial import build


@dataclass(frozen=True)
class RunResult:
    """What a run reached.

    Attributes:
        step: completed optimizer steps.
        value: score on the validation rows (1 perfect, 0 the training constant); None if failed.
        tasks: task name → its own score there; None where it cannot be judged.
        train_loss: mean objective over the last epoch, or the part of it that was trained last.
        seconds: this run's share of the training time.
        reason: why the run failed; None if it did not.
        cost: what the network costs, where the unit was asked to say so.
    """

    step: int
    value: float | None
    tasks: dict[str, float | None] = field(default_factory=dict)
    train_loss: float | None = None
    seconds: float = 0.0
    reason: str | None = None
    cost: float | None = None


class Trainer:
    """Trains populations on one suite; keeps the suite's rows on the device between calls.

    Args:
        suite: its test rows are never read.
        max_steps: the length that schedules span.
        initial: what runs with `init.kind = earlier` start from.
        fold: of each training and validation row, where every run has a fold.
    """

    def __init__(
        self,
        suite: TaskSuite | EpisodicSuite,
        max_steps: int,
        device: torch.device,
        initial: Initial | None = None,
        fold: Tensor | None = None,
    ) -> None:
        keep_freed_memory()
        self._initial = initial
        self.problem = Problem.of(suite)
        self.max_steps = max_steps
        self._device = device
        self._train: TrainingRows | TrainingEpisodes
        self._scorer: Scorer | None = None
        if isinstance(suite, EpisodicSuite):
            self._train = TrainingEpisodes(suite, device)
            if suite.counts["val"]:
                self._scorer = EpisodeScorer(suite, device)
        elif fold is not None:
            rows = suite.merged().rows("train")
            self._train = TrainingRows(rows, self.problem, device, fold)
            self._scorer = FoldScorer(rows, task_specs(suite), fold)
        else:
            self._train = TrainingRows(suite.rows("train"), self.problem, device)
            if suite.counts["val"]:
                self._scorer = RowScorer(suite.rows("val"), task_specs(suite))
        self._recordings = Recordings()

    def start(self, runs: Sequence[Run]) -> PopulationState:
        """Freshly initialised runs of one shape key, each from its own seed.

        Raises:
            ConfigError: a run is to start from an earlier model, and the trainer has none.
        """
        # each from its own config: runs of one shape key may start differently (`concat`)
        drawn = [draw(run.config, self.problem, run.seed, self._initial) for run in runs]
        if isinstance(self._train, TrainingRows):
            seen = build(runs[0].config, self.problem).fit(self._train.x)
            drawn = [(params, buffers | seen) for params, buffers in drawn]
        rows = [Layout(params).pack(params) for params, _ in drawn]
        values = stack_rows([row[None] for row in rows]).to(self._device)
        kind = OPTIMIZERS[runs[0].config.optimizer.kind]
        return PopulationState(
            values,
            {name: torch.zeros_like(values) for name in kind.slots},
            {
                name: torch.stack([buffers[name] for _, buffers in drawn]).to(self._device)
                for name in drawn[0][1]
            },
            sizes=tuple(map(len, rows)),
        )

    def train(
        self,
        runs: Sequence[Run],
        state: PopulationState,
        to_step: int,
        before_step: BeforeStep | None = None,
        others: Sequence[Run] = (),
    ) -> tuple[list[RunResult], PopulationState]:
        """Train from `state.step` to `to_step` and score on the validation rows.

        Args:
            before_step: watches the training.
            others: runs of the same shape key. They are not trained, but the runs are trained in
                the network of all (`merging`), whose last bits may differ from those of theirs.

        Returns:
            A result for each run, and the state to go on from (`state` is used up).
        """
        started = time.perf_counter()
        state = state.to(self._device)
        stack = self._stack(runs, state, others)
        losses, bad_step = stack.run(to_step, before_step)
        failed = {
            k: f"The training loss became infinite or undefined by step {step}."
            for k, step in enumerate(bad_step)
            if step
        }
        scored = self._score(stack, failed)
        seconds = (time.perf_counter() - started) / len(runs)
        results = []
        for k in range(len(runs)):
            if k in failed:
                results.append(RunResult(to_step, None, seconds=seconds, reason=failed[k]))
                continue
            value, tasks = scored[k]
            results.append(RunResult(to_step, value, tasks, losses[k], seconds))
        return results, stack.state

    def predict(self, runs: Sequence[Run], state: PopulationState, rows: Rows) -> np.ndarray:
        """Outputs for any rows; shapes as in `predicting.predict`."""
        models = self._stack(runs, state.to(self._device)).models()
        return predict(
            models.learner, models.params, models.buffers, rows.x, rows.task, self._device
        )

    def predict_episodes(
        self, runs: Sequence[Run], state: PopulationState, episodes: EpisodeSet
    ) -> np.ndarray:
        """Outputs for the query rows of episodes [run, episode, row, output], after adapting."""
        return predict_episodes(self._stack(runs, state.to(self._device)).models(), episodes)

    def memory(self, runs: Sequence[Run]) -> RunMemory:
        """What each of these runs takes together, from one step and one scoring of the first."""
        with AllocationPeak() as watched:
            stack, plan = self._first_epoch(runs[:1], runs[1:])  # the plan is kept to its end
            stack.step(self._train.batch(plan, 0), 1)
            training = watched.peak
            del plan
            watched.restart()
            self._score(stack, {})
        return RunMemory(training, watched.peak)

    def step_seconds(
        self, runs: Sequence[Run], repeats: int = 2, others: Sequence[Run] = ()
    ) -> float:
        """Seconds of one step of a population of these runs (for the fusing probe); `others` as in
        `train`."""
        stack, plan = self._first_epoch(runs, others)
        batch = self._train.batch(plan, 0)
        times = []
        for number in range(repeats + 1):  # the first is warm-up
            began = time.perf_counter()
            stack.step(batch, number + 1)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times[1:])

    def _stack(
        self, runs: Sequence[Run], state: PopulationState, others: Sequence[Run] = ()
    ) -> Stack:
        rows, recordings = self._train, self._recordings
        return Stack(self.problem, rows, recordings, self.max_steps, runs, state, others)

    def _first_epoch(self, runs: Sequence[Run], others: Sequence[Run] = ()) -> tuple[Stack, Any]:
        """Freshly initialised runs whose steps are not recorded, and the plan of their epoch.

        Args:
            others: runs whose network is theirs, too.
        """
        stack = self._stack(runs, self.start(runs), others)
        stack._last_step = -(10**9)
        return stack, self._train.epoch(stack.optimizer, stack.runs, 0)

    def inference_seconds(
        self, run: Run, state: PopulationState, n_rows: int, repeats: int = 11
    ) -> float:
        """Median seconds to predict `n_rows` validation rows (repeated where there are fewer).

        In episodes they are rows of one task, and adapting to its support rows is in the time.
        """
        if self._scorer is None:
            raise ValueError("There are no validation rows to predict.")
        models = self._stack([run], state.to(self._device)).models()
        predict_rows = self._scorer.ready(models, n_rows)
        times = []
        for _ in range(repeats + 2):  # the first two are warm-up
            began = time.perf_counter()
            predict_rows()  # ends on the CPU: a GPU has finished too
            times.append(time.perf_counter() - began)
        return statistics.median(times[2:])

    def _score(
        self, stack: Stack, failed: dict[int, str]
    ) -> dict[int, tuple[float | None, dict[str, float | None]]]:
        if self._scorer is None:
            return {k: (None, {}) for k in range(len(stack.runs))}
        found = self._scorer.evaluate(stack.models(), stack.runs)
        names = [spec.name for spec in found.specs]
        values, per_task = found.value(), found.task_scores()
        out: dict[int, tuple[float | None, dict[str, float | None]]] = {}
        for k in range(len(stack.runs)):
            if k not in failed and not math.isfinite(values[k]):
                failed[k] = "Predictions on the validation rows are infinite or undefined."
            scores = [float(s) if math.isfinite(s) else None for s in per_task[k]]
            tasks = {name: s for name, s in zip(names, scores, strict=True) if name}
            out[k] = (float(values[k]), tasks)
        return out
