"""Search spaces: YAML files, what they suggest, and whether a suite can build all of it."""

from autometa.space.default import default_space
from autometa.space.parameters import (
    MAX_CLUSTERS,
    Categorical,
    Fixed,
    Float,
    Int,
    Parameter,
    Partitions,
    Suggests,
    readable,
)
from autometa.space.shipped import shipped_spaces
from autometa.space.space import Arm, Space

__all__ = [
    "MAX_CLUSTERS",
    "Arm",
    "Categorical",
    "Fixed",
    "Float",
    "Int",
    "Parameter",
    "Partitions",
    "Space",
    "Suggests",
    "default_space",
    "readable",
    "shipped_spaces",
]
