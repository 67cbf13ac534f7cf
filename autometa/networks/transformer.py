"""Transformer backbone: tokens of a table's features or an image's patches, and pre-norm blocks.

Attention is written as matrix products: torch's fused attention has no batching rule under
`torch.func.vmap`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from autometa.config import Config, per_run
from autometa.errors import ConfigError
from autometa.networks.layers import Modulation, fan_in_uniform
from autometa.networks.problem import Problem


class TransformerConfig(Config):
    """`depth` blocks on tokens of `width` channels, with `heads` attention heads.

    `expansion`: hidden units of a block's two linear layers, as a multiple of `width`. `patch`:
    side of the squares that an image is cut into, padded with zeros to whole ones. `max_tokens`:
    a table with more features has several in a token; an image with more patches is refused.
    """

    kind: Literal["transformer"] = "transformer"
    width: int = Field(32, ge=1, le=2048)
    depth: int = Field(3, ge=1, le=64)
    heads: int = Field(4, ge=1, le=64)
    expansion: int = Field(2, ge=2, le=8)
    patch: int = Field(4, ge=1, le=256)
    max_tokens: int = Field(64, ge=1, le=1024)
    dropout: float = per_run(0.0, ge=0.0, lt=1.0)


class Tokens:
    """The vectors h_n [width] that stand for a row's N tokens x_n; part of the first block.

    A table's token is a feature, or `size` neighbouring features, with a vector of its own for
    each: h_n = V_n x_n + p_n (the feature tokenizer of FT-Transformer, Gorishniy et al. 2021).
    p_n tells tokens apart, and the sizes of x_n, which the normalisation of V_n x_n alone would
    hide. An image's token is a patch, and all patches have one matrix: h_n = W x_n + p_n (ViT,
    Dosovitskiy et al. 2021). V and p are embeddings and have no weight decay; W has.
    """

    def __init__(self, width: int, size: int, count: int, shared: bool) -> None:
        self._shape = (width, size) if shared else (width, count, size)
        self._positions = (width, count)
        self._size = size
        self._name = "patch.weight" if shared else "tokens.value"

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            self._name: fan_in_uniform(self._shape, self._size, generator),
            "tokens.position": fan_in_uniform(self._positions, self._size, generator),
        }

    def forward(
        self, params: dict[str, Tensor], x: Float[Tensor, "row size token"]
    ) -> Float[Tensor, "row token width"]:
        values = params[self._name]
        equation = "rsn,ws->rnw" if values.ndim == 2 else "rsn,wns->rnw"
        return torch.einsum(equation, x, values) + params["tokens.position"].mT


class TransformerBlock:
    """One block on tokens [row, width, token], in two halves that each add to their input.

        u = h + P attention(norm(h)) + b + shift
        p = u + D relu(E m + c) + d,      m = (1 + scale) ⊙ norm(u) + offset

    The norm is LayerNorm over the channels of a token, without affine. Attention is that of
    Vaswani et al. 2017, softmax(QᵀK/√(width/heads)) V for each head, between the tokens of one
    row; Q, K and V are linear in norm(h) and have no bias: a bias of K would not change anything.

    z enters alike for all tokens. `shift` is added to the linear output P [heads; z] before a
    normalisation, so concatenation is addition here as in an MLP; `scale` and `offset` (FiLM) act
    after the normalisation, before the layer with the nonlinearity (as in DiT, Peebles & Xie
    2023). The first block makes the tokens, from rows [row, size, token].
    """

    def __init__(self, width: int, heads: int, expansion: int, tokens: Tokens | None) -> None:
        self.fan_in = width
        self.channels = width
        self._heads = heads
        self._hidden = expansion * width
        self._tokens = tokens

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        width, hidden = self.channels, self._hidden
        return {
            **(self._tokens.init(generator) if self._tokens else {}),
            "attend.weight": fan_in_uniform((3 * width, width), width, generator),
            "project.weight": fan_in_uniform((width, width), width, generator),
            "project.bias": torch.zeros(width),
            "expand.weight": fan_in_uniform((hidden, width), width, generator),
            "expand.bias": torch.zeros(hidden),
            "reduce.weight": fan_in_uniform((width, hidden), hidden, generator),
            "reduce.bias": torch.zeros(width),
        }

    def forward(
        self,
        params: dict[str, Tensor],
        x: Float[Tensor, "row in_channel token"],
        modulation: Modulation,
    ) -> Float[Tensor, "row width token"]:
        return self.second(params, self.first(params, x, modulation), modulation)

    def first(
        self,
        params: dict[str, Tensor],
        x: Float[Tensor, "row in_channel token"],
        modulation: Modulation,
    ) -> Float[Tensor, "row width token"]:
        """u, from the block's input."""
        h = self._tokens.forward(params, x) if self._tokens else x.mT
        read = F.linear(self._norm(h), params["attend.weight"])
        query, key, value = read.unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        out = h + F.linear(attended, params["project.weight"], params["project.bias"])
        if modulation.shift is not None:
            out = out + modulation.shift
        return out.mT

    def second(
        self,
        params: dict[str, Tensor],
        u: Float[Tensor, "row width token"],
        modulation: Modulation,
    ) -> Float[Tensor, "row width token"]:
        """p, from u."""
        h = u.mT
        m = self._norm(h)
        if modulation.scale is not None:
            m = m * (1.0 + modulation.scale)
        if modulation.offset is not None:
            m = m + modulation.offset
        m = torch.relu(F.linear(m, params["expand.weight"], params["expand.bias"]))
        return (h + F.linear(m, params["reduce.weight"], params["reduce.bias"])).mT

    def _norm(self, h: Float[Tensor, "row token width"]) -> Float[Tensor, "row token width"]:
        return F.layer_norm(h, (self.channels,))


