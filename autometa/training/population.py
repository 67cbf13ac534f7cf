"""Training of many runs as one: K runs of one shape key, stacked and stepped together.

The network and the learner are written for one model; here `torch.func.vmap` adds the run
dimension K. Runs share nothing but the kernel launches: each has its own initialisation, order of
rows, dropout masks, rates, gradient clipping and optimizer state, so a run's numbers do not depend
on its neighbours, and a run that diverges leaves them alone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from autometa.learners import Batch, Episode, Learner
from autometa.networks import Problem, Step
from autometa.networks.keys import fold, new_key
from autometa.sharing import Params
from autometa.tasks import EpisodeSet, EpisodicSuite, Rows, TaskSuite
from autometa.training.allocator import keep_freed_memory
from autometa.training.balancing import Balancing, some_runs
from autometa.training.data import TrainingRows
from autometa.training.episodes import TrainingEpisodes
from autometa.training.gradients import Gradients, join
from autometa.training.initial import Initial, draw
from autometa.training.memory import AllocationPeak, RunMemory
from autometa.training.optimizers import OPTIMIZERS, Rates
from autometa.training.predicting import predict
from autometa.training.replay import Recordings
from autometa.training.scoring import (
    EpisodeScorer,
    Models,
    RowScorer,
    Scorer,
    predict_episodes,
    task_specs,
)
from autometa.training.state import Layout, PopulationState, Run
from autometa.trial import build

BeforeStep = Callable[[PopulationState, Sequence[Rates]], None]
"""Called with the state and the rates of the step that comes next; must leave both as they are."""


@dataclass(frozen=True)
class RunResult:
    """What a run reached.

    Attributes:
        epoch: completed epochs.
        value: score on the validation rows (1 perfect, 0 the training constant); None if failed.
        tasks: task name → its own score there; None where it cannot be judged.
        train_loss: mean objective over the last epoch.
        seconds: this run's share of the training time.
        reason: why the run failed; None if it did not.
        cost: what the network costs, where the unit was asked to say so.
    """

    epoch: int
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
        max_epochs: the length that schedules span.
        initial: what runs with `init.kind = earlier` start from.
    """

    def __init__(
        self,
        suite: TaskSuite | EpisodicSuite,
        max_epochs: int,
        device: torch.device,
        initial: Initial | None = None,
    ) -> None:
        keep_freed_memory()
        self._initial = initial
        self.problem = Problem.of(suite)
        self.max_epochs = max_epochs
        self._device = device
        self._train: TrainingRows | TrainingEpisodes
        self._scorer: Scorer | None = None
        if isinstance(suite, EpisodicSuite):
            self._train = TrainingEpisodes(suite, device)
            if suite.counts["val"]:
                self._scorer = EpisodeScorer(suite, device)
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
        layout = Layout(drawn[0][0])
        values = torch.stack([layout.pack(params) for params, _ in drawn]).to(self._device)
        kind = OPTIMIZERS[runs[0].config.optimizer.kind]
        return PopulationState(
            values,
            {name: torch.zeros_like(values) for name in kind.slots},
            {
                name: torch.stack([buffers[name] for _, buffers in drawn]).to(self._device)
                for name in drawn[0][1]
            },
        )

    def train(
        self,
        runs: Sequence[Run],
        state: PopulationState,
        to_epoch: int,
        before_step: BeforeStep | None = None,
    ) -> tuple[list[RunResult], PopulationState]:
        """Train from `state.epoch` to `to_epoch` and score on the validation rows.

        Args:
            before_step: watches the training.

        Returns:
            A result for each run, and the state to go on from (`state` is used up).
        """
        started = time.perf_counter()
        state = state.to(self._device)
        stack = _Stack(self, runs, state)
        losses, bad_epoch = stack.run(to_epoch, before_step)
        failed = {
            k: f"The training loss became infinite or undefined in epoch {epoch}."
            for k, epoch in enumerate(bad_epoch)
            if epoch
        }
        scored = self._score(stack, failed)
        seconds = (time.perf_counter() - started) / len(runs)
        results = []
        for k in range(len(runs)):
            if k in failed:
                results.append(RunResult(to_epoch, None, seconds=seconds, reason=failed[k]))
                continue
            value, tasks = scored[k]
            results.append(RunResult(to_epoch, value, tasks, losses[k], seconds))
        return results, stack.state

    def predict(self, runs: Sequence[Run], state: PopulationState, rows: Rows) -> np.ndarray:
        """Outputs for any rows; shapes as in `predicting.predict`."""
        models = _Stack(self, runs, state.to(self._device)).models()
        return predict(
            models.learner, models.params, models.buffers, rows.x, rows.task, self._device
        )

    def predict_episodes(
        self, runs: Sequence[Run], state: PopulationState, episodes: EpisodeSet
    ) -> np.ndarray:
        """Outputs for the query rows of episodes [run, episode, row, output], after adapting."""
        return predict_episodes(_Stack(self, runs, state.to(self._device)).models(), episodes)

    def memory(self, run: Run) -> RunMemory:
        """What a run of this shape takes, from one step and one scoring of it."""
        with AllocationPeak() as watched:
            stack, plan = self._first_epoch([run])  # an epoch's plan is kept until its end
            stack.step(self._train.batch(plan, 0), 1)
            training = watched.peak
            del plan
            watched.restart()
            self._score(stack, {})
        return RunMemory(training, watched.peak)

    def step_seconds(self, runs: Sequence[Run], repeats: int = 3) -> float:
        """Seconds of one step of a population of these runs (for the fusing probe)."""
        stack, plan = self._first_epoch(runs)
        batch = self._train.batch(plan, 0)
        times = []
        for number in range(repeats + 1):  # the first is warm-up
            began = time.perf_counter()
            stack.step(batch, number + 1)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times[1:])

    def _first_epoch(self, runs: Sequence[Run]) -> tuple[_Stack, Any]:
        """Freshly initialised runs whose steps are not recorded, and the plan of their epoch."""
        stack = _Stack(self, runs, self.start(runs))
        stack._last_step = -(10**9)
        return stack, self._train.epoch(stack.optimizer, stack.seeds, 0)

    def inference_seconds(
        self, run: Run, state: PopulationState, n_rows: int, repeats: int = 11
    ) -> float:
        """Median seconds to predict `n_rows` validation rows (repeated where there are fewer).

        In episodes they are rows of one task, and adapting to its support rows is in the time.
        """
        if self._scorer is None:
            raise ValueError("There are no validation rows to predict.")
        models = _Stack(self, [run], state.to(self._device)).models()
        predict_rows = self._scorer.ready(models, n_rows)
        times = []
        for _ in range(repeats + 2):  # the first two are warm-up
            began = time.perf_counter()
            predict_rows()  # ends on the CPU: a GPU has finished too
            times.append(time.perf_counter() - began)
        return statistics.median(times[2:])

    def _score(
        self, stack: _Stack, failed: dict[int, str]
    ) -> dict[int, tuple[float | None, dict[str, float | None]]]:
        if self._scorer is None:
            return {k: (None, {}) for k in range(len(stack.runs))}
        found = self._scorer.evaluate(stack.models())
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


