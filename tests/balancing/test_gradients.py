"""Balancers of gradients: TorchJD's aggregators by hand on J, and what each promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

from autometa.balancing import BALANCING, GradientBalancer, Unsolvable, View
from autometa.balancing.base import seeded
from autometa.balancing.projector import NonNegativeProjector
from tests.contracts.variants import skip_without_extra

METHODS = [k for k, e in BALANCING.items() if e.needs != "losses" and k != "gradnorm"]
SEED = 77
#: gradients of different size that conflict
CONFLICT = torch.tensor([[10.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)


def make(kind: str, **settings: float) -> GradientBalancer:
    skip_without_extra({"balancing.kind": kind})
    entry = BALANCING[kind]
    balancer = entry(entry.Config(**settings))
    assert isinstance(balancer, GradientBalancer)
    return balancer


def jacobian(n_tasks: int = 3, seed: int = 0, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_tasks, width, generator=generator, dtype=torch.float64)


def rates(balancer: GradientBalancer) -> dict[str, float]:
    return {n: v for n, v in balancer.config.model_dump().items() if isinstance(v, float)}


def step(
    balancer: GradientBalancer, J: Tensor, state: dict[str, Tensor] | None = None, seed: int = SEED
) -> tuple[Tensor, dict[str, Tensor]]:
    """The direction, and the state after it."""
    if state is None:
        state = {n: s.double() for n, s in balancer.state(len(J)).items()}
    seen = J @ J.T if balancer.needs == "gramian" else J
    view = View(torch.ones(len(J)).double(), torch.arange(len(J)), seen, rates(balancer), seed)
    found, after = balancer.balance(view, state)
    assert found is not None
    return (found @ J if balancer.needs == "gramian" else found), after


def torchjd(kind: str, n_tasks: int) -> aggregation.Aggregator:
    own = NonNegativeProjector()
    return {
        "pcgrad": aggregation.PCGrad,
        "cagrad": lambda: aggregation.CAGrad(c=0.4),
        "mgda": aggregation.MGDA,
        "imtl_g": aggregation.IMTLG,
        "nash_mtl": lambda: aggregation.NashMTL(n_tasks=n_tasks),
        "upgrad": lambda: aggregation.UPGrad(projector=own),
        "aligned_mtl": aggregation.AlignedMTL,
        "config": aggregation.ConFIG,
        "gradvac": aggregation.GradVac,
        "dualproj": lambda: aggregation.DualProj(projector=own),
        "fairgrad": lambda: aggregation.FairGrad(alpha=1.0),
        "graddrop": aggregation.GradDrop,
    }[kind]()


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # cvxpy on the form of TorchJD's problem
def test_is_torchjds_aggregator_on_the_jacobian(kind):
    balancer = make(kind)
    theirs = torchjd(kind, 3)
    state = {n: s.double() for n, s in balancer.state(3).items()}
    summed = 3 if kind in ("pcgrad", "gradvac", "config", "graddrop") else 1
    tolerance = 1e-4 if kind in ("nash_mtl", "cagrad", "fairgrad") else 1e-9
    for number in range(3):
        J = jacobian(seed=number)
        found, state = step(balancer, J, state, seed=number)
        with seeded(number):
            expected = theirs(J) / summed
        assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", METHODS)
def test_permuting_tasks_changes_nothing(kind):
    balancer = make(kind)
    if balancer.orders_tasks:
        pytest.skip("it takes the tasks in random order")
    J, order = jacobian(4, seed=5), torch.tensor([2, 0, 3, 1])
    tolerance = 1e-3 if kind in ("nash_mtl", "cagrad", "fairgrad") else 1e-7
    assert_close(step(balancer, J[order])[0], step(balancer, J)[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["pcgrad", "gradvac", "graddrop"])
def test_random_numbers_come_from_the_seed_alone(kind):
    balancer, J = make(kind), jacobian(5, seed=2, width=3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = step(balancer, J, seed=1)[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(step(balancer, J, seed=1)[0], first)
    assert any(not torch.equal(step(balancer, J, seed=s)[0], first) for s in range(2, 12))


@pytest.mark.parametrize("kind", ["pcgrad", "gradvac", "upgrad", "dualproj"])
def test_without_conflict_it_is_the_mean(kind):
    J = jacobian().abs()
    assert_close(step(make(kind), J)[0], J.mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "kind", ["mgda", "upgrad", "dualproj", "pcgrad", "imtl_g", "nash_mtl", "config", "fairgrad"]
)
def test_under_conflict_no_task_gets_worse(kind):
    assert CONFLICT.mean(0) @ CONFLICT[1] < 0, "the mean gradient hurts the small task"
    d, _ = step(make(kind), CONFLICT)
    gain = CONFLICT @ d
    assert (gain > -1e-3 * gain.max()).all(), gain


def test_cagrad_helps_the_task_that_gains_least_within_its_ball():
    mean = CONFLICT.mean(0)
    d, _ = step(make("cagrad", radius=0.4), CONFLICT)
    assert (CONFLICT @ d).min() > (CONFLICT @ mean).min()
    assert (d - mean).norm() <= 0.4 * mean.norm() * (1 + 1e-4)
    wider, _ = step(make("cagrad", radius=0.99), CONFLICT)
    assert (CONFLICT @ wider).min() > (CONFLICT @ d).min()
    none, _ = step(make("cagrad", radius=0.0), CONFLICT)
    assert_close(none, mean, rtol=1e-6, atol=1e-6)


def test_mgda_is_the_shortest_combination():
    d, _ = step(make("mgda"), CONFLICT)
    line = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    shortest = (line * CONFLICT[0] + (1 - line) * CONFLICT[1]).norm(dim=1).min()
    assert d.norm().item() == pytest.approx(shortest.item(), rel=1e-3)


@pytest.mark.parametrize("kind", ["imtl_g", "config"])
def test_all_gradients_get_the_same_component(kind):
    J = jacobian(4)
    cosines = torch.nn.functional.normalize(J, dim=1) @ step(make(kind), J)[0]
    assert_close(cosines, cosines[:1].expand(4))


@pytest.mark.parametrize("kind", ["fairgrad", "nash_mtl"])
def test_nash_bargaining_solution(kind):
    # G w = 1/w with G = diag(4, 1/4): w = 1/√diag; Nash-MTL is clipped to its `largest`
    J = torch.diag(torch.tensor([2.0, 0.5], dtype=torch.float64))
    settings = {"largest": 100.0} if kind == "nash_mtl" else {}
    d, _ = step(make(kind, **settings), J)
    assert_close(d / d.norm(), torch.full((2,), 0.5**0.5).double(), rtol=1e-3, atol=1e-3)


def test_aligned_mtl_makes_the_gradients_orthogonal_and_alike():
    J = jacobian(3)
    d, _ = step(make("aligned_mtl"), J)
    _, sizes, right = torch.linalg.svd(J, full_matrices=False)
    assert d.norm().item() == pytest.approx((sizes.min() / 3 * math.sqrt(3)).item())
    assert_close(right.T @ (right @ d), d)


def test_projector_gives_torchjds_documented_values():
    J = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    aggregate = aggregation.UPGrad(projector=NonNegativeProjector())
    assert_close(aggregate(J), torch.tensor([0.2929, 1.9004, 1.9004]), rtol=1e-3, atol=1e-3)
    weights = aggregation.UPGradWeighting(projector=NonNegativeProjector())(J @ J.T)
    assert_close(weights, torch.tensor([1.1109, 0.7894]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("weaker", [1.0, 1e-3])
def test_projector_is_torchjds_without_its_addition_to_the_diagonal(weaker):
    for package in ("qpsolvers", "quadprog"):
        pytest.importorskip(package)
    for seed in range(5):
        J = jacobian(4, seed, width=5)
        J[1] *= weaker
        exact = QuadprogProjector(reg_eps=1e-13, norm_eps=0.0)
        U = torch.eye(4, dtype=torch.float64) / 4
        found = NonNegativeProjector()(U, J @ J.T) @ J
        assert_close(found, exact(U, J @ J.T) @ J, rtol=1e-4, atol=1e-6)
        assert (J @ found.T).min() > -1e-8


@pytest.mark.parametrize("kind", ["upgrad", "cagrad", "fairgrad", "mgda", "imtl_g", "config"])
def test_the_size_of_all_gradients_does_not_change_the_direction(kind):
    balancer, J = make(kind), jacobian(3, seed=3)
    small, _ = step(balancer, 1e-3 * J)
    large, _ = step(balancer, 1e2 * J)
    assert_close(small / small.norm(), large / large.norm(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", METHODS)
def test_one_task_goes_its_own_way(kind):
    J = jacobian(1)
    d, _ = step(make(kind), J)
    assert_close(d / d.norm(), J[0] / J[0].norm())


@pytest.mark.parametrize("kind", METHODS)
def test_gradients_of_zero_are_no_obstacle(kind):
    for J in (torch.zeros(3, 4).double(), torch.cat([torch.zeros(1, 8), jacobian(2)])):
        try:
            d, state = step(make(kind), J)
        except Unsolvable:
            continue
        assert d.isfinite().all()
        assert all(s.isfinite().all() for s in state.values())


#: their direction is by its definition no longer than the shortest gradient lets it be
AS_SHORT_AS_THE_SHORTEST = ("mgda", "imtl_g", "aligned_mtl")


@pytest.mark.parametrize("length", [0.0, 1e-8, 1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("kind", METHODS)
def test_a_finished_task_does_not_stop_the_others(kind, length):
    J = jacobian(3, seed=5)
    J[0] *= length
    d, state = step(make(kind), J.float().double())
    assert d.isfinite().all()
    assert all(s.isfinite().all() for s in state.values())
    if kind not in AS_SHORT_AS_THE_SHORTEST:
        assert d.norm() > 0.5 * J.mean(0).norm()
        assert (J[1:] @ d > 0).all()


@pytest.mark.parametrize("length", [1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("others", [CONFLICT, jacobian(2, seed=1, width=2)])
def test_cagrad_is_optimal_however_short_a_gradient_is(others, length):
    J = torch.cat([others, length * torch.tensor([[0.3, -1.0]]).double()])
    mean, radius = J.mean(0), 0.4
    d, _ = step(make("cagrad", radius=radius), J)
    assert (d - mean).norm() <= radius * mean.norm() * (1 + 1e-6)
    # what no direction of the ball can be better than: the least over the simplex of this bound
    line = torch.cat([torch.zeros(1), torch.logspace(-9, 0, 400)]).double()
    a, b = torch.meshgrid(line, line, indexing="ij")
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        w = torch.stack([a.flatten(), b.flatten(), 1 - a.flatten() - b.flatten()], 1)
        combined = w[w.min(1).values >= 0] @ J[order]
        bound = (combined @ mean + radius * mean.norm() * combined.norm(dim=1)).min()
        assert (J @ d).min() <= bound + 1e-6 * bound.abs()
        if (J @ d).min() >= bound - 0.03 * bound.abs():
            break
    else:
        pytest.fail("a better direction exists")


def test_cagrad_knows_of_no_direction_where_gradients_cancel():
    J = torch.tensor([[1.0, 0.0], [-1.0, 1e-6]]).double()
    with pytest.raises(Unsolvable):
        step(make("cagrad"), J)
