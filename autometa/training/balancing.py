"""The balancer of a population: K runs' task gradients weighed run by run, its state renewed.

Gradients of all tasks are J [run, task, parameter] on the leaves that tasks share. Their inner
products are computed on the device and weighed on the CPU, where a method costs least: T is small,
and solvers ask for one value after the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import vmap

from autometa.balancing import Balancer, GradientBalancer, Unsolvable, View
from autometa.learners import Batch, Episode, Learner
from autometa.networks import Step
from autometa.sharing import Params
from autometa.sharing.base import subset
from autometa.training.cutting import ALIGNED, aligned
from autometa.training.gradients import task_gradients
from autometa.training.state import Run

#: bytes that the task gradients of the runs that are stepped at once may take
MAX_BYTES = 256 * 2**20


class Balancing:
    """What the trainer asks of the balancer of its runs, which have one shape key."""

    def __init__(self, learner: Learner, runs: Sequence[Run], leaves: Params) -> None:
        self._balancer = learner.balancer
        self._runs = runs
        self._rates = [run.config.rates() for run in runs]
        roles = learner.roles()
        self._shared = [name for name in leaves if roles[name] == "shared"]
        self._bytes = sum(leaves[n][0].numel() * leaves[n].element_size() for n in self._shared)

    @property
    def draws(self) -> bool:
        """Whether it needs a new random key in every step."""
        return self._balancer.draws or self._balancer.needs != "losses"

    @property
    def weighs_gradients(self) -> bool:
        """Whether `changes` gives any."""
        return isinstance(self._balancer, GradientBalancer)

    @property
    def looks_back(self) -> bool:
        return self._balancer.looks_back

    def parts(self, batch: Batch | Episode) -> list[slice]:
        """The runs, cut so that the task gradients of a part fit into `MAX_BYTES`."""
        n_runs, size = len(self._runs), len(self._runs)
        if self._balancer.needs != "losses":
            size = max(1, MAX_BYTES // max(1, self._bytes * judged(batch).tasks.shape[1]))
        if size >= ALIGNED:
            return [slice(p.start, p.stop) for p in aligned(n_runs, size, size + 1)]
        # never one run beside others, whose last bits could differ
        n_parts = max(1, min(math.ceil(n_runs / size), n_runs // 2))
        ends = [n_runs * k // n_parts for k in range(n_parts + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    def changes(
        self,
        losses: Float[Tensor, "run task"],
        leaves: Params,
        buffers: Params,
        batch: Batch | Episode,
        keys: Int[Tensor, " run"],
        part: slice,
    ) -> tuple[Params, Params]:
        """What to add to the gradient of the objective, by leaf, and the buffers after it.

        Args:
            losses: of the tasks, with their graph, which is kept.
            leaves, buffers, batch, keys: those of the runs `part`.
        """
        if not isinstance(self._balancer, GradientBalancer):
            return {}, buffers
        shared = [leaves[name] for name in self._shared]
        jacobian = task_gradients(losses, shared)
        batch = judged(batch)
        with torch.no_grad():
            change, state = balance_gradients(
                self._balancer,
                jacobian,
                losses,
                batch.mask.any(-1),
                batch.tasks,
                subset(buffers, "balancing"),
                keys,
                self._rates[part],
            )
            pieces = change.split([leaf[0].numel() for leaf in shared], dim=1)
            by_name = {
                name: piece.view_as(leaf)
                for name, piece, leaf in zip(self._shared, pieces, shared, strict=True)
            }
        return by_name, buffers | _prefixed(state)

    def after_step(
        self,
        buffers: Params,
        losses: Tensor,
        after: Tensor,
        batch: Batch | Episode,
        keys: Tensor,
        rates: dict[str, Tensor],
    ) -> Params:
        """Buffers with the state after a step; `after` as in `Balancer.after_step`."""
        if type(self._balancer).after_step is Balancer.after_step:
            return buffers

        def one(
            state: Params,
            losses: Tensor,
            after: Tensor,
            rows: Batch | Episode,
            key: Tensor,
            own: dict[str, Tensor],
        ) -> Params:
            query, step = judged(rows), Step(True, key, own)
            present = query.mask.any(-1)
            return self._balancer.after_step(state, losses, after, present, query.tasks, step)

        state = subset(buffers, "balancing")
        return buffers | _prefixed(vmap(one)(state, losses.detach(), after, batch, keys, rates))

    def after_epoch(self, buffers: Params) -> Params:
        """Buffers with the state after an epoch."""
        if type(self._balancer).after_epoch is Balancer.after_epoch:
            return buffers
        state = subset(buffers, "balancing")
        return buffers | _prefixed(vmap(self._balancer.after_epoch)(state))


def judged(batch: Batch | Episode) -> Batch:
    """The rows that a step's losses are of."""
    return batch.query if isinstance(batch, Episode) else batch


def some_runs(batch: Batch | Episode, part: slice) -> Batch | Episode:
    """The rows of some of the runs."""
    if isinstance(batch, Episode):
        support, query = (Batch(*(rows[part] for rows in half)) for half in batch)
        return Episode(support, query)
    return Batch(*(rows[part] for rows in batch))


def balance_gradients(
    balancer: GradientBalancer,
    jacobian: Float[Tensor, "run task parameter"],
    losses: Float[Tensor, "run task"],
    present: Bool[Tensor, "run task"],
    tasks: Int[Tensor, "run task"],
    state: Params,
    keys: Int[Tensor, " run"],
    rates: Sequence[dict[str, float]],
) -> tuple[Float[Tensor, "run parameter"], Params]:
    """How the gradient of shared parameters differs from that of the mean loss, and the state.

    Slots of one task count as one task, with their mean gradient. A run whose gradients are not
    finite gets a change that is not a number, so that it fails.
    """
    device = jacobian.device
    gramians = torch.stack([rows @ rows.T for rows in jacobian]).cpu()
    losses, present, tasks = losses.detach().cpu(), present.cpu(), tasks.cpu()
    before = {name: leaf.cpu() for name, leaf in state.items()}
    seeds = keys.tolist()
    change = torch.zeros_like(jacobian[:, 0])
    states: list[Params] = []
    for k, rows in enumerate(jacobian):
        own = {name: leaf[k] for name, leaf in before.items()}
        states.append(own)
        here = present[k].nonzero().flatten()
        if not len(here):
            continue
        numbers, place = torch.unique(tasks[k, here], return_inverse=True)
        merge = torch.zeros(len(numbers), len(present[k]), dtype=losses.dtype)
        merge[place, here] = 1.0
        merge /= merge.sum(1, keepdim=True)
        gramian = merge @ gramians[k] @ merge.T
        if not gramian.isfinite().all():
            change[k] = torch.nan
            continue
        seen = gramian if balancer.needs == "gramian" else merge.to(device) @ rows
        view = View(merge @ losses[k], numbers, seen, rates[k], seeds[k])
        equal = torch.zeros_like(merge[0])
        equal[here] = 1.0 / len(here)
        try:
            found, states[k] = balancer.balance(view, own)
        except Unsolvable:
            found = None
        if found is None:
            continue
        if balancer.needs == "gramian":
            change[k] = (found @ merge - equal).to(device) @ rows
        else:
            change[k] = found - equal.to(device) @ rows
    after = {name: torch.stack([s[name] for s in states]).to(device) for name in state}
    return change, after


def _prefixed(state: Params) -> Params:
    return {f"balancing.{name}": leaf for name, leaf in state.items()}
