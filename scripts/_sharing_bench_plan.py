"""Which configurations of the default space each suite of SharingBench is trained with.

A *cell* is one structure with several draws of its numbers: configurations of one shape key, which
are trained as one population. Configuration `number` is draw `number % draws` of cell
`number // draws`.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from autometa.api.grouping import nested_groups
from autometa.networks import Problem
from autometa.priors.sharing_bench import bench_space
from autometa.space import Arm, Space
from autometa.tasks import TaskSuite
from autometa.trial import REGISTRIES, OptimizerConfig, TrialConfig

SPACE = "sharing"
QUOTA = {
    "independent": 4, "hard": 8, "tree": 5, "mtan": 4, "cross_stitch": 4, "deep_relation": 3,
    "soft": 2, "sluice": 2,
}  # fmt: skip
"""Cells of each kind of sharing. `soft`, `sluice`, `deep_relation` and `independent` have two
structures each; `independent`'s are trained twice, and so is one of `deep_relation`'s."""
_SHARED: dict[str, Any] = {"conditioning.kind": "none", "balancing.kind": "equal"}
CORE: tuple[dict[str, Any], ...] = (
    {"sharing.kind": "independent", "balancing.kind": "equal"},
    {"sharing.kind": "hard", "sharing.split_at": 1, **_SHARED},
    {"sharing.kind": "hard", "sharing.split_at": 3, **_SHARED},
    {"sharing.kind": "hard", "sharing.split_at": 3, "conditioning.kind": "multiplicative",
     "conditioning.at": "every", "head": "multi_head", "balancing.kind": "equal"},
    {"sharing.kind": "mtan", **_SHARED},
    {"sharing.kind": "cross_stitch", "sharing.units": "layer", "balancing.kind": "equal"},
    {"sharing.kind": "deep_relation", "balancing.kind": "equal"},
    {"sharing.kind": "soft", "balancing.kind": "equal"},
)  # fmt: skip
"""Structures that every suite has, in this order; half of their draws are the same everywhere."""
_CORE = "core"
_TRIES = 20
_DIGITS = 5


@dataclass(frozen=True)
class Cell:
    """One structure and its draws.

    Attributes:
        params: for each draw what a search would have been asked for, by Optuna's names.
        configs: for each draw the trial's configuration, dotted names to values.
        core: how many draws, the first ones, are the same in every suite.
    """

    arm: Arm
    kind: str
    params: tuple[dict[str, Any], ...]
    configs: tuple[dict[str, Any], ...]
    core: int = 0


def suite_space(suite: TaskSuite) -> tuple[Space, tuple[str, ...]]:
    """The space of a suite's configurations, and the groups of tasks that its trees are made of."""
    problem, text = Problem.of(suite), Space.load(SPACE).text
    space = bench_space(text, problem)
    if not space.cuts:
        return space, ()
    groups = nested_groups(suite, 0, torch.device("cpu"))
    return bench_space(text, problem, groups), groups


def plan_cells(
    space: Space, suite: str, draws: int, quota: Mapping[str, int] = QUOTA
) -> list[Cell]:
    """The cells of a suite: the core's first, then structures drawn from the space.

    Within a cell the numbers are a Latin hypercube in the scale of their range. What is drawn
    depends on the name of the suite and the number of the cell alone.
    """
    found: list[Cell] = []
    kinds = [kind for kind, n in quota.items() for _ in range(n)]
    for number, structure in enumerate(CORE):
        if structure["sharing.kind"] in kinds:
            kinds.remove(structure["sharing.kind"])
            common = draws // 2
            found.append(
                _cell(space, structure, [(_CORE, number, common), (suite, number, draws - common)])
            )
    seen = Counter(_shape(cell.configs[0]) for cell in found)
    for kind in kinds:
        tries = (_generator(suite, len(found), attempt) for attempt in range(_TRIES))
        structures = [_structure(space, kind, rng) for rng in tries]
        # the first of those that the suite has least of: one that it has not, if there is any
        chosen = min(structures, key=lambda structure: seen[_shape(structure.config)])
        seen[_shape(chosen.config)] += 1
        found.append(_cell(space, chosen.params, [(suite, len(found), draws)]))
    return found


