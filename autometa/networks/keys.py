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
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_GOLDEN = -1640531527  # 2³²/φ as int32: neighbouring counters land far apart
_STREAM = 0x3C6EF35F  # odd, unrelated to _GOLDEN: streams of one key do not overlap by a shift
_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)


def new_key(seed: int, device: torch.device | str = "cpu") -> Int[Tensor, ""]:
    """Return the key of a run's stream. `seed` may be any integer."""
    return _mix(torch.tensor(_int32(seed ^ (seed >> 32)), dtype=torch.int32, device=device))


def fold(key: Int[Tensor, "*batch"], data: Int[Tensor, "*other"] | int) -> Int[Tensor, "*shape"]:
    """Derive the keys of sub-streams numbered by `data` (it broadcasts against `key`)."""
    shift = data * _GOLDEN if isinstance(data, Tensor) else _int32(data * _GOLDEN)
    return _mix(_mix(key + shift))


def keep(
    key: Int[Tensor, ""], stream: int, rate: Float[Tensor, ""], shape: Sequence[int]
) -> Bool[Tensor, "*shape"]:
    """True with probability 1 − `rate` (in steps of 2⁻¹⁶), entry by entry.

    Args:
        stream: numbers apart the draws from one key.
        rate: in [0, 1).
    """
    count = math.prod(shape)
    bits = _mix(_counter((count + 1) // 2, key.device) + (key + _int32(stream * _STREAM)))
    # each half of the bits is one draw, uniform on [−2¹⁵, 2¹⁵)
    threshold = (rate.double() * 2.0**16 - 2.0**15).to(torch.int16)
    return (bits.view(torch.int16)[:count] >= threshold).reshape(tuple(shape))


def normal(
    key: Int[Tensor, ""], stream: int, shape: Sequence[int], dtype: torch.dtype
) -> Float[Tensor, "*shape"]:
    """Standard normal numbers (Box and Muller 1958).

    Args:
        stream: numbers apart the draws from one key.
    """
    count = math.prod(shape)
    bits = _mix(_counter(2 * count, key.device) + (key + _int32(stream * _STREAM)))
    # the middle of one of 2³² equal parts of (0, 1)
    uniform = (bits.double() + 2.0**31 + 0.5) / 2.0**32
    radius = (-2.0 * uniform[:count].log()).sqrt()
    drawn = radius * (2.0 * math.pi * uniform[count:]).cos()
    return drawn.to(dtype).reshape(tuple(shape))


@lru_cache(maxsize=64)
def _counter(count: int, device: torch.device) -> Int[Tensor, " count"]:
    return torch.arange(count, dtype=torch.int32, device=device) * _GOLDEN


def _int32(number: int) -> int:
    low = number & 0xFFFFFFFF
    return low - (low >> 31 << 32)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 16) & 0xFFFF)) * _M1
    x = (x ^ ((x >> 15) & 0x1FFFF)) * _M2
    return x ^ ((x >> 16) & 0xFFFF)
