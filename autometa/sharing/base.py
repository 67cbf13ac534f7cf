"""The contract of a sharing mechanism, and the loop over tasks that they have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from autometa.config import Config
from autometa.networks import Backbone, Parts, Problem, Step
from autometa.networks.layers import Modulation

Role = Literal["shared", "task", "mixing"]
Params = dict[str, Tensor]


class Sharing(ABC):
    """Which parameters the tasks share. Functional: parameters and buffers are passed in.

    Leaves with role `task` have the task as their first dimension; `shared` leaves have none (in a
    tree they may have one for groups of tasks);
    `mixing` leaves combine towers, are named `mixing.…` and are trained without weight decay at
    the learning rate times the run's `mixing_lr`.
    """

    Config: ClassVar[type[Config]]
    #: passes each task's rows through the towers of all tasks (cost T²)
    #: (such towers take no conditioning: a row belongs to one task and passes through all)
    mixes_tasks: ClassVar[bool] = False
    #: a run has the same bits in any stack where it begins alike (`aligned` in `training.cutting`):
    #: a sigmoid rounds differently at a stack's end
    stacks_exactly: ClassVar[bool] = True
    #: has buffers that `after_step` renews every `update_every` optimizer steps
    updates_buffers: ClassVar[bool] = False
    #: every task has a head of its own, whatever `head` says
    own_heads: ClassVar[bool] = False
    #: can serve a task it was not trained on
    extends_to_new_tasks: ClassVar[bool] = False

    def __init__(self, config: Any, parts: Parts) -> None:
        self.parts = parts

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        """Raise ConfigError when this mechanism cannot be built; nothing by default."""

    @classmethod
    def check_backbone(cls, config: Any, backbone: Backbone) -> None:
        """Raise ConfigError when it cannot be built of these blocks; nothing by default."""

    @classmethod
    def tells_apart(cls, config: Any, problem: Problem, n_blocks: int) -> bool:
        """Whether what enters the head differs between tasks, without conditioning."""
        return True

    @classmethod
    def apart_from(cls, config: Any, head: str, n_blocks: int) -> int | None:
        """The first layer (`n_blocks`: the head) whose output differs between tasks, without
        conditioning; `n_blocks` + 1 if there is none.

        From there on each task's rows are computed apart anyway, so conditioning costs little, and
        runs that differ in it alone are trained as one. None where they cannot be.
        """
        return None

    @abstractmethod
    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        """Draw parameters and buffers of ONE model."""

    @abstractmethod
    def forward(
        self,
        params: Params,
        buffers: Params,
        x: Tensor,
        *,
        tasks: Int[Tensor, " task"],
        z: Float[Tensor, "task z"] | None,
        step: Step,
    ) -> tuple[Float[Tensor, "task row output"], Params]:
        """Outputs of the given tasks.

        Args:
            params: leaves by dotted name.
            buffers: non-trained state; returned as it is after the pass.
            x: aligned [row, *feature], the same rows for every task; grouped
                [task, row, *feature], each task's own rows.
            tasks: which tasks, as indices.
            z: their representations; None without conditioning.
            step: training or evaluation, the random stream, the run's rates.
        """

    @abstractmethod
    def roles(self) -> dict[str, Role]:
        """The role of every leaf."""

    def penalty(self, params: Params, buffers: Params, step: Step) -> Float[Tensor, ""] | None:
        """A regulariser added to the loss."""
        return None

    @property
    def update_every(self) -> int:
        """Optimizer steps between calls of `after_step`; alike in all runs of one shape key."""
        return 1

    def after_step(self, params: Params, buffers: Params) -> Params:
        """Buffers renewed from the parameters after an optimizer step, without gradient.

        Called for mechanisms with `updates_buffers` only; must not wait for the device.
        """
        return buffers


def subset(params: Params, prefix: str) -> Params:
    """The leaves below `prefix.`, without it."""
    start = prefix + "."
    return {name[len(start) :]: leaf for name, leaf in params.items() if name.startswith(start)}


def is_weight(name: str) -> bool:
    """Whether a leaf of a block or head is a matrix [output, …input], not a bias or embedding."""
    return name.rpartition(".")[2] == "weight"


def stack_init(
    init: Callable[[torch.Generator], Params], n_tasks: int, generator: torch.Generator
) -> Params:
    """Draw one set of leaves for each task and stack them along a new first dimension."""
    drawn = [init(generator) for _ in range(n_tasks)]
    return {name: torch.stack([leaves[name] for leaves in drawn]) for name in drawn[0]}


def per_task_apply(
    fn: Callable[[Params, Tensor, Modulation], Tensor],
    params: Params,
    x: Tensor,
    modulation: Modulation | None,
    *,
    task_params: bool,
    task_rows: bool,
) -> tuple[Tensor, bool]:
    """Apply one block for all tasks, computing what they share once.

    Args:
        fn: the block, for one task.
        params: leaves; with `task_params`, [task, …].
        x: [row, …], or [task, row, …] with `task_rows`.
        modulation: how z enters, entries [task, channel]; None if it does not.

    Returns:
        The output, and whether it now differs between tasks.
    """
    if not (task_params or task_rows or modulation is not None):
        return fn(params, x, Modulation()), False

    def one(p: Params, rows: Tensor, entry: Params) -> Tensor:
        return fn(p, rows, Modulation(**entry))

    out = vmap(one, in_dims=(0 if task_params else None, 0 if task_rows else None, 0))(
        params, x, {} if modulation is None else modulation.entries()
    )
    return out, True
