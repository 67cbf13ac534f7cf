"""Scores of K stacked runs on validation rows, or on fixed episodes of held-out tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from autometa.learners import Batch, Learner
from autometa.metrics import Evaluation, TaskSpec, evaluate, fit_specs
from autometa.networks import Step
from autometa.sharing import Params
from autometa.tasks import EpisodeSet, EpisodicSuite, Rows, TaskSuite
from autometa.training.predicting import predict
from autometa.training.state import Run

#: largest number of activations and task parameters in one pass
_NUMBERS = 50_000_000
#: copies of a task's parameters and activations that adapting holds at once, about
_COPIES = 4


class Models(NamedTuple):
    """K stacked runs as they are evaluated.

    Attributes:
        params, buffers: leaves [run, …].
        rates: the runs' own numbers, [run].
    """

    learner: Learner
    params: Params
    buffers: Params
    rates: dict[str, Tensor]
    device: torch.device

    @property
    def n_runs(self) -> int:
        return len(next(iter(self.params.values())))


class Scorer(Protocol):
    """What the trainer asks of validation data."""

    def evaluate(self, models: Models, runs: Sequence[Run]) -> Evaluation:
        """Sufficient statistics of every run, task by task."""

    def ready(self, models: Models, n_rows: int) -> Callable[[], object]:
        """What predicting that many rows takes, to be called and timed."""


class RowScorer:
    """Scores on the validation rows of a suite.

    Args:
        specs: its tasks.
    """

    def __init__(self, rows: Rows, specs: tuple[TaskSpec, ...]) -> None:
        self._rows = rows
        self._specs = specs

    def evaluate(self, models: Models, runs: Sequence[Run]) -> Evaluation:
        return self._judge(self._predict(models, self._rows), self._rows)

    def _judge(self, outputs: np.ndarray, rows: Rows) -> Evaluation:
        return evaluate(
            outputs,
            rows.y.numpy(),
            self._specs,
            mask=rows.mask.numpy(),
            task=None if rows.task is None else rows.task.numpy(),
        )

    def ready(self, models: Models, n_rows: int) -> Callable[[], object]:
        at = torch.arange(n_rows) % len(self._rows.x)
        task = None if self._rows.task is None else self._rows.task[at]
        rows = self._rows._replace(x=self._rows.x[at], task=task)
        return lambda: self._predict(models, rows)

    def _predict(self, models: Models, rows: Rows) -> np.ndarray:
        learner, params, buffers, _, device = models
        return predict(learner, params, buffers, rows.x, rows.task, device)


class FoldScorer(RowScorer):
    """Scores each run on the fold that it was not trained on.

    Args:
        rows: training and validation rows.
        fold: of each of them.
    """

    def __init__(self, rows: Rows, specs: tuple[TaskSpec, ...], fold: Int[Tensor, " row"]) -> None:
        super().__init__(rows, specs)
        self._fold = fold

    def evaluate(self, models: Models, runs: Sequence[Run]) -> Evaluation:
        outputs = self._predict(models, self._rows)
        at = 1 if self._rows.task is not None else 2  # [run, row, output], [run, task, row, output]
        found = []
        for k, run in enumerate(runs):
            mine = torch.nonzero(self._fold.eq(run.fold or 0)).squeeze(1)
            own = np.take(outputs[k : k + 1], mine.numpy(), axis=at)
            found.append(self._judge(own, self._rows.take(mine)))
        specs = found[0].specs
        return Evaluation(
            specs,
            np.concatenate([one.error for one in found]),
            np.stack([one.constant_error for one in found]),
            np.stack([one.n for one in found]),
        )


class EpisodeScorer:
    """Scores on fixed episodes of meta-validation tasks, the same for all runs."""

    def __init__(self, suite: EpisodicSuite, device: torch.device) -> None:
        self._episodes = suite.episodes("val").to(device)

    def evaluate(self, models: Models, runs: Sequence[Run]) -> Evaluation:
        found = evaluate_episodes(predict_episodes(models, self._episodes), self._episodes)
        return by_task(found)

    def ready(self, models: Models, n_rows: int) -> Callable[[], object]:
        """Of one episode: adapting to its support rows and predicting."""
        one = self._episodes[:1]
        at = torch.arange(n_rows, device=models.device) % one.query.rows.shape[1]
        rows, y, mask = (part[:, at] for part in (one.query.rows, one.query.y, one.query.mask))
        some = replace(one, query=replace(one.query, rows=rows, y=y, mask=mask))
        return lambda: predict_episodes(models, some)


def predict_episodes(
    models: Models, episodes: EpisodeSet
) -> Float[np.ndarray, "run episode row output"]:
    """Outputs for the query rows after adapting to the support rows, as many at once as fit.

    `learner.adapt` is given the runs' own rates and `Step.train` False. Outputs of masked rows have
    no meaning.
    """
    learner, params, buffers, rates, device = models

    def one(p: Params, b: Params, support: Batch, x: Tensor, own: dict[str, Tensor]) -> Tensor:
        phi = learner.adapt(p, b, support, Step(False, None, own))
        return learner.predict(phi, b, x, support.tasks)

    stacked = vmap(one, in_dims=(0, 0, None, None, 0))
    rows = episodes.support.rows.shape[1] + episodes.query.rows.shape[1]
    numbers = sum(leaf[0].numel() for leaf in params.values())
    an_episode = models.n_runs * _COPIES * (rows * learner.row_size + numbers)
    size = max(1, _NUMBERS // an_episode)
    episodes = episodes.to(device)
    parts = []
    with torch.no_grad():
        for first in range(0, len(episodes), size):
            some = episodes[first : first + size]
            support = Batch(some.support.x, some.support.y, some.support.mask, some.tasks)
            found = stacked(params, buffers, support, some.query.x, rates)
            parts.append(found.float().cpu())
    return torch.cat(parts, 1).numpy()


def evaluate_episodes(
    pred: Float[np.ndarray, "*runs episode row output"], episodes: EpisodeSet
) -> Evaluation:
    """Sufficient statistics of every episode, under the name of its task.

    E and E0 are those of `metrics`, of each episode; pairs of `auc` are within an episode. The
    constant of N classes is chance, that of a target with a unit of its own is the mean of the
    support rows, and errors are then weighed with the squared unit, so that an episode whose
    support rows are close together does not weigh more than others.
    """
    y = episodes.query.y.cpu().double().numpy()
    mask = episodes.query.mask.cpu().numpy()
    ways = episodes.shape.ways or 2
    n = mask.sum(-1).astype(np.float64)
    if episodes.metric == "auc":
        error, constant = _pair_errors(pred[..., 0].astype(np.float64), y == 1, mask)
    elif episodes.metric == "rmse":
        weight = episodes.scale.cpu().double().numpy()[:, None] ** 2
        squared = weight * np.square(pred[..., 0].astype(np.float64) - y)
        error = np.where(mask, squared, 0.0).sum(-1)
        constant = np.where(mask, weight * np.square(y), 0.0).sum(-1)
    else:
        binary = episodes.kind == "binary"
        logits = pred[..., :1] if binary else pred[..., :ways]
        chosen = (logits[..., 0] > 0) if binary else logits.argmax(-1)
        wrong = np.where(np.isnan(logits).any(-1), np.nan, (chosen != y).astype(np.float64))
        error = np.where(mask, wrong, 0.0).sum(-1)
        constant = (
            np.where(mask, y != episodes.constant, False).sum(-1).astype(np.float64)
            if binary
            else n * (1 - 1 / ways)
        )
    specs = tuple(
        TaskSpec(name, episodes.kind, episodes.metric, episodes.constant, float(std), ways)
        for name, std in zip(episodes.names, episodes.std, strict=True)
    )
    return Evaluation(specs, error, constant, n)


def by_task(found: Evaluation) -> Evaluation:
    """Statistics of episodes, summed over those of a task."""
    first = {spec.name: spec for spec in reversed(found.specs)}
    names = list(dict.fromkeys(spec.name for spec in found.specs))
    place = {name: number for number, name in enumerate(names)}
    owner = np.array([place[spec.name] for spec in found.specs])
    total = np.eye(len(names))[owner]
    return Evaluation(
        tuple(first[name] for name in names),
        _summed(found.error, total),
        _summed(found.constant_error, total),
        _summed(found.n, total),
    )


def _summed(values: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Sums over episodes of a task; what is not finite stays with its task."""
    out = np.zeros((*values.shape[:-1], total.shape[1]))
    for task in range(total.shape[1]):
        out[..., task] = np.ascontiguousarray(values[..., total[:, task] > 0]).sum(-1)
    return out


