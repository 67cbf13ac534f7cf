"""scikit-learn on episodes: what it learns from, and what it answers where it cannot learn."""

from __future__ import annotations

import numpy as np
import pytest

from autometa.baselines.episodes import (
    logistic,
    nearest,
    pooled_baselines,
    ridge,
    support_baselines,
)


def episodes(kind: str, ways: int = 3, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Episodes of two features with a rule of their own: x, y, mask, new x, new y."""
    rng = np.random.default_rng(seed)
    n, rows = 8, 24
    x = rng.normal(size=(n, 2 * rows, 2))
    w = rng.normal(size=(n, 2, 1)) * 3.0
    y = (x @ w)[..., 0]
    if kind == "binary":
        y = (y > 0).astype(float)
    if kind == "multiclass":
        y = np.tile(np.arange(2 * rows) % ways, (n, 1)).astype(float)
        angle = 2.0 * np.pi * y / ways + rng.normal(size=(n, 1))
        x = 4.0 * np.stack([np.cos(angle), np.sin(angle)], -1) + 0.3 * x
    mask = np.ones((n, rows), dtype=bool)
    mask[:, -2:] = False
    y[:, rows - 2 : rows] = 0.0
    return x[:, :rows], y[:, :rows], mask, x[:, rows:], y[:, rows:]


def test_each_episode_is_learned_from_its_own_support_rows() -> None:
    x, y, mask, new, truth = episodes("regression")
    (name,) = found = support_baselines("regression", False, 0, x, y, mask, new)
    assert name == "ridge"
    np.testing.assert_allclose(found["ridge"][1][..., 0], truth, atol=0.05)


def test_masked_rows_are_not_learned_from() -> None:
    x, y, mask, new, _ = episodes("regression")
    before = support_baselines("regression", False, 0, x, y, mask, new)["ridge"][1]
    x[:, -2:], y[:, -2:] = 100.0, -100.0
    after = support_baselines("regression", False, 0, x, y, mask, new)["ridge"][1]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_classes_of_tables_are_learned(kind: str) -> None:
    x, y, mask, new, truth = episodes(kind)
    found = support_baselines(kind, False, 3, x, y, mask, new)
    assert set(found) == ({"logistic"} if kind == "binary" else {"logistic", "nearest"})
    for _, out in found.values():
        guess = (out[..., 0] > 0) if kind == "binary" else out.argmax(-1)
        assert (guess == truth).mean() > 0.9


def test_images_are_compared_by_pixels() -> None:
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(4, 5, 1, 6, 6))
    y = np.tile(np.arange(5.0), (4, 1))
    new = prototypes[:, ::-1] + 0.1 * rng.normal(size=prototypes.shape)
    found = support_baselines("multiclass", True, 5, prototypes, y, y >= 0, new)
    words, out = found["nearest"]
    assert set(found) == {"nearest"}
    assert "pixels" in words
    np.testing.assert_array_equal(out.argmax(-1), np.tile(np.arange(5)[::-1], (4, 1)))


def test_the_nearest_row_of_each_class() -> None:
    x, y = np.array([[0.0], [1.0], [5.0]]), np.array([0.0, 0.0, 2.0])
    out = nearest(x, y, np.array([[2.0]]), 4)
    assert out.tolist() == [[-1.0, -np.inf, -9.0, -np.inf]]


def test_what_cannot_be_learned_has_an_answer() -> None:
    new = np.zeros((3, 2))
    assert ridge(np.zeros((0, 2)), np.zeros(0), new).tolist() == [[0.0]] * 3
    assert ridge(np.ones((2, 2)), np.array([1.0, 3.0]), new).tolist() == [[2.0]] * 3
    one = logistic(np.ones((4, 2)), np.ones(4), new, 2)
    assert np.isfinite(one).all()
    assert (one > 0).all()
    three = logistic(np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 1.0]), np.ones((1, 1)), 3)
    assert three.argmax(1).tolist() == [1]
    assert three[0, 2] == -30.0


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_pooled_models_see_the_training_rows_only(kind: str) -> None:
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(300, 3)), rng.normal(size=(2, 40, 3))
    y, truth = x[:, 0] - x[:, 1], new[..., 0] - new[..., 1]
    if kind == "binary":
        y, truth = (y > 0).astype(float), (truth > 0).astype(float)
    found = pooled_baselines(kind, x, y, new)
    linear = "pooled_ridge" if kind == "regression" else "pooled_logistic"
    assert set(found) == {linear, "pooled_trees"}
    for _, out in found.values():
        assert out.shape == (2, 40, 1)
        if kind == "regression":
            assert np.square(out[..., 0] - truth).mean() < 0.2
        else:
            assert ((out[..., 0] > 0) == truth).mean() > 0.85
