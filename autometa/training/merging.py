"""One network for the runs of a population whose own networks differ a little.

Runs of one shape key may differ in how z enters the layers that each task's rows pass through
apart, and in the balancer. They are stepped in a network with the leaves of all of them: a run has
zeros for the leaves that are not its own. These add zero to what it computes and to the gradients
of its own leaves, they are left out of its gradient norm, and the optimizer does not touch them,
so they stay zero and the run has the same numbers as alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autometa.balancing import Either
from autometa.learners import Learner
from autometa.networks import Problem
from autometa.sharing import Params
from autometa.training.state import Layout, Run, stack_rows
from autometa.trial import build, build_together, own_leaf


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

    Attributes:
        learner: of all runs.
        graph: equal for populations whose networks compute the same, from leaves of equal shapes.
        absent: leaf → [run], whether a run is without it, of leaves that not all runs have.
        rates: the numbers [run] by which runs are told apart in it.
    """

    def __init__(self, runs: Sequence[Run], problem: Problem) -> None:
        by_graph: dict[str, list[int]] = {}
        for k, run in enumerate(runs):
            by_graph.setdefault(run.config.graph_key(), []).append(k)
        places = [by_graph[key] for key in sorted(by_graph)]
        configs = [runs[own[0]].config for own in places]
        self.learner = build_together(configs, problem)
        self._shapes = _layout(self.learner).shapes
        self._alike: list[_Alike] = []
        for config, own in zip(configs, places, strict=True):
            layout = _layout(build(config, problem))
            whole = {name: own_leaf(config, name, self._shapes) for name in layout.shapes}
            self._alike.append(_Alike(own, layout, whole))
        balancing: list[Any] = [run.config.balancing for run in runs]
        # with the shapes of its leaves, which go without saying
        names = [*self._shapes, *sorted({section.kind for section in balancing})]
        self.graph = " ".join([runs[0].config.shape_key(), *names])
        self.absent = self._find_absent(len(runs))
        self.rates: dict[str, list[float]] = {}
        balancer = self.learner.balancer
        if isinstance(balancer, Either):
            self.rates["balancer"] = [balancer.place(section.kind) for section in balancing]

    def leaves(self, rows: Tensor) -> Params:
        """Leaves [run, …] from the runs' own rows [run, P]; views where all runs are alike."""
        if len(self._alike) == 1:
            return self._alike[0].layout.unpack(rows)
        found = {n: rows.new_zeros(len(rows), *shape) for n, shape in self._shapes.items()}
        for runs, layout, names in self._alike:
            for name, leaf in layout.unpack(rows[runs, : layout.size]).items():
                found[names[name]][runs] = leaf
        return found

    def rows(self, leaves: Params) -> Tensor:
        """The inverse of `leaves`."""
        parts = [
            layout.pack({name: leaves[whole][runs] for name, whole in names.items()})
            for runs, layout, names in self._alike
        ]
        order = [k for alike in self._alike for k in alike.runs]
        return stack_rows(parts)[torch.tensor(order).argsort()]

    def _find_absent(self, n_runs: int) -> dict[str, list[bool]]:
        absent = {name: [True] * n_runs for name in self._shapes}
        for runs, _, names in self._alike:
            for name in names.values():
                for k in runs:
                    absent[name][k] = False
        return {name: runs for name, runs in absent.items() if any(runs)}


def _layout(learner: Learner) -> Layout:
    return Layout(learner.init(torch.Generator().manual_seed(0))[0])
