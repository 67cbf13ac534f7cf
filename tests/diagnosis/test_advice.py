"""Advice follows from findings: each kind is reached, and its configuration can be built."""

from __future__ import annotations

from typing import Any

import pytest

from autometa.diagnosis.advice import Advice, advise, changed, counterparts, partitions
from autometa.diagnosis.findings import find
from autometa.diagnosis.measurements import Measurements
from autometa.networks import Problem
from autometa.trial import TrialConfig, check
from tests.diagnosis.numbers import BLOCKS, about, measurements, network
from tests.diagnosis.test_causes import ADVERSARY, SMALL

PROBLEM = Problem(
    layout="aligned", feature_shape=(5,), kinds=("regression",) * 4, n_outputs=(1,) * 4
)


def advice(m: Measurements) -> tuple[Advice, ...]:
    found = advise(m, find(m), PROBLEM)
    for one in found:
        if one.config is not None:
            config = TrialConfig.from_flat(one.config)
            check(config, PROBLEM)
            assert config.flat() == one.config
    return found


def test_capacity_widens() -> None:
    (one,) = advice(measurements(**SMALL))  # type: ignore[arg-type]  # keywords of mixed types
    assert one.changes == {"backbone.width": 200}
    assert "Widen the shared network to 200" in one.text


def test_conflict_isolates_the_adversary_from_the_first_block_and_from_the_middle() -> None:
    first, second = advice(measurements(harm=ADVERSARY, since=6))
    assert first.config is not None
    assert first.config["sharing.kind"] == "tree"
    assert first.config["sharing.partitions"] == "0010/0010/0010"
    assert "c and the other tasks conflict after step 6: group {a, b, d}, {c}" in first.text
    assert second.config is not None
    assert second.config["sharing.partitions"] == "0000/0000/0010"


def test_conflict_keeps_the_blocks_that_the_best_trial_does_not_share() -> None:
    _, second = advice(measurements({"sharing.split_at": 2}, harm=ADVERSARY))
    assert second.config is not None
    assert second.config["sharing.partitions"] == "0010/0010/0123"


def test_no_tree_where_all_go_apart() -> None:
    harm = {a: {b: 0.03 for b in "abcd" if b != a} for a in "abcd"}
    (one,) = advice(measurements(harm=harm))
    assert one.config is None
    assert "independent" in one.text


def test_regularisation_shares_more_where_there_is_more() -> None:
    numbers: dict[str, Any] = {"effect": about(0.02), "gap": about(-0.02)}
    (one,) = advice(measurements({"sharing.split_at": 1}, **numbers))
    assert one.changes == {"sharing.split_at": BLOCKS}
    (one,) = advice(measurements(**numbers))
    assert one.config is None
    assert "Keep sharing" in one.text


def test_unexplained_cost_shares_less() -> None:
    (one,) = advice(measurements({"sharing.split_at": 2}, effect=about(-0.02)))
    assert one.changes == {"sharing.split_at": 1}
    (one,) = advice(measurements({"sharing.split_at": 1}, effect=about(-0.02)))
    assert one.config is None


def test_sharing_that_is_not_to_blame_is_extended() -> None:
    (one,) = advice(measurements({"sharing.split_at": 1}, effect=about(-0.02), trunk=about(0.0)))
    assert one.changes == {"sharing.split_at": BLOCKS}


def test_overfitting_asks_for_dropout_up_to_a_limit() -> None:
    def of(dropout: float) -> Advice:
        net = network({"backbone.dropout": dropout}, decline=about(0.05), peak=3)
        (one,) = advice(measurements(sharing=net))
        return one

    assert of(0.1).changes == {"backbone.dropout": 0.3}
    assert of(0.5).changes == {"backbone.dropout": 0.6}
    assert of(0.6).config is None


def test_a_better_wide_trunk_is_advised_whatever_the_cause() -> None:
    m = measurements(
        effect=about(-0.03),
        wide=(about(0.01), about(-0.02)),
        more={"wide-sharing": about(0.01)},
    )
    assert find(m).cause == "unexplained"
    assert {"backbone.width": 200} in [one.changes for one in advice(m)]
    without = measurements(effect=about(-0.03), wide=(about(0.01), about(-0.02)))
    assert {"backbone.width": 200} not in [one.changes for one in advice(without)]


def test_at_most_two_configurations() -> None:
    net = network(decline=about(0.05))
    m = measurements(harm=ADVERSARY, more={"wide-sharing": about(0.01)}, sharing=net,
                     wide=(about(0.0), about(0.0)))  # fmt: skip
    assert sum(one.config is not None for one in advice(m)) == 2


def test_nothing_to_say_is_said() -> None:
    (one,) = advice(measurements())
    assert one.config is None
    assert "Nothing to change" in one.text


def test_independent_networks_have_as_many_tries() -> None:
    base = TrialConfig.from_flat({"sharing.kind": "independent", "optimizer.lr": 0.01}).flat()
    tree = {"changes": {"sharing.kind": "tree", "sharing.partitions": "0001/0001/0001"}}
    wide = {"changes": {"sharing.split_at": 3, "backbone.width": 200}}
    same = {"changes": {"backbone.width": base["backbone.width"]}}

    def tries(*advice: dict[str, Any]) -> list[dict[str, Any] | None]:
        found = counterparts(base, advice, PROBLEM)
        for one in found:
            assert one.config == {**base, **(one.changes or {})}
        return [one.changes for one in found]

    assert tries(wide) == [{"backbone.width": 200}]
    assert tries(tree, tree) == [{"optimizer.lr": 0.005}, {"optimizer.lr": 0.02}]
    assert tries(wide, wide) == [{"backbone.width": 200}, {"optimizer.lr": 0.005}]
    assert tries(same, tree) == [{"optimizer.lr": 0.005}, {"optimizer.lr": 0.02}]


def test_parameters_of_the_old_mechanism_go_and_conditioning_stays_where_it_can() -> None:
    base = TrialConfig.from_flat(
        {"sharing.split_at": 2, "conditioning.kind": "multiplicative", "head": "single_head"}
    ).flat()
    tree = changed(base, {"sharing.kind": "tree", "sharing.partitions": "0001/0001/0001"}, PROBLEM)
    assert tree is not None
    assert "sharing.split_at" not in tree
    assert tree["conditioning.kind"] == "multiplicative"
    soft = TrialConfig.from_flat({"sharing.kind": "soft"}).flat()
    hard = changed(soft, {"sharing.split_at": 2}, PROBLEM)
    assert hard is not None
    assert (hard["sharing.kind"], hard["sharing.split_at"]) == ("hard", 2)
    assert changed(base, {"sharing.split_at": 99}, PROBLEM) is None


@pytest.mark.parametrize(
    ("groups", "start", "stop", "text"),
    [
        (((0, 2), (1,)), 0, 2, "010/010"),
        (((0,), (1, 2)), 1, 2, "000/011"),
        (((0, 2), (1,)), 0, 1, "010/012"),
    ],
)
def test_partitions_are_written_as_the_tree_reads_them(
    groups: tuple[tuple[int, ...], ...], start: int, stop: int, text: str
) -> None:
    assert partitions(groups, 3, start, stop, 2) == text
    TrialConfig.from_flat({"sharing.kind": "tree", "sharing.partitions": text})