def _pair_errors(
    pred: Float[np.ndarray, "*runs episode row"], positive: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Twice the wrongly ordered pairs of each episode, ties half; and the pairs."""
    is_positive, is_negative = positive & mask, ~positive & mask
    pairs = (is_positive.sum(-1) * is_negative.sum(-1)).astype(np.float64)
    scores = torch.from_numpy(pred)
    low = torch.where(torch.from_numpy(is_negative), scores, math.inf).sort(-1).values
    below = torch.searchsorted(low, scores.contiguous())
    level = torch.searchsorted(low, scores.contiguous(), right=True)
    n_negative = torch.from_numpy(is_negative.sum(-1))[..., None]
    right = (below.clamp(max=n_negative) + level.clamp(max=n_negative)).double() / 2
    total = torch.where(torch.from_numpy(is_positive), right, 0.0).sum(-1).numpy()
    undefined = (np.isnan(pred) & mask).any(-1)
    return np.where(undefined, np.nan, 2.0 * (pairs - total)), pairs


def task_specs(suite: TaskSuite) -> tuple[TaskSpec, ...]:
    """The suite's tasks as the metrics know them, constants fitted on its training rows."""
    rows = suite.rows("train")
    tasks: Any = suite.tasks
    return fit_specs(
        rows.y.numpy(),
        names=[t.name for t in tasks],
        kinds=[t.kind for t in tasks],
        metrics=[t.metric for t in tasks],
        n_classes=[max(2, len(t.classes)) for t in tasks],
        stds=[t.std for t in tasks],
        mask=rows.mask.numpy(),
        task=None if rows.task is None else rows.task.numpy(),
    )
