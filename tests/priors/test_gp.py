"""The Gaussian process against the textbook and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from autometa.priors import gp

GROUP = np.array([0, 1, 1])


def data(n: int = 12, seed: int = 0) -> gp.Data:
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3))
    y = np.sin(4 * x[:, 0]) + x[:, 1] + 0.05 * rng.normal(size=n)
    return gp.Data(x, y, rng.normal(size=(n, 2)), rng.normal(size=(n, 3)))


LOG = np.log([0.7, 1.3, 1.2, 0.2, 0.4])


def test_likelihood_is_that_of_the_normal_distribution() -> None:
    d = data()
    distances = gp._distances(d.x, GROUP, 2)
    scaled = d.x * gp.scale_of(LOG, GROUP)
    r = np.sqrt(5 * ((scaled[:, None] - scaled[None]) ** 2).sum(-1))
    k = 1.2**2 * (1 + r + r**2 / 3) * np.exp(-r)
    k += d.fixed @ d.fixed.T + 0.4**2 * d.tied @ d.tied.T + (0.2**2 + 1e-6) * np.eye(12)
    expected = -multivariate_normal(np.zeros(12), k).logpdf(d.y)
    assert gp._loss(LOG, d, distances)[0] + 6 * np.log(2 * np.pi) == pytest.approx(expected)
    assert gp.GP(d, GROUP, LOG).evidence == pytest.approx(-expected)


def test_gradient() -> None:
    d = data()
    distances = gp._distances(d.x, GROUP, 2)
    numeric = approx_fprime(LOG, lambda log: gp._loss(log, d, distances)[0], 1e-6)
    np.testing.assert_allclose(gp._loss(LOG, d, distances)[1], numeric, rtol=1e-4, atol=1e-4)


def test_prediction_is_scikit_learn_s() -> None:
    d = data()
    plain = gp.Data(d.x, d.y, np.zeros((12, 1)), np.zeros((12, 0)))
    process = gp.GP(plain, GROUP, LOG)
    kernel = ConstantKernel(1.2**2) * Matern([0.7, 1.3, 1.3], nu=2.5)
    other = GaussianProcessRegressor(kernel, alpha=0.2**2 + 1e-6, optimizer=None).fit(d.x, d.y)
    new = np.random.default_rng(1).random((6, 3))
    mean, deviation = process.predict(new, np.zeros((6, 1)), np.zeros((6, 0)))
    expected, expected_deviation = other.predict(new, return_std=True)
    np.testing.assert_allclose(mean, expected, atol=1e-9)
    np.testing.assert_allclose(deviation, expected_deviation, atol=1e-9)


def test_basis_is_bayesian_linear_regression() -> None:
    d = data()
    log = np.array([*LOG[:2], -20.0, np.log(0.2), np.log(0.4)])
    process = gp.GP(d, GROUP, log)
    basis = np.concatenate([d.fixed, 0.4 * d.tied], axis=1)
    precision = basis.T @ basis / (0.2**2 + 1e-6) + np.eye(5)
    w = np.linalg.solve(precision, basis.T @ d.y / (0.2**2 + 1e-6))
    mean, deviation = process.predict(d.x, d.fixed, d.tied)
    np.testing.assert_allclose(mean, basis @ w, atol=1e-8)
    variance = np.einsum("ij,jk,ik->i", basis, np.linalg.inv(precision), basis)
    np.testing.assert_allclose(deviation, np.sqrt(variance), atol=1e-6)


def test_fit_finds_the_parameter_that_matters() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((40, 2))
    d = gp.Data.plain(x, np.sin(7 * x[:, 0]))
    log = gp.fit([d], np.array([0, 1]), gp.Hyper.default(2))
    assert log[0] < log[1] - 1
    assert log[3] < np.log(0.1)


def test_fit_of_several_sets_is_one_answer() -> None:
    sets = [data(seed=s) for s in range(3)]
    prior = gp.Hyper.default(2)
    log = gp.fit(sets, GROUP, prior)

    def loss(at: np.ndarray) -> float:
        off = (at - prior.log) / prior.deviation
        each = [gp._loss(at, d, gp._distances(d.x, GROUP, 2))[0] for d in sets]
        return 0.5 * off @ off + sum(each)

    slope = approx_fprime(log, loss, 1e-6)
    assert np.abs(slope).max() < 0.1
    assert loss(log) < loss(prior.log)
