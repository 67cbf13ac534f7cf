"""What a run takes in memory, and how much of it is free.

One run's step is watched operation by operation, so that its parameters, gradients, optimizer
state, activations, batch, plan of an epoch and task gradients are counted as they are and not
guessed. Runs of a stack take the same each. What kernels use inside and give back, and NumPy's
arrays, are not seen; K runs were within a factor of two of K times one.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: share of the free memory that runs may be planned to take
_SHARE = 0.8
#: bytes of a full block of a prediction: 4 million activations before, in and after a layer
_BLOCK = 3 * 4 * 4_000_000


class RunMemory(NamedTuple):
    """Bytes that one run takes at most, its state among them.

    Attributes:
        training: in a step.
        scoring: while its validation rows are predicted, in blocks of limited size.
    """

    training: int
    scoring: int = 0

    def most(self, budget: int) -> int:
        """How many runs fit into `budget` bytes at a time; at least one, which has to be tried."""
        # blocks grow with the runs until they are full
        growing = budget // max(1, self.training, self.scoring)
        full = (budget - _BLOCK) // max(1, self.training)
        return max(1, growing, full)


def plannable(device: torch.device, share: float = 1.0) -> int:
    """Bytes that runs on a device may be planned to take: 80% of the free ones.

    Args:
        share: of the device that is this process's own.
    """
    return int(_SHARE * share * free_bytes(device))


def free_bytes(device: torch.device) -> int:
    """Bytes that can be had on a device now.

    On the CPU what the system can give without swapping, and what is left of the limit of a
    container; half of all memory where the system does not say.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return _free_on_cpu(Path("/"))


def _free_on_cpu(root: Path) -> int:
    try:
        text = (root / "proc/meminfo").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("MemAvailable:")]
        free = 1024 * int(line.split()[1])
    except (OSError, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    groups = root / "sys/fs/cgroup"
    for folder, limit, used, cache in (
        (groups, "memory.max", "memory.current", "inactive_file"),
        (
            groups / "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        try:
            most, taken = (int((folder / name).read_text()) for name in (limit, used))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no container, or no limit ("max")
            continue
        free = min(free, max(0, most - taken + int(stat.get(cache, 0))))
    return free


class AllocationPeak(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside, while they live.

    Attributes:
        peak: the most at a time since the start, or since `restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._storages: dict[int, _Storage] = {}
        self._freed: deque[_Storage] = deque()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: torch would import its compiler, which takes seconds, to keep it from us."""
        return False

    def restart(self) -> None:
        """Forget the peak, and go on from what lives now."""
        self._forget_freed()
        self.peak = self._live

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._forget_freed()
        key = storage._cdata
        if key in self._storages:  # a view, or changed in place
            return
        # `append`, no function of ours: Ctrl-C while it ran would be printed and forgotten
        made = _Storage(storage, self._freed.append)
        made.key, made.size = key, storage.nbytes()
        self._storages[key] = made
        self._live += made.size
        self.peak = max(self.peak, self._live)

    def _forget_freed(self) -> None:
        while self._freed:
            freed = self._freed.popleft()
            self._live -= freed.size
            del self._storages[freed.key]


class _Storage(weakref.ref[torch.UntypedStorage]):
    """A storage that may be freed, and its bytes."""

    key: int
    size: int
