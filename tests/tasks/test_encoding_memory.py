"""Encoding takes little more memory than what comes out of it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd

from autometa.tasks import TaskSuite


def test_texts_are_not_all_zeros_and_ones_at_a_time() -> None:
    """Forty columns of 45 texts: 1,800 features, of which one column's are made at a time."""
    r = np.random.default_rng(0)
    rows = 4000
    frame = pd.DataFrame(
        {f"c{k}": r.choice([f"v{k}-{j}" for j in range(45)], rows) for k in range(40)}
    )
    frame["y"] = r.normal(size=rows)
    encoder = TaskSuite.from_frame(frame, target="y").encoder
    tracemalloc.start()
    try:
        found = encoder.encode(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (rows, 1800)
    assert peak < 1.5 * found.numel() * 4
