"""What a network must know of a suite: shapes and kinds, no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from autometa.config import Config
from autometa.tasks.episodes import EpisodeShape

if TYPE_CHECKING:
    from autometa.tasks import EpisodicSuite, TaskSuite

Kind = Literal["regression", "binary", "multiclass"]


class Problem(Config):
    """Shapes and kinds of a suite: enough to build a network, and part of a saved model.

    `n_outputs[t]` is 1 for regression and binary tasks (a standardised value; a logit) and the
    number of classes for multiclass tasks.

    With `episode` the problem is one task that stands for all: what every episode looks like.
    `base_classes` is then the number of classes in the training tasks together, where an episode
    has classes, and `test_episode` what an episode of a held-out task looks like, if otherwise.
    """

    layout: Literal["aligned", "grouped"]
    feature_shape: tuple[int, ...]
    kinds: tuple[Kind, ...]
    n_outputs: tuple[int, ...]
    episode: EpisodeShape | None = None
    base_classes: int = 0
    test_episode: EpisodeShape | None = None

    @classmethod
    def of(cls, suite: TaskSuite | EpisodicSuite) -> Problem:
        # by its layout: importing the class would load the whole package for a type's sake
        if suite.layout == "episodes":
            return cls._of_episodes(cast("EpisodicSuite", suite))
        suite = cast("TaskSuite", suite)
        return cls(
            layout=suite.layout,
            feature_shape=tuple(suite.feature_shape),
            kinds=tuple(task.kind for task in suite.tasks),
            n_outputs=tuple(task.n_outputs for task in suite.tasks),
        )

    @classmethod
    def _of_episodes(cls, suite: EpisodicSuite) -> Problem:
        return cls(
            layout="aligned",
            feature_shape=suite.feature_shape,
            kinds=(suite.kind,),
            n_outputs=(suite.shape.ways or 1,),
            episode=suite.shape,
            base_classes=suite.base_classes,
            test_episode=None if suite.test_shape == suite.shape else suite.test_shape,
        )

    @property
    def n_tasks(self) -> int:
        return len(self.kinds)

    @property
    def width(self) -> int:
        """Number of output channels O: the most that any task needs."""
        return max(self.n_outputs)

    @property
    def is_image(self) -> bool:
        return len(self.feature_shape) == 3

    def with_features(self, shape: tuple[int, ...]) -> Problem:
        """The same for rows of another shape."""
        return self.model_copy(update={"feature_shape": shape})

    def class_mask(self) -> Bool[Tensor, "task output"]:
        """True where an output channel belongs to the task."""
        channel = torch.arange(self.width)
        return channel[None] < torch.tensor(self.n_outputs)[:, None]


@dataclass(frozen=True)
class Step:
    """What a forward pass may depend on besides parameters and rows.

    Attributes:
        train: dropout is on.
        key: the run's random stream at this step, a scalar int32 tensor (None in evaluation).
        rates: the run's own scalars by name (`dropout`, penalties, …), tensors of shape [].
    """

    train: bool = False
    key: Tensor | None = None
    rates: dict[str, Tensor] | None = None

    def rate(self, name: str) -> Tensor | None:
        return None if self.rates is None else self.rates.get(name)
