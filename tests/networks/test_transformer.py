"""The transformer against torch's own encoder and blocks written out, its tokens, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from autometa.errors import ConfigError
from autometa.networks import HalvedBlock, Step
from autometa.networks.layers import Modulation
from autometa.networks.transformer import Transformer, TransformerBlock, TransformerConfig
from autometa.sharing import Params
from autometa.training.optimizers import DECAYED, segment
from tests.backbones import block, first_half, leaves, read, second_half, tokens
from tests.small import (
    IMAGE,
    TABLE,
    draw,
    gradients,
    make_batch,
    make_learner,
    make_problem,
    same_kind,
    trainable,
)

EXACT = {"rtol": 1e-10, "atol": 1e-12}
KIND = {"backbone.kind": "transformer"}
LAYOUTS = pytest.mark.parametrize("layout", ["aligned", "grouped"])
SHAPES = pytest.mark.parametrize("shape", [TABLE, IMAGE])


def make(shape: tuple[int, ...], **values: object) -> Transformer:
    config = TransformerConfig.model_validate({"width": 8, "depth": 2, **values})
    return Transformer(config, same_kind("aligned", shape))


def torchs_encoder(params: Params, width: int, heads: int, depth: int) -> nn.Sequential:
    """`nn.TransformerEncoderLayer`s, pre-norm, with the leaves of `blocks.0`, `blocks.1`, …"""
    layers = []
    for number in range(depth):
        own = leaves(params, f"blocks.{number}")
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            dim_feedforward=len(own["expand.weight"]),
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        ).double()
        attention = layer.self_attn
        copies = {
            attention.in_proj_weight: own["attend.weight"],
            attention.in_proj_bias: torch.zeros(3 * width),
            attention.out_proj.weight: own["project.weight"],
            attention.out_proj.bias: own["project.bias"],
            layer.linear1.weight: own["expand.weight"],
            layer.linear1.bias: own["expand.bias"],
            layer.linear2.weight: own["reduce.weight"],
            layer.linear2.bias: own["reduce.bias"],
        }
        with torch.no_grad():
            for leaf, value in copies.items():
                leaf.copy_(value)
        layers.append(layer)
    return nn.Sequential(*layers)


@SHAPES
@pytest.mark.parametrize(("heads", "expansion"), [(1, 2), (2, 3), (8, 4)])
def test_is_torchs_pre_norm_encoder(shape, heads, expansion):
    """Outputs and gradients, with torch's own attention, normalisation and linear layers."""
    how = {"backbone.heads": heads, "backbone.expansion": expansion, "backbone.depth": 3}
    learner = make_learner(same_kind("aligned", shape, n_tasks=1), {**KIND, **how})
    params = trainable(draw(learner)[0])
    batch = make_batch(learner.problem)
    encoder = torchs_encoder(params, 8, heads, 3)
    h = encoder(tokens(leaves(params, "blocks.0"), batch.x))
    head = leaves(params, "head", 0)
    out = F.linear(F.layer_norm(h.mean(1), (8,)), head["weight"], head["bias"])
    assert_close(learner.predict(params, {}, batch.x, batch.tasks)[0], out, **EXACT)
    expected = gradients(out.square().sum(), params)
    found = gradients(learner.predict(params, {}, batch.x, batch.tasks).square().sum(), params)
    for name in ("head.weight", "blocks.0.tokens.position"):
        assert_close(found[name], expected[name], **EXACT)
    out.square().sum().backward()
    for number, layer in enumerate(encoder):
        attention = layer.self_attn
        for leaf, copy in (
            ("attend.weight", attention.in_proj_weight),
            ("project.weight", attention.out_proj.weight),
            ("expand.bias", layer.linear1.bias),
            ("reduce.weight", layer.linear2.weight),
        ):
            assert_close(found[f"blocks.{number}.{leaf}"], copy.grad, **EXACT)


