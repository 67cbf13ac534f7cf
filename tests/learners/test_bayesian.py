"""The Bayesian head against dense computations of its posterior, and its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.func import vmap
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Batch, Learner
from autometa.learners.bayesian import posterior
from autometa.networks import Step
from tests.small import draw, make_episode, make_episode_problem, make_learner

D = 6
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def build(kind: str = "regression", basis: int = D, **shape: Any) -> Learner:
    problem = make_episode_problem(kind, **shape)
    return make_learner(problem, {"adaptation.kind": "bayesian", "adaptation.basis": basis})


def phi_of(learner: Learner, params: dict[str, Tensor], x: Tensor) -> np.ndarray:
    """Basis functions by the network itself, task by task."""
    one = torch.zeros(1, dtype=torch.int64)
    network = learner.network
    out = [network.forward(params, {}, r, tasks=one, z=None, step=Step())[0][0] for r in x]
    return torch.stack(out).numpy()


def dense(
    learner: Learner, params: dict[str, Tensor], support: Batch, query: Batch, t: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a task's labels in function space, conditioned as a joint Gaussian."""
    s, q = (phi_of(learner, params, b.x)[t] for b in (support, query))
    keep = support.mask[t].numpy()
    s, y = s[keep], support.y[t].numpy()[keep]
    noise = math.exp(params["noise.log_variance"])
    cov = noise * np.diag(np.exp(-params["prior.log_precision"].numpy()))
    m0 = params["prior.mean"].numpy()
    gram = s @ cov @ s.T + noise * np.eye(len(s))
    cross = q @ cov @ s.T
    mean = q @ m0 + cross @ np.linalg.solve(gram, y - s @ m0)
    left = q @ cov @ q.T - cross @ np.linalg.solve(gram, cross.T)
    return mean, left + noise * np.eye(len(q))


@pytest.mark.parametrize("shots", [3, 20])
def test_prediction_is_that_of_the_gaussian_process(shots):
    """Weight space against function space: fewer rows than basis functions, and more."""
    learner = build(shots=shots)
    params, buffers = draw(learner)
    support, query = make_episode(learner.problem)
    phi = learner.adapt(params, buffers, support, Step())
    mean, variance = learner.moments(phi, buffers, query.x, query.tasks)
    out = learner.predict(phi, buffers, query.x, query.tasks)
    losses = learner.loss(phi, buffers, query, Step())[1]
    for t in range(3):
        m, cov = dense(learner, params, support, query, t)
        assert_close(mean[t].numpy(), m, **EXACT)
        assert_close(out[t, :, 0].numpy(), m, **EXACT)
        assert_close(variance[t].numpy(), np.diag(cov).copy(), **EXACT)
        each = [
            -multivariate_normal(m[i], cov[i, i]).logpdf(query.y[t, i].item())
            for i in range(len(m))
            if query.mask[t, i]
        ]
        assert losses[t].item() == pytest.approx(np.mean(each), rel=1e-9)


def test_no_support_gives_the_prior():
    learner = build()
    params, buffers = draw(learner)
    support, query = make_episode(learner.problem)
    nothing = support._replace(mask=torch.zeros_like(support.mask))
    phi = learner.adapt(params, buffers, nothing, Step())
    mean, variance = learner.moments(phi, buffers, query.x, query.tasks)
    q = torch.from_numpy(phi_of(learner, params, query.x))
    spread = (q.square() / params["prior.log_precision"].exp()).sum(-1)
    assert_close(mean, q @ params["prior.mean"], **EXACT)
    assert_close(variance, params["noise.log_variance"].exp() * (1.0 + spread), **EXACT)


@pytest.mark.parametrize("shots", [4, 12])
def test_a_vanishing_prior_precision_gives_the_pseudo_inverse(shots):
    """m₀ + Φ⁺(y − Φm₀): the nearest to m₀ of the weights that fit, least squares at full rank."""
    learner = build(shots=shots)
    params, buffers = draw(learner)
    support, _ = make_episode(learner.problem, missing=False)
    params["prior.log_precision"] = torch.full((D,), math.log(1e-9), dtype=torch.float64)
    weights = learner.adapt(params, buffers, support, Step())["adapted.weights"][..., 0].numpy()
    design, y, m0 = phi_of(learner, params, support.x), support.y.numpy(), params["prior.mean"]
    for t in range(3):
        rest = y[t] - design[t] @ m0.numpy()
        np.testing.assert_allclose(
            weights[t], m0.numpy() + np.linalg.pinv(design[t]) @ rest, rtol=1e-5, atol=1e-6
        )
        if shots > D:
            least = np.linalg.lstsq(design[t], y[t], rcond=None)[0]
            np.testing.assert_allclose(weights[t], least, rtol=1e-5, atol=1e-6)


