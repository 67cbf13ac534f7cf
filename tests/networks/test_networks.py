"""Backbones and conditioning: shapes, starts, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from autometa.errors import ConfigError
from autometa.networks import BACKBONES, ConditioningConfig, Step
from autometa.networks.conv import ConvBlock
from autometa.networks.keys import new_key
from autometa.networks.layers import Modulation, dropout, fan_in_uniform, per_channel
from tests.small import draw, make_learner, make_problem, same_kind


def backbone(kind: str, shape: tuple[int, ...], **values: object):
    entry = BACKBONES[kind]
    return entry(entry.Config.model_validate(values), same_kind("aligned", shape))


def test_mlp_flattens_images():
    mlp = backbone("mlp", (2, 6, 5), width=7, depth=3)
    assert [(b.fan_in, b.channels) for b in mlp.blocks] == [(60, 7), (7, 7), (7, 7)]
    assert mlp.enter(torch.zeros(4, 2, 6, 5)).shape == (4, 60)


def test_conv_pools_while_it_can():
    conv = backbone("conv", (3, 28, 20), width=16, depth=4)
    assert conv.out_features == 16  # 28×20, 14×10, 7×5, 3×2, 1×1
    assert backbone("conv", (3, 28, 20), width=16, depth=2).out_features == 16 * 7 * 5
    small = backbone("conv", (1, 3, 3), width=16, depth=4)
    assert small.out_features == 16


def test_conv_refuses_tables():
    with pytest.raises(ConfigError, match="`backbone.kind` should be `mlp` or `transformer` for"):
        backbone("conv", (5,))


def test_mlp_refuses_no_features():
    with pytest.raises(ConfigError, match="no features"):
        backbone("mlp", (0,))


def test_one_row_and_small_images_work():
    # groups of one channel on 1×1 images have nothing to normalise by
    problem = same_kind("aligned", (1, 3, 3))
    learner = make_learner(problem, {"backbone.kind": "conv", "backbone.depth": 4})
    params, _ = draw(learner)
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    out = learner.predict(params, {}, x[:1], torch.arange(3))
    assert out.isfinite().all()
    both = learner.predict(params, {}, x, torch.arange(3))
    assert (both[:, 0] - both[:, 1]).abs().min() > 0


@pytest.mark.parametrize("width", [4, 8, 12, 32])
def test_a_shift_is_not_normalised_away(width):
    block = ConvBlock(2, width, "group", pool=False)
    params = block.init(torch.Generator().manual_seed(0))
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    plain = block.forward(params, x, Modulation())
    shift = torch.randn(width, generator=torch.Generator().manual_seed(2))
    assert (block.forward(params, x, Modulation(shift=shift)) - plain).abs().max() > 0.1


def test_dropout_keeps_the_mean_and_is_off_in_evaluation():
    h, rates = torch.ones(400, 100), {"dropout": torch.tensor(0.3)}
    found = dropout(h, Step(True, new_key(0), rates), 0)
    assert found.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert found.mean().item() == pytest.approx(1.0, abs=0.01)
    assert dropout(h, Step(False, new_key(0), rates), 0) is h
    assert torch.equal(dropout(h, Step(True, new_key(0), {"dropout": torch.tensor(0.0)}), 0), h)
    assert not torch.equal(found, dropout(h, Step(True, new_key(1), rates), 0))


def test_masks_differ_between_layers_and_towers():
    learner = make_learner(same_kind("aligned"), {"sharing.split_at": 0, "backbone.norm": "none"})
    params, _ = draw(learner)
    params = {n: p[:1].expand_as(p).clone() for n, p in params.items()}  # equal towers
    x = torch.randn(6, 5, dtype=torch.float64)
    step = Step(True, new_key(0), {"dropout": torch.tensor(0.5)})
    out, _ = learner.network.forward(params, {}, x, tasks=torch.arange(3), z=None, step=step)
    assert not torch.equal(out[0], out[1])
    plain = learner.predict(params, {}, x, torch.arange(3))
    assert torch.equal(plain[0], plain[1])


def test_fan_in_uniform():
    found = fan_in_uniform((50, 100), 100, torch.Generator().manual_seed(0))
    assert found.abs().max() <= 0.1
    assert found.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)


def test_per_channel_broadcasts():
    assert per_channel(torch.zeros(3), 4).shape == (3, 1, 1)
    assert per_channel(torch.zeros(3), 2).shape == (3,)


def test_places_of_conditioning():
    def places(**values: str) -> tuple[int, ...]:
        return ConditioningConfig.model_validate(values).places(3)

    assert places(kind="none") == ()
    assert places(kind="additive", at="input") == (0,)
    assert places(kind="additive", at="every") == (0, 1, 2)
    assert places(kind="additive", at="last") == (2,)
    assert places(kind="additive", at="head") == (3,)


def test_class_mask():
    mask = make_problem("grouped").class_mask()
    assert mask.tolist() == [[True] * 3 + [False], [True] * 2 + [False] * 2, [True] * 4]