class Drawn:
    """What `Space.suggest` takes for a trial: structure is given, numbers follow from `unit`.

    Attributes:
        params: what was asked for.
    """

    def __init__(self, given: Mapping[str, Any], unit: Callable[[str], float]) -> None:
        self._given, self._unit = given, unit
        self.params: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        u = self._unit(name)
        value = low * (high / low) ** u if log else low + u * (high - low)
        value = min(max(float(f"{value:.{_DIGITS}g}"), low), high)
        self.params[name] = value
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._choose(name, range(low, high + 1, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._choose(name, choices)

    def _choose(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self._given:
            value = self._given[name]
            if value not in choices:
                raise ValueError(f"`{name} = {value}` should be one of {list(choices)}.")
        else:
            value = choices[int(self._unit(name) * len(choices))]
        self.params[name] = value
        return value


def is_per_run(name: str) -> bool:
    """Whether runs that differ in this parameter can be trained as one."""
    return name in _PER_RUN


def _per_run_names() -> set[str]:
    classes = {
        (axis, entry.Config) for axis, kinds in REGISTRIES.items() for entry in kinds.values()
    }
    return {
        f"{axis}.{name}"
        for axis, cls in (*classes, ("optimizer", OptimizerConfig))
        for name, field in cls.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("per_run")
    }


_PER_RUN = _per_run_names()


class _Structure(NamedTuple):
    """What all draws of a cell have, and the configuration of one of them."""

    params: dict[str, Any]
    config: dict[str, Any]


def _structure(space: Space, kind: str, rng: np.random.Generator) -> _Structure:
    """One of this kind of sharing, every choice as likely as any other."""
    drawn = Drawn({"sharing.kind": kind}, lambda name: rng.random())
    config = TrialConfig.from_flat(space.suggest(drawn, _arm(kind)))
    fixed = {n: v for n, v in drawn.params.items() if not is_per_run(n)}
    return _Structure({"sharing.kind": kind} | fixed, config.flat())


def _cell(
    space: Space, structure: Mapping[str, Any], parts: Sequence[tuple[str, int, int]]
) -> Cell:
    """Draws of one structure; each of the parts (suite, number, how many) is a hypercube."""
    arm = _arm(structure["sharing.kind"])
    params, configs = [], []
    for owner, number, n in parts:
        for draw in range(n):
            drawn = Drawn(structure, _Hypercube(owner, number, n, draw))
            config = TrialConfig.from_flat(space.suggest(drawn, arm))
            params.append(drawn.params)
            configs.append(config.flat())
    if len({TrialConfig.from_flat(c).shape_key() for c in configs}) > 1:
        raise ValueError(f"The draws of {dict(structure)} should have one shape key.")
    core = sum(n for owner, _, n in parts if owner == _CORE)
    return Cell(arm, structure["sharing.kind"], tuple(params), tuple(configs), core)


class _Hypercube:
    """One of n points of a Latin hypercube, coordinate by coordinate."""

    def __init__(self, owner: str, number: int, n: int, draw: int) -> None:
        self._owner, self._number, self._n, self._draw = owner, number, n, draw

    def __call__(self, name: str) -> float:
        rng = _generator(self._owner, self._number, zlib.crc32(name.encode()))
        place = rng.permutation(self._n) + rng.random(self._n)
        return float(place[self._draw] / self._n)


def _generator(owner: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(owner.encode()), *numbers])


def _arm(kind: str) -> Arm:
    return "independent" if kind == "independent" else "sharing"


def _shape(values: Mapping[str, Any]) -> tuple[str, str, str]:
    """What tells structures apart; `concat` and `additive` have one graph, and so have a tree and
    hard sharing that are the same."""
    config = TrialConfig.from_flat(values)
    sharing: Any = config.sharing
    return config.graph_key(), sharing.kind, config.conditioning.kind