def test_rows_one_after_the_other_are_rows_at_once():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2, 9, D, generator=rng, dtype=torch.float64)
    labels = torch.randn(2, 9, 3, generator=rng, dtype=torch.float64)
    mask = torch.rand(2, 9, generator=rng) < 0.8
    root = torch.randn(D, D, generator=rng, dtype=torch.float64)
    prior, mean = root @ root.mT + torch.eye(D), torch.randn(D, 1, dtype=torch.float64)
    weights, factor = posterior(features, labels, mask, mean, prior)
    step_mean, step_precision = mean, prior
    for row in range(9):
        at = slice(row, row + 1)
        step_mean, found = posterior(
            features[:, at], labels[:, at], mask[:, at], step_mean, step_precision
        )
        step_precision = found @ found.mT
    assert_close(step_mean, weights, **EXACT)
    assert_close(step_precision, factor @ factor.mT, **EXACT)
    for t in range(2):
        design = features[t][mask[t]]
        precision = prior + design.mT @ design
        expected = torch.linalg.solve(precision, prior @ mean + design.mT @ labels[t][mask[t]])
        assert_close(weights[t], expected, **EXACT)


def test_stays_finite_in_float32_where_the_matrix_is_badly_conditioned():
    learner = build(basis=32, shots=10)
    drawn, buffers = draw(learner)
    params = {name: leaf.float()[None].repeat(2, *[1] * leaf.ndim) for name, leaf in drawn.items()}
    params["prior.log_precision"].fill_(math.log(1e-8))
    params["noise.log_variance"].fill_(math.log(1e-8))
    params["head.weight"] *= 30.0  # condition 10¹³: in float32 the Cholesky factor has no digits
    params = {name: leaf.requires_grad_() for name, leaf in params.items()}
    support, query = (
        b._replace(x=b.x.float(), y=b.y.float()) for b in make_episode(learner.problem)
    )

    def one(p: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        phi = learner.adapt(p, buffers, support, Step())
        # a support row's own label is known almost surely
        mean, variance = learner.moments(phi, buffers, support.x, support.tasks)
        return learner.loss(phi, buffers, query, Step())[0], mean, variance

    total, mean, variance = vmap(one)(params)
    assert total.dtype == mean.dtype == torch.float32
    seen = support.mask.expand_as(mean)
    assert (mean - support.y)[seen].abs().max() < 1e-2
    assert (variance > 0).all()
    for grad in torch.autograd.grad(total.sum(), list(params.values())):
        assert grad.isfinite().all()


def test_classes_are_regressed_on_one_hot_labels():
    """Ridge regression of each class (Bertinetto et al. 2019), by the normal equations."""
    learner = build("multiclass", ways=3)
    params, buffers = draw(learner)
    support, query = make_episode(learner.problem)
    phi = learner.adapt(params, buffers, support, Step())
    out = learner.predict(phi, buffers, query.x, query.tasks)
    design, q = phi_of(learner, params, support.x), phi_of(learner, params, query.x)
    precision = np.diag(np.exp(params["prior.log_precision"].numpy()))
    scale = math.exp(params["logits.log_scale"])
    for t in range(3):
        keep = support.mask[t].numpy()
        x, y = design[t][keep], np.eye(3)[support.y[t].numpy()[keep].astype(int)]
        weights = np.linalg.inv(precision + x.T @ x) @ x.T @ y
        assert_close(out[t].numpy(), scale * q[t] @ weights, **EXACT)
    assert not {"prior.mean", "logits.offset", "noise.log_variance"} & set(params)


def test_binary_labels_are_regressed_as_minus_one_and_one():
    learner = build("binary", shots=7)
    params, buffers = draw(learner)
    support, query = make_episode(learner.problem)
    phi = learner.adapt(params, buffers, support, Step())
    out = learner.predict(phi, buffers, query.x, query.tasks)
    signed = support._replace(y=2.0 * support.y - 1.0)
    like = params | {"noise.log_variance": torch.tensor(0.0, dtype=torch.float64)}
    for t in range(3):
        mean, _ = dense(learner, like, signed, query, t)
        expected = math.exp(params["logits.log_scale"]) * mean + params["logits.offset"].item()
        assert_close(out[t, :, 0].numpy(), expected, **EXACT)


@pytest.mark.parametrize("ways", [2, 5])
def test_another_number_of_ways_than_trained(ways):
    learner = build("multiclass", ways=3)
    params, buffers = draw(learner)
    other = build("multiclass", ways=ways)
    support, query = make_episode(other.problem)
    phi = learner.adapt(params, buffers, support, Step())
    out = learner.predict(phi, buffers, query.x, query.tasks)
    expected = other.adapt(params, buffers, support, Step())
    assert out.shape[-1] == ways
    assert torch.equal(out, other.predict(expected, buffers, query.x, query.tasks))


def test_its_memory_grows_with_the_basis():
    """Λ has D² numbers of eight bytes in every episode."""
    learner = build(basis=300, shots=4)
    shape = learner.problem.episode
    assert learner.row_size * (shape.n_support + shape.n_query) >= 2 * 300**2
    assert learner.row_size >= 2 * 300
    assert build(basis=1).row_size == 8  # the network's width


def test_variance_is_of_regression_alone():
    learner = build("binary")
    params, buffers = draw(learner)
    support, query = make_episode(learner.problem)
    phi = learner.adapt(params, buffers, support, Step())
    with pytest.raises(NotImplementedError, match="no variance"):
        learner.moments(phi, buffers, query.x, query.tasks)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"conditioning.kind": "additive"}, "`conditioning.kind` should be `none`"),
        ({"sharing.kind": "independent"}, "`sharing.kind` should be `hard`"),
    ],
)
def test_what_is_refused(values, text):
    with pytest.raises(ConfigError, match=text):
        make_learner(make_episode_problem(), {"adaptation.kind": "bayesian", **values})
