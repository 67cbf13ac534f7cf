"""Promotion is a pure function of the values at a rung."""

import itertools

import pytest

from autometa.errors import UserError
from autometa.searching.promotion import PRUNERS, bracket, check_pruner, decide, rungs

VALUES = {0: 0.1, 1: 0.5, 2: 0.3, 3: 0.5, 4: -1.0, 5: 0.2, 6: 0.4}


def test_asha_keeps_the_best_third_and_the_earlier_of_equals() -> None:
    assert decide("asha", VALUES) == {1, 3, 6}
    assert decide("asha", {0: 0.5, 1: 0.5, 2: 0.5}) == {0}
    assert decide("asha", {7: -0.3}) == {7}


def test_median_waits_for_five_values_and_keeps_the_upper_half() -> None:
    assert decide("median", {k: VALUES[k] for k in range(4)}) == {0, 1, 2, 3}
    assert decide("median", VALUES) == {1, 2, 3, 6}


def test_none_keeps_everything_and_has_one_rung() -> None:
    assert decide("none", VALUES) == set(VALUES)
    assert rungs("none", 27, 0) == (27,)


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


@pytest.mark.parametrize("epochs", [1, 2, 5, 9, 27, 100])
def test_rungs_rise_to_max_epochs(epochs: int) -> None:
    for pruner, number in itertools.product(PRUNERS, range(3)):
        ladder = rungs(pruner, epochs, number)
        assert list(ladder) == sorted(set(ladder))
        assert ladder[0] >= 1
        assert ladder[-1] == epochs


def test_rungs_of_27_epochs() -> None:
    assert rungs("asha", 27, 5) == (3, 9, 27)
    assert [rungs("hyperband", 27, n) for n in range(3)] == [(3, 9, 27), (9, 27), (27,)]
    assert [bracket("hyperband", n, 27) for n in range(4)] == [0, 1, 2, 0]
    assert {bracket("asha", n, 27) for n in range(4)} == {0}


def test_unknown_pruner_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean `hyperband`"):
        check_pruner("hyperbnd")
