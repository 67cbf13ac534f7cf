"""The state of a population: K runs as rows of a few matrices. Can be split, joined and saved."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from autometa.errors import InfrastructureError, reason_of
from autometa.sharing import Params
from autometa.training.optimizers import segment
from autometa.trial import TrialConfig


@dataclass(frozen=True)
class Run:
    """One training run: a configuration and the seed of its initialisation, order and noise.

    `fold`: of the training and validation rows, those it is validated on; it is trained on all
    others. None: the suite's own split.
    """

    config: TrialConfig
    seed: int
    fold: int | None = None


class Layout:
    """Where each leaf of one model lies in a row of P numbers.

    Those that the optimizer treats alike lie side by side.

    Attributes:
        shapes: leaf → shape, in the order of the row.
        size: P.
    """

    def __init__(self, leaves: Params) -> None:
        names = sorted(leaves, key=segment)
        self.shapes = {name: tuple(leaves[name].shape) for name in names}
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self._sizes)

    def pack(self, leaves: Params) -> Tensor:
        """Stacked leaves [run, …] (or leaves of one model) to rows [run, P] (or [P])."""
        parts = []
        for name, shape in self.shapes.items():
            leaf = leaves[name]
            parts.append(leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], -1))
        return torch.cat(parts, dim=-1)

    def unpack(self, rows: Tensor) -> Params:
        """Rows [run, P] to leaves [run, …]: views that share memory."""
        pieces = rows.split(self._sizes, dim=-1)
        return {
            name: piece.view((*rows.shape[:-1], *shape))
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }


@dataclass
class PopulationState:
    """K runs of one shape key after the same number of steps.

    Attributes:
        values: parameters [run, P]: a row has those of the run's own network in its own `Layout`,
            and zeros up to the longest of the population.
        slots: optimizer state by name, each [run, P].
        buffers: non-trained state by leaf, each [run, …].
        step: completed optimizer steps.
        sizes: how many parameters each run has; P if not given.
    """

    values: Tensor
    slots: dict[str, Tensor]
    buffers: Params
    step: int = 0
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.sizes = self.sizes or (self.values.shape[1],) * len(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def select(self, index: Sequence[int]) -> PopulationState:
        """The runs at these positions, copied."""
        at = torch.tensor(list(index), dtype=torch.int64, device=self.values.device)
        sizes = tuple(self.sizes[k] for k in index)
        longest = max(sizes, default=0)
        return PopulationState(
            self.values[at, :longest],
            {name: slot[at, :longest] for name, slot in self.slots.items()},
            {name: buffer[at] for name, buffer in self.buffers.items()},
            self.step,
            sizes,
        )

    @staticmethod
    def join(states: Sequence[PopulationState]) -> PopulationState:
        """All runs of several populations of one shape key after the same number of steps."""
        first = states[0]
        if any(s.step != first.step for s in states):
            raise ValueError("Populations to join should be at the same step.")
        return PopulationState.gather(states)

    @staticmethod
    def gather(states: Sequence[PopulationState]) -> PopulationState:
        """All runs of several populations of one shape key, which may have been trained to
        different lengths: to predict with, not to go on from. The step is that of the longest."""
        first = states[0]
        return PopulationState(
            stack_rows([s.values for s in states]),
            {name: stack_rows([s.slots[name] for s in states]) for name in first.slots},
            {name: torch.cat([s.buffers[name] for s in states]) for name in first.buffers},
            max(s.step for s in states),
            tuple(size for s in states for size in s.sizes),
        )

    def to(self, device: torch.device) -> PopulationState:
        return PopulationState(
            self.values.to(device),
            {name: slot.to(device) for name, slot in self.slots.items()},
            {name: buffer.to(device) for name, buffer in self.buffers.items()},
            self.step,
            self.sizes,
        )


def stack_rows(rows: Sequence[Tensor]) -> Tensor:
    """Rows [run, number] of several populations under each other, with zeros up to the longest."""
    longest = max(some.shape[1] for some in rows)
    return torch.cat([F.pad(some, (0, longest - some.shape[1])) for some in rows])


def save_run(state: PopulationState, position: int, run: Run, path: Path) -> None:
    """Write one run's checkpoint, atomically (a reader sees the old file or the new one).

    Raises:
        InfrastructureError: the disk refuses it.
    """
    own = state.select([position])
    tensors = {"values": own.values[0]}
    tensors.update({f"slots.{n}": s[0] for n, s in own.slots.items()})
    tensors.update({f"buffers.{n}": b[0] for n, b in own.buffers.items()})
    metadata = {
        "step": str(state.step),
        "seed": str(run.seed),
        "config": json.dumps(run.config.flat()),
    }
    write_tensors(tensors, metadata, path)


def load_run(path: Path) -> PopulationState:
    """Read one run's checkpoint as a population of one.

    Raises:
        InfrastructureError: the file is missing or not a checkpoint.
    """
    tensors, metadata = read_tensors(path)
    if missing := {"values"} - set(tensors) | {"step"} - set(metadata):
        raise InfrastructureError(
            f"File {path} is not a checkpoint of a run: it has no {', '.join(sorted(missing))}."
        )
    return PopulationState(
        tensors["values"][None],
        {n[6:]: t[None] for n, t in tensors.items() if n.startswith("slots.")},
        {n[8:]: t[None] for n, t in tensors.items() if n.startswith("buffers.")},
        int(metadata["step"]),
    )


def write_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write safetensors through a temporary file in the same folder.

    Raises:
        InfrastructureError: the disk refuses it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, part, metadata)
        os.replace(part, path)
    except (OSError, SafetensorError) as exc:  # safetensors reports a full disk as its own error
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise InfrastructureError(
            f"Cannot write {path}: {reason_of(exc)}. Free some space or "
            "choose another home folder with AUTOMETA_HOME."
        ) from exc


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InfrastructureError: the file is missing or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
        return load_file(path), metadata
    except (OSError, SafetensorError) as exc:
        raise InfrastructureError(f"Cannot read {path}: {exc}.") from exc
