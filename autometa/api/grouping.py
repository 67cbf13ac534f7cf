"""Nested groups of tasks for the trees of a search, from how the tasks' gradients relate."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from autometa.errors import UserError
from autometa.sharing.tree import canonical
from autometa.space import MAX_CLUSTERS
from autometa.tasks import TaskSuite
from autometa.training.affinity import shared_trunk, task_affinity
from autometa.training.budget import epochs_in_steps
from autometa.trial import TrialConfig

#: passes over the training rows that are watched, in batches of 64
EPOCHS = 9


def nested_groups(suite: TaskSuite, seed: int, device: torch.device) -> tuple[str, ...]:
    """Partitions of the tasks into 1, 2, …, `MAX_CLUSTERS` groups, each refining the one before.

    A network with a shared trunk is trained on the training rows, and tasks are clustered by the
    mean cosine of their gradients of it (average linkage on 1 − cosine). Where every task has rows
    of its own and all tasks may share one head they do so: each of several heads reads the trunk in
    its own random way, so gradients of tasks with heads of their own are hardly comparable (the two
    kinds of ground of landmine's 29 fields are found with one head and not with many). Targets of
    the same rows have heads of their own, which lets opposite targets count as alike.
    """
    config = shared_trunk(suite)
    measure = partial(
        task_affinity,
        suite,
        max_steps=epochs_in_steps(suite, EPOCHS, config.optimizer),
        spans=EPOCHS,
        seed=seed,
        lookahead=False,
        device=device,
    )
    try:
        found = measure(config)
    except UserError:  # it diverged, and this rate is not the user's
        slower = {**config.flat(), "optimizer.lr": config.optimizer.lr / 10}
        found = measure(TrialConfig.from_flat(slower))
    counted = ~np.isnan(found.cosine)
    total = np.where(counted, found.cosine, 0.0).sum(0)
    # pairs that were never measured are neither alike nor opposed
    return cut(1.0 - total / np.maximum(counted.sum(0), 1), MAX_CLUSTERS)


def cut(distance: Float[np.ndarray, "task task"], most: int) -> tuple[str, ...]:
    """The cuts of the average-linkage dendrogram into 1, 2, …, `most` clusters.

    Args:
        distance: made symmetric here; the diagonal does not count.
    """
    n_tasks = len(distance)
    between = (distance + distance.T) / 2
    np.fill_diagonal(between, 0.0)
    merges = linkage(squareform(between, checks=False), "average")[:, :2].astype(int)
    group = list(range(n_tasks))
    cuts = [canonical(group)] if n_tasks <= most else []
    for step, pair in enumerate(merges):
        group = [n_tasks + step if number in pair else number for number in group]
        if n_tasks - step - 1 <= most:
            cuts.append(canonical(group))
    return tuple(reversed(cuts))
