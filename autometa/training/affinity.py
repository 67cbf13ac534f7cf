"""How the tasks' gradients relate while a network trains, measured on training rows only.

Two questions, asked at a few steps of every span of its training: do two tasks pull the shared
parameters the same way (cosine), and what does a step for one task do to the loss of another
(affinity; Fifty et al. 2021, "Efficiently Identifying Task Groupings", arXiv:2109.04617)? Measuring
has batches of its own, which hold rows of every task, since a step of a grouped suite holds a few
tasks only. It changes nothing in the training it watches.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from autometa.balancing import BALANCING
from autometa.errors import ConfigError, UserError
from autometa.learners import Batch
from autometa.networks import Problem, Step
from autometa.sharing import Params
from autometa.tasks import Rows, TaskSuite
from autometa.training.gradients import task_gradients
from autometa.training.initial import Initial
from autometa.training.optimizers import Rates
from autometa.training.population import Trainer
from autometa.training.state import Layout, PopulationState, Run
from autometa.trial import TrialConfig, build, check

#: labelled rows of each task in a measuring batch: at most so many …
ROWS = 32
#: … at most so many of all tasks, as each is seen from T lookahead points …
_ALL_ROWS = 2048
#: … but at least so many of each
_LEAST_ROWS = 8
#: largest number of activations [lookahead point × task × row] in one pass
_CELLS = 8_000

_NETWORK = {"backbone.width": 64, "sharing.kind": "hard", "optimizer.batch_size": 64}
#: one output layer and a bias for each task
_ONE_HEAD = {
    "head": "single_head",
    "conditioning.kind": "additive",
    "conditioning.at": "head",
}


@dataclass(frozen=True, eq=False)
class Affinity:
    """What was measured. T tasks, S spans of equal length; NaN where it is undefined.

    Attributes:
        tasks: their names.
        steps: optimizer steps done at the end of each span.
        cosine: [span, task, task], mean over the span's measured steps of the cosine between two
            tasks' gradients of the shared parameters; undefined where a gradient is zero.
        affinity: [task, task], Z[i, j] = mean over the measured steps of 1 − Lⱼ(θ|ᵢ)/Lⱼ(θ), where
            θ|ᵢ has shared parameters θ − η∇Lᵢ and all others as they are: positive where a step
            for i helps j. η is the run's learning rate at that step, its schedule included, and
            the step is plain gradient descent whatever the optimizer, so Z grows with the
            learning rate: compare its entries with each other, not across configurations.
        loss: [span, task], mean training loss at the measured steps, without dropout.
    """

    tasks: tuple[str, ...]
    steps: tuple[int, ...]
    cosine: Float[np.ndarray, "span task task"]
    affinity: Float[np.ndarray, "task task"]
    loss: Float[np.ndarray, "span task"]

    def to_json(self) -> dict[str, Any]:
        """Plain lists; None for NaN."""
        return {
            "tasks": list(self.tasks),
            "steps": list(self.steps),
            "cosine": _plain(self.cosine.tolist()),
            "affinity": _plain(self.affinity.tolist()),
            "loss": _plain(self.loss.tolist()),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Affinity:
        """The inverse of `to_json`."""
        arrays = {k: np.array(data[k], dtype=float) for k in ("cosine", "affinity", "loss")}
        return cls(tuple(data["tasks"]), tuple(data["steps"]), **arrays)


def task_affinity(
    suite: TaskSuite,
    config: TrialConfig,
    *,
    max_steps: int,
    seed: int = 0,
    spans: int = 9,
    per_span: int = 4,
    lookahead: bool = True,
    device: torch.device,
    initial: Initial | None = None,
) -> Affinity:
    """Train one run and measure at `per_span` evenly spaced steps of each of `spans` equal parts of
    its training (at all steps where there are fewer).

    Args:
        suite: its validation and test rows are not read.
        max_steps: length of the training, which the learning rate's schedule spans.
        seed: of the run and of the measuring batches.
        lookahead: whether to measure `affinity`, whose cost grows with T² and is most of the cost
            of many tasks; it is NaN if not.
        initial: what it starts from with `init.kind = earlier`.

    Raises:
        ConfigError: tasks share no parameter under `config`.
        UserError: the run diverged.
    """
    only = _training_rows_only(suite)
    trainer = Trainer(only, max_steps, device, initial)
    places = _places(max_steps, spans, per_span)
    probe = _Probe(only.rows("train"), trainer.problem, config, seed, places, lookahead, device)
    runs = [Run(config, seed)]
    (result,), _ = trainer.train(runs, trainer.start(runs), max_steps, before_step=probe)
    if result.reason is not None:
        raise UserError(f"{result.reason} Lower `optimizer.lr` (now {config.optimizer.lr:g}).")
    return probe.found(suite.task_names)


def shared_trunk(suite: TaskSuite) -> TrialConfig:
    """A small network to watch gradients in: one trunk, and one head where all tasks can share it
    and each has rows of its own."""
    problem = Problem.of(suite)
    network = dict(_NETWORK)
    if suite.is_image:
        network |= {"backbone.kind": "conv", "backbone.width": 16}
    if problem.layout == "grouped":
        config = TrialConfig.from_flat({**network, **_ONE_HEAD})
        try:
            check(config, problem)
        except ConfigError:
            pass
        else:
            return config
    return TrialConfig.from_flat(network)


def _places(max_steps: int, spans: int, per_span: int) -> dict[int, list[int]]:
    """Last step of each span → the steps before which it is measured, counted from 0."""
    spans = min(spans, max_steps)
    ends = [max_steps * k // spans for k in range(spans + 1)]
    return {
        end: [start + (end - start) * k // per_span for k in range(per_span)]
        if end - start > per_span
        else list(range(start, end))
        for start, end in itertools.pairwise(ends)
    }


class _Probe:
    """Called before every step; measures at some of them."""

    def __init__(
        self,
        rows: Rows,
        problem: Problem,
        config: TrialConfig,
        seed: int,
        places: Mapping[int, Sequence[int]],
        lookahead: bool,
        device: torch.device,
    ) -> None:
        self._rows, self._grouped = rows, problem.layout == "grouped"
        self._n_tasks = problem.n_tasks
        self._size = max(_LEAST_ROWS, min(ROWS, _ALL_ROWS // problem.n_tasks))
        trained = build(config, problem)
        leaves, _ = trained.init(torch.Generator().manual_seed(0))
        self._layout = Layout(leaves)
        roles = trained.roles()
        # tasks' losses do not depend on how they are balanced, which may need what is not here
        plain = config.model_copy(update={"balancing": BALANCING["equal"].Config()})
        self._learner = build(plain, problem)
        shared = {name: leaf for name, leaf in leaves.items() if roles[name] == "shared"}
        if not shared:
            kind = config.flat()["sharing.kind"]
            raise ConfigError(
                "Parameter `sharing.kind` should be one under which tasks have parameters in "
                f"common, such as `hard` with `sharing.split_at` above 0. Found `sharing.kind = "
                f"{kind}`."
            )
        self._shared = Layout(shared)
        self._ends = tuple(places)
        self._at = {step: span for span, steps in enumerate(places.values()) for step in steps}
        self._step = Step(
            rates={n: torch.tensor(v, device=device) for n, v in config.rates().items()}
        )
        self._lookahead = lookahead
        self._device = device
        self._generator = torch.Generator().manual_seed(seed)
        self._cosine: list[list[Tensor]] = [[] for _ in places]
        self._affinity: list[Tensor] = []
        self._loss: list[list[Tensor]] = [[] for _ in places]

    def __call__(self, state: PopulationState, rates: Sequence[Rates]) -> None:
        if state.step not in self._at:
            return
        span = self._at[state.step]
        params = self._layout.unpack(state.values[0].detach().clone())
        buffers = {name: buffer[0] for name, buffer in state.buffers.items()}
        cosine, affinity, loss = self.measure(params, buffers, self.batch(), rates[0].lr)
        self._cosine[span].append(cosine)
        self._loss[span].append(loss)
        self._affinity.append(affinity)

    def found(self, tasks: tuple[str, ...]) -> Affinity:
        """The means of what was measured, undefined entries left out."""
        per_span = [
            [torch.stack(span).nanmean(0) for span in parts] for parts in (self._cosine, self._loss)
        ]
        cosine, loss = (torch.stack(parts).double().cpu().numpy() for parts in per_span)
        affinity = torch.stack(self._affinity).nanmean(0).double().cpu().numpy()
        return Affinity(tasks, self._ends, cosine, affinity, loss)

    def batch(self) -> Batch:
        """Some labelled rows of every task, drawn anew; more rows where targets are sparse."""
        rows, n_rows = self._rows, len(self._rows.x)
        noise = torch.rand(n_rows, generator=self._generator, dtype=torch.float64)
        tasks = torch.arange(self._n_tasks)
        if rows.task is None:
            order = noise.argsort()
            labelled = rows.mask[order]
            first = labelled & (labelled.cumsum(0) <= self._size)
            at = order[first.any(1)]
            parts = rows.x[at], rows.y[at].T, rows.mask[at].T, tasks
        else:
            order = torch.argsort(rows.task + noise)
            count = torch.bincount(rows.task, minlength=self._n_tasks)
            within = torch.arange(min(self._size, int(count.max())))
            start = (count.cumsum(0) - count)[:, None]
            at = order[start + torch.minimum(within, (count - 1)[:, None])]
            parts = rows.x[at], rows.y[at], rows.mask[at] & (within < count[:, None]), tasks
        return Batch(*(part.to(self._device) for part in parts))

    def measure(
        self, params: Params, buffers: Params, batch: Batch, rate: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines [task, task], 1 − Lⱼ(θ|ᵢ)/Lⱼ(θ) at [i, j], and losses [task] of one batch."""
        shared = {name: params[name] for name in self._shared.shapes}
        others = {name: leaf for name, leaf in params.items() if name not in shared}

        def losses(leaves: Params, rows: Batch) -> Tensor:
            phi = self._learner.adapt({**others, **leaves}, buffers, rows, self._step)
            _, found, _ = self._learner.loss(phi, buffers, rows, self._step)
            return torch.where(rows.mask.any(1), found, math.nan)

        grads, loss = self._gradients(losses, shared, batch)
        unit = grads / torch.linalg.vector_norm(grads, dim=1, keepdim=True)
        seen = torch.linalg.vector_norm(grads, dim=1) > 0
        undefined = ~(seen[:, None] & seen[None])
        cosine = (unit @ unit.T).clamp(-1.0, 1.0).masked_fill(undefined, math.nan)

        if not self._lookahead:
            return cosine, torch.full_like(cosine, math.nan), loss
        with torch.no_grad():
            start = self._shared.pack(shared)
            size = max(1, _CELLS // batch.y.numel())
            ahead = vmap(losses, in_dims=(0, None))
            after = [ahead(self._shared.unpack(start - rate * g), batch) for g in grads.split(size)]
            change = 1.0 - torch.cat(after) / torch.where(loss > 0, loss, math.nan)
            change[loss.isnan()] = math.nan
        return cosine, change, loss

    def _gradients(self, losses: Any, shared: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        """∇Lₜ of the shared parameters [task, parameter], and the losses [task].

        Aligned, a backward pass a task: all have the same rows. Grouped, one pass in all: each task
        sees its rows only, through a copy of the shared parameters of its own.
        """
        copies = self._n_tasks if self._grouped else 1
        leaves = {
            name: leaf.expand(copies, *leaf.shape).clone().requires_grad_()
            for name, leaf in shared.items()
        }
        slots = Batch(*(part[:, None] if self._grouped else part[None] for part in batch))
        found = vmap(losses)(leaves, slots)  # [copy, task]: one task a copy, or all in one
        defined = torch.where(found.isnan(), torch.zeros_like(found), found)
        grads = task_gradients(defined, list(leaves.values()))
        return grads.flatten(0, 1), found.detach().flatten()


def _training_rows_only(suite: TaskSuite) -> TaskSuite:
    rows = suite.rows("train")
    return dataclasses.replace(
        suite,
        x=rows.x,
        y=rows.y,
        mask=rows.mask,
        task=rows.task,
        split=torch.zeros(len(rows.x), dtype=suite.split.dtype),
        _test=None,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value if math.isfinite(value) else None
