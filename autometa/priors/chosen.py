"""The earlier searches that a search learns from, and how its study keeps them."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autometa.errors import UserError
from autometa.priors.prior_file import Prior, from_bytes, to_bytes
from autometa.priors.probes import vector
from autometa.priors.records import ARMS, Record
from autometa.priors.sampler import TransferSampler
from autometa.priors.sources import MAX_TRIALS, best_and_spread, distances, history, weights
from autometa.study import rung_values

MAX_SOURCES = 20
"""Of more earlier searches those on the nearest suites."""
PIECE = 48_000
"""Characters of one attribute of a study: MySQL's TEXT holds 65,535 bytes."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Sources of a search.

    Attributes:
        records: the sources.
        probes: [1 + source, probe], the target's first; None: the sources count all the same.
    """

    records: tuple[Record, ...]
    probes: np.ndarray | None

    @classmethod
    def of(cls, records: Sequence[Record], target: Mapping[str, float | None] | None) -> Chosen:
        """These records with the probes of a suite, all None or NaN where it has none."""
        known = {n: v for n, v in (target or {}).items() if v is not None and math.isfinite(v)}
        if not known:
            return cls(tuple(records), None)
        rows = [vector(dict(known)), *(vector(record.facts.probes) for record in records)]
        return cls(tuple(records), np.array(rows))

    def nearest(self) -> Chosen:
        """At most `MAX_SOURCES`, nearest first, thinned to what a study keeps; of equally near ones
        the first."""
        order = range(len(self.records))
        if self.probes is not None:
            order = np.argsort(distances(self.probes), kind="stable").tolist()
        kept = list(order)[:MAX_SOURCES]
        probes = None if self.probes is None else self.probes[[0, *(k + 1 for k in kept)]]
        return Chosen(tuple(thinned(self.records[k]) for k in kept), probes)

    def sampler(self, arm: str, seed: int, n_portfolio: int) -> TransferSampler | None:
        """The sampler of one arm; None if no source says anything of it."""
        if not self._speaking(arm):
            return None
        sources = [record.of_arm(arm) for record in self.records]
        return TransferSampler(sources, seed=seed, probes=self.probes, n_portfolio=n_portfolio)

    def rows(self) -> list[dict[str, Any]]:
        """What is told of each source, as JSON: `name`, `suite`, `trials` (finished ones it learns
        from) and `weight` by arm, None where it says nothing; `distance`, None if not known."""
        distance = None if self.probes is None else distances(self.probes)
        shares: dict[str, dict[int, float]] = {}
        for arm in ARMS:
            places = self._speaking(arm)
            part = np.full(len(places), 1 / max(len(places), 1))
            if self.probes is not None and places:
                part = weights(distances(self.probes[[0, *(k + 1 for k in places)]]))
            shares[arm] = dict(zip(places, part.tolist(), strict=True))
        return [
            {
                "name": record.name,
                "suite": record.facts.suite,
                "trials": {arm: len(record.of_arm(arm)) for arm in ARMS},
                "weight": {arm: shares[arm].get(k) for arm in ARMS},
                "distance": None if distance is None else float(distance[k]),
            }
            for k, record in enumerate(self.records)
        ]

    def pack(self) -> list[str]:
        """The sources as texts of at most `PIECE` characters."""
        text = base64.b64encode(to_bytes(Prior("sources", self.records))).decode()
        return [text[i : i + PIECE] for i in range(0, len(text), PIECE)]

    @classmethod
    def unpack(
        cls, pieces: Sequence[str], target: Mapping[str, float | None] | None, where: str
    ) -> Chosen:
        """What `pack` made.

        Raises:
            UserError: it is damaged.
        """
        try:
            data = base64.b64decode("".join(pieces), validate=True)
        except ValueError as exc:
            raise UserError(f"{where} is damaged: {exc}.") from None
        return cls.of(from_bytes(data, where).records, target)

    def _speaking(self, arm: str) -> list[int]:
        """The sources that say something of an arm."""
        histories = (history(record.of_arm(arm), minimise=False) for record in self.records)
        return [k for k, h in enumerate(histories) if h.says_something()]


def useful(records: Sequence[Record], names: Mapping[str, Collection[str]]) -> list[Record]:
    """Those from which a search can learn anything.

    Args:
        names: arm → its parameters.
    """
    return [
        record
        for record in records
        if any(
            history(trials, minimise=False).says_something()
            and any(set(names[arm]) & t.params.keys() for t in trials)
            for arm in names
            if (trials := record.of_arm(arm))
        )
    ]


def thinned(record: Record) -> Record:
    """The best half of `MAX_TRIALS` trials of each arm and an even choice of the others; trials
    that failed, and the space, teach nothing and are left out."""
    kept: list[FrozenTrial] = []
    for arm in ARMS:
        told = [t for t in record.of_arm(arm) if _badness(t) is not None]
        told.sort(key=lambda t: _badness(t) or ())
        kept += [told[k] for k in best_and_spread(len(told), MAX_TRIALS)]
    facts = record.facts.model_copy(update={"space": ""})
    return Record(facts, tuple(sorted(kept, key=lambda t: t.number)))


def _badness(trial: FrozenTrial) -> tuple[float, ...] | None:
    """Completed trials by value, then pruned ones by how far they came; None: it has no value."""
    if trial.state == TrialState.COMPLETE and trial.values:
        return 0.0, 0.0, -trial.values[0]
    rungs = rung_values(trial)
    if trial.state != TrialState.PRUNED or not rungs:
        return None
    return 1.0, -max(rungs), -rungs[max(rungs)]
