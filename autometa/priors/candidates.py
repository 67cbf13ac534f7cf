"""Configurations worth a look, in spaces whose branches are known from trials only.

In a conditional space a configuration is made from one that was tried: values are changed freely,
but a choice that decides which other parameters there are is changed together with these, as in
another trial that made that choice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from optuna.distributions import BaseDistribution

from autometa.priors.coding import Category, Coding

CHANGED = 0.3
"""The part of a trial's parameters that is drawn anew to make another configuration of it."""


class Candidates:
    """Draws rows of codes.

    Args:
        coding: of the sources and the target.
        space: the target's parameters as far as it has been seen.
        seen: [trial, parameter], configurations to start from.
        required: parameters that every configuration of the target has.
        lost: parameters that no configuration of the target has.
    """

    def __init__(
        self,
        coding: Coding,
        space: Mapping[str, BaseDistribution],
        seen: np.ndarray,
        required: set[str],
        lost: set[str],
    ) -> None:
        self.coding, self.space = coding, space
        self.required = np.array([n in required for n in coding.names], dtype=bool)
        self.lost = np.array([n in lost for n in coding.names], dtype=bool)
        self._options = {
            column: coding.options(name, space)
            for column, name in enumerate(coding.names)
            if isinstance(coding.parameters[name], Category)
        }
        limits = [coding.limits(name, space) for name in coding.names]
        self._low, self._high = np.array(limits).reshape(-1, 2).T
        self.seen = seen
        self.dependents = self._find_dependents()
        self._tried = {column: self._by_value(column) for column in self.dependents}

    def draw(self, rng: np.random.Generator, best: np.ndarray, n: int) -> np.ndarray:
        """n rows: half with all numbers drawn anew and most branches as in some trial, half like
        the `best` in most parameters.

        They are spread wide rather than refined. Where the model sees most, what is found seldom
        bears it out, and a search of a few dozen trials has none to spare for a number's third
        digit.
        """
        fresh = self.seen[rng.integers(len(self.seen), size=n // 2)]
        changed = best[np.arange(n - n // 2) % len(best)]
        rows = [self._redrawn(rng, fresh, 1.0), self._redrawn(rng, changed, CHANGED)]
        return self.valid(rng, np.concatenate(rows))

    def valid(self, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """Rows that the target could have: without lost parameters, with required ones."""
        rows[:, self.lost] = np.nan
        for column, values in enumerate(rows.T):
            missing = np.isnan(values)
            wrong = missing & self.required[column]
            if column in self._options:
                wrong |= ~missing & ~np.isin(values, self._options[column])
                values[wrong] = rng.choice(self._options[column], size=wrong.sum())
            else:
                values[wrong] = self._uniform(rng, column, wrong.sum())
                values[:] = np.clip(values, self._low[column], self._high[column])
        return self.coding.snap(rows, self.space)

    def _redrawn(self, rng: np.random.Generator, rows: np.ndarray, share: float) -> np.ndarray:
        """With this share of the values drawn anew; of choices on which others depend `CHANGED`."""
        rows = rows.copy()
        chosen = rng.random(rows.shape)
        for column in range(rows.shape[1]):
            part = CHANGED if column in self.dependents else share
            at = np.flatnonzero((chosen[:, column] < part) & ~np.isnan(rows[:, column]))
            if column in self.dependents:
                self._switch(rng, rows, at, column)
            elif column in self._options:
                rows[at, column] = rng.choice(self._options[column], size=len(at))
            else:
                rows[at, column] = self._uniform(rng, column, len(at))
        return rows

    def _uniform(self, rng: np.random.Generator, column: int, n: int) -> np.ndarray:
        return rng.uniform(self._low[column], self._high[column], size=n)

    def _switch(
        self, rng: np.random.Generator, rows: np.ndarray, at: np.ndarray, column: int
    ) -> None:
        """Another choice for the rows at these places, each with the parameters that come and go
        with it as in some trial of it."""
        values, first, count, order = self._tried[column]
        own = np.searchsorted(values, rows[at, column])
        known = values[np.minimum(own, len(values) - 1)] == rows[at, column]
        choice = rng.integers(len(values) - known)
        choice += known & (choice >= own)
        other = order[first[choice] + rng.integers(count[choice])]
        rows[at, column] = values[choice]
        depends = self.dependents[column]
        rows[np.ix_(at, depends)] = self.seen[np.ix_(other, depends)]

    def _by_value(self, column: int) -> tuple[np.ndarray, ...]:
        """The values that were tried; where each one's trials begin in the last of these, and how
        many they are; and trials by value."""
        trials = np.flatnonzero(~np.isnan(self.seen[:, column]))
        order = trials[np.argsort(self.seen[trials, column], kind="stable")]
        return (*np.unique(self.seen[order, column], return_index=True, return_counts=True), order)

    def _find_dependents(self) -> dict[int, np.ndarray]:
        """Choice → parameters that are never there with one of its values, and are with another."""
        found = {}
        active = (~np.isnan(self.seen)).astype(np.float32)
        for column in self._options:
            has = active[:, column] > 0
            values, which = np.unique(self.seen[has, column], return_inverse=True)
            if len(values) > 1:
                # [value, parameter]: trials with this value that have the parameter
                one_of = (which == np.arange(len(values))[:, None]).astype(np.float32)
                counts = one_of @ active[has]
                depends = (counts.min(0) == 0) & (counts.max(0) > 0)
                if depends.any():
                    found[column] = np.flatnonzero(depends)
        return found
