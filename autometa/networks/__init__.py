"""Backbones (ordered blocks), heads and conditioning, written for one model."""

from autometa.networks.conditioning import ConditioningConfig
from autometa.networks.conv import Conv
from autometa.networks.mlp import MLP
from autometa.networks.parts import Backbone, Block, Parts
from autometa.networks.problem import Problem, Step

BACKBONES: dict[str, type] = {"mlp": MLP, "conv": Conv}

__all__ = [
    "BACKBONES",
    "Backbone",
    "Block",
    "ConditioningConfig",
    "Parts",
    "Problem",
    "Step",
]
