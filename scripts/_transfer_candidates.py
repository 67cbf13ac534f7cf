"""Other models for `TransferSampler`, each from its paper, for `bench_transfer.py` to compare.

All begin with the same portfolio, see log regrets as `TransferSampler` does, and have no guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import torch
from _transfer_rivals import Ask, Sources, Surrogate
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_gamma, default_weights
from optuna.trial import FrozenTrial
from torch import Tensor, nn

from autometa.priors.sources import History, history

Densities = tuple[_ParzenEstimator, _ParzenEstimator, int]
"""Of the good and of the other trials of a search, and how many are good."""


class MetaTpe(BaseSampler):
    """Tree-structured Parzen estimators weighted by task similarity (Watanabe et al. 2023).

    The next trial maximises Σ wₛ nₛ lₛ(x) / Σ wₛ mₛ gₛ(x), where lₛ and gₛ are the densities of the
    nₛ good and mₛ other trials of a source or the target. A source's weight is its similarity
    (1 − d)/(1 + d) over the number of searches, d the total variation between its l and the
    target's, and the target has the rest. Ours: from the tenth trial of the target on a source's
    weight decays like 1/trials. The densities are Optuna's, multivariate. No branches.
    """

    n_candidates = 24
    n_draws = 200
    decay_from = 10

    def __init__(self, sources: Sources, seed: int, suggest: Ask) -> None:
        self.rng = np.random.RandomState(seed)
        self.histories = [history(s, minimise=True) for s in sources]
        self.sources: list[Densities] | None = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return trial.distributions or study.trials[0].distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self.sources is None:
            self.sources = [_densities(h, search_space) for h in self.histories]
        done = history(study.get_trials(deepcopy=False), minimise=True)
        searches = [_densities(done, search_space), *self.sources]
        weights = self._weights(searches, len(done.values))

        drawn = [good.sample(self.rng, self.n_candidates) for good, _, _ in searches]
        x = {n: np.concatenate([d[n] for d in drawn]) for n in search_space}
        counts = [len(done.values), *(len(h.values) for h in self.histories)]
        below, above = np.zeros((2, self.n_candidates * len(searches)))
        for weight, (good, other, n), count in zip(weights, searches, counts, strict=True):
            below += weight * n * np.exp(good.log_pdf(x))
            above += weight * (count - n) * np.exp(other.log_pdf(x))
        chosen = int(np.argmax(below / np.maximum(above, 1e-300)))
        return {n: d.to_external_repr(x[n][chosen].item()) for n, d in search_space.items()}

    def _weights(self, searches: Sequence[Densities], n_trials: int) -> np.ndarray:
        """[target and source], their sum is 1."""
        target = searches[0][0]
        decay = self.decay_from / max(n_trials, self.decay_from)
        similar = []
        for source, _, _ in searches[1:]:
            # ½ ∫ |p − q| by draws from (p + q)/2
            apart = []
            for drawn in (
                target.sample(self.rng, self.n_draws),
                source.sample(self.rng, self.n_draws),
            ):
                p, q = np.exp(target.log_pdf(drawn)), np.exp(source.log_pdf(drawn))
                apart.append(np.mean(np.abs(p - q) / np.maximum(p + q, 1e-300)))
            d = float(np.mean(apart))
            similar.append(decay * (1 - d) / (1 + d))
        rest = np.array(similar) / len(searches)
        return np.array([1 - rest.sum(), *rest])

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        uniform = RandomSampler(seed=int(self.rng.randint(2**31)))
        return uniform.sample_independent(study, trial, param_name, param_distribution)


def _densities(found: History, space: dict[str, BaseDistribution]) -> Densities:
    order = np.argsort(found.values, kind="stable")
    n_good = default_gamma(len(order))
    options = _ParzenEstimatorParameters(1.0, True, False, default_weights, True)

    def estimate(rows: np.ndarray) -> _ParzenEstimator:
        # by age: Optuna gives old trials less weight
        x = {
            n: np.array([d.to_internal_repr(found.params[i][n]) for i in np.sort(rows)])
            for n, d in space.items()
        }
        return _ParzenEstimator(x, space, options)

    return estimate(order[:n_good]), estimate(order[n_good:]), n_good


class Ablr(Surrogate):
    """Adaptive Bayesian linear regression on learned features (Perrone et al. 2018).

        z = Φ(x) w + e,  w ~ N(0, I/α),  e ~ N(0, I/β)

    Φ is a network of three layers of 50 tanh units that all searches share, α and β are a search's
    own; L-BFGS minimises the sum of their negative log marginal likelihoods. The network is trained
    on the sources, and on all searches again, for a few steps, before each suggestion.
    """

    width = 50
    n_steps = 200
    n_refine = 5

    def __init__(self, sources: Sources, seed: int, suggest: Ask) -> None:
        super().__init__(sources, seed, suggest)
        torch.manual_seed(seed)
        self.net = _network(self.tasks[0][0].shape[1], self.width, 3, nn.Tanh)
        self.log = nn.Parameter(torch.zeros(len(self.tasks) + 1, 2, dtype=torch.float64))
        with torch.no_grad():
            self.log[:, 1] = 2.0
        self._train(self.tasks, self.n_steps)
        with torch.no_grad():  # a new search is like the middle source
            self.log[-1] = self.log[:-1].median(0).values

    def _train(self, tasks: Sequence[tuple[np.ndarray, np.ndarray]], steps: int) -> None:
        n = max(len(z) for _, z in tasks)
        x = torch.zeros(len(tasks), n, tasks[0][0].shape[1], dtype=torch.float64)
        z, mask = torch.zeros(2, len(tasks), n, dtype=torch.float64)
        for i, (a, b) in enumerate(tasks):
            x[i, : len(b)], z[i, : len(b)] = torch.from_numpy(a), torch.from_numpy(b)
            mask[i, : len(b)] = 1
        optimizer = torch.optim.LBFGS(
            [*self.net.parameters(), self.log], max_iter=steps, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            phi = _features(self.net, x) * mask[:, :, None]
            total = self._posterior(phi, z, mask.sum(1), self.log[: len(tasks)])[0].sum()
            total = total + 0.5 * (self.log[: len(tasks)] / 3).square().sum()
            total.backward()
            return total

        optimizer.step(loss)

    def _posterior(
        self, phi: Tensor, z: Tensor, n: Tensor, log: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Negative log marginal likelihood [task], mean [task, feature] and Cholesky factor of the
        precision of w."""
        alpha, beta = log.clamp(-8, 8).exp().unbind(-1)
        eye = torch.eye(phi.shape[-1], dtype=phi.dtype)
        precision = alpha[:, None, None] * eye + beta[:, None, None] * phi.mT @ phi
        root = torch.linalg.cholesky(precision)
        mean = torch.cholesky_solve(beta[:, None, None] * phi.mT @ z[:, :, None], root)[:, :, 0]
        off = (z - (phi @ mean[:, :, None])[:, :, 0]).square().sum(1)
        loss = 0.5 * (beta * off + alpha * mean.square().sum(1) - n * beta.log())
        loss = (
            loss - 0.5 * phi.shape[-1] * alpha.log() + root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        )
        return loss, mean, root

    def _predict(
        self, x: np.ndarray, z: np.ndarray, new: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self._train([*self.tasks, (x, z)], self.n_refine)
        with torch.no_grad():
            phi = _features(self.net, torch.from_numpy(x))[None]
            n = torch.tensor([float(len(z))], dtype=torch.float64)
            _, mean, root = self._posterior(phi, torch.from_numpy(z)[None], n, self.log[-1:])
            phi = _features(self.net, torch.from_numpy(new))
            half = torch.linalg.solve_triangular(root[0], phi.mT, upper=False)
            deviation = half.square().sum(0).clamp(min=1e-10).sqrt()
            return (phi @ mean[0]).numpy(), deviation.numpy()


class DeepKernel(Surrogate):
    """A Gaussian process on learned features, fine-tuned to the target: FSBO (Wistuba, Grabocka
    2021).

    The kernel is Matérn 5/2 of the outputs of a network of two layers of 128 ReLU units. Adam
    minimises the negative log marginal likelihood of random parts of random sources, whose values
    are scaled anew each time so that the kernel does not come to rely on a range; then, before each
    suggestion, that of the target, from the same start.
    """

    width = 128
    n_steps = 1500
    n_rows = 50
    n_refine = 50

    def __init__(self, sources: Sources, seed: int, suggest: Ask) -> None:
        super().__init__(sources, seed, suggest)
        torch.manual_seed(seed)
        self.net = _network(self.tasks[0][0].shape[1], self.width, 2, nn.ReLU)
        # log length, amplitude, noise, and the mean
        self.log = nn.Parameter(torch.tensor([0.0, 0.0, -2.0, 0.0], dtype=torch.float64))
        optimizer = torch.optim.Adam([*self.net.parameters(), self.log], lr=1e-3)
        low, high = min(z.min() for _, z in self.tasks), max(z.max() for _, z in self.tasks)
        for _ in range(self.n_steps):
            x, z = self.tasks[self.rng.integers(len(self.tasks))]
            rows = self.rng.permutation(len(z))[: self.n_rows]
            ends = np.sort(self.rng.uniform(low, high, size=2))
            scaled = (z[rows] - ends[0]) / max(ends[1] - ends[0], 0.1 * (high - low))
            self._step(optimizer, torch.from_numpy(x[rows]), torch.from_numpy(scaled))
        self.start = {k: v.clone() for k, v in self.net.state_dict().items()}
        self.start_log = self.log.detach().clone()

    def _step(self, optimizer: torch.optim.Optimizer, x: Tensor, z: Tensor) -> None:
        optimizer.zero_grad()
        root, alpha = self._condition(self.net(x), z)
        loss = 0.5 * (z - self.log[3]) @ alpha + root.diagonal().log().sum()
        (loss / len(z)).backward()
        optimizer.step()

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        r2 = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=1e-12)
        r = (5 * r2).sqrt() / self.log[0].exp()
        return (2 * self.log[1]).exp() * (1 + r + r * r / 3) * (-r).exp()

    def _condition(self, features: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        noise = (2 * self.log[2]).exp() + 1e-4
        k = self._kernel(features, features) + noise * torch.eye(len(z), dtype=z.dtype)
        root = torch.linalg.cholesky(k)
        return root, torch.cholesky_solve((z - self.log[3])[:, None], root)[:, 0]

    def _predict(
        self, x: np.ndarray, z: np.ndarray, new: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self.net.load_state_dict(self.start)
        with torch.no_grad():
            self.log.copy_(self.start_log)
        at, values = torch.from_numpy(x), torch.from_numpy(z)
        optimizer = torch.optim.Adam([*self.net.parameters(), self.log], lr=1e-3)
        for _ in range(self.n_refine):
            self._step(optimizer, at, values)
        with torch.no_grad():
            features, others = self.net(at), self.net(torch.from_numpy(new))
            root, alpha = self._condition(features, values)
            k = self._kernel(others, features)
            half = torch.linalg.solve_triangular(root, k.T, upper=False)
            variance = (2 * self.log[1]).exp() - half.square().sum(0)
            mean = k @ alpha + self.log[3]
            return mean.numpy(), variance.clamp(min=1e-10).sqrt().numpy()


def _network(n_inputs: int, width: int, n_layers: int, act: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(n_layers):
        layers += [nn.Linear(n_inputs if i == 0 else width, width), act()]
    return nn.Sequential(*layers).double()


def _features(net: nn.Module, x: Tensor) -> Tensor:
    """With a constant."""
    phi = net(x)
    return torch.cat([phi, torch.ones_like(phi[..., :1])], dim=-1)


CANDIDATES = {"meta-tpe": MetaTpe, "ablr": Ablr, "deep-kernel": DeepKernel}
