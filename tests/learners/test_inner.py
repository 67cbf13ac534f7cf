"""The inner loop: what is computed once, random streams, and what cannot be built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autometa.errors import ConfigError
from autometa.learners import Learner
from autometa.networks import Step
from autometa.networks.keys import new_key
from autometa.networks.mlp import MLPBlock
from autometa.sharing import Params, hard
from autometa.trial import check
from tests.small import draw, make_config, make_episode, make_episode_problem, make_learner

TRAIN = Step(train=True)


def make(values: dict[str, Any]) -> Learner:
    return make_learner(make_episode_problem(), {"adaptation.kind": "gradient", **values})


@pytest.mark.parametrize("split_at", [1, 2])
def test_shared_blocks_run_once_on_all_rows(split_at, monkeypatch):
    """Below what is adapted there is one pass, of plain weights, whatever the number of steps."""
    calls = []

    def forward(self: MLPBlock, params: Params, x: Tensor, modulation: Any) -> Tensor:
        calls.append((self, tuple(params["weight"].shape), tuple(x.shape)))
        return original(self, params, x, modulation)

    original = MLPBlock.forward
    monkeypatch.setattr(MLPBlock, "forward", forward)
    learner = make({"sharing.split_at": split_at, "adaptation.steps": 5})
    params, _ = draw(learner)
    learner.adapt(params, {}, make_episode(learner.problem, tasks=3).support, TRAIN)
    per_block = {number: [c for c in calls if c[1][1] == (5, 8)[number]] for number in (0, 1)}
    assert [shape for _, *shape in per_block[0]] == [[(8, 5), (12, 5)]]
    assert len(per_block[1]) == (5 if split_at == 1 else 1)


def test_every_pass_has_dropout_masks_of_its_own(monkeypatch):
    keys = []

    def watch(h: Tensor, step: Step, layer: int) -> Tensor:
        key = step.key
        while torch._C._functorch.is_functorch_wrapped_tensor(key):
            key = torch._C._functorch.get_unwrapped(key)  # those of all tasks
        keys.append((key.flatten().tolist(), layer))
        return original(h, step, layer)

    original = hard.dropout
    monkeypatch.setattr(hard, "dropout", watch)
    learner = make({"sharing.split_at": 1, "adaptation.steps": 3})
    params, _ = draw(learner)
    episode = make_episode(learner.problem)
    step = Step(True, new_key(1), {"dropout": torch.tensor(0.5)})
    learner.loss(learner.adapt(params, {}, episode.support, step), {}, episode.query, step)
    # the trunk on the support rows and on the query rows; the upper block in every step, and then
    assert [layer for _, layer in keys] == [0, 1, 1, 1, 0, 1]
    # rows of all tasks are one batch below; above, each of the 3 tasks has a stream of its own
    assert len({key for found, layer in keys if layer == 0 for key in found}) == 2
    assert len({key for found, layer in keys if layer == 1 for key in found}) == 4 * 3


REFUSED = [
    ({"head": "single_head"}, "nothing to adapt"),
    ({"head": "single_head", "sharing.split_at": 2}, "nothing to adapt"),
    ({"sharing.kind": "cross_stitch"}, "`sharing.kind` should be `hard` with"),
    ({"sharing.kind": "independent"}, "`sharing.kind` should be `hard` with"),
    ({"balancing.kind": "uncertainty"}, "`balancing.kind` should be `equal`"),
    ({"balancing.kind": "dwa"}, "`balancing.kind` should be `equal`"),
    (
        {"conditioning.kind": "additive", "conditioning.embedding": "one_hot"},
        "`conditioning.embedding` should be `learned`",
    ),
    ({"sharing.split_at": 3}, "at most the number of blocks"),
]


@pytest.mark.parametrize(("values", "text"), REFUSED, ids=[str(v) for v, _ in REFUSED])
@pytest.mark.parametrize("kind", ["gradient", "reptile"])
def test_what_cannot_be_built_is_refused(kind, values, text):
    config = make_config({"adaptation.kind": kind, **values})
    with pytest.raises(ConfigError, match=text.replace("`", ".")):
        check(config, make_episode_problem("regression"))


@pytest.mark.parametrize(
    "values",
    [
        {"head": "single_head", "sharing.split_at": 1},
        {"head": "single_head", "conditioning.kind": "additive"},
        {"sharing.split_at": 0},
        {},
    ],
)
@pytest.mark.parametrize("kind", ["gradient", "reptile"])
def test_what_can_be_built_is_not(kind, values):
    check(make_config({"adaptation.kind": kind, **values}), make_episode_problem("multiclass"))
