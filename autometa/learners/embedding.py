"""What learners without inner steps have in common: one network, of which no task has a part.

They read the support rows instead of taking gradient steps on them, so all leaves of the network
are shared, whatever `sharing.split_at` and `head` say.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autometa.errors import ConfigError
from autometa.learners.losses import at_least_float32
from autometa.networks import ConditioningConfig, Parts, Problem, Step
from autometa.sharing import Params, Role, Sharing
from autometa.sharing.hard import Hard, HardConfig


def check_unconditioned(config: Any) -> None:
    """Find out whether the network is left without a task representation.

    Raises:
        ConfigError: some conditioning is asked for.
    """
    if config.conditioning.kind != "none":
        raise ConfigError(
            f"Parameter `conditioning.kind` should be `none` with `adaptation.kind = "
            f"{config.adaptation.kind}`, which gives the network no task representation. Found "
            f"`conditioning.kind = {config.conditioning.kind}`."
        )


def shared_network(
    network: Sharing,
    conditioning: ConditioningConfig,
    layout: Literal["aligned", "grouped"],
    outputs: int,
) -> Hard:
    """A trial's network with every leaf shared.

    Args:
        layout: `grouped` where each task brings its own rows with its own z.
        outputs: channels of the head.
    """
    problem = network.parts.problem.model_copy(update={"layout": layout})
    parts = Parts.assemble(
        problem, network.parts.backbone, [conditioning], "single_head", conditioning.dim, outputs
    )
    return Hard(HardConfig(), parts)


def without_head(leaves: dict[str, Any]) -> dict[str, Any]:
    """What is left of a network of which only the features are used."""
    return {name: leaf for name, leaf in leaves.items() if not name.startswith("head.")}


def all_shared(params: Params) -> dict[str, Role]:
    """Roles where nothing belongs to a task."""
    return dict.fromkeys(params, "shared")


def fold_rows(
    network: Hard, params: Params, x: Float[Tensor, "task row *feature"], step: Step, *, head: bool
) -> Float[Tensor, "task row output"]:
    """Outputs, or features without `head`, of tasks' rows in one pass; at least float32."""
    one = torch.zeros(1, dtype=torch.int64, device=x.device)
    rows = x.flatten(0, 1)
    if head:
        out = network.forward(params, {}, rows, tasks=one, z=None, step=step)[0]
    else:
        out = network.features(params, rows, tasks=one, z=None, step=step)
    return at_least_float32(out[0]).unflatten(0, x.shape[:2])


def n_classes(problem: Problem, tasks: Int[Tensor, "task *way"]) -> int:
    """Classes of an episode, of which there may be more or fewer than in training."""
    return tasks.shape[1] if problem.kinds[0] == "multiclass" else 2


def one_hot(
    y: Float[Tensor, "task row"], mask: Bool[Tensor, "task row"], n: int, dtype: torch.dtype
) -> Float[Tensor, "task row class"]:
    """One at a row's class; zeros where the row is masked."""
    same = y[..., None] == torch.arange(n, device=y.device)
    return (same & mask[..., None]).to(dtype)


def class_means(
    h: Float[Tensor, "task row feature"], members: Float[Tensor, "task row class"]
) -> tuple[Float[Tensor, "task class feature"], Float[Tensor, "task class"]]:
    """Mean of each class's rows (0 without any), and how many there are.

    Sums instead of matrix products, which autocast would round to half precision.
    """
    counts = members.sum(1)
    sums = (members[..., None] * h[:, :, None]).sum(1)
    return sums / counts.clamp(min=1.0)[..., None], counts


def known_labels(
    problem: Problem,
    y: Float[Tensor, "task row"],
    mask: Bool[Tensor, "task row"],
    counts: Float[Tensor, "task class"],
) -> Bool[Tensor, "task row"]:
    """Labelled rows of classes that the support has; the others' loss would be infinite.

    A binary task keeps all, since its logit is finite.
    """
    if problem.kinds[0] == "binary":
        return mask
    return mask & (counts > 0).gather(1, y.long())


def without_absent(
    logits: Float[Tensor, "task row class"], counts: Float[Tensor, "task class"]
) -> Float[Tensor, "task row class"]:
    """−∞ for classes without a support row, where others have some."""
    absent = (counts == 0) & (counts > 0).any(-1, keepdim=True)
    return logits.masked_fill(absent[:, None], float("-inf"))
