"""The tensor-normal prior against dense Kronecker products, its estimation, and the identities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.learners import Learner
from autometa.networks import Step
from autometa.sharing import Params
from autometa.sharing.deep_relation import (
    RIDGE,
    diagonal_modes,
    flip_flop,
    negative_log_prior,
    stacked,
)
from autometa.tasks import TaskSuite
from autometa.training.population import Run, Trainer
from autometa.training.state import Layout, load_run, save_run
from tests.backbones import EVERY_BACKBONE
from tests.small import (
    IMAGE,
    TABLE,
    double_precision,
    draw,
    gradients,
    in_double,
    make_batch,
    make_config,
    make_learner,
    make_problem,
    same_kind,
    trainable,
)

EXACT = {"rtol": 1e-9, "atol": 1e-11}
KIND = {"sharing.kind": "deep_relation"}
LAYOUTS = pytest.mark.parametrize("layout", ["aligned", "grouped"])
#: which covariances are diagonal
DIAGONAL = pytest.mark.parametrize(
    "diagonal", [(False,) * 3, (True, False, False), (False, True, False), (True, True, False)]
)


def relation(strength: float) -> Step:
    return Step(rates={"relation": torch.tensor(strength, dtype=torch.float64)})


def some_factors(shape: tuple[int, ...], diagonal: tuple[bool, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factors = []
    for size, is_diagonal in zip(shape, diagonal, strict=True):
        a = torch.randn(size, size, generator=generator, dtype=torch.float64)
        covariance = a @ a.T + torch.eye(size)
        factors.append(
            covariance.diag().sqrt() if is_diagonal else torch.linalg.cholesky(covariance)
        )
    return factors


def dense(factor: Tensor) -> np.ndarray:
    covariance = factor.square().diag() if factor.ndim == 1 else factor @ factor.T
    return covariance.numpy()


def kronecker(*covariances: np.ndarray) -> np.ndarray:
    out = np.eye(1)
    for covariance in covariances:
        out = np.kron(out, covariance)
    return out


def some_weights(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@DIAGONAL
@pytest.mark.parametrize("shape", [(2, 3, 4), (4, 1, 3), (1, 2, 1)])
def test_penalty_is_the_dense_kronecker_computation(diagonal, shape):
    w = some_weights(*shape)
    factors = some_factors(shape, diagonal)
    covariances = [dense(factor) for factor in factors]
    v = w.numpy().reshape(-1)  # row-major
    quadratic = v @ np.linalg.inv(kronecker(*covariances)) @ v
    d1, d2, t = shape
    logdets = [np.linalg.slogdet(c)[1] for c in covariances]
    logdet = d2 * t * logdets[0] + d1 * t * logdets[1] + d1 * d2 * logdets[2]
    assert logdet == pytest.approx(np.linalg.slogdet(kronecker(*covariances))[1])
    found = negative_log_prior(w, factors).item()
    assert found == pytest.approx(0.5 * (quadratic + logdet), rel=1e-10)


def test_penalty_by_hand():
    # one weight in each of two tasks: Σ3⁻¹ = [[4, −2], [−2, 4]]/3, so (1, 2) gives 12/3
    w = torch.tensor([[[1.0, 2.0]]])
    task = torch.linalg.cholesky(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    found = negative_log_prior(w, [torch.ones(1, 1), torch.ones(1), task])
    assert found.item() == pytest.approx(0.5 * (4.0 + math.log(0.75)), rel=1e-6)


@DIAGONAL
def test_sweep_is_the_dense_computation(diagonal):
    shape = (2, 3, 4)
    w = some_weights(*shape)
    factors = some_factors(shape, diagonal)
    covariances = [dense(factor) for factor in factors]
    for mode, size in enumerate(shape):
        rows = np.moveaxis(w.numpy(), mode, 0).reshape(size, -1)
        others = [c for other, c in enumerate(covariances) if other != mode]
        new = rows @ np.linalg.inv(kronecker(*others)) @ rows.T / rows.shape[1]
        if diagonal[mode]:
            new = np.diag(np.diag(new))
        new = new + 0.01 * np.trace(new) * np.eye(size)
        covariances[mode] = new * size / np.trace(new)
    for factor, expected in zip(flip_flop(w, factors, 0.01), covariances, strict=True):
        np.testing.assert_allclose(dense(factor), expected, rtol=1e-9, atol=1e-12)


def test_sweep_by_hand():
    # one input, one output, three tasks: Σ3 = w wᵀ/|w|²·3 with the ridge, and the others stay 1
    w = torch.tensor([[[1.0, 2.0, -2.0]]]).double()
    start = [torch.ones(1).double(), torch.ones(1).double(), torch.eye(3).double()]
    one, two, task = flip_flop(w, start, 0.1)
    assert one.tolist() == two.tolist() == [1.0]
    # trace of w wᵀ is 9; + 0.1·9 on the diagonal; trace 11.7
    expected = torch.tensor([[1.9, 2.0, -2.0], [2.0, 4.9, -4.0], [-2.0, -4.0, 4.9]]) * 3 / 11.7
    assert_close(task @ task.T, expected.double(), rtol=1e-6, atol=1e-6)


@DIAGONAL
def test_flip_flop_decreases_the_objective(diagonal):
    """The objective at its best scale, as the scale of Σ1 ⊗ Σ2 ⊗ Σ3 is held fixed."""
    shape = (3, 4, 5)
    w = some_weights(*shape) * torch.linspace(0.2, 3.0, 5)
    factors = some_factors(shape, diagonal)
    n = w.numel()

    def objective(found: list[Tensor]) -> float:
        logdet = 2.0 * (negative_log_prior(torch.zeros_like(w), found))
        quadratic = 2.0 * negative_log_prior(w, found) - logdet
        return 0.5 * (n * torch.log(quadratic / n) + n + logdet).item()

    seen = [objective(factors)]
    for _ in range(30):
        factors = flip_flop(w, factors, 0.0)
        seen.append(objective(factors))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(seen))
    assert seen[1] < seen[0] - 0.1
    assert seen[-2] - seen[-1] < 1e-3


@pytest.mark.parametrize("shape", [(40, 3, 2), (3, 40, 2), (16, 16, 3), (9, 9, 6), (30, 1, 12)])
@pytest.mark.parametrize("rank_one", [False, True])
def test_condition_stays_bounded(shape, rank_one):
    w = some_weights(*shape)
    if rank_one:
        w = w[:, :1, :1] * w[:1, :, :1] * w[:1, :1, :]
    factors = [
        torch.ones(size).double() if diagonal else torch.eye(size).double()
        for size, diagonal in zip(shape, diagonal_modes(shape), strict=True)
    ]
    for _ in range(200):
        factors = flip_flop(w, factors, RIDGE)
        w = w * 0.9  # weights that shrink do not take the covariances along
    for factor, size in zip(factors, shape, strict=True):
        covariance = dense(factor)
        assert np.linalg.cond(covariance) <= 1.01 * (1 + 1 / RIDGE)
        assert np.trace(covariance) == pytest.approx(size, rel=1e-9)
        assert np.isfinite(negative_log_prior(w, factors).item())


def test_weights_of_zero_leave_the_identity():
    factors = flip_flop(
        torch.zeros(3, 4, 5).double(), some_factors((3, 4, 5), (False, True, False)), RIDGE
    )
    for factor in factors:
        np.testing.assert_allclose(dense(factor), np.eye(len(factor)), atol=1e-6)


def test_covariances_are_recovered():
    shape = (24, 20, 5)
    truth = some_factors(shape, (False,) * 3, seed=3)
    w = torch.einsum("ai,bj,ct,ijt->abc", *truth, some_weights(*shape))
    factors = [torch.eye(size).double() for size in shape]
    for _ in range(10):
        factors = flip_flop(w, factors, 1e-6)
    expected, found = dense(truth[2]), dense(factors[2])
    expected = expected * 5 / np.trace(expected)
    assert np.abs(found - expected).max() < 0.25
    assert np.linalg.norm(found - expected) < 0.3 * np.linalg.norm(expected - np.eye(5))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((96, 96, 3), (True, True, False)),
        ((96, 96, 5), (False, False, False)),
        ((5, 96, 3), (False, True, False)),
        ((288, 32, 3), (True, False, False)),
        ((10, 5, 8), (True, False, False)),
        ((9, 5, 8), (False, False, False)),
    ],
)
def test_diagonal_where_numbers_are_few(shape, expected):
    assert diagonal_modes(shape) == expected


def prior_layers(learner: Learner) -> set[str]:
    _, buffers = learner.init(torch.Generator().manual_seed(0))
    return {name.removeprefix("relation.").rpartition(".")[0] for name in buffers}


@pytest.mark.parametrize(
    ("split_at", "shape", "n_outputs", "expected"),
    [
        (None, TABLE, (1, 1, 1), {"blocks.1", "head"}),
        (2, TABLE, (1, 1, 1), {"head"}),
        (0, TABLE, (1, 1, 1), {"blocks.0", "blocks.1", "head"}),
        (None, IMAGE, (3, 3, 3), {"blocks.1", "head"}),
        (None, TABLE, (3, 2, 3), {"blocks.1"}),
        (0, IMAGE, (3, 2, 3), {"blocks.0", "blocks.1"}),
    ],
)
def test_layers_with_a_prior(split_at, shape, n_outputs, expected):
    kind = "regression" if n_outputs == (1, 1, 1) else "multiclass"
    problem = make_problem("grouped", shape, (kind,) * 3, n_outputs)
    backbone = "conv" if shape == IMAGE else "mlp"
    learner = make_learner(
        problem, {**KIND, "sharing.split_at": split_at, "backbone.kind": backbone}
    )
    assert prior_layers(learner) == expected


@pytest.mark.parametrize(("shape", "tokens"), [(TABLE, set()), (IMAGE, {"patch"})])
def test_every_matrix_of_a_transformer_block_is_a_layer(shape, tokens):
    learner = make_learner(
        make_problem(shape=shape), {**KIND, "sharing.split_at": 0, "backbone.kind": "transformer"}
    )
    layers = {"attend", "project", "expand", "reduce"}
    first = {f"blocks.0.{layer}" for layer in layers | tokens}  # embeddings have no prior
    assert prior_layers(learner) == first | {f"blocks.1.{layer}" for layer in layers}
    params, buffers = draw(learner)
    renewed = learner.after_step(params, buffers)
    for layer in prior_layers(learner):
        weight = params[f"{layer}.weight"]
        shapes = [len(renewed[f"relation.{layer}.{mode}"]) for mode in ("input", "output", "task")]
        assert shapes == [weight.shape[2], weight.shape[1], 3]
        assert not torch.equal(renewed[f"relation.{layer}.task"], buffers[f"relation.{layer}.task"])


def test_a_convolution_is_stacked_by_kernel():
    weight = some_weights(4, 3, 2, 3, 3)
    w = stacked(weight)
    assert w.shape == (18, 3, 4)
    assert w[1 * 9 + 2 * 3 + 1, 2, 3] == weight[3, 2, 1, 2, 1]


@LAYOUTS
@EVERY_BACKBONE
@pytest.mark.parametrize("conditioning", ["none", "multiplicative"])
def test_identity_covariances_are_weight_decay(layout, backbone, shape, conditioning):
    """Σ = I and λ/N = c add c·W to the gradient of the task weights, and nothing at c = 0."""
    problem = make_problem(layout, shape, ("multiclass",) * 3, (3, 3, 3))
    how = {
        "backbone.kind": backbone,
        "conditioning.kind": conditioning,
        "sharing.split_at": 1,
    }
    hard, prior = make_learner(problem, how), make_learner(problem, {**how, **KIND})
    params, buffers = draw(prior)
    batch = make_batch(problem)
    leaves = trainable(params)
    total, losses, _ = hard.loss(leaves, {}, batch, Step())
    grads = gradients(total, leaves)
    layers = ["blocks.1"]
    if backbone == "transformer":
        layers = [f"blocks.1.{layer}" for layer in ("attend", "project", "expand", "reduce")]
    decayed = [f"{layer}.weight" for layer in (*layers, "head")]
    for c in (0.0, 0.3):
        total_2, losses_2, after = prior.loss(leaves, buffers, batch, relation(c))
        assert_close(losses_2, losses, **EXACT)
        square = sum(leaves[name].square().sum() for name in decayed)
        assert_close(total_2, total + 0.5 * c * square, **EXACT)
        for name, grad in gradients(total_2, leaves).items():
            expected = grads[name] + (c * params[name] if name in decayed else 0.0)
            assert_close(grad, expected, **EXACT)
        assert all(torch.equal(after[name], buffers[name]) for name in buffers)
    assert_close(
        prior.predict(params, buffers, batch.x, batch.tasks),
        hard.predict(params, {}, batch.x, batch.tasks),
        **EXACT,
    )


def test_identity_covariances_train_like_sgd_with_weight_decay():
    problem, c = same_kind("aligned"), 0.2
    hard = make_learner(problem, {"sharing.split_at": 1})
    prior = make_learner(problem, {**KIND, "sharing.split_at": 1})
    params, buffers = draw(prior)
    first, second = trainable(params), trainable(params)
    decayed = [first["blocks.1.weight"], first["head.weight"]]
    rest = [leaf for leaf in first.values() if not any(leaf is d for d in decayed)]
    groups = [{"params": decayed, "weight_decay": c}, {"params": rest}]
    with_decay = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    plain = torch.optim.SGD(list(second.values()), lr=0.05, momentum=0.9)
    for step in range(5):
        batch = make_batch(problem, seed=step)
        for optimizer, loss in (
            (with_decay, hard.loss(first, {}, batch, Step())[0]),
            (plain, prior.loss(second, buffers, batch, relation(c))[0]),
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name in first:
        assert_close(second[name], first[name], **EXACT)


def test_without_a_rate_there_is_no_penalty():
    learner = make_learner(same_kind("aligned"), KIND)
    assert learner.network.penalty(*draw(learner), Step()) is None


@LAYOUTS
def test_permuting_tasks_permutes_the_prior(layout):
    problem, order = same_kind(layout, n_tasks=6), torch.tensor([4, 0, 5, 2, 1, 3])
    learner = make_learner(problem, KIND)
    params, buffers = draw(learner)
    buffers = learner.after_step(params, buffers)
    roles = learner.roles()
    moved = {n: leaf[order] if roles[n] == "task" else leaf for n, leaf in params.items()}
    batch = make_batch(problem)
    if layout == "aligned":
        moved_batch = batch._replace(y=batch.y[order], mask=batch.mask[order])
    else:
        moved_batch = batch._replace(tasks=order.argsort()[batch.tasks])
    renewed = learner.after_step(moved, draw(learner)[1])
    assert any(not torch.equal(renewed[name], buffers[name]) for name in buffers)
    for name, factor in renewed.items():
        expected = torch.from_numpy(dense(buffers[name]))
        if name.endswith(".task"):
            expected = expected[order][:, order]
        assert_close(torch.from_numpy(dense(factor)), expected, **EXACT)
    total = learner.loss(params, buffers, batch, relation(0.1))[0]
    assert_close(learner.loss(moved, renewed, moved_batch, relation(0.1))[0], total, **EXACT)


def test_tasks_alike_are_found_related():
    learner = make_learner(same_kind("aligned", n_tasks=3), KIND)
    params, buffers = draw(learner)
    noise = some_weights(3, 8, 8) * 0.2
    own = some_weights(8, 8, seed=5)
    params["blocks.1.weight"] = torch.stack([own, own, -own]) + noise
    for _ in range(5):
        buffers = learner.after_step(params, buffers)
    covariance = dense(buffers["relation.blocks.1.task"])
    spread = np.sqrt(np.diag(covariance))
    correlation = covariance / spread / spread[:, None]
    assert correlation[0, 1] > 0.8
    assert correlation[0, 2] < -0.8
    # the prior then pulls the first task to the second
    weights = trainable(params)
    penalty = learner.network.penalty(weights, buffers, relation(1.0))
    weights["blocks.1.weight"].grad = None
    apart = params["blocks.1.weight"][0] - params["blocks.1.weight"][1]
    pull = gradients(penalty, weights)["blocks.1.weight"][0]
    assert (pull * apart).sum() > 0


def six_targets(rows: int = 60) -> TaskSuite:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    y = x @ rng.normal(size=(4, 6)) + 0.1 * rng.normal(size=(rows, 6))
    part = np.array(["train", "train", "val", "train", "test"])[np.arange(rows) % 5]
    return TaskSuite.from_arrays(x, y.astype(np.float32), splits=part)


def some_runs(n: int = 3, every: int = 2) -> list[Run]:
    return [
        Run(
            make_config(
                {
                    **KIND,
                    "sharing.update_every": every,
                    "sharing.relation": 1e-2 * (k + 1),
                    "optimizer.lr": 1e-3,
                    "optimizer.batch_size": 12,
                }
            ),
            seed=k,
        )
        for k in range(n)
    ]


class TestTraining:
    def test_fused_is_one_by_one_with_full_covariances(self):
        with double_precision():
            runs = some_runs()
            trainer = Trainer(in_double(six_targets()), 6, torch.device("cpu"))
            _, together = trainer.train(runs, trainer.start(runs), 6)
            assert together.buffers["relation.blocks.1.input"].shape == (3, 8, 8)
            for k, run in enumerate(runs):
                _, alone = trainer.train([run], trainer.start([run]), 6)
                assert_close(alone.values[0], together.values[k], rtol=1e-8, atol=1e-10)
                for name, buffer in alone.buffers.items():
                    assert_close(buffer[0], together.buffers[name][k], rtol=1e-7, atol=1e-9)

    def test_renewed_every_so_many_steps(self):
        trainer = Trainer(six_targets(), 9, torch.device("cpu"))
        starts: list[Params] = []
        for every in (3, 4):
            runs = some_runs(every=every)
            start = trainer.start(runs)
            starts.append(dict(start.buffers))
            _, state = trainer.train(runs, start, 3)
            same = {torch.equal(state.buffers[n], starts[-1][n]) for n in state.buffers}
            assert same == ({True} if every == 4 else {True, False})  # one output: always 1

    def test_renewed_from_the_weights_after_the_step(self):
        trainer = Trainer(six_targets(), 9, torch.device("cpu"))
        runs = some_runs(n=2, every=3)
        start = trainer.start(runs)
        before = dict(start.buffers)
        _, state = trainer.train(runs, start, 3)
        learner = make_learner(trainer.problem, runs[0].config.flat())
        layout = Layout(learner.init(torch.Generator())[0])
        for k in range(2):
            own = {name: buffer[k] for name, buffer in before.items()}
            expected = learner.after_step(layout.unpack(state.values[k]), own)
            for name, buffer in expected.items():
                assert_close(state.buffers[name][k], buffer, rtol=1e-4, atol=1e-5)

    def test_covariances_are_saved_with_a_run(self, tmp_path):
        trainer = Trainer(six_targets(), 12, torch.device("cpu"))
        runs = some_runs(n=1, every=4)  # estimates at steps 4, 8 and 12 of 12
        _, whole = trainer.train(runs, trainer.start(runs), 12)
        _, half = trainer.train(runs, trainer.start(runs), 5)
        save_run(half, 0, runs[0], tmp_path / "run.safetensors")
        loaded = load_run(tmp_path / "run.safetensors")
        assert loaded.buffers.keys() == whole.buffers.keys()
        assert all(torch.equal(loaded.buffers[n], half.buffers[n]) for n in half.buffers)
        _, end = trainer.train(runs, loaded, 12)
        assert torch.equal(end.values, whole.values)
        assert all(torch.equal(end.buffers[n], whole.buffers[n]) for n in whole.buffers)

    def test_a_strong_prior_with_learned_relations_is_stable(self):
        trainer = Trainer(six_targets(), 90, torch.device("cpu"))
        config = make_config({**KIND, "sharing.update_every": 1, "sharing.relation": 0.1})
        runs = [Run(config, 0)]
        results, state = trainer.train(runs, trainer.start(runs), 90)
        assert results[0].reason is None
        assert all(buffer.isfinite().all() for buffer in state.buffers.values())


class TestRefused:
    def test_split_beyond_the_last_block(self):
        with pytest.raises(ConfigError, match=r"at most the number of blocks \(2\).*split_at = 3"):
            make_learner(same_kind("aligned"), {**KIND, "sharing.split_at": 3})

    def test_no_layer_left_with_unequal_classes(self):
        with pytest.raises(ConfigError, match="at most 1 where heads have no prior.*split_at = 2"):
            make_learner(make_problem("grouped"), {**KIND, "sharing.split_at": 2})

    def test_no_layer_left_with_a_single_head(self):
        one_head = {"head": "single_head", "conditioning.kind": "additive"}
        with pytest.raises(ConfigError, match="at most 1 where heads have no prior.*split_at = 2"):
            make_learner(same_kind("aligned"), {**KIND, **one_head, "sharing.split_at": 2})
        make_learner(same_kind("aligned"), {**KIND, **one_head})
