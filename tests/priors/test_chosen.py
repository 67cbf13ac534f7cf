"""Which earlier searches are learned from, and that a study gives them back."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState

from autometa.errors import UserError
from autometa.priors.chosen import MAX_SOURCES, PIECE, Chosen, thinned, useful
from autometa.priors.records import ARMS, Record, record_of
from autometa.priors.sources import MAX_TRIALS
from tests.priors.test_prior_file import finished

TARGET = {"rows": 3.0, "tasks": 1.0, "noise": math.nan}


def record(name: str, rows: float | None = 3.0, n: int = 12, seed: int = 0) -> Record:
    return record_of(finished(name, n, seed), {"rows": rows, "tasks": 1.0})


def test_nearest_by_probes() -> None:
    records = [record(f"s{k}", rows=3 + abs(k - 15) / 10, n=8, seed=k) for k in range(30)]
    chosen = Chosen.of(records, TARGET).nearest()
    assert len(chosen.records) == MAX_SOURCES
    gaps = [abs(r.facts.probes["rows"] - 3.0) for r in chosen.records]
    assert gaps == sorted(gaps)
    assert max(gaps) <= 1.01
    distances = [row["distance"] for row in chosen.rows()]
    assert distances[0] == 0
    assert distances == sorted(distances)
    for arm in ARMS:
        weights = [row["weight"][arm] for row in chosen.rows()]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1)


def test_of_equally_near_ones_the_first() -> None:
    records = [record(f"s{k}", n=8, seed=k) for k in range(4)]
    chosen = Chosen.of(records, TARGET).nearest()
    assert [r.facts.study for r in chosen.records] == ["s0", "s1", "s2", "s3"]


def test_without_probes_all_count_the_same() -> None:
    records = [record("a", 1.0), record("b", 2.0)]
    for nothing in (None, {}, {"rows": None}, {"rows": math.nan}):
        chosen = Chosen.of(records, nothing).nearest()
        assert chosen.probes is None
        assert [row["weight"]["sharing"] for row in chosen.rows()] == [0.5, 0.5]
        assert chosen.sampler("sharing", 0, 2) is not None


def test_a_study_gives_back_what_it_kept() -> None:
    chosen = Chosen.of([record(f"s{k}", k, 40, k) for k in range(1, 4)], TARGET).nearest()
    pieces = chosen.pack()
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    back = Chosen.unpack(pieces, TARGET, "x")
    assert back.rows() == chosen.rows()
    assert back.probes is not None
    assert np.array_equal(back.probes, chosen.probes, equal_nan=True)
    for mine, theirs in zip(chosen.records, back.records, strict=True):
        assert [(t.number, t.params, t.values, t.distributions) for t in mine.trials] == [
            (t.number, t.params, t.values, t.distributions) for t in theirs.trials
        ]


def test_what_does_not_fit_one_attribute_is_split() -> None:
    chosen = Chosen.of([record(f"s{k}", k, 200, k) for k in range(12)], TARGET).nearest()
    pieces = chosen.pack()
    assert len(pieces) > 1
    assert len(Chosen.unpack(pieces, TARGET, "x").records) == 12
    with pytest.raises(UserError, match="The prior of `s`.*"):
        Chosen.unpack(pieces[:-1], TARGET, "The prior of `s`")
    with pytest.raises(UserError, match="damaged"):
        Chosen.unpack(["ä", *pieces], TARGET, "The prior of `s`")


def test_thinned_keeps_the_best_and_a_spread() -> None:
    long = record("long", n=500)
    short = thinned(long)
    assert short.facts.space == ""
    for arm in ARMS:
        own, kept = long.of_arm(arm), short.of_arm(arm)
        assert len(kept) == MAX_TRIALS
        assert TrialState.FAIL not in {t.state for t in kept}
        values = sorted((t.value for t in own if t.state == TrialState.COMPLETE), reverse=True)
        found = sorted((t.value for t in kept if t.state == TrialState.COMPLETE), reverse=True)
        assert found[: MAX_TRIALS // 2] == values[: MAX_TRIALS // 2]
        assert found[-1] < np.quantile(values, 0.1)
        assert any(t.state == TrialState.PRUNED for t in kept)
    assert [t.number for t in short.trials] == sorted(t.number for t in short.trials)
    few = record("few", n=12)
    assert len(thinned(few).trials) == len([t for t in few.trials if t.state != TrialState.FAIL])


def test_useful_sources_have_something_to_say_of_the_space() -> None:
    names = {"sharing": {"rate", "other"}, "independent": {"other"}}
    good, short = record("good"), record("short", n=4)
    level = Record(
        good.facts,
        tuple(_with_value(t, 0.5) for t in good.trials if t.state == TrialState.COMPLETE),
    )
    assert useful([good, short, level], names) == [good]
    assert useful([good], {"sharing": {"other"}, "independent": {"other"}}) == []


def test_an_arm_without_a_source_has_no_sampler() -> None:
    whole = record("a")
    one = Record(whole.facts, tuple(whole.of_arm("sharing")))
    chosen = Chosen.of([one], TARGET).nearest()
    assert chosen.sampler("sharing", 0, 1) is not None
    assert chosen.sampler("independent", 0, 1) is None
    (row,) = chosen.rows()
    assert row["weight"] == {"sharing": 1.0, "independent": None}


def _with_value(trial: FrozenTrial, value: float) -> FrozenTrial:
    other = copy.copy(trial)
    other.values = [value]
    return other
