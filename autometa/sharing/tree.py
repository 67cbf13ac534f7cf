"""A tree of tasks: a block's groups of tasks share parameters and split those of the block before.

Branched multi-task networks (Vandenhende et al. 2020), BMTAS (Bruggemann et al. 2020).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor
from torch.func import vmap

from autometa.config import Config
from autometa.errors import ConfigError
from autometa.networks import Parts, Problem, Step
from autometa.networks.layers import Modulation, dropout
from autometa.sharing.base import Params, Role, Sharing, per_task_apply, stack_init, subset
from autometa.sharing.hard import HardConfig

Partition = tuple[int, ...]


def all_trees(n_tasks: int, n_blocks: int) -> list[str]:
    """Every value of `partitions`: 22 for 3 tasks in 3 blocks, 154 for 4, 1304 for 5.

    From one group in every block to all tasks apart in every block, in lexicographic order.
    """
    chains: list[tuple[str, ...]] = [()]
    for _ in range(n_blocks):
        chains = [
            (*chain, fine)
            for chain in chains
            for fine in refinements(chain[-1] if chain else "0" * n_tasks)
        ]
    return ["/".join(chain) for chain in chains]


@lru_cache(maxsize=256)
def refinements(partition: str) -> tuple[str, ...]:
    """Every partition whose groups lie within those of `partition`, in lexicographic order.

    For one group these are all partitions: 5 of 3 tasks, 15 of 4, 52 of 5, 203 of 6.
    """
    coarse = _parse(partition)
    return tuple(_text(fine) for fine in _growth_strings(len(coarse)) if _refines(fine, coarse))


def canonical(groups: Sequence[int]) -> str:
    """The text of a partition: the group of each task, whatever the groups' numbers are."""
    return _text(_renumbered(tuple(groups)))