def test_block_by_hand():
    # two tokens of two channels, one head; norm gives ±1, so token a = (1, −1) and b = (−1, 1)
    first = TransformerBlock(2, 1, 2, None)
    eye, nothing = torch.eye(2), torch.zeros(2, 2)
    params = {
        # q = (a₁, 0), k = (a₁, 0), v = the token
        "attend.weight": torch.cat([torch.tensor([[1.0, 0.0], [0.0, 0.0]])] * 2 + [eye]),
        "project.weight": eye * 10,
        "project.bias": torch.tensor([0.0, 1.0]),
        "expand.weight": torch.cat([eye, nothing]),
        "expand.bias": torch.zeros(4),
        "reduce.weight": torch.cat([eye, nothing], 1) * 100,
        "reduce.bias": torch.tensor([0.0, 0.5]),
    }
    x = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]])  # tokens (3, 1) and (1, 3)
    u = first.first(params, x, Modulation())
    # scores ±1/√2: the own value has weight σ(√2) = .80443, so v = ±(.60886, −.60886)
    expected = [[3 + 6.0886, 1 - 6.0886], [1 - 6.0886 + 1, 3 + 6.0886 + 1]]
    assert_close(u[0], torch.tensor(expected), rtol=1e-4, atol=1e-3)
    out = first.second(params, u, Modulation())
    # norm(u) is (1, −1) and (−1, 1); relu keeps (1, 0) and (0, 1); × 100, and the bias
    assert_close(out - u, torch.tensor([[[100.0, 0.0], [0.5, 100.5]]]), rtol=1e-3, atol=1e-2)
    assert torch.equal(first.forward(params, x, Modulation()), out)
    assert isinstance(first, HalvedBlock)


def told_by_hand(params: Params, x: Tensor, kind: str, at: str, task: int) -> Tensor:
    """The network of one task with z by its equations; `concat` as concatenation, then linear."""
    z = params["embedding.weight"][task]
    h = x
    for i in range(2):
        own, enters = leaves(params, f"blocks.{i}"), f"conditioning.{i}.weight"
        if enters not in params:
            h = block("transformer", own, h)
        elif kind == "concat":
            # [W V] applied to [heads; z]: the identity reads W heads from the plain first half
            width = len(own["project.bias"])
            bare = {**own, "project.weight": torch.eye(width), "project.bias": torch.zeros(width)}
            bare = {name: leaf.double() for name, leaf in bare.items()}
            stream = tokens(own, h).mT if "tokens.position" in own else h
            heads = (first_half(bare, h) - stream).mT
            joint = torch.cat([own["project.weight"], params[enters]], 1)
            read_both = torch.cat([heads, z.expand(*heads.shape[:2], -1)], 2)
            u = stream + F.linear(read_both, joint, own["project.bias"]).mT
            h = second_half(own, u)
        elif kind == "additive":
            h = second_half(own, first_half(own, h, shift=params[enters] @ z))
        else:
            scale, offset = (params[enters] @ z).chunk(2)
            h = second_half(own, first_half(own, h), scale, offset)
    own = leaves(params, "head", task)
    out = F.linear(read("transformer", h), own["weight"], own["bias"])
    if at == "head":
        change = params["conditioning.2.weight"][task] @ z
        if kind == "multiplicative":
            return out * (1 + change[:1]) + change[1:]
        return out + change
    return out


@LAYOUTS
@SHAPES
@pytest.mark.parametrize("kind", ["concat", "additive", "multiplicative"])
@pytest.mark.parametrize("at", ["input", "every", "last", "head"])
def test_where_the_task_enters(layout, shape, kind, at):
    problem = same_kind(layout, shape)
    learner = make_learner(problem, {**KIND, "conditioning.kind": kind, "conditioning.at": at})
    params = trainable(draw(learner)[0])
    batch = make_batch(problem)
    outs = []
    for place, task in enumerate(batch.tasks.tolist()):
        x = batch.x if layout == "aligned" else batch.x[place]
        outs.append(told_by_hand(params, x, kind, at, task))
    out = torch.stack(outs)
    assert_close(learner.predict(params, {}, batch.x, batch.tasks), out, **EXACT)
    losses = ((out[..., 0] - batch.y) ** 2 * batch.mask).sum(1) / batch.mask.sum(1)
    total, found, _ = learner.loss(params, {}, batch, Step())
    assert_close(found, losses, **EXACT)
    expected, grads = gradients(losses.mean(), params), gradients(total, params)
    for name, grad in expected.items():
        assert_close(grads[name], grad, **EXACT)
    assert grads["embedding.weight"].any()


