"""K runs of one shape key in motion: the stacked step.

The network and the learner are written for one model; here `torch.func.vmap` adds the run
dimension K. Runs share nothing but the kernel launches: each has its own initialisation, order of
rows, dropout masks, rates, gradient clipping and optimizer state, so a run's numbers do not depend
on its neighbours, and a run that diverges leaves them alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from autometa.learners import Batch, Episode, Learner
from autometa.networks import Problem, Step
from autometa.networks.keys import fold, new_key
from autometa.sharing import Params
from autometa.training.balancing import Balancing, some_runs
from autometa.training.data import TrainingRows
from autometa.training.episodes import TrainingEpisodes
from autometa.training.gradients import Gradients, join
from autometa.training.merging import Merged
from autometa.training.optimizers import OPTIMIZERS, Optimizer, Rates
from autometa.training.replay import Recordings
from autometa.training.scoring import Models
from autometa.training.state import PopulationState, Run

BeforeStep = Callable[[PopulationState, Sequence[Rates]], None]
"""Called with the state and the rates of the step that comes next; must leave both as they are."""


def _gradients_of(losses: Tensor, leaves: Params) -> Sequence[Tensor]:
    """Of every leaf; 0 for what a learner does not train with this batch."""
    return torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)


def _turned(name: str, leaf: Tensor) -> Tensor:
    """A leaf as it lies in memory, or one from there as it is: matrices [out, in] lie transposed.

    So the gradient of a matrix, which a backward pass computes as [in, out], needs no copy.
    """
    return leaf.mT if name.endswith(".weight") and leaf.ndim in (3, 4) else leaf


def _stored(grads: Params) -> Params:
    """Gradients of leaves [run, …] as the leaves lie in memory."""
    return {name: _turned(name, grad).contiguous() for name, grad in grads.items()}


class Stack:
    """One population in motion: the stacked step and its state.

    `state` has the parameters that it started from until `run` puts those of its end there.

    Args:
        rows: what its steps are made of.
        recordings: those of the process.
        max_steps: the length that schedules span.
        others: runs whose network is to be theirs, too.
    """

    def __init__(
        self,
        problem: Problem,
        rows: TrainingRows | TrainingEpisodes,
        recordings: Recordings,
        max_steps: int,
        runs: Sequence[Run],
        state: PopulationState,
        others: Sequence[Run] = (),
    ) -> None:
        config = runs[0].config
        self.runs = runs
        self.state = state
        self.optimizer = config.optimizer
        self._train = rows
        self._recordings = recordings
        self._device = state.values.device
        self._merged = Merged(runs, problem, self._device, others)
        self._learner: Learner = self._merged.learner
        self._keys = torch.stack([new_key(run.seed) for run in runs]).to(self._device)
        self._memory = self._taken(state.values)
        self._slots = {slot: self._taken(rows) for slot, rows in state.slots.items()}
        self._now = {name: _turned(name, leaf) for name, leaf in self._memory.items()}
        self._leaves = {n: leaf.detach().requires_grad_() for n, leaf in self._now.items()}
        clip = [run.config.optimizer.clip for run in runs]
        self._clip = torch.tensor(clip, device=self._device)
        self._rates = self._run_rates()
        self._balancing = Balancing(self._learner, runs, self._leaves)
        self._total_steps = max_steps
        self._steps = rows.steps(self.optimizer)
        self._shape = self._merged.graph
        self._last_step = 0

    def run(
        self, to_step: int, before_step: BeforeStep | None = None
    ) -> tuple[list[float], list[int]]:
        """Train until `to_step` steps are done, which may be in the middle of an epoch.

        An epoch's plan is a function of its number, so training that goes on from the middle of
        one takes the batches that it would have taken without a stop.

        Returns:
            Mean loss of each run over its last epoch (over the steps of it that were taken here),
            and the number of steps at the end of the first such stretch in which its loss was not
            finite (0 if none).
        """
        rows, state = self._train, self.state
        bad = torch.zeros(len(self.runs), dtype=torch.int64, device=self._device)
        mean = torch.full((len(self.runs),), math.nan, device=self._device)
        self._last_step = to_step
        while state.step < to_step:
            epoch, first = divmod(state.step, self._steps)
            last = min(self._steps, first + to_step - state.step)
            plan: Any = rows.epoch(self.optimizer, self.runs, epoch)
            total = torch.zeros(len(self.runs), device=self._device)
            for number in range(first, last):
                if before_step is not None:
                    self._put_back()
                    before_step(state, self._at(state.step + 1))
                total += self.step(rows.batch(plan, number), state.step + 1)
                state.step += 1
            if last == self._steps:
                state.buffers = self._balancing.after_epoch(state.buffers)
            mean = total / (last - first)
            bad = torch.where((bad == 0) & ~torch.isfinite(mean), state.step, bad)
        self._put_back()
        return mean.tolist(), bad.tolist()

    def step(self, batch: Batch | Episode, step: int) -> Tensor:
        """One update of every run on its own batch; returns their losses [run]."""
        drawn = self._rates or self._balancing.draws
        keys = fold(self._keys, step) if drawn else self._keys
        parts = [self._gradients(batch, keys, part) for part in self._balancing.parts(batch)]
        with torch.no_grad():
            losses, task_losses, grads, buffers = parts[0] if len(parts) == 1 else join(parts)
            self._merged.tie(grads)
            norm = self._merged.norms(grads)
            clipped = (self._clip / (norm + 1e-6)).clamp(max=1.0)
            for grad in grads.values():
                grad.mul_(clipped.view(-1, *[1] * (grad.ndim - 1)))
            self._update.step(grads, self._at(step), step)
            every = self._learner.update_every
            if every and step % every == 0:
                buffers = vmap(self._learner.after_step)(self._now, buffers)
            after = task_losses
            if self._balancing.looks_back:
                _, after, _ = self._losses(self._now, self.state.buffers, batch, keys, self._rates)
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
            return Gradients(losses.detach(), task_losses.detach(), _stored(grads), buffers)
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
            grads = _stored(dict(zip(leaves, found, strict=True)))
            kept = [after[name] for name in buffers]
            return [losses.detach(), task_losses.detach(), *grads.values(), *kept]

        more = self._last_step - self.state.step - 1
        losses, task_losses, *found = self._recordings.call(
            (self._shape, len(parts), *rates), gradients, inputs, more
        )
        grads = dict(zip(leaves, found[: len(leaves)], strict=True))
        after = dict(zip(buffers, found[len(leaves) :], strict=True))
        return Gradients(losses, task_losses, grads, after)

    def models(self) -> Models:
        """The runs as they are now."""
        return Models(self._learner, self._now, self.state.buffers, self._rates, self._device)

    @cached_property
    def _update(self) -> Optimizer:
        return OPTIMIZERS[self.optimizer.kind](self._memory, self._slots, self._merged.absent)

    def _taken(self, rows: Tensor) -> Params:
        """Leaves of rows [run, P], each [run, …] in memory of its own, as the optimizer has it."""
        leaves = self._merged.leaves(rows)
        return {name: _turned(name, leaf).contiguous() for name, leaf in leaves.items()}

    def _put_back(self) -> None:
        """The state as it is now, for those who see it."""
        self.state.values = self._rows(self._memory)
        self.state.slots = {slot: self._rows(leaves) for slot, leaves in self._slots.items()}

    def _rows(self, leaves: Params) -> Tensor:
        return self._merged.rows({name: _turned(name, leaf) for name, leaf in leaves.items()})

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
        found = {name: [r[name] for r in rates] for name in names} | self._merged.rates
        return {name: torch.tensor(own, device=self._device) for name, own in found.items()}
