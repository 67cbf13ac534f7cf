"""Sinusoid regression is what Finn et al. (2017) describe."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from autometa.tasks import EpisodeShape, load_suite
from autometa.tasks.sinusoid import draw_sinusoids, sinusoid_episodes


def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Amplitude, phase and largest error of A sin(x − φ), exact by least squares in sin and cos."""
    found = []
    for one, value in zip(x, y, strict=True):
        basis = np.stack([np.sin(one), np.cos(one)], 1)
        (a, b), *_ = np.linalg.lstsq(basis, value, rcond=None)
        found.append((np.hypot(a, b), np.arctan2(-b, a), np.abs(basis @ [a, b] - value).max()))
    amplitude, phase, error = np.array(found).T
    return amplitude, phase, error


def test_amplitudes_phases_and_inputs():
    x, y = draw_sinusoids(2000, 8, 0.0, np.random.default_rng(0))
    amplitude, phase, error = fit(x, y)
    assert error.max() < 1e-9
    for values, (low, high) in ((amplitude, (0.1, 5)), (phase, (0, np.pi)), (x, (-5, 5))):
        assert values.min() >= low - 1e-9
        assert values.max() <= high + 1e-9
        wide = (high - low) / np.sqrt(12)
        assert values.mean() == pytest.approx((low + high) / 2, abs=4 * wide / 2000**0.5)
        assert values.std() == pytest.approx(wide, rel=0.05)


def test_noise_has_its_deviation():
    clean, noisy = (draw_sinusoids(500, 40, s, np.random.default_rng(1))[1] for s in (0.0, 0.3))
    assert (noisy - clean).std() == pytest.approx(0.3, rel=0.02)


def test_the_catalogs_suite():
    start = time.perf_counter()
    suite = load_suite("sinusoid")
    assert time.perf_counter() - start < 5  # 0.2 s on an idle machine
    assert suite.n_tasks == 600
    assert suite.counts == {"train": 14400, "val": 4800, "test": 4800}
    assert set(suite.kinds) == {"regression"}
    rows = suite.rows("train")
    task = suite.tasks[0]
    x = suite.encoder.mean[0] + suite.encoder.scale[0] * rows.x[rows.task < 20, 0]
    y = rows.y[rows.task < 20] * task.std + task.mean
    error = fit(x.view(20, -1).double().numpy(), y.view(20, -1).double().numpy())[2]
    assert error.max() < 1e-4
    assert suite.fingerprint == load_suite("sinusoid").fingerprint
    assert suite.fingerprint != load_suite("sinusoid", seed=1).fingerprint


def test_episodes_in_the_papers_units():
    start = time.perf_counter()
    shape = EpisodeShape(shots=5, queries=10)
    suite = sinusoid_episodes(20_000, 20, shape=shape, held_out=(50, 60), held_out_rows=105)
    assert time.perf_counter() - start < 5  # 0.1 s on an idle machine
    assert [len(t) for t in suite.tasks_by_split.values()] == [20_000, 50, 60]
    assert suite.counts == {"train": 400_000, "val": 50 * 105, "test": 60 * 105}
    assert (suite.target_mean, suite.target_std, suite.encoder) == (0.0, 1.0, None)
    error = fit(
        suite.x[:1000, 0].view(50, 20).double().numpy(), suite.y[:1000].view(50, 20).numpy()
    )[2]
    assert error.max() < 1e-5
    # E A² E sin² with A uniform in [0.1, 5]
    assert float(suite.y.square().mean()) == pytest.approx((5**3 - 0.1**3) / (3 * 4.9) / 2, rel=0.1)
    episodes = suite.open_test_episodes()
    assert episodes.support.x.shape == (600, 5, 1)
    assert episodes.query.x.shape == (600, 100, 1)
    assert bool(episodes.query.mask.all())
    other = sinusoid_episodes(50, 20, seed=1, held_out=(5, 5))
    assert other.shape.shots == other.shape.queries == 10
    assert not torch.equal(other.y[:20], suite.y[:20])
