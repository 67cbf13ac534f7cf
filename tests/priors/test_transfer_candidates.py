"""scripts/_transfer_candidates.py: the models in `bench_transfer.py` are those of their papers."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial
from scipy.stats import multivariate_normal

from scripts.bench_transfer import CANDIDATES


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def bowl(best: float, sign: float = 1.0):  # type: ignore[no-untyped-def]  # an objective
    def objective(trial: Trial) -> float:
        x = trial.suggest_float("x", 0, 10)
        rate = math.log10(trial.suggest_float("rate", 1e-5, 1, log=True))
        wrong = trial.suggest_categorical("kind", ["a", "b", "c"]) != "b"
        return sign * ((x - best) ** 2 / 10 + (rate + 3) ** 2 + wrong)

    return objective


def trials(best: float, seed: int, sign: float = 1.0) -> list[FrozenTrial]:
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    study.optimize(bowl(best, sign), n_trials=30)
    return study.trials


@pytest.fixture(scope="module")
def sources() -> list[list[FrozenTrial]]:
    return [trials(3 + i / 2, seed=i) for i in range(3)]


@pytest.mark.parametrize("name", CANDIDATES)
def test_proposes_good_configurations(name: str, sources: list[list[FrozenTrial]]) -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=9))
    study.optimize(bowl(3.6), n_trials=30)
    before = [t.value for t in study.trials if t.value is not None]
    study.sampler = CANDIDATES[name](sources, 0, bowl(3.6))
    study.optimize(bowl(3.6), n_trials=7)
    after = [t.value for t in study.trials[30:] if t.value is not None]
    assert np.median(after) < np.quantile(before, 0.2)


def test_ablr_marginal_likelihood_is_that_of_a_gaussian(sources: list[list[FrozenTrial]]) -> None:
    model = CANDIDATES["ablr"](sources, 0, bowl(3.6))
    rng = torch.Generator().manual_seed(0)
    phi = torch.randn(2, 6, 4, generator=rng, dtype=torch.float64)
    z = torch.randn(2, 6, generator=rng, dtype=torch.float64)
    log = torch.tensor([[0.3, 1.0], [-0.5, 0.2]], dtype=torch.float64)
    phi[1, 4:], z[1, 4:] = 0, 0  # the second search has four trials
    n = torch.tensor([6.0, 4.0], dtype=torch.float64)
    loss, mean, _ = model._posterior(phi, z, n, log)
    for i, rows in enumerate((6, 4)):
        f, alpha, beta = phi[i, :rows].numpy(), *log[i].exp().tolist()
        cov = f @ f.T / alpha + np.eye(rows) / beta
        expected = -multivariate_normal(np.zeros(rows), cov).logpdf(z[i, :rows].numpy())
        assert loss[i].item() + rows / 2 * math.log(2 * math.pi) == pytest.approx(expected)
        ridge = f.T @ np.linalg.solve(cov, z[i, :rows].numpy()) / alpha
        assert mean[i].numpy() == pytest.approx(ridge)


def test_meta_tpe_weighs_by_similarity_and_forgets(sources: list[list[FrozenTrial]]) -> None:
    given = [sources[0], trials(3, seed=5, sign=-1.0)]
    study = optuna.create_study(sampler=RandomSampler(seed=7))
    study.optimize(bowl(3.2), n_trials=40)
    model = CANDIDATES["meta-tpe"](given, 0, bowl(3.6))
    densities = script_densities(model, study.trials, given)
    early, late = model._weights(densities, 10), model._weights(densities, 40)
    assert early.sum() == pytest.approx(1)
    assert early[1] > 2 * early[2]
    assert late[1] == pytest.approx(early[1] / 4, rel=0.3)


def script_densities(model, target, given):  # type: ignore[no-untyped-def]  # of the script
    import _transfer_candidates as script  # on the path since bench_transfer was imported

    from autometa.priors.sources import history

    space = target[0].distributions
    return [script._densities(history(t, minimise=True), space) for t in (target, *given)]


def test_deep_kernel_starts_anew_and_interpolates(sources: list[list[FrozenTrial]]) -> None:
    model = CANDIDATES["deep-kernel"](sources, 0, bowl(3.6))
    x, z = model.tasks[0][0][:12], model.tasks[0][1][:12]
    first = model._predict(x, z, x)
    model._predict(x[:5], -z[:5], x)
    again = model._predict(x, z, x)
    assert again[0] == pytest.approx(first[0])
    assert np.corrcoef(first[0], z)[0, 1] > 0.9
    far = model._predict(x[:6], z[:6], x[6:])[1]
    assert far.mean() > first[1].mean()
