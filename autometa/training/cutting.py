"""Where a population is cut, so that a run has the same bits in a part of it as in the whole."""

from __future__ import annotations

import itertools

#: Runs lie one behind the other, so those of an odd number of floats begin anywhere in the 16 bytes
#: that a vector register holds, and a matrix product rounds by where it begins. Every fourth run
#: begins as the first does.
ALIGNED = 4


def aligned(n_runs: int, size: int, most: int) -> list[range]:
    """Parts of about `size` runs and at most `most`, which is at least four.

    Each begins at a multiple of four; but no run is alone, since products of one are others, so
    where no more than four runs may be together the last two parts of 4 n + 1 begin elsewhere.
    """
    if n_runs <= min(size, most):
        return [range(n_runs)]
    step = max(1, min(-(-size // ALIGNED), most // ALIGNED)) * ALIGNED
    ends = [*range(0, n_runs, step), n_runs]
    if len(ends) > 2 and ends[-1] - ends[-2] == 1:
        if step < most:
            del ends[-2]
        else:
            ends[-2] -= ALIGNED if step > ALIGNED else 1
    return [range(a, b) for a, b in itertools.pairwise(ends)]
