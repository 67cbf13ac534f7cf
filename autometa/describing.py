"""How the verdict names networks: how they share, how they learn new tasks, where they start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from autometa.study import is_advised
from autometa.tasks.episodes import EpisodeShape
from autometa.trial import TrialConfig


def describe_sharing(config: TrialConfig) -> str:
    """How a configuration shares, in a few words: "hard sharing (2 of 3 blocks shared)"."""
    flat = config.flat()
    kind = flat["sharing.kind"]
    details = []
    if kind == "hard":
        depth = flat["backbone.depth"]
        split = flat["sharing.split_at"]
        details.append(f"{depth if split is None else split} of {depth} blocks shared")
    if kind == "tree" and flat["sharing.partitions"] is not None:
        parts = flat["sharing.partitions"].split("/")
        if len(parts[0]) > 12:  # of many tasks only how many groups they form
            parts = [f"{len(set(part))}" for part in parts]
        details.append(f"groups {', '.join(parts)}")
    if kind == "soft":
        details.append(f"tie {flat['sharing.tie']:.2g}")
    if kind == "cross_stitch":
        details.append(f"one unit a {flat['sharing.units']}")
    if kind == "sluice":
        details.append(f"{flat['sharing.subspaces']} subspaces")
    if flat["conditioning.kind"] != "none":
        details.append(f"{flat['conditioning.kind']} conditioning at {flat['conditioning.at']}")
    if flat["head"] == "single_head":
        details.append("one head for all tasks")
    if flat["init.kind"] != "random":
        details.append("started from an earlier model")
    name = f"{kind.replace('_', '-')} sharing"
    return f"{name} ({', '.join(details)})" if details else name


def describe_network(config: TrialConfig) -> str:
    """How a configuration shares, and how large it is: "…, 3 blocks of width 96"."""
    backbone: Any = config.backbone
    independent = config.flat()["sharing.kind"] == "independent"
    alone = f"independent networks{start_words(config)}"
    name = alone if independent else describe_sharing(config)
    return f"{name}, {backbone.depth} blocks of width {backbone.width}"


def start_words(config: TrialConfig) -> str:
    """What is said of networks that do not start at random; nothing of others."""
    return "" if config.init.kind == "random" else " that started from an earlier model"


def describe_independent(trials: Sequence[FrozenTrial]) -> str:
    """ "Equally tuned" only where both arms had as many trials, give or take one."""
    number = {
        arm: sum(t.user_attrs.get("arm") == arm and not is_advised(t) for t in trials)
        for arm in ("sharing", "independent")
    }
    if number["independent"] + 1 >= number["sharing"]:
        return "equally tuned independent networks"
    return (
        f"independent networks tuned with {number['independent']} of {sum(number.values())} trials"
    )


def describe_learner(config: TrialConfig) -> str:
    """How a configuration learns a new task, in a few words."""
    flat = config.flat()
    kind, depth = flat["adaptation.kind"], flat["backbone.depth"]
    earlier = flat["init.kind"] != "random"
    if flat["sharing.kind"] == "independent":
        start = "from an earlier model" if earlier else "from scratch"
        return f"training {start} on the support rows"
    name = _LEARNERS.get(kind, kind)
    details = []
    if kind == "gradient" and flat["adaptation.learned_rates"]:
        details.append("learned rates")
    if kind == "gradient" and flat["adaptation.first_order"]:
        details.append("first order")
    if kind == "amortized" and flat["adaptation.aggregation"] == "attention":
        details.append("attentive")
    if kind in ("gradient", "reptile", "finetune"):
        split = flat["sharing.split_at"]
        split = depth if split is None else split
        adapted = (
            "the head" if split == depth else f"{depth - split} of {depth} blocks and the head"
        )
        if flat["head"] == "single_head" and split == depth:
            adapted = "the context alone"
        elif flat["conditioning.kind"] != "none":
            adapted += " and a context"
        details.append(f"adapts {adapted}")
    if kind in ("gradient", "reptile"):
        steps = flat["adaptation.steps"]
        details.append(f"{steps} step{'s' if steps > 1 else ''}")
    if earlier:
        details.append("started from an earlier model")
    return f"{name} ({', '.join(details)})" if details else name


def describe_shape(shape: EpisodeShape) -> str:
    """ "5-way 1-shot", or "10 support rows"."""
    if shape.ways is not None:
        return f"{shape.ways}-way {shape.shots}-shot"
    return f"{shape.shots} support row{'s' if shape.shots > 1 else ''}"


def kind_of(config: TrialConfig | None) -> str | None:
    """How new tasks are learned; None without a configuration."""
    section: Any = None if config is None else config.adaptation
    return None if section is None else section.kind


_LEARNERS = {
    "gradient": "gradient-based meta-learning",
    "reptile": "Reptile",
    "metric": "prototypes",
    "amortized": "a neural process",
    "bayesian": "a Bayesian head on learned features",
    "finetune": "joint training and fine-tuning",
}
