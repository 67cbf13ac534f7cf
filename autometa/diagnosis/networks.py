"""Which networks a diagnosis trains: the best of each arm, the shared trunk, matched controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
from optuna.trial import FrozenTrial

from autometa.errors import ConfigError
from autometa.networks import Problem
from autometa.searching.finalists import best_of
from autometa.trial import TrialConfig, build, check

Role: TypeAlias = Literal["sharing", "independent", "trunk", "wide", "narrow"]
"""What a network is for; see `plan`."""

#: a control is trained where the numbers of parameters differ by more than this share …
_DIFFERS = 0.1
#: … and where some width comes this close to the number wanted
_CLOSE = 0.25
#: widths that a control may have
_LEAST_WIDTH, _MOST_WIDTH = 4, 1024
#: widths tried above one that the backbone refuses (attention wants a multiple of its heads)
_STEPS = 32


@dataclass(frozen=True)
class Network:
    """A configuration to train, its number of parameters, and the trial it comes from if any."""

    config: TrialConfig
    parameters: int
    trial: int | None = None

    @property
    def width(self) -> int | None:
        """Units (channels) of a block; None where the backbone has no such number."""
        return getattr(self.config.backbone, "width", None)


def plan(trials: Sequence[FrozenTrial], problem: Problem) -> dict[Role, Network]:
    """The networks that a diagnosis compares; what cannot be had or adds nothing is left out.

    `sharing`, `independent`: the best completed trial of each arm. `trunk`: the former with every
    block shared and a head a task (equal to it where it is that already). `wide`: the trunk at the
    width that gives it as many parameters as `independent`, whose towers have T times those of one
    network. `narrow`: `independent` at the width that gives it as many as the trunk.
    """
    found: dict[Role, Network] = {}
    for arm in ("sharing", "independent"):
        for trial in best_of(trials, arm)[:1]:
            config = TrialConfig.from_flat(trial.user_attrs["config"])
            found[arm] = Network(config, count_parameters(config, problem), trial.number)
    if "sharing" not in found:
        return found
    config = trunk_of(found["sharing"].config, problem)
    if config == found["sharing"].config:
        found["trunk"] = found["sharing"]
    else:
        found["trunk"] = Network(config, count_parameters(config, problem))
    if "independent" in found:
        trunk, alone = found["trunk"], found["independent"]
        pairs: tuple[tuple[Role, Network, int], ...] = (
            ("wide", trunk, alone.parameters),
            ("narrow", alone, trunk.parameters),
        )
        # where the trunk is the larger of the two, room is not what it lacks
        if alone.parameters > (1.0 + _DIFFERS) * trunk.parameters:
            for role, network, wanted in pairs:
                control = matched(network.config, problem, wanted)
                if control is not None:
                    found[role] = control
    return found


def trunk_of(config: TrialConfig, problem: Problem) -> TrialConfig:
    """The same network with every block shared by all tasks, and a head for each of them."""
    flat = config.flat()
    depth = n_blocks(config, problem)
    if flat["sharing.kind"] == "hard":
        if flat["sharing.split_at"] in (None, depth) and config.head == "multi_head":
            return config
        return TrialConfig.from_flat({**flat, "sharing.split_at": depth, "head": "multi_head"})
    return with_sharing(flat, {"kind": "hard", "split_at": depth})


def with_sharing(flat: dict[str, Any], sharing: dict[str, Any]) -> TrialConfig:
    """The configuration with another sharing mechanism, a head a task and no conditioning."""
    kept = {
        name: value
        for name, value in flat.items()
        if not name.startswith(("sharing.", "conditioning."))
    }
    mechanism = {f"sharing.{name}": value for name, value in sharing.items()}
    return TrialConfig.from_flat({**kept, **mechanism, "head": "multi_head"})


def n_blocks(config: TrialConfig, problem: Problem) -> int:
    """How many blocks its backbone has."""
    learner: Any = build(config, problem)
    return int(learner.network.parts.n_blocks)


def count_parameters(config: TrialConfig, problem: Problem) -> int:
    """Trained numbers of one model.

    Raises:
        ConfigError: it cannot be built.
    """
    params, _ = build(config, problem).init(torch.Generator().manual_seed(0))
    return sum(leaf.numel() for leaf in params.values())


def matched(config: TrialConfig, problem: Problem, parameters: int) -> Network | None:
    """The configuration at the width whose number of parameters is nearest to `parameters`.

    None where the backbone has no width, or no width of 4 to 1024 comes within a quarter; and where
    it starts from an earlier model, which fits no other width, so that two things would differ.
    """
    flat = config.flat()
    if "backbone.width" not in flat or config.init.kind != "random":
        return None

    @cache
    def at(width: int) -> Network | None:
        """The network of this width, or of the next one that can be built."""
        for wider in range(width, width + _STEPS):
            try:
                other = TrialConfig.from_flat({**flat, "backbone.width": wider})
                check(other, problem)
                return Network(other, count_parameters(other, problem))
            except ConfigError:
                continue
        return None

    low, high = _LEAST_WIDTH, _MOST_WIDTH
    while low < high:  # the least width with at least so many parameters
        middle = (low + high) // 2
        network = at(middle)
        if network is not None and network.parameters < parameters:
            low = middle + 1
        else:
            high = middle
    around = [n for n in (at(low), at(max(_LEAST_WIDTH, low - 1))) if n is not None]
    best = min(around, key=lambda n: abs(n.parameters - parameters), default=None)
    if best is None or abs(best.parameters - parameters) > _CLOSE * parameters:
        return None
    return best
