"""Memory that is freed stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from autometa.training.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    kept = keep_freed_memory()
else:
    kept = True

def step():
    blocks = [torch.ones(10 << 20) for _ in range(3)]  # 40 MiB each

for _ in range(12):  # the heap grows
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of ten rounds of 120 MiB taken and freed."""
    words = [sys.executable, "-c", SCRIPT, how]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    if found[0] == "0":
        pytest.skip("The C library is not glibc.")
    return int(found[1])


def test_freed_memory_is_taken_again_without_page_faults() -> None:
    kept, given_back = faults("keep"), faults("leave")
    pages = 10 * 3 * (40 << 20) // 4096
    assert kept < 0.01 * pages
    assert given_back >= 10 * max(kept, 1)  # so that the bound says something