def _canonical(value: Any) -> Any:
    """The text of `partitions`, refused unless it is canonical and each block refines the last."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        value = "/".join(value)
    if value is None:
        return value
    if not isinstance(value, str):
        raise ValueError(_not_quoted(value))
    return _checked(value)


def _not_quoted(value: Any) -> str:
    return (
        "Parameter `sharing.partitions` should be one group number a task for each block, in "
        f"quotes, such as `'0000/0011/0123'`. Found `sharing.partitions = {value}`."
    )


@lru_cache(maxsize=256)
def _checked(value: str) -> str:
    """The text as it is: a space of many tasks is checked with thousands of configurations, which
    have a few dozen texts between them."""
    found = f"Found `sharing.partitions = {value}`."
    parts = value.split("/")
    if not all(part.isascii() and part.isalnum() for part in parts):
        raise ValueError(_not_quoted(value))
    partitions = [_parse(part) for part in parts]
    right = [_renumbered(partition) for partition in partitions]
    if right != partitions or [_text(p) for p in partitions] != parts:
        raise ValueError(
            "Parameter `sharing.partitions` should number groups in the order of their first task, "
            f"so that equal trees are written alike: `{'/'.join(map(_text, right))}`. {found}"
        )
    for coarse, fine in itertools.pairwise(partitions):
        if len(coarse) != len(fine):
            raise ValueError(
                "Parameter `sharing.partitions` should have equally many tasks in every block. "
                f"{found}"
            )
        if not _refines(fine, coarse):
            raise ValueError(
                "Parameter `sharing.partitions` should only split groups from one block to the "
                f"next: `{_text(fine)}` joins tasks that `{_text(coarse)}` keeps apart. {found}"
            )
    return value


class TreeConfig(Config):
    """`partitions`: for each block the group of every task, as in `0000/0011/0123` (4 tasks).

    Groups are numbered in the order of their first task (a restricted-growth string; after 9
    comes a), and a block's groups lie within those of the block before. A list of strings is
    taken, too. One group in every block if not given.
    """

    kind: Literal["tree"] = "tree"
    partitions: Annotated[str | None, BeforeValidator(_canonical)] = None

    def shape(self) -> dict[str, Any]:
        """Trees with equal numbers of groups differ in index tensors alone.

        Where all tasks are in one group and then each is alone, the tree is hard sharing, leaf by
        leaf, and has its shape.
        """
        tree = _partitions(self.partitions)
        groups = [max(part) + 1 for part in tree]
        shared = groups.count(1)
        if all(n == len(tree[0]) for n in groups[shared:]):
            return HardConfig(split_at=shared if tree else None).shape()
        return {"kind": self.kind, "groups": groups}


class Tree(Sharing):
    """Blocks with one set of parameters a group of tasks; heads as in `hard`.

    A block with one group has `shared` leaves without a group dimension, one in which every task
    is alone `task` leaves [task, …], any other `shared` leaves [group, …]. On an aligned suite a
    group's activations are computed once. With a single head and a single group in the last block
    tasks differ by conditioning alone.

    Raises:
        ConfigError: the partitions are not those of the suite's tasks or the backbone's blocks.
    """

    Config = TreeConfig

    def __init__(self, config: TreeConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        n_tasks = parts.problem.n_tasks
        self._tree = _partitions(config.partitions) or ((0,) * n_tasks,) * parts.n_blocks
        self._n_groups = [max(partition) + 1 for partition in self._tree]

    @classmethod
    def tells_apart(cls, config: Any, problem: Problem, n_blocks: int) -> bool:
        tree = _partitions(config.partitions)
        return bool(tree) and max(tree[-1]) + 1 == problem.n_tasks

    @classmethod
    def apart_from(cls, config: Any, head: str, n_blocks: int) -> int | None:
        tree = _partitions(config.partitions)
        alone = [number for number, part in enumerate(tree) if 1 < max(part) + 1 == len(part)]
        return min([n_blocks + (head == "single_head"), *alone])

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        tree = _partitions(config.partitions)
        if tree and len(tree) != n_blocks:
            raise ConfigError(
                f"Parameter `sharing.partitions` should have one partition for each of the "
                f"{n_blocks} blocks. Found `sharing.partitions = {config.partitions}`."
            )
        if tree and len(tree[0]) != problem.n_tasks:
            raise ConfigError(
                f"Parameter `sharing.partitions` should give a group to each of the "
                f"{problem.n_tasks} tasks. Found `sharing.partitions = {config.partitions}`."
            )

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params: Params = {}
        for name, layer, copies in self._layers():
            leaves = stack_init(layer.init, copies, generator) if copies else layer.init(generator)
            params.update({f"{name}.{leaf}": value for leaf, value in leaves.items()})
        return params, self._indices()

    def forward(
        self,
        params: Params,
        buffers: Params,
        x: Tensor,
        *,
        tasks: Tensor,
        z: Tensor | None,
        step: Step,
    ) -> tuple[Tensor, Params]:
        backbone = self.parts.backbone
        by_task = self.parts.problem.layout == "grouped"
        h = vmap(backbone.enter)(x) if by_task else backbone.enter(x)
        before = 1  # h is [task, row, …] if `by_task`, else [row, …] for one group, [group, row, …]
        for number, block in enumerate(backbone.blocks):
            groups = self._n_groups[number]
            own = subset(params, f"blocks.{number}")
            modulation = self._modulation(params, buffers, number, tasks, z)
            split = by_task or before > 1
            if by_task or modulation is not None:
                own = self._pick(own, buffers, number, tasks)
                if not by_task:  # the first block that differs between the tasks of a group
                    h = self._pick({"h": h}, buffers, number - 1, tasks)["h"]
                by_task = True
            elif 1 < before < groups:
                h = h[buffers[f"parent.{number}"].long()]
            h, _ = per_task_apply(
                block.forward, own, h, modulation, task_params=groups > 1, task_rows=split
            )
            h = dropout(h, step, number)
            before = groups
        if not by_task:
            h = self._pick({"h": h}, buffers, len(self._tree) - 1, tasks)["h"]
        split = by_task or before > 1
        return self._head(params, buffers, h, split, tasks, z), buffers

    def roles(self) -> dict[str, Role]:
        probe = torch.Generator().manual_seed(0)
        return {
            f"{name}.{leaf}": "task" if copies == self.parts.problem.n_tasks else "shared"
            for name, layer, copies in self._layers()
            for leaf in layer.init(probe)
        }

    def _layers(self) -> list[tuple[str, Any, int]]:
        """Name, layer and number of copies (0: one, without a dimension for it)."""
        heads = self.parts.problem.n_tasks if self.parts.head_per_task else 0
        copies = [n if n > 1 else 0 for n in self._n_groups] + [heads]
        layers: list[Any] = [*self.parts.backbone.blocks, self.parts.head]
        names = [f"blocks.{i}" for i in range(len(self._tree))] + ["head"]
        conditioning = [
            (f"conditioning.{i}", conditioner, copies[i])
            for i, conditioner in self.parts.conditioners.items()
        ]
        return list(zip(names, layers, copies, strict=True)) + conditioning

    def _indices(self) -> Params:
        """Group of every task, and parent of every group, where these are not plain."""
        out: Params = {}
        n_tasks, before = self.parts.problem.n_tasks, 1
        for number, (groups, partition) in enumerate(zip(self._n_groups, self._tree, strict=True)):
            if 1 < groups < n_tasks:
                out[f"group.{number}"] = torch.tensor(partition)
            if 1 < before < groups:
                first = [partition.index(group) for group in range(groups)]
                coarse = self._tree[number - 1]
                out[f"parent.{number}"] = torch.tensor([coarse[task] for task in first])
            before = groups
        return out

    def _pick(self, leaves: Params, buffers: Params, number: int, tasks: Tensor) -> Params:
        """Entries [group, …] of a block to [task, …]; those of a single group as they are."""
        groups = self._n_groups[number] if number >= 0 else 1
        if groups == 1:
            return leaves
        every_task = self.parts.problem.layout == "aligned"  # then `tasks` are all, in order
        if groups == self.parts.problem.n_tasks:
            return leaves if every_task else {n: leaf[tasks] for n, leaf in leaves.items()}
        group = buffers[f"group.{number}"].long()
        at = group if every_task else group[tasks]
        return {name: leaf[at] for name, leaf in leaves.items()}

    def _modulation(
        self, params: Params, buffers: Params, number: int, tasks: Tensor, z: Tensor | None
    ) -> Modulation | None:
        conditioner = self.parts.conditioners.get(number)
        if conditioner is None or z is None:
            return None
        own = subset(params, f"conditioning.{number}")
        if number == len(self._tree):
            own, per_task = self._of_heads(own, tasks), self.parts.head_per_task
        else:
            own = self._pick(own, buffers, number, tasks)
            per_task = self._n_groups[number] > 1
        entries = vmap(
            lambda p, z_t: conditioner.modulation(p, z_t).entries(),
            in_dims=(0 if per_task else None, 0),
        )(own, z)
        return Modulation(**entries)

    def _of_heads(self, leaves: Params, tasks: Tensor) -> Params:
        if not self.parts.head_per_task or self.parts.problem.layout == "aligned":
            return leaves
        return {name: leaf[tasks] for name, leaf in leaves.items()}

    def _head(
        self,
        params: Params,
        buffers: Params,
        h: Tensor,
        split: bool,
        tasks: Tensor,
        z: Tensor | None,
    ) -> Tensor:
        """Outputs [task, row, output] from the last block's h: [task, row, …] if `split`."""
        leave = self.parts.backbone.leave
        out, _ = per_task_apply(
            self.parts.head.forward,
            self._of_heads(subset(params, "head"), tasks),
            vmap(leave)(h) if split else leave(h),
            self._modulation(params, buffers, len(self._tree), tasks, z),
            task_params=self.parts.head_per_task,
            task_rows=split,
        )
        return out


def _partitions(text: str | None) -> tuple[Partition, ...]:
    return tuple(_parse(part) for part in text.split("/")) if text else ()


@lru_cache(maxsize=256)
def _parse(part: str) -> Partition:
    return tuple(int(digit, 36) for digit in part)


def _text(partition: Partition) -> str:
    return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[group] for group in partition)


def _renumbered(partition: Partition) -> Partition:
    """The same groups, numbered in the order of their first task."""
    order = {group: number for number, group in enumerate(dict.fromkeys(partition))}
    return tuple(order[group] for group in partition)


def _refines(fine: Partition, coarse: Partition) -> bool:
    """Whether tasks of one group in `fine` are in one group in `coarse`."""
    return len(set(zip(fine, coarse, strict=True))) == len(set(fine))


def _growth_strings(n_tasks: int) -> list[Partition]:
    """Every partition of the tasks, in lexicographic order."""
    found: list[Partition] = [()]
    for _ in range(n_tasks):
        found = [(*start, g) for start in found for g in range(max(start, default=-1) + 2)]
    return found
