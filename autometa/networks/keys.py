"""Counter-based random numbers that work under `torch.func.vmap`.

A `torch.Generator` cannot be stacked, so a run's random stream inside the network is a key: a
scalar int32 tensor. The same key and shape give the same numbers on every device and in every
population, which is what makes a run independent of the runs it is stacked with. The mixer is
the 32-bit integer finaliser with the constants found by Wellons' search (low bias `0x7feb352d`,
`0x846ca68b`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = -1640531527  # 2³²/φ as int32: neighbouring counters land far apart
_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)


def new_key(seed: int, device: torch.device | str = "cpu") -> Int[Tensor, ""]:
    """Return the key of a run's stream. `seed` may be any integer."""
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return _mix(torch.tensor(folded - (folded >> 31 << 32), dtype=torch.int32, device=device))


def fold(key: Int[Tensor, "*batch"], data: int | Tensor) -> Int[Tensor, "*shape"]:
    """Derive the key of a sub-stream (`data`: step, layer or task number; broadcasts)."""
    return _mix(_mix(key + data * _GOLDEN if isinstance(data, Tensor) else key + _wrap(data)))


def uniform(key: Int[Tensor, ""], shape: Sequence[int]) -> Float[Tensor, "*shape"]:
    """Return float32 numbers in [0, 1) of the given shape."""
    count = torch.arange(math.prod(shape), dtype=torch.int32, device=key.device)
    bits = _mix(count * _GOLDEN + key)
    # 24 bits fit a float32 exactly, so 1.0 cannot be reached by rounding.
    return (((bits >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24).reshape(tuple(shape))


def _wrap(number: int) -> int:
    product = (number * _GOLDEN) & 0xFFFFFFFF
    return product - (product >> 31 << 32)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 16) & 0xFFFF)) * _M1
    x = (x ^ ((x >> 15) & 0x1FFFF)) * _M2
    return x ^ ((x >> 16) & 0xFFFF)
