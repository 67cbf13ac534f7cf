"""The parameters of an earlier model, as what new runs may start from.

What is taken over are whole blocks of the backbone, from the first one up for as long as they fit:
a block means something on top of what the blocks below it compute, and the first layers are the
ones that transfer (Yosinski et al. 2014, "How transferable are features in deep neural networks?",
arXiv:1411.1792). A network with copies of a block, one for each task or group of tasks, starts all
of them from the same block. What belongs to the earlier model's own tasks (their towers, heads and
embeddings) is left behind, and so is what tells them apart (conditioning, masks, mixing). A model
that was trained in episodes has one task that stands for all, so all of it may be taken over: that
is its meta-learned initialisation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from autometa.errors import ConfigError, InfrastructureError
from autometa.networks import BACKBONES, Problem
from autometa.networks.inputs import columns_of
from autometa.sharing import Params
from autometa.training.state import read_tensors, write_tensors
from autometa.trial import TrialConfig, build

EARLIER = "earlier"
"""The `init.kind` of runs that start from an earlier model."""

#: what of a backbone's configuration may differ: deeper networks have the same first blocks, and a
#: path beside them changes nothing in them
_FREE = ("depth", "linear")
#: leaves that stand for single tasks or classes of the earlier model
_OWN = ("adapted.", "base_head.", "embedding.", "balancing.")


class Taken(NamedTuple):
    """How much of a network starts from the earlier model.

    Attributes:
        leaves, parameters: those that do; of a block with copies all are counted.
        of: parameters of the network.
    """

    leaves: int
    parameters: int
    of: int


@dataclass(frozen=True, eq=False)
class Initial:
    """Parameters to start from.

    Attributes:
        backbone: the configuration of its blocks; others do not fit.
        depth: blocks of the earlier network; the head fits on top of as many only.
        learner: `adaptation.kind` of a model that was trained in episodes, else None.
        params: blocks and head, one copy of each; with `learner` all that it has learned.
    """

    backbone: dict[str, Any]
    depth: int
    learner: str | None
    params: Params

    @classmethod
    def of(cls, config: TrialConfig, problem: Problem, params: Params, *, head: bool) -> Initial:
        """What a trained network has in common for all of its tasks.

        Args:
            params: θ, its leaves by name.
            head: the head is of use too, where all tasks have one and the same.
        """
        backbone: Any = config.backbone
        kind: Any = config.adaptation
        episodic = problem.episode is not None
        found: Params = {}
        blocks = BACKBONES[backbone.kind](backbone, problem).blocks
        for number, block in enumerate(blocks):
            shapes = block.init(torch.Generator().manual_seed(0))
            own = {f"blocks.{number}.{leaf}": like.ndim for leaf, like in shapes.items()}
            common = _common(params, own)
            if common is None:
                return cls(_fixed(config), len(blocks), None, found)
            found |= common
        if head:
            found |= _common(params, _HEAD) or {}
            if episodic:
                found |= {
                    name: leaf
                    for name, leaf in params.items()
                    if not name.startswith(("blocks.", "head.", *_OWN))
                }
        return cls(_fixed(config), len(blocks), kind.kind if episodic else None, found)

    def with_inputs(self, columns: Sequence[int | None]) -> Initial:
        """The same for other features, of a backbone `mlp`: its first layer is linear in them.

        Args:
            columns: for each feature, which of the earlier ones it is; None for a new one, which
                has no say at first. An earlier one that is missing counts as its mean.
        """
        old = self.params[_FIRST]
        if self.backbone.get("inputs") == "piecewise":
            bins = self.backbone["bins"]
            columns = columns_of(columns, old.shape[1] // (1 + bins), bins)
        new = torch.zeros(len(old), len(columns), dtype=old.dtype)
        for at, column in enumerate(columns):
            if column is not None:
                new[:, at] = old[:, column]
        # what was learned beside that leaf, such as a rate for each weight, goes with it
        kept = {name: leaf for name, leaf in self.params.items() if _FIRST not in name}
        return replace(self, params={**kept, _FIRST: new})

    @property
    def blocks(self) -> int:
        """How many blocks there are, from the first one up."""
        return len({name.split(".")[1] for name in self.params if name.startswith("blocks.")})

    def given(self, config: TrialConfig, params: Params) -> Params:
        """The leaves of a freshly drawn network that start from the earlier model."""
        backbone: Any = config.backbone
        learner: Any = config.adaptation
        if _fixed(config) != self.backbone:
            return {}
        found: Params = {}
        for number in range(min(backbone.depth, self.blocks)):
            block = self._fitted(params, f"blocks.{number}.")
            if block is None:
                return found
            found |= block
        if self.blocks == self.depth == backbone.depth:
            found |= self._fitted(params, "head.") or {}
            if self.learner == learner.kind:
                found |= {
                    name: leaf.to(params[name].dtype)
                    for name, leaf in self.params.items()
                    if name not in found
                    and name in params
                    and not name.startswith(("blocks.", "head."))
                    and leaf.shape == params[name].shape
                }
        return found

    def taken(self, config: TrialConfig, problem: Problem) -> Taken:
        """How much of the network of `config` starts from the earlier model."""
        drawn, _ = build(config, problem).init(torch.Generator().manual_seed(0))
        given = self.given(config, drawn)
        total = sum(leaf.numel() for leaf in drawn.values())
        return Taken(len(given), sum(leaf.numel() for leaf in given.values()), total)

    def sha256(self) -> str:
        """Of what it is: names, shapes, values and the network that they belong to."""
        digest = hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode())
        for name in sorted(self.params):
            leaf = self.params[name].detach().cpu().contiguous()
            digest.update(f"{name} {leaf.dtype} {list(leaf.shape)}\n".encode())
            digest.update(leaf.numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> Path:
        """Write a safetensors file that `load` reads.

        Raises:
            InfrastructureError: the disk refuses it.
        """
        write_tensors(self.params, {"initial": json.dumps(self._facts())}, path)
        return path

    @classmethod
    def load(cls, path: Path) -> Initial:
        """The inverse of `save`.

        Raises:
            InfrastructureError: the file is missing or is none.
        """
        params, metadata = read_tensors(path)
        try:
            facts: Mapping[str, Any] = json.loads(metadata["initial"])
            return cls(facts["backbone"], facts["depth"], facts["learner"], params)
        except (KeyError, TypeError, ValueError) as exc:
            raise InfrastructureError(f"File {path} holds no starting parameters ({exc}).") from exc

    def _facts(self) -> dict[str, Any]:
        return {"backbone": self.backbone, "depth": self.depth, "learner": self.learner}

    def _fitted(self, params: Params, start: str) -> Params | None:
        """Our leaves of one block or of the head in the shapes of `params`; None if one fails."""
        wanted = {name for name in params if name.startswith(start)}
        if not wanted or wanted != {name for name in self.params if name.startswith(start)}:
            return None
        found: Params = {}
        for name in wanted:
            own, drawn = self.params[name], params[name]
            if drawn.shape != own.shape and drawn.shape[1:] != own.shape:
                return None
            found[name] = own.to(drawn.dtype).expand(drawn.shape).clone()
        return found


def draw(
    config: TrialConfig, problem: Problem, seed: int, initial: Initial | None
) -> tuple[Params, Params]:
    """Parameters and buffers that a run starts with.

    What `initial` does not give is drawn exactly as it is without it.

    Raises:
        ConfigError: the run is to start from an earlier model, and there is none.
    """
    params, buffers = build(config, problem).init(torch.Generator().manual_seed(seed))
    if config.init.kind == EARLIER:
        if initial is None:
            raise ConfigError(
                "Parameter `init.kind` should be `random` where no earlier model is named "
                "(`--init-from`, `init_from`). Found `init.kind = earlier`."
            )
        params |= initial.given(config, params)
    return params, buffers


#: the leaf of a multilayer perceptron that reads the features
_FIRST = "blocks.0.weight"
#: leaves of a head without a dimension for tasks: how many dimensions they have
_HEAD = {"head.weight": 2, "head.bias": 1}


def _fixed(config: TrialConfig) -> dict[str, Any]:
    """What two backbones must agree in for their blocks to compute the same."""
    return {name: v for name, v in config.backbone.shape().items() if name not in _FREE}


def _common(params: Params, dimensions: Mapping[str, int]) -> Params | None:
    """The leaves of these names where all tasks have one; None where each task has its own.

    Args:
        dimensions: name → number of dimensions of a leaf without one for tasks.
    """
    found: Params = {}
    for name, ndim in dimensions.items():
        leaf = params.get(name)
        if leaf is not None and leaf.ndim == ndim + 1 and len(leaf) == 1:
            leaf = leaf[0]
        if leaf is None or leaf.ndim != ndim:
            return None
        found[name] = leaf
    return found
