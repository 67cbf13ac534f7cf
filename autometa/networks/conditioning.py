"""How the task representation z [Z] enters a block: four ways, one `Modulation`.

| kind | what is computed | start |
|---|---|---|
| `none` | nothing | – |
| `additive` | W h + V z | V = 0: the plain network |
| `concat` | W' [h; z] = W h + V z | V drawn with fan-in H + Z, as the joint matrix W' would be |
| `multiplicative` | (1 + V₁ z) ⊙ norm(W h) + V₂ z (FiLM, Perez et al. 2018) | V = 0 |

Concatenation followed by a linear layer *is* addition, so `concat` and `additive` build the same
graph and differ in their start alone; for images z is a constant map whose border is padded by
replication.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from autometa.config import Config
from autometa.networks.layers import Modulation, fan_in_uniform

CONDITIONING = ("none", "concat", "additive", "multiplicative")


class ConditioningConfig(Config):
    """Which conditioning, where, and what z is.

    `at`: the first block (`input`), `every` block, the `last` block, or the `head` (with
    `additive` a bias for each task). `embedding`: z learned with `dim` entries, or one-hot.
    """

    kind: Literal["none", "concat", "additive", "multiplicative"] = "none"
    at: Literal["input", "every", "last", "head"] = "every"
    embedding: Literal["learned", "one_hot"] = "learned"
    dim: int = Field(8, ge=1, le=1024)

    def shape(self) -> dict[str, Any]:
        if self.kind == "none":
            return {"kind": "none"}
        return {**super().shape(), "kind": graph_of(self.kind)}

    def representation(self) -> dict[str, Any]:
        """What z is; without conditioning it may be anything, so it counts as the default."""
        said = ConditioningConfig() if self.kind == "none" else self
        return {"embedding": said.embedding, "dim": said.dim}

    def places(self, n_blocks: int) -> tuple[int, ...]:
        """Block numbers at which z enters; `n_blocks` stands for the head."""
        if self.kind == "none":
            return ()
        where = {
            "input": (0,),
            "every": tuple(range(n_blocks)),
            "last": (n_blocks - 1,),
            "head": (n_blocks,),
        }
        return where[self.at]


class Conditioner:
    """The parameters with which z enters one block (or head) with `channels` outputs.

    Args:
        kinds: of conditioning, of different graphs. More than one where the runs of a population
            differ in it: each then has leaves under the name of its graph, and a run has zeros for
            those that are not its own, which change nothing.
    """

    def __init__(self, kinds: Sequence[str], fan_in: int, channels: int, z_dim: int) -> None:
        self._fan_in = fan_in
        self._channels = channels
        self._z_dim = z_dim
        names = [f"{graph_of(kind)}.weight" for kind in kinds]
        self._ways = dict(zip(names if len(names) > 1 else ["weight"], kinds, strict=True))

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: self._draw(kind, generator)
            if kind == "concat"
            else torch.zeros(self._rows(kind), self._z_dim)
            for name, kind in self._ways.items()
        }

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A start at which z has an effect: where z is 0, V = 0 would leave both without gradient.

        Drawn as a linear layer's weights would be: V and W as one matrix, or V₁ and V₂ alone.
        """
        return {name: self._draw(kind, generator) for name, kind in self._ways.items()}

    def modulation(self, params: dict[str, Tensor], z: Float[Tensor, " z"]) -> Modulation:
        entries: dict[str, Tensor] = {}
        for name, kind in self._ways.items():
            out = F.linear(z, params[name])
            if kind == "multiplicative":
                entries["scale"], entries["offset"] = out.chunk(2, dim=-1)
            else:
                entries["shift"] = out
        return Modulation(**entries)

    def _draw(self, kind: str, generator: torch.Generator) -> Tensor:
        fan_in = self._z_dim + (0 if kind == "multiplicative" else self._fan_in)
        return fan_in_uniform((self._rows(kind), self._z_dim), fan_in, generator)

    def _rows(self, kind: str) -> int:
        return 2 * self._channels if kind == "multiplicative" else self._channels


def graph_of(kind: str) -> str:
    """The kind of conditioning with the same graph: `additive` for `concat`."""
    return "additive" if kind == "concat" else kind
