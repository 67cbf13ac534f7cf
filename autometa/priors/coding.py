"""Configurations of studies whose spaces differ, as rows of one matrix.

A configuration is a row of *codes*, one a parameter: a number's place in its range (0 to 1, by
ratio if the range is logarithmic), a category's index, NaN where it has no such parameter. A
Gaussian process sees the *embedding*: columns whose squared distances add up, to about 1 a
parameter at most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Numeric = FloatDistribution | IntDistribution
UNKNOWN = -1.0
"""Code of a category that no source has."""
NOTHING = object()
"""What `fit_value` finds if there is no such value; None may be a choice."""
_ONE = math.sqrt(0.5)
"""So that two categories are 1 apart."""
_INACTIVE = math.sqrt(0.75)
"""From the middle of a range to "has no such parameter"; to its ends it is 1."""


@dataclass(frozen=True)
class Number:
    """A number with the union of the ranges it was searched in, 0 to 1; a target may go beyond."""

    low: float
    high: float
    log: bool

    def code(self, values: np.ndarray) -> np.ndarray:
        low, high = self._ends()
        scaled = np.log(np.maximum(values, 1e-300)) if self.log else values
        codes = (scaled - low) / (high - low)
        # where the target's range reaches zero, its logarithm has to end somewhere
        return np.maximum(codes, -1.0) if self.log else codes

    def value(self, codes: np.ndarray) -> np.ndarray:
        low, high = self._ends()
        scaled = low + codes * (high - low)
        return np.exp(scaled) if self.log else scaled

    def _ends(self) -> tuple[float, float]:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return low, high if high > low else low + 1.0


@dataclass(frozen=True)
class Category:
    choices: tuple[Any, ...]

    def index(self, value: Any) -> float:
        found = [i for i, c in enumerate(self.choices) if c == value and type(c) is type(value)]
        return float(found[0]) if found else UNKNOWN


Records = Sequence[tuple[Mapping[str, Any], Mapping[str, BaseDistribution]]]
"""Trials of one study: parameters and their distributions."""


class Coding:
    """How the parameters of several studies are written as one matrix.

    Args:
        studies: for each its trials. A name that is a number in some studies and a category in
            others is what most of them say; the others' values are taken if they are numbers, and
            count as missing if not.
        base: a coding of other studies, whose parameters come first and whose codes stay valid.

    Attributes:
        names: of the parameters: the base's, then new ones, sorted.
        parameters: name → `Number` or `Category`.
        conditional: [parameter], some trial of a study that has it is without it.
        group: [column], the parameter of each column of the embedding.
    """

    names: list[str]
    parameters: dict[str, Number | Category]
    conditional: np.ndarray

    def __init__(self, studies: Iterable[Records], base: Coding | None = None) -> None:
        seen: dict[str, list[BaseDistribution]] = {}
        conditional: set[str] = set()
        for records in studies:
            count = Counter(name for params, _ in records for name in params)
            conditional |= {name for name, n in count.items() if n < len(records)}
            for name in count:
                latest = next(d[name] for _, d in reversed(records) if name in d)
                seen.setdefault(name, []).append(latest)
        known: dict[str, Number | Category] = base.parameters if base else {}
        self.names = [*known, *sorted(seen.keys() - known.keys())]
        self.parameters = {
            name: _extended(known[name], seen.get(name, ()))
            if name in known
            else _parameter(seen[name])
            for name in self.names
        }
        if base is not None:
            conditional |= {n for n, c in zip(base.names, base.conditional, strict=True) if c}
        self.conditional = np.array([n in conditional for n in self.names], dtype=bool)
        self.sizes = np.array(
            [len(p.choices) if isinstance(p, Category) else 0 for p in self.parameters.values()],
            dtype=int,
        )
        group = [np.full(max(size, 1) + 1, i) for i, size in enumerate(self.sizes)]
        self.group = np.concatenate([*group, np.zeros(0, dtype=int)]).astype(int)
        # a parameter's columns are its number or a place for each category, and one for its absence
        sizes = self.sizes[self.group]
        first = np.searchsorted(self.group, self.group)
        self._place = np.arange(len(self.group)) - first
        self._is_absence = self._place == np.maximum(sizes, 1)
        self._is_number = sizes == 0
        self._absent = np.where(self._is_number, _INACTIVE, _ONE)

    def codes(self, params: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """[configuration, parameter], NaN where a configuration is without the parameter."""
        codes = np.full((len(params), len(self.names)), np.nan)
        for column, (name, parameter) in enumerate(self.parameters.items()):
            rows = [i for i, p in enumerate(params) if name in p]
            values = [params[i][name] for i in rows]
            if isinstance(parameter, Category):
                codes[rows, column] = [parameter.index(v) for v in values]
            else:
                good = [(i, float(v)) for i, v in zip(rows, values, strict=True) if _is_number(v)]
                if good:
                    at, numbers = zip(*good, strict=True)
                    codes[list(at), column] = parameter.code(np.array(numbers))
        return codes

    def embed(self, codes: np.ndarray) -> np.ndarray:
        """[configuration, column]. NaN where a parameter is missing that is not conditional: the
        model has to do without."""
        wide = codes[:, self.group]
        missing = np.isnan(wide)
        numbers = np.where(missing, 0.0, wide - 0.5)
        there = np.where(self._is_number, numbers, _ONE * (wide == self._place))
        found = np.where(self._is_absence, self._absent * missing, there)
        found[missing & ~self.conditional[self.group]] = np.nan
        return found

    def decode(self, row: np.ndarray) -> dict[str, Any]:
        """A row of codes as values of the sources' ranges, without rounding."""
        found = {}
        for value, (name, parameter) in zip(row, self.parameters.items(), strict=True):
            if np.isnan(value):
                continue
            if isinstance(parameter, Number):
                found[name] = float(parameter.value(value))
            elif value != UNKNOWN:
                found[name] = parameter.choices[int(value)]
        return found

    def snap(self, codes: np.ndarray, space: Mapping[str, BaseDistribution]) -> np.ndarray:
        """Codes moved to the nearest values that the target's distributions have."""
        snapped = codes.copy()
        for column, (name, parameter) in enumerate(self.parameters.items()):
            distribution = space.get(name)
            if isinstance(parameter, Number) and isinstance(distribution, Numeric):
                values = np.clip(
                    parameter.value(codes[:, column]), distribution.low, distribution.high
                )
                if distribution.step is not None and not distribution.log:
                    steps = np.round((values - distribution.low) / distribution.step)
                    values = distribution.low + steps * distribution.step
                elif isinstance(distribution, IntDistribution):
                    values = np.round(values)
                snapped[:, column] = parameter.code(values)
        return snapped

    def limits(self, name: str, space: Mapping[str, BaseDistribution]) -> tuple[float, float]:
        """The codes between which the target's range lies: that of the sources if not known."""
        parameter, distribution = self.parameters[name], space.get(name)
        if isinstance(parameter, Number) and isinstance(distribution, Numeric):
            low, high = parameter.code(np.array([distribution.low, distribution.high], float))
            return float(low), float(high)
        return 0.0, 1.0

    def options(self, name: str, space: Mapping[str, BaseDistribution]) -> np.ndarray:
        """Codes of the categories that the target has: all of the sources' if not known."""
        parameter, distribution = self.parameters[name], space.get(name)
        if not isinstance(parameter, Category):
            return np.zeros(0)
        if isinstance(distribution, CategoricalDistribution):
            return np.array([parameter.index(c) for c in distribution.choices])
        return np.arange(len(parameter.choices), dtype=float)


