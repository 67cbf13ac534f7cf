"""Trials whose values were given, not suggested: someone enqueued them, or a driver died with them.

Optuna takes any value that is given: it only warns if it is out of range, and fails in the middle
of a suggestion if it is no choice.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial


class OutsideSpaceError(Exception):
    """A value that was given is not in the space; one sentence that names it and what could be."""


class GivenTrial(Trial):
    """An Optuna trial that refuses given values which the distribution they are for has not.

    Attributes:
        enqueued: parameter → the value that was given for it.
    """

    def __init__(self, study: optuna.Study, trial_id: int) -> None:
        super().__init__(study, trial_id)
        self.enqueued: dict[str, Any] = self._fixed_params
        self._fixed_params = dict(self.enqueued)  # with values as the space would have them

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """Where all of Optuna's `suggest_…` end up.

        Raises:
            OutsideSpaceError: a given value is not one of the distribution's.
        """
        given = self.params if name in self.distributions else self._fixed_params
        if name not in given:
            return super()._suggest(name, distribution)
        value = _fitting(name, given[name], distribution)
        if given is self._fixed_params:
            self._fixed_params[name] = value
        try:
            return super()._suggest(name, distribution)
        except ValueError as exc:  # it has the value from another kind of distribution
            raise OutsideSpaceError(_refusal(name, given[name], distribution)) from exc


def _fitting(name: str, value: Any, distribution: BaseDistribution) -> Any:
    """The value as the distribution would suggest it: a whole number for 8.0."""
    try:
        inside = distribution.to_internal_repr(value)
        if distribution._contains(inside):
            return distribution.to_external_repr(inside)
    except (ValueError, TypeError, OverflowError) as exc:
        raise OutsideSpaceError(_refusal(name, value, distribution)) from exc
    raise OutsideSpaceError(_refusal(name, value, distribution))


def _refusal(name: str, value: Any, distribution: BaseDistribution) -> str:
    return f"Parameter `{name}` should be {_range(distribution)}. Found `{name} = {value}`."


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    low, high, step = (getattr(distribution, part) for part in ("low", "high", "step"))
    is_whole = isinstance(distribution, optuna.distributions.IntDistribution)
    every = "" if step is None or (is_whole and step == 1) else f" in steps of {step:g}"
    return f"{'a whole number ' if is_whole else ''}between {low:g} and {high:g}{every}"
