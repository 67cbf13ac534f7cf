"""What is refused before work starts: extras that are missing, nothing shared, other learners."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import Any

import pandas as pd
import pytest
import torch

from autometa.balancing import BALANCING, base
from autometa.errors import ConfigError, SpaceError
from autometa.learners import Joint
from autometa.model import Model
from autometa.space import Space
from autometa.training.population import Run, Trainer
from autometa.trial import build, check
from tests.small import make_config, make_problem, make_suite, make_table

LOOKS_AT_GRADIENTS = [kind for kind, entry in BALANCING.items() if entry.needs != "losses"]


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {name for entry in BALANCING.values() for name in entry.packages}
    monkeypatch.setattr(base, "find_spec", lambda name: None if name in hidden else find_spec(name))


@pytest.fixture
def with_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: True)


@pytest.mark.usefixtures("without_extra")
def test_a_missing_extra_is_named():
    needing = {kind for kind, entry in BALANCING.items() if entry.packages}
    assert needing == {"cagrad", "nash_mtl"}
    for kind in needing:
        config = make_config({"balancing.kind": kind})
        with pytest.raises(
            ConfigError,
            match=rf"`balancing.kind = {kind}` needs cvxpy and .*Install autometa-hpo\[bal",
        ):
            check(config, make_problem())
    for kind in set(BALANCING) - needing:
        build(make_config({"balancing.kind": kind}), make_problem())


@pytest.mark.usefixtures("with_extra")
@pytest.mark.parametrize("kind", LOOKS_AT_GRADIENTS)
@pytest.mark.parametrize(
    "sharing",
    [
        {"sharing.kind": "independent"},
        {"sharing.kind": "hard", "sharing.split_at": 0},
        {"sharing.kind": "soft"},
        {"sharing.kind": "cross_stitch"},
        {"sharing.kind": "sluice"},
        {"sharing.kind": "tree", "sharing.partitions": "012/012"},
    ],
    ids=lambda v: "-".join(map(str, v.values())),
)
def test_gradients_of_nothing_shared_are_refused(sharing: dict[str, Any], kind: str):
    with pytest.raises(
        ConfigError, match=rf"tasks share no parameters .*`balancing.kind = {kind}`"
    ):
        check(make_config({**sharing, "balancing.kind": kind}), make_problem())


@pytest.mark.parametrize(
    "sharing",
    [
        {"sharing.kind": "hard", "sharing.split_at": 1},
        {"sharing.kind": "tree", "sharing.partitions": "010/012"},
        {"sharing.kind": "mtan"},
        {"sharing.kind": "deep_relation"},
    ],
    ids=lambda v: "-".join(map(str, v.values())),
)
def test_gradients_of_something_shared_are_not(sharing: dict[str, Any]):
    check(make_config({**sharing, "balancing.kind": "pcgrad"}), make_problem())


def test_a_learner_that_keeps_no_state_takes_stateless_balancers_only(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(Joint, "balances", False)
    for kind, entry in BALANCING.items():
        config = make_config({"balancing.kind": kind})
        if entry.packages:
            continue
        if kind in ("equal", "random", "uncertainty", "imtl_l", "geometric_mean", "stch"):
            check(config, make_problem())
        else:
            with pytest.raises(ConfigError, match=r"should be one of `equal`, .* with `adaptation"):
                check(config, make_problem())


@pytest.mark.usefixtures("without_extra")
def test_a_space_drops_what_cannot_be_built():
    text = """
description: test
unbuildable: drop
parameters:
  sharing.kind: {type: categorical, choices: [hard, soft]}
  balancing.kind: {type: categorical, choices: [equal, pcgrad, cagrad], when: {sharing.kind: hard}}
"""
    bound = Space.from_yaml(text).bind(make_problem())
    assert [d for d in bound.dropped if "cagrad" in d and "autometa-hpo[balancing]" in d]
    kinds = bound.distributions("sharing")["balancing.kind"]
    assert kinds.choices == ("equal", "pcgrad")  # type: ignore[attr-defined]  # a Categorical
    open_to_all = text.replace(", when: {sharing.kind: hard}", "").replace(", cagrad", "")
    with pytest.raises(SpaceError, match="not together: restrict one with `when`"):
        Space.from_yaml(open_to_all).bind(make_problem())


@pytest.mark.usefixtures("without_extra")
def test_a_model_predicts_without_the_extra_of_its_balancer():
    suite, table = make_suite(), make_table(8, seed=3)
    config = make_config({"balancing.kind": "pcgrad"})
    trainer = Trainer(suite, 1, torch.device("cpu"))
    model = Model.of(suite, config, trainer.start([Run(config, 0)]), {})
    other = dataclasses.replace(model, config=make_config({"balancing.kind": "cagrad"}))
    pd.testing.assert_frame_equal(other.predict(table), model.predict(table))
