"""Which shipped search space a suite gets if none is named."""

from __future__ import annotations

from autometa.space.space import Space
from autometa.tasks import EpisodicSuite, TaskSuite

LARGE_IMAGE = 400
"""Images of at least so many pixels a channel get the convolutional default space."""


def default_space(suite: TaskSuite | EpisodicSuite) -> Space:
    """`images` for images of at least `LARGE_IMAGE` pixels a channel, else `sharing`; in episodes
    `meta_images` and `meta`."""
    shape = tuple(suite.feature_shape)
    large = suite.input_kind == "image" and shape[-1] * shape[-2] >= LARGE_IMAGE
    if isinstance(suite, EpisodicSuite):
        return Space.load("meta_images" if large else "meta")
    return Space.load("images" if large else "sharing")
