"""Which networks are trained, and that the controls have the parameters they are to have."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from autometa.diagnosis.networks import count_parameters, matched, plan, trunk_of
from autometa.trial import TrialConfig, build
from tests.small import make_problem, same_kind

PROBLEM = same_kind("aligned", n_tasks=4)
BASE = {"backbone.width": 64, "backbone.depth": 3}


def trial(value: float, **values: Any) -> FrozenTrial:
    config = TrialConfig.from_flat({**BASE, **{k.replace("__", "."): v for k, v in values.items()}})
    kind = config.flat()["sharing.kind"]
    arm = "independent" if kind == "independent" else "sharing"
    attrs = {"arm": arm, "config": config.flat()}
    return create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attrs)


def test_parameters_are_counted_by_hand() -> None:
    config = TrialConfig.from_flat({"backbone.width": 3, "backbone.depth": 2})
    # blocks 5→3 and 3→3 with biases, and four heads 3→1
    assert count_parameters(config, PROBLEM) == (18 + 12) + 4 * 4
    alone = TrialConfig.from_flat(
        {"backbone.width": 3, "backbone.depth": 2, "sharing.kind": "independent"}
    )
    assert count_parameters(alone, PROBLEM) == 4 * (18 + 12 + 4)


def test_controls_have_equal_numbers_of_parameters() -> None:
    found = plan([trial(0.5), trial(0.4, sharing__kind="independent")], PROBLEM)
    assert set(found) == {"sharing", "independent", "trunk", "wide", "narrow"}
    assert found["trunk"] is found["sharing"], "it shares every block already"
    towers, shared = found["independent"].parameters, found["trunk"].parameters
    assert found["wide"].parameters == pytest.approx(towers, rel=0.02)
    assert found["narrow"].parameters == pytest.approx(shared, rel=0.1)
    assert (found["wide"].width or 0) > 64 > (found["narrow"].width or 64)
    assert found["narrow"].config.flat()["sharing.kind"] == "independent"
    for network in found.values():
        assert network.parameters == count_parameters(network.config, PROBLEM)


def test_the_best_of_each_arm_is_taken() -> None:
    found = plan([trial(0.1), trial(0.6, optimizer__lr=0.01), trial(0.5)], PROBLEM)
    assert set(found) == {"sharing", "trunk"}, "one arm has no controls"
    assert found["sharing"].config.optimizer.lr == 0.01
    assert plan([trial(0.3, sharing__kind="independent")], PROBLEM).keys() == {"independent"}


def test_no_controls_where_the_shared_network_is_the_larger_one() -> None:
    small = trial(0.4, sharing__kind="independent", backbone__width=8)
    assert set(plan([trial(0.5), small], PROBLEM)) == {"sharing", "trunk", "independent"}


@pytest.mark.parametrize(
    "values",
    [
        {"sharing.kind": "hard", "sharing.split_at": 1},
        {"sharing.kind": "cross_stitch"},
        {"sharing.kind": "soft"},
        {"conditioning.kind": "additive", "head": "single_head"},
    ],
)
def test_the_trunk_shares_every_block_and_no_head(values: dict[str, Any]) -> None:
    trunk = trunk_of(TrialConfig.from_flat({**BASE, **values}), PROBLEM)
    roles = build(trunk, PROBLEM).roles()
    assert {role for name, role in roles.items() if name.startswith("blocks.")} == {"shared"}
    assert {role for name, role in roles.items() if name.startswith("head.")} == {"task"}
    assert trunk.backbone.width == 64  # type: ignore[attr-defined]  # an MLPConfig


def test_no_width_that_comes_close_is_no_control() -> None:
    config = TrialConfig.from_flat({**BASE, "sharing.kind": "independent"})
    assert matched(config, PROBLEM, 20) is None, "four units a block are too many"
    assert matched(config, PROBLEM, 10**9) is None


def test_images_are_matched_by_their_channels() -> None:
    problem = make_problem(shape=(1, 8, 8))
    values = {"backbone.kind": "conv", "backbone.width": 8, "backbone.depth": 2}
    config = TrialConfig.from_flat(values)
    found = matched(config, problem, 4 * count_parameters(config, problem))
    assert found is not None
    assert found.parameters == pytest.approx(4 * count_parameters(config, problem), rel=0.25)
