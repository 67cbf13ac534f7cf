"""Where a population is cut."""

from __future__ import annotations

import pytest

from autometa.training.cutting import aligned


@pytest.mark.parametrize(
    ("n_runs", "size", "most", "sizes"),
    [
        (12, 12, 12, [12]),
        (12, 8, 12, [8, 4]),
        (12, 4, 12, [4, 4, 4]),
        (12, 5, 12, [8, 4]),
        (9, 4, 9, [4, 5]),
        (17, 8, 8, [8, 4, 5]),
        (6, 6, 6, [6]),
        (7, 4, 7, [4, 3]),
        (5, 4, 5, [5]),
        (12, 12, 7, [4, 4, 4]),
        (1, 4, 4, [1]),
    ],
)
def test_parts_begin_at_multiples_of_four(
    n_runs: int, size: int, most: int, sizes: list[int]
) -> None:
    parts = aligned(n_runs, size, most)
    assert [len(part) for part in parts] == sizes
    assert [k for part in parts for k in part] == list(range(n_runs))
    assert all(part.start % 4 == 0 for part in parts)


def test_no_run_is_alone() -> None:
    assert aligned(9, 4, 4) == [range(4), range(4, 7), range(7, 9)]
