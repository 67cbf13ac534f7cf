"""Each cause is found where the numbers say so, and not where one of them says otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autometa.diagnosis.causes import (
    HARMS,
    adversaries,
    group,
    lacks_capacity,
    learned_at,
    overfits,
    pair_weights,
    sharing_costs,
)
from autometa.diagnosis.findings import find
from autometa.diagnosis.measurements import Estimate, Influence
from tests.diagnosis.numbers import about, measurements, network

SMALL = {
    "effect": about(-0.02),
    "fit": about(-0.03),
    "wide": (about(0.018), about(-0.002)),
}
#: c harms a and b; the others help each other
ADVERSARY = {
    "a": {"b": -0.02, "d": -0.02},
    "b": {"a": -0.02, "d": -0.02},
    "c": {"a": 0.03, "b": 0.03, "d": 0.03},
    "d": {"a": -0.02, "b": -0.02},
}


def test_capacity_needs_every_one_of_its_signs() -> None:
    found = find(measurements(**SMALL))  # type: ignore[arg-type]  # keywords of mixed types
    assert found.cause == "capacity"
    text = next(f.text for f in found.all if f.kind == "cause")
    assert text.startswith("Capacity, not conflict")
    otherwise = {
        "it costs nothing": {"effect": about(0.0)},
        "the training rows are fitted as well": {"fit": about(0.001)},
        "more room gains nothing": {"wide": (about(0.001), about(-0.019))},
        "more room closes a quarter": {"wide": (about(0.005), about(-0.015))},
        "there is no such control": {"wide": None},
    }
    for why, numbers in otherwise.items():
        changed = measurements(**{**SMALL, **numbers})  # type: ignore[arg-type]  # keywords of mixed types
        assert not lacks_capacity(changed), why
        assert find(changed).cause != "capacity", why


def test_capacity_is_not_called_conflict_whatever_leaving_tasks_change() -> None:
    found = find(measurements(**SMALL, harm=ADVERSARY))  # type: ignore[arg-type]  # keywords of mixed types
    assert found.cause == "capacity"
    assert found.groups == ()


def test_the_adversary_is_named_and_isolated() -> None:
    found = find(measurements(harm=ADVERSARY, since=6))
    assert found.cause == "conflict"
    assert found.adversaries == (2,)
    assert found.groups == ((0, 1, 3), (2,))
    text = next(f.text for f in found.all if f.kind == "cause")
    assert "c harms the other tasks from step 6 on" in text
    assert "{a, b, d}, {c}" in text


def test_two_camps_become_two_groups() -> None:
    camps = {
        "a": {"b": 0.04, "c": 0.04, "d": -0.03},
        "d": {"b": 0.04, "c": 0.04, "a": -0.03},
        "b": {"a": 0.04, "d": 0.04, "c": -0.03},
        "c": {"a": 0.04, "d": 0.04, "b": -0.03},
    }
    found = find(measurements(harm=camps))
    assert found.cause == "conflict"
    assert found.groups == ((0, 3), (1, 2))


def test_where_all_harm_all_they_go_apart() -> None:
    harm = {a: {b: 0.03 for b in "abcd" if b != a} for a in "abcd"}
    found = find(measurements(harm=harm))
    assert found.cause == "apart"
    assert found.adversaries == (0, 1, 2, 3)


def test_without_an_adversary_all_stay_together() -> None:
    m = measurements(harm={"a": {"b": -0.03}, "c": {"a": 0.001}})
    assert adversaries(m.influences) == ()
    assert group(m, ()) == ((0, 1, 2, 3),)
    assert find(m).cause == "none"


def test_harm_is_called_by_its_size_and_by_its_test_only() -> None:
    def one(task: int, value: float, p: float | None) -> Influence:
        return Influence(task, about(value), p, (None,) * 4, 1)

    assert adversaries((one(0, HARMS, 0.01),)) == (0,)
    assert adversaries((one(0, HARMS / 2, 0.01),)) == ()
    assert adversaries((one(0, 0.1, None),)) == (), "a first look is not a test"
    # Benjamini–Hochberg: 0.04 alone is called, beside three of 0.5 it is not
    assert adversaries((one(0, 0.1, 0.04),)) == (0,)
    assert adversaries((one(0, 0.1, 0.04), *(one(k, 0.1, 0.5) for k in (1, 2, 3)))) == ()
    assert adversaries((one(0, 0.02, 0.01), one(1, 0.05, 0.01))) == (1, 0)


def test_what_an_adversary_gains_is_not_weighed_against_what_it_takes() -> None:
    m = measurements(harm={"c": {"a": 0.01, "b": 0.01, "d": 0.01}, "a": {"c": -0.5}})
    weights = pair_weights(m, (2,))
    np.testing.assert_allclose(weights[0, 2], -0.01)
    np.testing.assert_allclose(weights, weights.T)


def test_noise_splits_no_pair() -> None:
    m = measurements(harm={"c": {"a": 0.03, "b": 0.03, "d": 0.03}, "a": {"b": 0.0015}})
    assert pair_weights(m, (2,))[0, 1] == 0.0, "its interval holds 0"


@pytest.mark.parametrize(
    ("gap", "cause"), [(about(-0.02), "regularisation"), (about(0.0), "transfer")]
)
def test_sharing_that_helps_says_whether_it_regularises(gap: Estimate, cause: str) -> None:
    assert find(measurements(effect=about(0.02), gap=gap)).cause == cause


def test_hurting_without_a_reason_is_said_to_be_unexplained() -> None:
    assert find(measurements(effect=about(-0.02))).cause == "unexplained"
    assert find(measurements(effect=about(0.0), hurt=("b",))).cause == "unexplained"
    assert find(measurements(effect=about(-0.02), trunk=about(0.0))).cause == "settings"
    assert sharing_costs(measurements(effect=about(0.02), trunk=about(-0.02)))
    assert not sharing_costs(measurements(effect=about(-0.001)))


def test_speed_is_the_first_step_with_nine_tenths_of_the_best_score() -> None:
    curve = tuple(zip((0.5, 0.8, 0.9, 0.9, 0.9), (0.0, 0.0, 0.1, 0.2, 0.8), (0.01,) * 5,
                      (None,) * 5, strict=True))  # fmt: skip
    net = network(curve=curve)
    m = measurements(trunk=about(0.0))
    m = replace(m, networks={**m.networks, "trunk": net})
    assert learned_at(m, net) == (3, 9, None, None)
    text = next(f.text for f in find(m).all if f.kind == "speed")
    assert text == ("The tasks are learned a after step 3, b not before step 9; c, d not at all.")


def test_overfitting_needs_a_fall_that_is_sure_and_not_tiny() -> None:
    assert overfits(network(decline=about(0.03)))
    assert not overfits(network(decline=about(0.005)))
    assert not overfits(network(decline=Estimate(0.03, -0.01, 0.07)))
    assert not overfits(network(decline=None))


def test_one_arm_is_said_to_leave_nothing_to_compare() -> None:
    m = measurements()
    alone = replace(
        m, networks={k: v for k, v in m.networks.items() if k != "independent"},
        contrasts={}, training={}, gaps={}, effects={},
    )  # fmt: skip
    found = find(alone)
    assert found.cause == "none"
    assert "Without independent networks" in next(f.text for f in found.all if f.kind == "cause")
