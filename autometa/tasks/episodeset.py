"""A fixed set of episodes: what every model is compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autometa.tasks.drawing import Drawn, class_numbers, support_units
from autometa.tasks.episodes import EpisodeShape
from autometa.tasks.task import Kind, Metric


@dataclass(frozen=True, eq=False)
class EpisodeRows:
    """Support or query rows of episodes; inputs are gathered when they are asked for.

    Attributes:
        source: the inputs of all rows.
        rows: which of them.
        y: standardised values, or class numbers within the episode; anything where masked.
        mask: False where an episode has fewer rows.
    """

    source: Float[Tensor, "all_rows *feature"]
    rows: Int[Tensor, "episode row"]
    y: Float[Tensor, "episode row"]
    mask: Bool[Tensor, "episode row"]

    @property
    def x(self) -> Float[Tensor, "episode row *feature"]:
        return self.source[self.rows]

    def __getitem__(self, part: slice) -> EpisodeRows:
        return EpisodeRows(self.source, self.rows[part], self.y[part], self.mask[part])

    def to(self, device: torch.device | str) -> EpisodeRows:
        moved = (t.to(device) for t in (self.source, self.rows, self.y, self.mask))
        return EpisodeRows(*moved)


@dataclass(frozen=True, eq=False)
class EpisodeSet:
    """Episodes of one shape.

    Attributes:
        support, query: see `EpisodeRows`.
        tasks: the task of each episode [episode]; where it has classes, their numbers
            [episode, way].
        names: the task's name of each episode; empty where it has classes of several tasks.
        constant: the class that most rows of the training tasks have, of binary tasks.
        scale: standard deviation that the labels of an episode were divided by, in units of its
            task (`std`): 1 unless every target has a unit of its own.
        std: standard deviation of the task's labels in the user's units.
    """

    shape: EpisodeShape
    kind: Kind
    metric: Metric
    support: EpisodeRows
    query: EpisodeRows
    tasks: Int[Tensor, "episode *way"]
    names: tuple[str, ...]
    constant: int
    scale: Float[Tensor, " episode"]
    std: Float[Tensor, " episode"]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, part: slice) -> EpisodeSet:
        cut = {n: getattr(self, n)[part] for n in ("support", "query", "tasks", "names")}
        return replace(self, **cut, scale=self.scale[part], std=self.std[part])

    def to(self, device: torch.device | str) -> EpisodeSet:
        """The same on a device."""
        support, tasks = self.support.to(device), self.tasks.to(device)
        query = replace(self.query.to(device), source=support.source)
        return replace(self, support=support, query=query, tasks=tasks)


def labelled(
    drawn: Drawn, shape: EpisodeShape, y: Float[Tensor, " row"], own_units: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels of drawn support rows and query rows, and what they were divided by.

    Args:
        y: of all rows.
        own_units: every target has a unit of its own, which support rows are standardised by.

    Returns:
        [*episode, support], [*episode, query] and [*episode].
    """
    if shape.ways is not None:
        lead, device = drawn.support.shape[:-1], y.device
        support = class_numbers(shape, shape.shots).to(device).expand(*lead, -1)
        query = class_numbers(shape, shape.queries).to(device).expand(*lead, -1)
        return support, query, torch.ones(lead, device=device)
    support, query = y[drawn.support], y[drawn.query]
    if not own_units:
        return support, query, torch.ones_like(support[..., 0])
    mean, std = support_units(support, torch.ones_like(drawn.support, dtype=torch.bool))
    return (support - mean) / std, (query - mean) / std, std[..., 0]
