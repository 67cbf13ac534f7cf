"""A network's outputs: to labels, probabilities and intervals, and as an `nn.Module`."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit, softmax
from scipy.stats import norm
from torch import Tensor, nn

from autometa.learners import Learner
from autometa.sharing import Params
from autometa.tasks import Task


def labels_of(task: Task, out: np.ndarray) -> np.ndarray:
    """Outputs [row, output] of one task to values in its units, or to its labels."""
    if task.kind == "regression":
        return task.restore(out[:, 0])
    if task.kind == "binary":
        return task.restore((out[:, 0] > 0).astype(np.int64))
    return task.restore(out[:, : task.n_outputs].argmax(1))


def class_probabilities(task: Task, out: np.ndarray) -> np.ndarray:
    """Outputs [row, output] of one classification task to probabilities [row, class]."""
    if task.kind == "binary":
        positive = expit(out[:, 0].astype(np.float64))
        return np.stack([1.0 - positive, positive], axis=1)
    return np.asarray(softmax(out[:, : task.n_outputs].astype(np.float64), axis=1))


def interval_of(
    task: Task, mean: Float[np.ndarray, " row"], variance: Float[np.ndarray, " row"], level: float
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Ends of the central Gaussian interval, in the task's units.

    Args:
        mean, variance: of standardised values, noise included.
        level: its probability.
    """
    reach = norm.ppf(0.5 + level / 2) * np.sqrt(variance.astype(np.float64))
    return task.restore(mean - reach), task.restore(mean + reach)


class Module(nn.Module):
    """The learner's prediction with its parameters registered.

    Args:
        n_classes: of the task that an episodic learner adapted to.
    """

    def __init__(
        self, learner: Learner, params: Params, buffers: Params, n_classes: int | None = None
    ) -> None:
        super().__init__()
        self._learner = learner
        self._n_classes = n_classes
        self._names = list(params)
        self.weights = nn.ParameterList([nn.Parameter(params[n].clone()) for n in self._names])
        self._state = list(buffers)
        for place, name in enumerate(self._state):
            self.register_buffer(f"state_{place}", buffers[name].clone())

    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Outputs [task, row, output].

        Args:
            x: [row, *feature] aligned or adapted; [task, row, *feature] grouped, with `tasks`
                [task].
        """
        params = dict(zip(self._names, self.weights, strict=True))
        buffers = {n: getattr(self, f"state_{i}") for i, n in enumerate(self._state)}
        if self._learner.episodic:
            tasks = episode_tasks(self._n_classes).to(x.device)
            return self._learner.predict(params, buffers, x[None], tasks)
        if tasks is None:
            tasks = torch.arange(self._learner.problem.n_tasks, device=x.device)
        return self._learner.predict(params, buffers, x, tasks)


def episode_tasks(n_classes: int | None) -> Tensor:
    """`Batch.tasks` of one new task, which is none of the training tasks: [1], or [1, way]."""
    return (
        torch.zeros(1, dtype=torch.int64)
        if n_classes is None
        else torch.zeros(1, n_classes, dtype=torch.int64)
    )
