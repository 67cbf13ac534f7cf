"""Promotion is a pure function of the values at a rung."""

import itertools

import pytest

from autometa.errors import UserError
from autometa.searching.promotion import (
    PRUNERS,
    bracket,
    check_pruner,
    correlation,
    decide,
    ladder,
    rungs,
)

VALUES = {0: 0.1, 1: 0.5, 2: 0.3, 3: 0.5, 4: -1.0, 5: 0.2, 6: 0.4}


def test_asha_keeps_the_best_third_and_the_earlier_of_equals() -> None:
    assert decide("asha", VALUES) == {1, 3, 6}
    assert decide("asha", {0: 0.5, 1: 0.5, 2: 0.5}) == {0}
    assert decide("asha", {7: -0.3}) == {7}


def test_median_waits_for_five_values_and_keeps_the_upper_half() -> None:
    assert decide("median", {k: VALUES[k] for k in range(4)}) == {0, 1, 2, 3}
    assert decide("median", VALUES) == {1, 2, 3, 6}


def test_none_keeps_everything_and_is_scored_at_every_rung() -> None:
    assert decide("none", VALUES) == set(VALUES)
    assert rungs("none", 2700, 0) == ladder(2700) == (300, 900, 2700)


def test_demoted_trials_come_after_all_others() -> None:
    assert decide("asha", VALUES, {1, 3}) == {2, 5, 6}
    assert decide("asha", VALUES, set(VALUES)) == decide("asha", VALUES)
    assert decide("asha", VALUES, {1, 3, 6, 2, 5}) == {0, 4, 1}
    assert decide("median", VALUES, {1, 3}) == {0, 2, 5, 6}
    assert decide("none", VALUES, {1}) == set(VALUES)


@pytest.mark.parametrize("pruner", PRUNERS)
def test_decision_does_not_depend_on_the_order_of_arrival(pruner: str) -> None:
    some = list(VALUES.items())[:5]
    answers = {decide(pruner, dict(order)) for order in itertools.permutations(some)}
    assert len(answers) == 1


@pytest.mark.parametrize("steps", [1, 99, 100, 299, 300, 540, 900, 2000])
def test_rungs_rise_to_max_steps_and_none_is_short(steps: int) -> None:
    for pruner, number in itertools.product(PRUNERS, range(3)):
        found = rungs(pruner, steps, number)
        assert list(found) == sorted(set(found))
        assert all(rung >= 100 for rung in found[:-1])
        assert found[-1] == steps


def test_a_small_budget_has_fewer_rungs() -> None:
    assert [ladder(steps) for steps in (900, 540, 299)] == [(100, 300, 900), (180, 540), (299,)]
    assert [rungs("hyperband", 540, n) for n in range(3)] == [(180, 540), (540,), (180, 540)]


def test_rungs_of_2000_steps() -> None:
    assert rungs("asha", 2000, 5) == (222, 666, 2000)
    assert [rungs("hyperband", 2000, n) for n in range(3)] == [
        (222, 666, 2000),
        (666, 2000),
        (2000,),
    ]
    assert [bracket("hyperband", n, 2000) for n in range(4)] == [0, 1, 2, 0]
    assert {bracket("asha", n, 2000) for n in range(4)} == {0}


def test_correlation_is_of_the_ranks_of_those_that_reached_the_end() -> None:
    ends = {0: 1.0, 1: 8.0, 2: 27.0, 3: 64.0, 4: 125.0}
    assert correlation({**{k: float(k) for k in ends}, 9: -5.0}, ends) == pytest.approx(1.0)
    assert correlation({k: -float(k) for k in ends}, ends) == pytest.approx(-1.0)
    assert correlation({0: 1.0, 1: 3.0, 2: 2.0, 3: 4.0, 4: 5.0}, ends) == pytest.approx(0.9)
    assert correlation({k: float(k) for k in range(4)}, ends) is None
    assert correlation(dict.fromkeys(ends, 0.5), ends) == 0.0


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_a_rung_that_does_not_predict_the_end_stops_nobody(pruner: str) -> None:
    values = {**VALUES, 7: 0.0}
    opposite = {n: -values[n] for n in (0, 2, 3, 4, 6)}
    assert decide(pruner, values, (), opposite) == set(values)
    assert decide(pruner, values, (), {n: values[n] for n in opposite}) < set(values)
    four = {n: opposite[n] for n in list(opposite)[:4]}
    assert decide(pruner, values, (), four) == decide(pruner, values)


def test_unknown_pruner_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean `hyperband`"):
        check_pruner("hyperbnd")