class Transformer:
    """The backbone `transformer`: an ordered list of `TransformerBlock`s.

    The head reads the mean over tokens, normalised. Dropout acts on what leaves a block, as in
    every backbone. Work grows with rows × tokens², so tokens are bounded: with D features and at
    most N tokens, ⌈D/N⌉ neighbouring features are one token.

    Raises:
        ConfigError: `heads` does not divide `width`, an image has too many patches, or there are
            no features.
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, problem: Problem) -> None:
        if config.width % config.heads:
            raise ConfigError(
                f"Parameter `backbone.heads` should divide `backbone.width` ({config.width}). "
                f"Found `backbone.heads = {config.heads}`."
            )
        features = math.prod(problem.feature_shape)
        if features < 1:
            raise ConfigError("The suite has no features; backbone `transformer` needs some.")
        if problem.is_image:
            self._patch: int | None = config.patch
            channels, height, width = problem.feature_shape
            self._sides = (math.ceil(height / config.patch), math.ceil(width / config.patch))
            self._size, self._count = channels * config.patch**2, math.prod(self._sides)
            if self._count > config.max_tokens:
                raise ConfigError(
                    f"Parameter `backbone.patch` should cut images of {height}×{width} into at "
                    f"most `backbone.max_tokens` ({config.max_tokens}) patches; take "
                    f"{_least_patch(height, width, config.max_tokens)} or more. Found "
                    f"`backbone.patch = {config.patch}`, which makes {self._count}."
                )
        else:
            self._patch = None
            self._size = math.ceil(features / config.max_tokens)
            self._count = math.ceil(features / self._size)
        tokens = Tokens(config.width, self._size, self._count, shared=problem.is_image)
        self.blocks = tuple(
            TransformerBlock(config.width, config.heads, config.expansion, first)
            for first in [tokens, *[None] * (config.depth - 1)]
        )
        self.out_features = config.width
        # queries, keys, values and the wide layer of every token, and each head's attention
        wide = (3 + config.expansion) * config.width + config.heads * self._count
        self.row_size = self._count * wide

    def enter(self, x: Float[Tensor, "row *feature"]) -> Float[Tensor, "row size token"]:
        """Cut input rows into tokens, padded with zeros."""
        if self._patch is None:
            flat = x.flatten(1)
            flat = F.pad(flat, (0, self._size * self._count - flat.shape[1]))
            return flat.unflatten(1, (self._count, self._size)).mT
        (down, across), side = self._sides, self._patch
        h = F.pad(x, (0, across * side - x.shape[3], 0, down * side - x.shape[2]))
        h = h.unflatten(3, (across, side)).unflatten(2, (down, side))
        # [row, channel, down, y, across, x] to [row, channel · y · x, down · across]
        return h.permute(0, 1, 3, 5, 2, 4).flatten(4).flatten(1, 3)

    def leave(self, h: Float[Tensor, "row width token"]) -> Float[Tensor, "row width"]:
        """Arrange the last block's output for the head."""
        return F.layer_norm(h.mean(2), (self.out_features,))


def _least_patch(height: int, width: int, max_tokens: int) -> int:
    """The smallest patch that cuts an image into at most `max_tokens`."""
    side = 1
    while math.ceil(height / side) * math.ceil(width / side) > max_tokens:
        side += 1
    return side
