"""Backbones (ordered blocks), heads and conditioning, written for one model."""

from typing import Any

from autometa.networks.conditioning import ConditioningConfig
from autometa.networks.conv import Conv
from autometa.networks.mlp import MLP
from autometa.networks.parts import Backbone, Block, Parts
from autometa.networks.problem import Problem, Step

#: classes with a `Config`, built from (config, problem), whose objects are `Backbone`s
BACKBONES: dict[str, Any] = {"mlp": MLP, "conv": Conv}

__all__ = [
    "BACKBONES",
    "Backbone",
    "Block",
    "ConditioningConfig",
    "Parts",
    "Problem",
    "Step",
]