class TestTokens:
    def test_a_feature_is_a_token(self):
        backbone = make((5,))
        x = torch.arange(10.0).view(2, 5)
        assert torch.equal(backbone.enter(x), x[:, None])

    def test_neighbouring_features_share_a_token(self):
        backbone = make((7,), max_tokens=3)
        entered = backbone.enter(torch.arange(1.0, 8.0)[None])
        assert entered[0].T.tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0]]
        params = backbone.blocks[0].init(torch.Generator().manual_seed(0))
        assert params["tokens.value"].shape == (8, 3, 3)
        assert params["tokens.position"].shape == (8, 3)

    @pytest.mark.parametrize(
        ("features", "most", "count"), [(64, 64, 64), (65, 64, 33), (2000, 64, 63), (3, 1, 1)]
    )
    def test_are_bounded(self, features, most, count):
        entered = make((features,), max_tokens=most).enter(torch.zeros(1, features))
        assert entered.shape[2] == count <= most

    def test_several_features_are_linear_in_a_token(self):
        learner = make_learner(same_kind("aligned", (5,)), {**KIND, "backbone.max_tokens": 2})
        params, _ = draw(learner)
        own = leaves(params, "blocks.0")
        x = make_batch(learner.problem).x
        both = F.pad(x, (0, 1)).view(4, 2, 3)
        h = torch.stack([F.linear(both[:, n], own["tokens.value"][:, n]) for n in range(2)], 2)
        h = h + own["tokens.position"]
        rest = {name: leaf for name, leaf in own.items() if "tokens" not in name}
        h = block("transformer", rest, h)
        h = read("transformer", block("transformer", leaves(params, "blocks.1"), h))
        out = F.linear(h, params["head.weight"][1], params["head.bias"][1])
        assert_close(learner.predict(params, {}, x, torch.arange(3))[1], out, **EXACT)

    def test_patches_are_in_reading_order(self):
        backbone = make((2, 5, 3), patch=2)
        x = torch.arange(30.0).view(1, 2, 5, 3)
        entered = backbone.enter(x)
        assert entered.shape == (1, 8, 6)  # 2 channels × 2 × 2; 3 × 2 patches, the border padded
        assert entered[0, :, 0].tolist() == [0, 1, 3, 4, 15, 16, 18, 19]
        assert entered[0, :, 1].tolist() == [2, 0, 5, 0, 17, 0, 20, 0]
        assert entered[0, :, 5].tolist() == [14, 0, 0, 0, 29, 0, 0, 0]

    def test_one_matrix_for_all_patches(self):
        params = make((2, 5, 3), patch=2).blocks[0].init(torch.Generator().manual_seed(0))
        assert params["patch.weight"].shape == (8, 8)
        assert params["tokens.position"].shape == (8, 6)

    def test_only_positions_tell_features_apart(self):
        # nothing else depends on the order of a table's columns
        learner = make_learner(same_kind("aligned"), KIND)
        params, _ = draw(learner)
        x = make_batch(learner.problem).x
        out = learner.predict(params, {}, x, torch.arange(3))
        order = torch.tensor([2, 0, 4, 1, 3])
        assert not torch.allclose(learner.predict(params, {}, x[:, order], torch.arange(3)), out)
        moved = {n: p[:, order] if ".tokens." in n else p for n, p in params.items()}
        assert_close(learner.predict(moved, {}, x[:, order], torch.arange(3)), out, **EXACT)

    def test_embeddings_have_no_weight_decay(self):
        for shape in (TABLE, IMAGE):
            params, _ = draw(make_learner(same_kind("aligned", shape), KIND))
            decayed = sum(p.numel() for n, p in params.items() if n.endswith(".weight"))
            assert not any("tokens" in n for n in params if n.endswith(".weight"))
            own = (p.numel() for n, p in params.items() if segment(n) == DECAYED)
            assert sum(own) == decayed
            assert sum("tokens" in n for n in params) == (2 if shape == TABLE else 1)


def test_depth_and_features():
    backbone = make((5,), depth=3)
    assert [(b.fan_in, b.channels) for b in backbone.blocks] == [(8, 8)] * 3
    assert backbone.out_features == 8
    found = [set(b.init(torch.Generator())) for b in backbone.blocks]
    assert found[0] - found[1] == {"tokens.value", "tokens.position"}
    assert found[1] == found[2] < found[0]


class TestRefused:
    def test_heads_that_do_not_divide_the_width(self):
        with pytest.raises(ConfigError, match=r"heads` should divide.*\(8\).*heads = 3`"):
            make((5,), heads=3)

    def test_too_many_patches(self):
        with pytest.raises(
            ConfigError, match=r"images of 84×80 into at most.*\(64\).*take 11 or more.*makes 420"
        ):
            make((3, 84, 80))
        make((3, 84, 80), patch=11)

    def test_no_features(self):
        with pytest.raises(ConfigError, match="no features"):
            make((0,))

    def test_all_of_it_before_anything_is_built(self):
        with pytest.raises(ConfigError, match="heads"):
            make_learner(make_problem(), {**KIND, "backbone.heads": 5})
