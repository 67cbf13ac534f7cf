"""The backbones that identities are tested on, and one block of each written out with torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autometa.sharing import Params
from tests.small import IMAGE, TABLE

BACKBONES = pytest.mark.parametrize(
    ("backbone", "shape"), [("mlp", TABLE), ("conv", IMAGE), ("transformer", TABLE)]
)
#: the same, and the transformer's other tokens
EVERY_BACKBONE = pytest.mark.parametrize(
    ("backbone", "shape"),
    [("mlp", TABLE), ("conv", IMAGE), ("transformer", TABLE), ("transformer", IMAGE)],
)
#: of `tests.small`, and the default
WIDTH, HEADS, PATCH = 8, 4, 4


def leaves(params: Params, prefix: str, task: int | None = None) -> Params:
    """The leaves below `prefix.`, of one task's tower."""
    found = {n[len(prefix) + 1 :]: p for n, p in params.items() if n.startswith(prefix + ".")}
    return found if task is None else {name: leaf[task] for name, leaf in found.items()}


def block(kind: str, own: Params, x: Tensor) -> Tensor:
    """One block on what leaves the one before, or on input rows; tokens are [row, width, token]."""
    if kind == "transformer":
        return second_half(own, first_half(own, x))
    weight, bias = own["weight"], own["bias"]
    if kind == "mlp":
        return F.relu(F.layer_norm(F.linear(x, weight, bias), (WIDTH,)))
    h = F.relu(F.group_norm(F.conv2d(x, weight, bias, padding=1), 2))
    return F.max_pool2d(h, 2)


def first_half(own: Params, x: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """A transformer block's attention."""
    h = tokens(own, x) if "tokens.position" in own else x.transpose(1, 2)
    read = F.linear(F.layer_norm(h, (WIDTH,)), own["attend.weight"])
    heads = []
    for head in range(HEADS):
        at = torch.arange(WIDTH // HEADS) + head * WIDTH // HEADS
        q, k, v = (read[..., at + part * WIDTH] for part in range(3))
        heads.append(F.scaled_dot_product_attention(q, k, v))
    out = F.linear(torch.cat(heads, -1), own["project.weight"], own["project.bias"])
    return (h + out + shift).transpose(1, 2)


def second_half(
    own: Params, u: Tensor, scale: Tensor | float = 0.0, offset: Tensor | float = 0.0
) -> Tensor:
    """A transformer block's two linear layers."""
    h = u.transpose(1, 2)
    m = F.layer_norm(h, (WIDTH,)) * (1.0 + scale) + offset
    m = F.relu(F.linear(m, own["expand.weight"], own["expand.bias"]))
    return (h + F.linear(m, own["reduce.weight"], own["reduce.bias"])).transpose(1, 2)


def tokens(own: Params, x: Tensor) -> Tensor:
    """Input rows as tokens [row, token, width]: one for each feature, or each patch of an image."""
    if x.ndim == 2:
        h = [x[:, n, None] * own["tokens.value"][:, n, 0] for n in range(x.shape[1])]
        return torch.stack(h, 1) + own["tokens.position"].T
    x = F.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH))
    kernel = own["patch.weight"].reshape(WIDTH, x.shape[1], PATCH, PATCH)
    return (F.conv2d(x, kernel, stride=PATCH).flatten(2) + own["tokens.position"]).transpose(1, 2)


def read(kind: str, h: Tensor) -> Tensor:
    """What a head reads of the last block's output."""
    return F.layer_norm(h.mean(2), (WIDTH,)) if kind == "transformer" else h.flatten(1)
