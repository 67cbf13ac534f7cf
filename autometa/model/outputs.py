"""What models put out: as labels and probabilities, and networks as an `nn.Module`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from scipy.special import expit, softmax
from torch import Tensor, nn

from autometa.ensembles import mixture
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


def task_logits(tasks: Sequence[Task]) -> Int[Tensor, " task"]:
    """How many logits of classes each task has, as `ensembles.mixture` takes them."""
    return torch.tensor([0 if task.kind == "regression" else task.n_outputs for task in tasks])


class Module(nn.Module):
    """What the members of an ensemble predict together, with their parameters registered.

    Args:
        members: parameters and buffers of each.
        tasks: what it predicts.
        n_classes: of the task that an episodic learner adapted to.
    """

    def __init__(
        self,
        learner: Learner,
        members: Sequence[tuple[Params, Params]],
        tasks: Sequence[Task],
        n_classes: int | None = None,
    ) -> None:
        super().__init__()
        self._learner = learner
        self._n_classes = n_classes
        self._members = len(members)
        first, buffers = members[0]
        self._names, self._state = list(first), list(buffers)
        self.weights = nn.ParameterList(
            [nn.Parameter(params[n].clone()) for params, _ in members for n in self._names]
        )
        states = [state[n] for _, state in members for n in self._state]
        for place, state in enumerate(states):
            self.register_buffer(f"state_{place}", state.clone())
        self._logits: Tensor
        self.register_buffer("_logits", task_logits(tasks), persistent=False)

    def forward(self, x: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Outputs [task, row, output] as `ensembles` says; of one member its own.

        Args:
            x: [row, *feature] aligned or adapted; [task, row, *feature] grouped, with `tasks`
                [task].
        """
        if self._learner.episodic:
            x, numbers = x[None], episode_tasks(self._n_classes).to(x.device)
            logits = self._logits
        else:
            every = torch.arange(self._learner.problem.n_tasks, device=x.device)
            numbers = every if tasks is None else tasks
            logits = self._logits[numbers]
        found = [self._member(number, x, numbers) for number in range(self._members)]
        return mixture(torch.stack(found), logits)

    def _member(self, number: int, x: Tensor, tasks: Tensor) -> Tensor:
        first, state = number * len(self._names), number * len(self._state)
        params = {n: self.weights[first + i] for i, n in enumerate(self._names)}
        buffers = {n: getattr(self, f"state_{state + i}") for i, n in enumerate(self._state)}
        return self._learner.predict(params, buffers, x, tasks)


def episode_tasks(n_classes: int | None) -> Tensor:
    """`Batch.tasks` of one new task, which is none of the training tasks: [1], or [1, way]."""
    return (
        torch.zeros(1, dtype=torch.int64)
        if n_classes is None
        else torch.zeros(1, n_classes, dtype=torch.int64)
    )
