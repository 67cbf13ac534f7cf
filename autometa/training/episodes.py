"""The episodes that K runs are trained on, drawn on the device without work a step on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from autometa.learners import Batch, Episode
from autometa.networks.keys import fold, new_key
from autometa.tasks import EpisodicSuite
from autometa.tasks.drawing import Drawn
from autometa.tasks.episodeset import labelled
from autometa.training.state import Run
from autometa.trial import OptimizerConfig

#: random numbers that are held at once
_NUMBERS = 4_000_000
#: streams of a run's key; none is one that the network draws from (`fold(key, step)`, from 1)
_TASKS, _EPOCHS = -1, -2


class TrainingEpisodes:
    """Rows of meta-train tasks on a device, and the episodes that K runs draw from them.

    A run's episodes are a function of its seed and the epoch. Tasks take turns: a run visits all in
    a new random order before it visits one again, across epochs. Where episodes mix the classes of
    all tasks, every episode draws from all of them.
    """

    def __init__(self, suite: EpisodicSuite, device: torch.device) -> None:
        rows = suite.rows("train")
        self.shape = suite.shape
        self._sampler = suite.sampler(device)
        self._x = rows.x.to(device)
        self._y = rows.y.to(device)
        self._own_units = suite.units is not None
        self._device = device

    def __len__(self) -> int:
        return len(self._x)

    def steps(self, config: OptimizerConfig) -> int:
        """Steps of one epoch: rows / (tasks a step × rows an episode), rounded up."""
        an_episode = self.shape.n_support + self.shape.n_query
        return math.ceil(len(self) / (config.batch_tasks * an_episode))

    def epoch(self, config: OptimizerConfig, runs: Sequence[Run], epoch: int) -> Drawn:
        """The episodes of K runs [step, run, task, …]; a step has `batch_tasks` of them a run."""
        steps, tasks = self.steps(config), config.batch_tasks
        keys = torch.stack([new_key(run.seed) for run in runs]).to(self._device)
        units = self._units(keys, steps * tasks, epoch).view(len(runs), steps, tasks)
        key = fold(fold(keys, _EPOCHS), epoch)
        at_once = max(1, _NUMBERS // (len(runs) * tasks * self._sampler.size))
        parts = []
        for first in range(0, steps, at_once):
            some = units[:, first : first + at_once].transpose(0, 1)
            step = torch.arange(first, first + len(some), device=self._device)
            step_key = fold(key[None], step.to(torch.int32)[:, None])

            def noise(stream: int, *size: int, key: Tensor = step_key) -> Tensor:
                count = tasks * math.prod(size)
                number = torch.arange(count, dtype=torch.int32, device=self._device)
                drawn = fold(fold(key, stream)[..., None], number)
                return drawn.view(*key.shape, tasks, *size)

            parts.append(self._sampler.draw(some, noise))
        return Drawn(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def batch(self, plan: Drawn, step: int) -> Episode:
        """The episodes of one step, each entry with the run as its first dimension."""
        drawn = Drawn(*(part[step] for part in plan))
        y, y_query, _ = labelled(drawn, self.shape, self._y, self._own_units)
        present = torch.ones_like(drawn.support, dtype=torch.bool)
        return Episode(
            Batch(self._x[drawn.support], y, present, drawn.tasks),
            Batch(self._x[drawn.query], y_query, drawn.valid, drawn.tasks),
        )

    def _units(self, keys: Int[Tensor, " run"], n: int, epoch: int) -> Int[Tensor, "run episode"]:
        """Which task each episode of an epoch is of: turns of all tasks, each in a new order."""
        units = self._sampler.units
        if units is None:
            return torch.zeros(len(keys), n, dtype=torch.int64, device=self._device)
        first, n_units = epoch * n, len(units)
        turns = torch.arange(
            first // n_units, (first + n - 1) // n_units + 1, dtype=torch.int32, device=keys.device
        )
        turn_keys = fold(fold(keys, _TASKS)[:, None], turns)
        number = torch.arange(n_units, dtype=torch.int32, device=keys.device)
        order = fold(turn_keys[..., None], number).argsort(-1).flatten(1)
        skip = first % n_units
        return order[:, skip : skip + n]
