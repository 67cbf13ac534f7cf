"""Search spaces: YAML files, what they suggest, and whether a suite can build all of it."""

from autometa.space.parameters import Categorical, Fixed, Float, Int, Parameter, Suggests
from autometa.space.space import Arm, Space, default_space, shipped_spaces

__all__ = [
    "Arm",
    "Categorical",
    "Fixed",
    "Float",
    "Int",
    "Parameter",
    "Space",
    "Suggests",
    "default_space",
    "shipped_spaces",
]
