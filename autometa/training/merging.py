"""One network for the runs of a population whose own networks differ a little.

Runs of one shape key may differ in how z enters the layers that each task's rows pass through
apart, in having one head or one a task, and in the balancer. They are stepped in a network that has
the leaves of all of them.

A run has zeros for the leaves that are not its own. These add zero to what it computes and to the
gradients of its own leaves, they are left out of its gradient norm, and the optimizer does not
touch them, so they stay zero. Where it has one leaf and others have one a task, it has that leaf
once for each task, and each of these has the sum of their gradients, which keeps them equal. So it
has the same numbers as alone, up to rounding where more is added up or in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from autometa.balancing import Either
from autometa.learners import Learner
from autometa.networks import Problem
from autometa.sharing import Params
from autometa.training.state import Layout, Run, stack_rows
from autometa.trial import TrialConfig, build, build_together, own_leaf


class _Alike(NamedTuple):
    """The runs of a population whose own networks have one graph.

    Attributes:
        runs: their places.
        layout: of their own leaves.
        names: own leaf → leaf of the population's network.
    """

    runs: list[int]
    layout: Layout
    names: dict[str, str]


class Merged:
    """The network of a population, and where each run's own leaves are in it.

    Args:
        others: runs that it has leaves for, too, though they are not there.

    Attributes:
        learner: of all runs.
        graph: equal for populations whose networks compute the same, from leaves of equal shapes.
        absent: leaf → [run], whether a run is without it, of leaves that not all runs have.
        rates: the numbers [run] by which runs are told apart in it.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        problem: Problem,
        device: torch.device,
        others: Sequence[Run] = (),
    ) -> None:
        by_graph: dict[str, tuple[TrialConfig, list[int]]] = {}
        for k, run in enumerate([*runs, *others]):
            _, own = by_graph.setdefault(run.config.graph_key(), (run.config, []))
            own += [k] if k < len(runs) else []
        graphs = [by_graph[key] for key in sorted(by_graph)]
        configs = [config for config, _ in graphs]
        self.learner = build_together(configs, problem)
        self._shapes = _layout(self.learner).shapes
        self._alike: list[_Alike] = []
        self._is_merged = len(graphs) > 1
        for config, own in graphs:
            if not own:
                continue
            layout = _layout(build(config, problem))
            whole = {name: own_leaf(config, name, self._shapes) for name in layout.shapes}
            self._alike.append(_Alike(own, layout, whole))
        balancing: list[Any] = [run.config.balancing for run in [*runs, *others]]
        # with the shapes of its leaves, which go without saying
        names = [*self._shapes, *sorted({section.kind for section in balancing})]
        self.graph = " ".join([runs[0].config.shape_key(), *names])
        self.absent = self._find("absent", len(runs))
        absent = [self.absent.get(name, [False] * len(runs)) for name in self._shapes]
        self._absent = torch.tensor(absent, device=device)
        self._tied = {
            name: torch.tensor(tied, device=device).view(-1, *[1] * len(self._shapes[name]))
            for name, tied in self._find("tied", len(runs)).items()
        }
        #: copies of a leaf that a run has for being here, [leaf, run]
        self._copies = torch.ones(self._absent.shape, device=device)
        for number, name in enumerate(self._shapes):
            if name in self._tied:
                n_tasks = self._shapes[name][0]
                self._copies[number, self._tied[name].flatten()] = n_tasks
        self.rates: dict[str, list[float]] = {}
        balancer = self.learner.balancer
        if isinstance(balancer, Either):
            self.rates["balancer"] = [balancer.place(s.kind) for s in balancing[: len(runs)]]

    def leaves(self, rows: Tensor) -> Params:
        """Leaves [run, …] from the runs' own rows [run, P]; views where all runs are alike."""
        if not self._is_merged:
            return self._alike[0].layout.unpack(rows)
        found = {n: rows.new_zeros(len(rows), *shape) for n, shape in self._shapes.items()}
        for runs, layout, names in self._alike:
            for name, leaf in layout.unpack(rows[runs, : layout.size]).items():
                whole = found[names[name]]
                whole[runs] = leaf if leaf.ndim == whole.ndim else leaf[:, None]
        return found

    def rows(self, leaves: Params) -> Tensor:
        """The inverse of `leaves`."""
        parts = []
        for runs, layout, names in self._alike:
            own = {name: leaves[whole][runs] for name, whole in names.items()}
            parts.append(
                layout.pack(
                    {
                        name: leaf if leaf.ndim == len(layout.shapes[name]) + 1 else leaf[:, 0]
                        for name, leaf in own.items()
                    }
                )
            )
        order = [k for alike in self._alike for k in alike.runs]
        return stack_rows(parts)[torch.tensor(order).argsort()]

    def tie(self, grads: Params) -> None:
        """Give the copies of a leaf that a run has once the gradient of that leaf, in place."""
        for name, tied in self._tied.items():
            grad = grads[name]
            grads[name] = torch.where(tied, grad.sum(1, keepdim=True), grad)

    def norms(self, grads: Params) -> Float[Tensor, " run"]:
        """The norm of each run's gradient, all its own leaves together."""
        each = [grads[name] for name in self._shapes]
        norms = [torch.linalg.vector_norm(grad.reshape(len(grad), -1), dim=1) for grad in each]
        squares = torch.stack(norms).masked_fill(self._absent, 0.0).square() / self._copies
        # leaf by leaf: what a run is without does not change how the others are added up
        return squares.cumsum(0)[-1].sqrt()

    def _find(self, what: Literal["absent", "tied"], n_runs: int) -> dict[str, list[bool]]:
        found = {name: [what == "absent"] * n_runs for name in self._shapes}
        for runs, layout, names in self._alike:
            for name, whole in names.items():
                copies = len(self._shapes[whole]) > len(layout.shapes[name])
                for k in runs:
                    found[whole][k] = what == "tied" and copies
        return {name: runs for name, runs in found.items() if any(runs)}


def _layout(learner: Learner) -> Layout:
    return Layout(learner.init(torch.Generator().manual_seed(0))[0])
