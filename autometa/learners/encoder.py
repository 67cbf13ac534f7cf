"""What reads the support rows of a neural process: an encoder of pairs, and their aggregation."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from autometa.networks import Backbone
from autometa.networks.layers import Modulation, fan_in_uniform
from autometa.sharing import Params
from autometa.sharing.base import subset


class Perceptron:
    """Linear layers with ReLU between them; `sizes` are the widths, from input to output.

    Weights and biases are drawn as torch draws those of its own layers.
    """

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = list(itertools.pairwise(sizes))

    def init(self, generator: torch.Generator) -> Params:
        out: Params = {}
        for number, (fan_in, fan_out) in enumerate(self._sizes):
            out[f"{number}.weight"] = fan_in_uniform((fan_out, fan_in), fan_in, generator)
            # rows of few numbers: without biases all bends would go through the origin
            out[f"{number}.bias"] = fan_in_uniform((fan_out,), fan_in, generator)
        return out

    def forward(self, params: Params, h: Float[Tensor, "*rows i"]) -> Float[Tensor, "*rows o"]:
        for number in range(len(self._sizes)):
            h = torch.relu(h) if number else h
            h = F.linear(h, params[f"{number}.weight"], params[f"{number}.bias"])
        return h


class Encoder:
    """r_i = MLP([t(x_i), y_i]) and, for attention, e(x) = MLP(t(x)), [width] each.

    t flattens a table's rows; images have a trunk of their own, built like the backbone.

    Args:
        labels: numbers that y is given as; 0 leaves it out.
        attends: whether there is an e.
    """

    def __init__(
        self,
        backbone: Backbone,
        feature_shape: tuple[int, ...],
        width: int,
        depth: int,
        labels: int,
        attends: bool,
    ) -> None:
        self._trunk = backbone if len(feature_shape) == 3 else None
        size = math.prod(feature_shape) if self._trunk is None else backbone.out_features
        hidden = [width] * depth
        self._parts = {"pair": Perceptron([size + labels, *hidden])}
        if attends:
            self._parts["place"] = Perceptron([size, *hidden])

    def init(self, generator: torch.Generator) -> Params:
        params: Params = {}
        for number, block in enumerate(self._trunk.blocks if self._trunk else ()):
            leaves = block.init(generator)
            params |= {f"trunk.{number}.{leaf}": value for leaf, value in leaves.items()}
        for name, part in self._parts.items():
            params |= {f"{name}.{leaf}": v for leaf, v in part.init(generator).items()}
        return params

    def look(
        self, params: Params, x: Float[Tensor, "task row *feature"]
    ) -> Float[Tensor, "task row size"]:
        """t(x)."""
        if self._trunk is None:
            return x.flatten(2)
        h = self._trunk.enter(x.flatten(0, 1))
        for number, block in enumerate(self._trunk.blocks):
            h = block.forward(subset(params, f"trunk.{number}"), h, Modulation())
        return self._trunk.leave(h).unflatten(0, x.shape[:2])

    def pairs(
        self,
        params: Params,
        seen: Float[Tensor, "task row size"],
        labels: Float[Tensor, "task row label"],
    ) -> Float[Tensor, "task row width"]:
        """r_i, from t(x_i) and y_i."""
        return self._parts["pair"].forward(subset(params, "pair"), torch.cat([seen, labels], -1))

    def places(
        self, params: Params, seen: Float[Tensor, "task row size"]
    ) -> Float[Tensor, "task row width"]:
        """e(x), from t(x)."""
        return self._parts["place"].forward(subset(params, "place"), seen)


def mean_rows(
    r: Float[Tensor, "task support width"], mask: Bool[Tensor, "task support"]
) -> Float[Tensor, "task width"]:
    """Mean over the rows that are not masked; 0 without any."""
    count = mask.sum(1, keepdim=True).clamp(min=1)
    return (r * mask[..., None]).sum(1) / count


def attend(
    queries: Float[Tensor, "task query width"],
    keys: Float[Tensor, "task support width"],
    values: Float[Tensor, "task support width"],
    mask: Bool[Tensor, "task support"],
    heads: int,
) -> Float[Tensor, "task query width"]:
    """Scaled dot-product attention (Vaswani et al. 2017) to rows that are not masked; 0 without.

    Each head has its part of the channels of queries, keys and values, so that one row is its own
    mean.
    """
    q, k, v = (h.unflatten(-1, (heads, -1)).transpose(1, 2) for h in (queries, keys, values))
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    valid = mask[:, None, None, :]
    # not −∞: a softmax over nothing but −∞ is undefined, and so is its gradient
    weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(-1) * valid
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
