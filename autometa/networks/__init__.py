"""Backbones (ordered blocks), heads and conditioning, written for one model."""

from typing import Any

from autometa.networks.conditioning import ConditioningConfig
from autometa.networks.conv import Conv
from autometa.networks.mlp import MLP
from autometa.networks.parts import Backbone, Block, HalvedBlock, Parts
from autometa.networks.problem import Problem, Step
from autometa.networks.transformer import Transformer

#: classes with a `Config`, built from (config, problem), whose objects are `Backbone`s
BACKBONES: dict[str, Any] = {"mlp": MLP, "conv": Conv, "transformer": Transformer}

__all__ = [
    "BACKBONES",
    "Backbone",
    "Block",
    "ConditioningConfig",
    "HalvedBlock",
    "Parts",
    "Problem",
    "Step",
]
