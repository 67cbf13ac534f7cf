"""The fixed episodes that models are compared on: how many, of which tasks, and of which rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autometa.tasks.drawing import Sampler
from autometa.tasks.episodes import EpisodeShape
from autometa.tasks.episodeset import EpisodeRows, EpisodeSet, labelled
from autometa.tasks.splits import SPLIT_NAMES

if TYPE_CHECKING:
    from autometa.tasks.episodic import EpisodicSuite

#: query rows of a fixed episode of a table at most: its task's other rows
MAX_QUERIES = 256
#: fixed episodes of N classes, and at least about so many of tables
_NUMBER = {"train": 100, "val": 100, "test": 600}
#: episodes of one held-out task at most, where episodes are a task's rows
_DRAWS = {"train": 20, "val": 20, "test": 50}
#: fixed episodes at most, where there are many tasks
_MOST = {"train": 400, "val": 400, "test": 2000}


def row_tensors(suite: EpisodicSuite) -> dict[str, Tensor]:
    found = {name: getattr(suite, name) for name in ("x", "y", "task", "classes")}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def make_sampler(
    suite: EpisodicSuite,
    rows: Mapping[str, Tensor],
    at: Tensor,
    shape: EpisodeShape,
    *,
    queries: int | None = None,
    device: torch.device | str = "cpu",
) -> Sampler:
    """Of the rows `at`; row numbers that it draws are positions in `at`."""
    return Sampler(
        shape,
        rows["task"][at],
        label=rows["y"][at] if suite.kind == "binary" else None,
        classes=rows["classes"][at] if "classes" in rows else None,
        one_task=suite.one_task,
        queries=queries,
        device=device,
    )


def fixed_episodes(
    suite: EpisodicSuite,
    rows: Mapping[str, Tensor],
    at: Tensor,
    shape: EpisodeShape,
    split: str,
    n: int | None,
    seed: int,
) -> EpisodeSet:
    """Episodes of the rows `at`, which are those of `split`; see `EpisodicSuite.episodes`."""
    queries = None
    if shape.ways is None:
        most = int(torch.bincount(rows["task"][at]).max())
        queries = max(1, min(MAX_QUERIES, most - shape.shots))
    sampler = make_sampler(suite, rows, at, shape, queries=queries)
    n_units = 1 if sampler.units is None else len(sampler.units)
    if n is None:
        n = _NUMBER[split] if shape.ways is not None else _table_number(split, n_units)
    code = SPLIT_NAMES.index(split)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 7919 * (code + 1)) % 2**63)
    turns = -(-n // n_units)
    unit = torch.cat([torch.randperm(n_units, generator=generator) for _ in range(turns)])[:n]

    def noise(_: int, *size: int) -> Tensor:
        limit = 2**31
        drawn = torch.randint(-limit, limit, (n, *size), generator=generator, dtype=torch.int64)
        return drawn.to(torch.int32)

    drawn = sampler.draw(unit, noise)
    y = rows["y"][at]
    support, query, scale = labelled(drawn, shape, y, suite.units is not None)
    names: tuple[str, ...] = ("",) * n
    number = torch.zeros(n, dtype=torch.int64)
    if sampler.units is not None:
        number = sampler.units[unit]
        names = tuple(suite.tasks[t] for t in number.tolist())
    std = torch.full((n,), suite.target_std)
    if suite.units is not None:
        std = torch.tensor([suite.units[t][1] for t in number.tolist()])
    return EpisodeSet(
        shape,
        suite.kind,
        suite.metric,
        EpisodeRows(rows["x"], at[drawn.support], support, torch.ones_like(support).bool()),
        EpisodeRows(rows["x"], at[drawn.query], query, drawn.valid),
        drawn.tasks,
        names,
        suite.constant,
        scale,
        std,
    )


def _table_number(split: str, n_tasks: int) -> int:
    draws = min(_DRAWS[split], max(2, -(-_NUMBER[split] // n_tasks)))
    return min(_MOST[split], draws * n_tasks)