def _gradients_of(losses: Tensor, leaves: Params) -> Sequence[Tensor]:
    """Of every leaf; 0 for what a learner does not train with this batch."""
    return torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)


class _Stack:
    """One population in motion: the stacked step and its state."""

    def __init__(self, trainer: Trainer, runs: Sequence[Run], state: PopulationState) -> None:
        config = runs[0].config
        self.runs = runs
        self.state = state
        self.seeds = [run.seed for run in runs]
        self.optimizer = config.optimizer
        self._trainer = trainer
        self._device = state.values.device
        self._learner: Learner = build(config, trainer.problem)
        self._layout = Layout(self._learner.init(torch.Generator().manual_seed(0))[0])
        self._update = OPTIMIZERS[config.optimizer.kind]()
        self._keys = torch.stack([new_key(seed) for seed in self.seeds]).to(self._device)
        self._leaves = {
            name: leaf.detach().requires_grad_()
            for name, leaf in self._layout.unpack(state.values).items()
        }
        clip = [run.config.optimizer.clip for run in runs]
        self._clip = torch.tensor(clip, device=self._device)[:, None]
        self._rates = self._run_rates()
        self._balancing = Balancing(self._learner, runs, self._leaves)
        steps = trainer._train.steps(self.optimizer)
        self._total_steps = steps * trainer.max_epochs
        self._steps = steps
        self._shape = config.shape_key()
        self._last_step = 0

    def run(
        self, to_epoch: int, before_step: BeforeStep | None = None
    ) -> tuple[list[float], list[int]]:
        """Train to `to_epoch`.

        Returns:
            Mean loss over the last epoch of each run, and the first epoch in which its loss was
            not finite (0 if none).
        """
        rows, state = self._trainer._train, self.state
        bad = torch.zeros(len(self.runs), dtype=torch.int64, device=self._device)
        mean = torch.full((len(self.runs),), math.nan, device=self._device)
        self._last_step = self._steps * to_epoch
        while state.epoch < to_epoch:
            plan: Any = rows.epoch(self.optimizer, self.seeds, state.epoch)
            total = torch.zeros(len(self.runs), device=self._device)
            for number in range(self._steps):
                if before_step is not None:
                    before_step(state, self._at(state.step + 1))
                total += self.step(rows.batch(plan, number), state.step + 1)
                state.step += 1
            state.epoch += 1
            state.buffers = self._balancing.after_epoch(state.buffers)
            mean = total / self._steps
            bad = torch.where((bad == 0) & ~torch.isfinite(mean), state.epoch, bad)
        return mean.tolist(), bad.tolist()

    def step(self, batch: Batch | Episode, step: int) -> Tensor:
        """One update of every run on its own batch; returns their losses [run]."""
        drawn = self._rates or self._balancing.draws
        keys = fold(self._keys, step) if drawn else self._keys
        parts = [self._gradients(batch, keys, part) for part in self._balancing.parts(batch)]
        with torch.no_grad():
            losses, task_losses, packed, buffers = parts[0] if len(parts) == 1 else join(parts)
            norm = torch.linalg.vector_norm(packed, dim=1, keepdim=True)
            packed.mul_((self._clip / (norm + 1e-6)).clamp(max=1.0))
            self._update.update(
                self.state.values,
                packed,
                self.state.slots,
                self._at(step),
                self._layout.segments,
                step,
            )
            every = self._learner.update_every
            if every and step % every == 0:
                leaves = self._layout.unpack(self.state.values)
                buffers = vmap(self._learner.after_step)(leaves, buffers)
            after = task_losses
            if self._balancing.looks_back:
                leaves = self._layout.unpack(self.state.values)
                _, after, _ = self._losses(leaves, self.state.buffers, batch, keys, self._rates)
            self.state.buffers = self._balancing.after_step(
                buffers, task_losses, after, batch, keys, self._rates
            )
        return losses

    def _gradients(self, batch: Batch | Episode, keys: Tensor, part: slice) -> Gradients:
        """Losses and balanced gradients of some of the runs."""
        leaves, buffers, rates = self._leaves, self.state.buffers, self._rates
        if part != slice(0, len(self.runs)):
            leaves = {name: leaf[part].detach().requires_grad_() for name, leaf in leaves.items()}
            buffers = {name: buffer[part] for name, buffer in buffers.items()}
            rates = {name: rate[part] for name, rate in rates.items()}
            batch, keys = some_runs(batch, part), keys[part]
        if self._balancing.weighs_gradients:
            losses, task_losses, buffers = self._losses(leaves, buffers, batch, keys, rates)
            changes, buffers = self._balancing.changes(
                task_losses, leaves, buffers, batch, keys, part
            )
            found = _gradients_of(losses, leaves)
            grads = dict(zip(leaves, found, strict=True))
            grads |= {name: grads[name] + change for name, change in changes.items()}
            packed = self._layout.pack(grads)
            return Gradients(losses.detach(), task_losses.detach(), packed, buffers)
        return self._plain_gradients(leaves, buffers, batch, keys, rates)

    def _plain_gradients(
        self,
        leaves: Params,
        buffers: Params,
        batch: Batch | Episode,
        keys: Tensor,
        rates: dict[str, Tensor],
    ) -> Gradients:
        """The gradients as they are: one function of tensors, which is recorded and replayed."""
        own = (leaves, buffers, rates)
        parts = tuple(batch) if isinstance(batch, Episode) else (batch,)
        inputs = [value for part in own for value in part.values()]
        inputs += [keys, *(rows for part in parts for rows in part)]

        def gradients(*values: Tensor) -> list[Tensor]:
            left = iter(values)
            leaves, buffers, rates = ({name: next(left) for name in part} for part in own)
            keys = next(left)
            rows = [Batch(*(next(left) for _ in part)) for part in parts]
            batch = Episode(*rows) if len(rows) == 2 else rows[0]
            leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
            losses, task_losses, after = self._losses(leaves, buffers, batch, keys, rates)
            found = _gradients_of(losses, leaves)
            packed = self._layout.pack(dict(zip(leaves, found, strict=True)))
            kept = [after[name] for name in buffers]
            return [losses.detach(), task_losses.detach(), packed, *kept]

        more = self._last_step - self.state.step - 1
        losses, task_losses, packed, *after = self._trainer._recordings.call(
            (self._shape, len(parts), *rates), gradients, inputs, more
        )
        return Gradients(losses, task_losses, packed, dict(zip(buffers, after, strict=True)))

    def models(self) -> Models:
        """The runs as they are now."""
        params = self._layout.unpack(self.state.values)
        rates = self._rates
        return Models(self._learner, params, self.state.buffers, rates, self._device)

    def _losses(
        self,
        leaves: Params,
        buffers: Params,
        batch: Batch | Episode,
        keys: Tensor,
        rates: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor, Params]:
        """Objectives [run], losses of tasks [run, task], buffers after the pass."""

        def one(
            params: Params,
            buffers: Params,
            rows: Batch | Episode,
            key: Tensor,
            rates: dict[str, Tensor],
        ) -> tuple[Tensor, Tensor, Params]:
            step = Step(True, key, rates)
            support, query = rows if isinstance(rows, Episode) else (rows, rows)
            phi = self._learner.adapt(params, buffers, support, step)
            return self._learner.loss(phi, buffers, query, step)

        on_cuda = self._device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16, enabled=on_cuda):
            out: tuple[Tensor, Tensor, Params] = vmap(one)(leaves, buffers, batch, keys, rates)
        return out

    def _at(self, step: int) -> list[Rates]:
        """The rates of one step (counted from 1) under each run's schedule."""
        fraction = min(1.0, (step - 1) / self._total_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * fraction))
        found = []
        for run in self.runs:
            o, sharing = run.config.optimizer, run.config.sharing
            lr = o.lr * (cosine if o.schedule == "cosine" else 1.0)
            mixing = getattr(sharing, "mixing_lr", 1.0)
            found.append(Rates(lr, o.weight_decay, o.momentum, mixing))
        return found

    def _run_rates(self) -> dict[str, Tensor]:
        rates = [run.config.rates() for run in self.runs]
        names = [n for n in rates[0] if n != "dropout" or any(r["dropout"] for r in rates)]
        return {name: torch.tensor([r[name] for r in rates], device=self._device) for name in names}