def fit_value(value: Any, distribution: BaseDistribution) -> Any:
    """`value` as `distribution` has it: the nearest number, the same category, or `NOTHING`.

    Numbers among the choices of a category are matched by value.
    """
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if choice == value and type(choice) is type(value):
                return choice
        if not _is_number(value):
            return NOTHING
        numbers = [c for c in distribution.choices if _is_number(c)]
        return min(numbers, key=lambda c: abs(c - value), default=NOTHING)
    if not _is_number(value) or not isinstance(distribution, Numeric):
        return NOTHING
    number = min(max(float(value), distribution.low), distribution.high)
    if isinstance(distribution, IntDistribution):
        step = distribution.step or 1
        return int(distribution.low + step * round((number - distribution.low) / step))
    if distribution.step is not None:
        steps = round((number - distribution.low) / distribution.step)
        number = min(distribution.low + steps * distribution.step, distribution.high)
    return float(number)


def _extended(
    parameter: Number | Category, distributions: Sequence[BaseDistribution]
) -> Number | Category:
    if isinstance(parameter, Number):
        return parameter
    return Category(_choices([CategoricalDistribution(parameter.choices), *distributions]))


def _choices(distributions: Sequence[BaseDistribution]) -> tuple[Any, ...]:
    choices: dict[tuple[type, str], Any] = {}
    for d in distributions:
        if isinstance(d, CategoricalDistribution):
            # by what it looks like: a choice may be a list, which is no key
            choices.update({(type(c), repr(c)): c for c in d.choices})
    return tuple(choices.values())


def _parameter(distributions: Sequence[BaseDistribution]) -> Number | Category:
    numbers = [d for d in distributions if isinstance(d, Numeric)]
    if 2 * len(numbers) >= len(distributions):
        return Number(
            low=float(min(d.low for d in numbers)),
            high=float(max(d.high for d in numbers)),
            # a range that reaches zero has no logarithm
            log=2 * sum(d.log for d in numbers) >= len(numbers) and all(d.low > 0 for d in numbers),
        )
    return Category(_choices(distributions))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
