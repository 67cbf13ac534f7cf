"""Default configurations of a space: the first trials of each arm, from the section `defaults:`.

    defaults:
      sharing:
        - {sharing.kind: hard, sharing.split_at: 3, optimizer.lr: 3.0e-3}
      independent:
        - {optimizer.lr: 3.0e-3}

What a mapping does not name takes the value of the space that is nearest to the default of a
configuration (`TrialConfig`): the nearest number of a range, the first of choices without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autometa.errors import ConfigError, SpaceError, nearest
from autometa.space.parameters import Categorical, Fixed, Parameter, read_plain

if TYPE_CHECKING:
    from autometa.networks import Problem
    from autometa.space.space import Arm, Space

Defaults = dict["Arm", tuple[dict[str, Any], ...]]
"""Arm → its default configurations, in order: parameter → value of what they name."""


class Nearest:
    """Answers what a space asks of a trial with wanted values, or the nearest there are.

    Attributes:
        asked: parameter → what was answered.
    """

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self._wanted = wanted
        self.asked: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        value = self._wanted.get(name)
        value = low if value is None else min(max(float(value), low), high)
        if step is not None:
            value = low + step * min(round((value - low) / step), math.floor((high - low) / step))
        self.asked[name] = value
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        value = self._wanted.get(name)
        # a default that is None stands for all there is, as `sharing.split_at` does
        value = high if value is None else min(max(value, low), high)
        value = low + step * min(round((value - low) / step), (high - low) // step)
        self.asked[name] = value
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._wanted.get(name)
        self.asked[name] = value if value in choices else choices[0]
        return self.asked[name]


def read_defaults(raw: Mapping[Arm, Sequence[Mapping[str, Any]]]) -> Defaults:
    """The section as the file has it."""
    return {
        arm: tuple({name: read_plain(value) for name, value in one.items()} for one in some)
        for arm, some in raw.items()
    }


def suggestions(space: Space, arm: Arm) -> list[dict[str, Any]]:
    """The arm's default configurations as answers to what it asks of a trial.

    Those that a suite cannot have, after `Space.bind`, are left out, and equal ones but the first.
    """
    found: list[dict[str, Any]] = []
    for one in space.defaults.get(arm, ()):
        asked, wrong = _answer(space, arm, one)
        if wrong is None and asked not in found:
            found.append(asked)
    return found


def check_defaults(space: Space) -> None:
    """Refuse what no trial of the space can be.

    Raises:
        SpaceError: an unknown parameter, a value that it cannot have, or one that is not searched
            beside the others.
    """
    for arm, defaults in space.defaults.items():
        if defaults and arm not in space.arms:
            raise SpaceError(f"Section `defaults` in {space.where}: there is no arm `{arm}`.")
        known = dict(space.arm_parameters(arm))
        for one in defaults:
            for name in one:
                if name not in known:
                    raise SpaceError(
                        f"Parameter `{name}` in `defaults: {arm}:` of {space.where} should be one "
                        f"of the arm's parameters. Found `{name}`.{nearest(name, known)}"
                    )
            _, wrong = _answer(space, arm, one)
            if wrong is not None:
                raise SpaceError(
                    f"Parameter `{wrong}` in `defaults: {arm}:` of {space.where} should be "
                    f"{_should(known[wrong])}. Found `{wrong} = {one[wrong]}`."
                )


def buildable(space: Space, problem: Problem) -> Defaults:
    """The default configurations that can be built for a suite."""
    from autometa.trial import TrialConfig, check

    def fits(arm: Arm, one: dict[str, Any]) -> bool:
        asked, wrong = _answer(space, arm, one)
        if wrong is not None:
            return False
        try:
            check(TrialConfig.from_flat(space.suggest(Nearest(asked), arm)), problem)
        except ConfigError:
            return False
        return True

    return {
        arm: tuple(one for one in some if fits(arm, one)) for arm, some in space.defaults.items()
    }


def _answer(space: Space, arm: Arm, one: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """What is answered for a default configuration, and the first value of it that cannot be."""
    trial = Nearest({**_defaults_beside(space, arm, one), **one})
    given = space.suggest(trial, arm)
    for name, value in one.items():
        if name not in given or not _equal(given[name], value):
            return trial.asked, name
    return trial.asked, None


def _defaults_beside(space: Space, arm: Arm, one: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a configuration of such kinds."""
    from autometa.trial import TrialConfig

    fixed = {
        name: parameter.value
        for name, parameter in space.arm_parameters(arm)
        if isinstance(parameter, Fixed) and not parameter.when
    }
    kinds = {name: value for name, value in {**fixed, **one}.items() if name.endswith(".kind")}
    try:
        return TrialConfig.from_flat(kinds).flat()
    except ConfigError:  # `Space.bind` says what is wrong
        return {}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, int | float) and not isinstance(b, bool):
        return math.isclose(a, b)
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _should(parameter: Parameter) -> str:
    if isinstance(parameter, Fixed):
        return f"{parameter.value}, which the space fixes, where it has it"
    if isinstance(parameter, Categorical):
        return f"one of {', '.join(map(str, parameter.choices))}, where it is searched"
    return "within the range that is searched, and named where it is searched"
