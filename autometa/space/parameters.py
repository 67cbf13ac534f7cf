"""The kinds of parameters that a search space file may hold: fixed, float, int, categorical."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BeforeValidator, Field

from autometa.config import Config, parse
from autometa.errors import SpaceError, nearest

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-3, written without a dot, as a string.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _numbers(value: Any) -> Any:
    return [_number(v) for v in value] if isinstance(value, list) else value


def _conditions(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {k: _numbers(v) if isinstance(v, list) else [_number(v)] for k, v in value.items()}


Scalar = bool | int | float | str | None
When = Annotated[dict[str, tuple[Scalar, ...]], BeforeValidator(_conditions)]


class Suggests(Protocol):
    """What `Space.suggest` asks of a trial: `optuna.trial.Trial` and its look-alikes have it."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Fixed(Config):
    """A plain value in the file: not searched."""

    value: Scalar
    when: When = Field(default_factory=dict)


class Float(Config):
    """A number from `low` to `high`, on a log scale with `log`, on a grid with `step`."""

    type: Literal["float"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    step: float | None = Field(None, gt=0)
    when: When = Field(default_factory=dict)

    def distribution(self, given: Mapping[str, Any]) -> FloatDistribution:
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: Suggests, name: str, given: Mapping[str, Any]) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


class Int(Config):
    """A whole number; `low` and `high` may name an earlier parameter that is one."""

    type: Literal["int"]
    low: int | str
    high: int | str
    log: bool = False
    step: int = Field(1, ge=1)
    when: When = Field(default_factory=dict)

    def bounds(self, given: Mapping[str, Any]) -> tuple[int, int]:
        low, high = (int(given[b]) if isinstance(b, str) else b for b in (self.low, self.high))
        return low, high - (high - low) % self.step

    def distribution(self, given: Mapping[str, Any]) -> IntDistribution:
        low, high = self.bounds(given)
        return IntDistribution(low, high, log=self.log, step=self.step)

    def suggest(self, trial: Suggests, name: str, given: Mapping[str, Any]) -> int:
        low, high = self.bounds(given)
        return trial.suggest_int(name, low, high, log=self.log, step=self.step)


class Categorical(Config):
    """One of `choices`."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], BeforeValidator(_numbers)] = Field(min_length=1)
    when: When = Field(default_factory=dict)

    def distribution(self, given: Mapping[str, Any]) -> CategoricalDistribution:
        return CategoricalDistribution(self.choices)

    def suggest(self, trial: Suggests, name: str, given: Mapping[str, Any]) -> Any:
        return trial.suggest_categorical(name, self.choices)


Parameter = Fixed | Float | Int | Categorical
TYPES: dict[str, type[Float] | type[Int] | type[Categorical]] = {
    "float": Float,
    "int": Int,
    "categorical": Categorical,
}


def read_parameter(raw: Any, name: str, where: str) -> Parameter:
    """One entry of `parameters:`.

    Raises:
        SpaceError: not a plain value, or a mapping with a wrong key, type or range.
    """
    place = f"Parameter `{name}` in {where}"
    if isinstance(raw, list):
        raise SpaceError(
            f"{place} should be one value or a mapping. Found a list: to search over it write "
            f"`{{type: categorical, choices: {raw}}}`."
        )
    if not isinstance(raw, Mapping):
        return parse(Fixed, {"value": _number(raw)}, where=f"{where}: {name}", error=SpaceError)
    kind = raw.get("type")
    if kind not in TYPES:
        raise SpaceError(
            f"{place} should have `type: ` {', '.join(TYPES)}. Found `type = {kind}`."
            f"{nearest(kind, TYPES)}"
        )
    data = {k: _number(v) if k in ("low", "high", "step") else v for k, v in raw.items()}
    parameter = parse(TYPES[kind], data, where=f"{where}: {name}", error=SpaceError)
    if isinstance(parameter, Categorical):
        if len(set(parameter.choices)) < len(parameter.choices):
            raise SpaceError(f"{place}: a choice appears twice in {list(parameter.choices)}.")
        return parameter
    low, high = parameter.low, parameter.high
    known = not isinstance(low, str) and not isinstance(high, str)
    if known and low > high:  # type: ignore[operator]  # `known`: both are numbers, not names
        raise SpaceError(
            f"{place}: `low` should be at most `high`. Found `low = {low}`, `high = {high}`."
        )
    if parameter.log and not isinstance(low, str) and low <= 0:
        raise SpaceError(f"{place}: `low` should be above 0 with `log: true`. Found `low = {low}`.")
    if parameter.log and parameter.step not in (None, 1):
        raise SpaceError(f"{place}: `log` and `step` cannot be combined. Leave one out.")
    return parameter
