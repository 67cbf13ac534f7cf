"""Which waiting runs become a unit."""

from __future__ import annotations

import pytest

from autometa.searching.packing import MAX_BUNDLE, ask_ahead, fullest

LIMIT = MAX_BUNDLE["cpu"]


def pick(
    groups: dict[str, list[int]],
    workers: int = 1,
    running: int = 0,
    most: int = LIMIT,
    **progress: int,
) -> list[int]:
    epochs = {key: progress.get(key, 0) for key in groups}
    return fullest(groups, epochs, workers, running, dict.fromkeys(groups, most))


def test_largest_group_first_then_furthest_on_then_oldest() -> None:
    assert pick({"a": [1, 2], "b": [3, 4, 5]}) == [3, 4, 5]
    assert pick({"a": [1, 2], "b": [3, 4]}, b=3) == [3, 4]
    assert pick({"a": [5, 6], "b": [3, 4]}) == [3, 4]


def test_a_unit_holds_no_more_than_fits() -> None:
    assert pick({"a": list(range(100))}) == list(range(LIMIT))


def test_a_unit_holds_no_more_than_a_worker_has_memory_for() -> None:
    left, sizes = list(range(14)), []
    while left:
        sizes.append(len(pick({"a": left}, most=4)))
        left = left[sizes[-1] :]
    assert sizes == [4, 4, 4, 2]
    assert pick({"a": list(range(5))}, most=4) == [0, 1, 2]  # none is left alone
    assert pick({"a": list(range(3))}, most=2) == [0, 1]  # but where two are all that fit
    assert pick({"a": list(range(3))}, most=1) == [0]


def test_several_workers_share_what_is_left() -> None:
    assert pick({"a": list(range(14))}, workers=2) == list(range(7))
    assert pick({"a": list(range(14))}, workers=4) == list(range(4))
    assert pick({"a": list(range(7, 14))}, workers=2, running=7) == list(range(7, 14))
    # what others can do is theirs: the group is not cut
    assert pick({"a": list(range(10)), "b": list(range(10, 20))}, workers=2) == list(range(10))


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_no_trial_of_several_is_left_alone(size: int, workers: int) -> None:
    """A stack of one may differ in its last bits, and the clock must not decide on that."""
    left, units = list(range(size)), []
    while left:
        units.append(pick({"a": left}, workers))
        left = left[len(units[-1]) :]
    assert [n for unit in units for n in unit] == list(range(size))
    assert size == 1 or min(map(len, units)) > 1


def test_no_trial_is_left_alone_beside_a_full_unit() -> None:
    assert len(pick({"a": list(range(LIMIT + 1))})) == LIMIT - 1


def test_suggestions_ahead_grow_with_the_search() -> None:
    found = [ask_ahead(n, LIMIT) for n in (1, 64, 128, 200, 256, 10_000)]
    assert found == [8, 16, 32, 50, 64, 64]
    assert ask_ahead(10_000, MAX_BUNDLE["cuda"]) == 1024
