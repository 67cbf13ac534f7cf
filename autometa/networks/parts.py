"""The parts a sharing mechanism arranges: backbone, conditioners and heads, for T tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from autometa.networks.conditioning import Conditioner, ConditioningConfig, graph_of
from autometa.networks.head import Head
from autometa.networks.inputs import PiecewiseInputs
from autometa.networks.layers import Modulation
from autometa.networks.linear import LinearPath
from autometa.networks.problem import Problem


@runtime_checkable
class Block(Protocol):
    """One step of a backbone, for one model and one task.

    Activations are [row, channel, …]. `fan_in`: inputs that feed one output of the layer at which
    z enters; `channels`: the block's outputs. Leaves named `weight` or `….weight` are matrices
    [output, …input]; these and no others have weight decay and the priors of sharing mechanisms.
    """

    fan_in: int
    channels: int

    def init(self, generator: torch.Generator) -> dict[str, Tensor]: ...

    def forward(self, params: dict[str, Tensor], x: Tensor, modulation: Modulation) -> Tensor: ...


@runtime_checkable
class HalvedBlock(Block, Protocol):
    """A block whose `forward` is `second` after `first`; both give activations of one shape."""

    def first(self, params: dict[str, Tensor], x: Tensor, modulation: Modulation) -> Tensor: ...

    def second(self, params: dict[str, Tensor], u: Tensor, modulation: Modulation) -> Tensor: ...


@runtime_checkable
class Backbone(Protocol):
    """An ordered list of blocks; what users register must look like this.

    `row_size`: the most numbers that one row becomes on its way, to keep predictions in memory.
    """

    blocks: tuple[Block, ...]
    out_features: int
    row_size: int

    def enter(self, x: Tensor) -> Tensor: ...

    def leave(self, h: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Parts:
    """Everything a sharing mechanism needs to build and run the network of one trial.

    `conditioners` maps a block number (`n_blocks` for the head) to how z enters there. `inputs` and
    `path` are the learner's business: how a row is encoded before the network, of whose rows
    `problem` has the shape, and what is added to its outputs.
    """

    problem: Problem
    backbone: Backbone
    head: Head
    head_per_task: bool
    conditioners: dict[int, Conditioner]
    inputs: PiecewiseInputs | None = None
    path: LinearPath | None = None

    @classmethod
    def assemble(
        cls,
        problem: Problem,
        backbone: Backbone,
        conditionings: Sequence[ConditioningConfig],
        head: Literal["multi_head", "single_head"],
        z_dim: int,
        n_outputs: int | None = None,
        inputs: PiecewiseInputs | None = None,
        path: LinearPath | None = None,
    ) -> Parts:
        """The parts.

        Args:
            conditionings: of the runs of a population; one where there is one run.
            n_outputs: of a head; `problem.width` if not given.
        """
        blocks = backbone.blocks
        out = Head(backbone.out_features, n_outputs or problem.width)
        fan_ins = [block.fan_in for block in blocks] + [backbone.out_features]
        channels = [block.channels for block in blocks] + [out.channels]
        kinds: dict[int, dict[str, str]] = {}  # place → graph → kind
        for one in conditionings:
            for place in one.places(len(blocks)):
                kinds.setdefault(place, {})[graph_of(one.kind)] = one.kind
        conditioners = {
            place: Conditioner([*ways.values()], fan_ins[place], channels[place], z_dim)
            for place, ways in sorted(kinds.items())
        }
        per_task = head == "multi_head"
        return cls(problem, backbone, out, per_task, conditioners, inputs, path)

    @property
    def n_blocks(self) -> int:
        return len(self.backbone.blocks)
