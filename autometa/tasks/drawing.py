"""Which rows an episode is made of, from random numbers that the caller gives; all at once.

Rows are drawn without repeats: every row gets a random number, and those with the largest are
taken. The caller makes the numbers, so that training can draw them on the device and for many runs
at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autometa.tasks.episodes import EpisodeShape

Noise: TypeAlias = Callable[..., Tensor]
"""noise(stream, *size): uniform int32 numbers [*episode, *size], others for another stream."""

_LEAST = torch.iinfo(torch.int32).min
#: streams of random numbers
_ROWS, _CLASSES = 0, 1


class Groups(NamedTuple):
    """Members of groups, padded to the largest.

    Attributes:
        members: [group, place]; padding is 0.
        counts: [group].
    """

    members: Int[Tensor, "group place"]
    counts: Int[Tensor, " group"]

    def of(self, groups: Int[Tensor, "*some"]) -> Groups:
        """These groups only."""
        return Groups(self.members[groups], self.counts[groups])

    def to(self, device: torch.device | str) -> Groups:
        return Groups(self.members.to(device), self.counts.to(device))


class Drawn(NamedTuple):
    """Rows of episodes, as row numbers.

    Attributes:
        support: [*episode, support].
        query: [*episode, query]; where `valid` is False the task has no further row.
        valid: same shape.
        tasks: the task of each episode [*episode], or its classes [*episode, way].
    """

    support: Int[Tensor, "*support"]
    query: Int[Tensor, "*query"]
    valid: Bool[Tensor, "*query"]
    tasks: Int[Tensor, "*tasks"]


def group(number: Int[Tensor, " member"], n_groups: int) -> Groups:
    """Members by their group."""
    counts = torch.bincount(number, minlength=n_groups)
    order = torch.argsort(number, stable=True)
    ends = counts.cumsum(0)
    place = torch.arange(len(number)) - (ends - counts)[number[order]]
    members = torch.zeros(n_groups, int(counts.max()), dtype=torch.int64)
    members[number[order], place] = order
    return Groups(members, counts)


def draw(
    groups: Groups,
    noise: Int[Tensor, "*episode place"],
    n: int,
    label: Bool[Tensor, "*episode place"] | None = None,
) -> tuple[Int[Tensor, "*episode n"], Bool[Tensor, "*episode n"]]:
    """Up to `n` different members of a group an episode, and which of the `n` there are.

    Args:
        groups: one an episode.
        label: of two classes; the first two drawn are then one of each, where there are both.
    """
    places = torch.arange(noise.shape[-1], device=noise.device)
    there = places < groups.counts[..., None]
    key = torch.where(there, noise.clamp(min=_LEAST + 1), _LEAST)
    if label is not None:
        key = torch.where(there, noise >> 2, _LEAST)
        for own in (there & label, there & ~label):
            best = torch.where(own, key, _LEAST).argmax(-1, keepdim=True)
            first = (places == best) & own
            key = torch.where(first, (noise >> 2) + 2**30, key)
    top = key.topk(min(n, noise.shape[-1]), dim=-1).indices
    found = groups.members.gather(-1, top)
    if n > found.shape[-1]:
        missing = found.new_zeros(*found.shape[:-1], n - found.shape[-1])
        found = torch.cat([found, missing], -1)
    valid = torch.arange(n, device=noise.device) < groups.counts[..., None]
    return torch.where(valid, found, 0), valid


class Sampler:
    """Draws episodes of one shape from rows of several tasks.

    Tasks with fewer rows than an episode needs to have a query row, likewise classes, are passed
    over. Support rows of a binary task hold a row of each class where the task has both and there
    are at least two support rows.

    Args:
        task: the task of each row.
        label: of a binary task, the class of each row; else None.
        classes: the class of each row where an episode has classes.
        one_task: the classes of an episode are of one task.
        queries: query rows of an episode without classes, if other than the shape's.

    Attributes:
        units: the tasks that episodes are made of; None where classes of several are mixed.
        size: random numbers that an episode takes.
    """

    def __init__(
        self,
        shape: EpisodeShape,
        task: Int[Tensor, " row"],
        *,
        label: Float[Tensor, " row"] | None = None,
        classes: Int[Tensor, " row"] | None = None,
        one_task: bool = False,
        queries: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = shape
        self.units: Tensor | None = None
        self._queries = shape.n_query if queries is None else queries
        self._classes: Groups | None = None
        self._label: Tensor | None = None
        if shape.ways is None:
            rows = group(task, int(task.max()) + 1)
            units = torch.nonzero(rows.counts > shape.shots)[:, 0]
            rows = rows.of(units)
            if label is not None and shape.shots > 1:
                self._label = (label[rows.members] == 1).to(device)
            self.units = units.to(device)
        else:
            assert classes is not None  # noqa: S101 - the suite has classes where it has ways
            rows = group(classes, int(classes.max()) + 1)
            fit = torch.nonzero(rows.counts > shape.shots)[:, 0]
            owner = task[rows.members[fit, 0]] if one_task else torch.zeros_like(fit)
            mine = group(owner, int(owner.max()) + 1)
            enough = torch.nonzero(mine.counts >= shape.ways)[:, 0]
            mine = mine.of(enough)
            self._classes = Groups(fit[mine.members], mine.counts).to(device)
            if one_task:
                self.units = enough.to(device)
        self._rows = rows.to(device)

    @property
    def size(self) -> int:
        rows = self._rows.members.shape[1]
        if self._classes is None:
            return rows
        return self._classes.members.shape[1] + (self.shape.ways or 1) * rows

    def draw(self, unit: Int[Tensor, "*episode"], noise: Noise) -> Drawn:
        """Episodes, each from the task `units[unit]`; where classes are mixed, `unit` is 0."""
        shape, width = self.shape, self._rows.members.shape[1]
        if self._classes is None:
            assert self.units is not None  # noqa: S101 - set together
            label = None if self._label is None else self._label[unit]
            n = shape.shots + self._queries
            rows, valid = draw(self._rows.of(unit), noise(_ROWS, width), n, label)
            cut = shape.shots
            return Drawn(rows[..., :cut], rows[..., cut:], valid[..., cut:], self.units[unit])
        ways, shots = shape.ways or 1, shape.shots
        candidates = self._classes.of(unit)
        classes, _ = draw(candidates, noise(_CLASSES, candidates.members.shape[-1]), ways)
        rows, valid = draw(self._rows.of(classes), noise(_ROWS, ways, width), shots + shape.queries)
        return Drawn(
            rows[..., :shots].flatten(-2),
            rows[..., shots:].flatten(-2),
            valid[..., shots:].flatten(-2),
            classes,
        )


def class_numbers(shape: EpisodeShape, each: int) -> Float[Tensor, " row"]:
    """Class numbers of the rows that `Sampler.draw` gives, `each` rows a class."""
    return torch.arange(shape.ways or 1).repeat_interleave(each).float()


def support_units(
    y: Float[Tensor, "*episode row"], mask: Bool[Tensor, "*episode row"]
) -> tuple[Float[Tensor, "*episode 1"], Float[Tensor, "*episode 1"]]:
    """Mean and standard deviation of support labels; a deviation of 0 is taken for 1."""
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    mean = torch.where(mask, y, 0.0).sum(-1, keepdim=True) / count
    square = torch.where(mask, (y - mean) ** 2, 0.0).sum(-1, keepdim=True) / count
    std = square.sqrt()
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))
