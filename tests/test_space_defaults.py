"""Default configurations of a space: what is read, what is refused, what a suite is left with."""

from __future__ import annotations

import pytest

from autometa.errors import SpaceError
from autometa.space import Space
from autometa.space.shipped import shipped_spaces
from autometa.trial import TrialConfig
from tests.searching.support import small_suite
from tests.small import make_suite

TEXT = """
parameters:
  backbone.width: {type: categorical, choices: [4, 96]}
  backbone.depth: {type: int, low: 1, high: 3}
  backbone.dropout: {type: float, low: 0.2, high: 0.4}
  sharing.kind: {type: categorical, choices: [soft, hard]}
  sharing.tie: {type: float, low: 0.001, high: 1.0, log: true, when: {sharing.kind: soft}}
  sharing.split_at: {type: int, low: 1, high: backbone.depth, when: {sharing.kind: hard}}
  optimizer.lr: {type: float, low: 1.0e-3, high: 3.0e-2, log: true}
  optimizer.clip: 0.5
unbuildable: drop
defaults:
"""


def space(defaults: str) -> Space:
    return Space.from_yaml(TEXT + defaults)


def test_what_is_not_named_is_nearest_to_the_default_of_a_configuration() -> None:
    found = space("  sharing: [{sharing.kind: hard, optimizer.lr: 1e-2}]")
    (one,) = found.default_suggestions("sharing")
    flat = TrialConfig().flat()
    assert flat["backbone.depth"] == 3
    assert one == {
        "backbone.width": 96 if flat["backbone.width"] == 96 else 4,
        "backbone.depth": 3,
        "backbone.dropout": 0.2,  # 0 is below the range
        "sharing.kind": "hard",
        "sharing.split_at": 3,  # None: all blocks
        "optimizer.lr": 0.01,
    }
    assert found.default_suggestions("independent") == []


def test_what_hangs_on_another_kind_is_not_asked() -> None:
    (one,) = space("  sharing: [{sharing.kind: soft}]").default_suggestions("sharing")
    assert "sharing.split_at" not in one
    assert 0.001 <= one["sharing.tie"] <= 1.0


def test_equal_ones_count_once() -> None:
    found = space("  independent: [{}, {backbone.dropout: 0.2}, {backbone.dropout: 0.3}]")
    assert [one["backbone.dropout"] for one in found.default_suggestions("independent")] == [
        0.2,
        0.3,
    ]


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ("  sharing: [{sharing.knd: hard}]", "Did you mean `sharing.kind`"),
        ("  sharing: [{sharing.kind: mtan}]", "should be one of soft, hard"),
        (
            "  sharing: [{backbone.dropout: 0.5}]",
            "within the range.*Found `backbone.dropout = 0.5`",
        ),
        ("  sharing: [{sharing.kind: soft, sharing.split_at: 1}]", "sharing.split_at"),
        ("  independent: [{optimizer.clip: 1.0}]", "should be 0.5, which the space fixes"),
        ("  independnt: [{}]", "independnt"),
        ("  sharing: {sharing.kind: hard}", "defaults"),
    ],
)
def test_what_no_trial_can_be_is_refused(defaults: str, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        space(defaults)


def test_what_a_suite_cannot_have_is_left_out() -> None:
    """Tasks of different kinds cannot have one head."""
    text = (
        "unbuildable: drop\nparameters:\n  conditioning.kind: concat\n"
        "  head: {type: categorical, choices: [multi_head, single_head]}\n"
        "  optimizer.lr: {type: float, low: 1.0e-3, high: 1.0e-2}\n"
        "defaults:\n  sharing: [{head: single_head}, {head: multi_head}]\n"
    )
    found = Space.from_yaml(text)
    assert len(found.default_suggestions("sharing")) == 2
    (left,) = found.bind(small_suite()).default_suggestions("sharing")
    assert left.get("head", "multi_head") == "multi_head"


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_shipped_spaces_begin_with_hard_sharing_of_all_blocks(name: str, layout: str) -> None:
    found = Space.load(name)
    if name.startswith("meta"):
        assert found.default_suggestions("sharing") == []
        return
    suite = make_suite("image" if name == "images" else layout)
    bound = found.bind(suite)
    first = bound.default_suggestions("sharing")[0]
    depth = dict(bound.arm_parameters("sharing"))["backbone.depth"].value  # type: ignore[union-attr]
    assert (first["sharing.kind"], first["sharing.split_at"]) == ("hard", depth)
    assert bound.default_suggestions("independent")
