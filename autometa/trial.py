"""The configuration of one trial, assembled from the registries, and what it builds.

Every axis is a section with a `kind`; the valid kinds of an axis are the keys of its registry, so
a new mechanism needs no change here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from autometa.balancing import BALANCING, Balancer, Either
from autometa.config import Config, flatten, nest, parse, per_run
from autometa.errors import ConfigError, nearest
from autometa.learners import LEARNERS, Learner
from autometa.networks import BACKBONES, ConditioningConfig, Parts, Problem
from autometa.networks.conditioning import graph_of
from autometa.networks.inputs import PiecewiseInputs
from autometa.networks.linear import LinearPath
from autometa.sharing import SHARING, Sharing

#: axis → its registry, for every axis whose choices are classes
REGISTRIES: dict[str, Mapping[str, Any]] = {
    "backbone": BACKBONES,
    "sharing": SHARING,
    "adaptation": LEARNERS,
    "balancing": BALANCING,
}


class OptimizerConfig(Config):
    """Optimizer, schedule and batch.

    `lr`: peak learning rate; `cosine` falls to 0 over `max_steps`, `constant` stays.
    `weight_decay`: decoupled for `adamw`, added to the gradient for `sgd`; weight matrices only.
    `clip`: largest gradient norm of a run. `momentum`: SGD only. `batch_size`: rows a step, of
    each task in a grouped suite, where a step takes `batch_tasks` tasks; None: by the number of
    training rows (`training.budget.default_batch_size`).
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = per_run(3e-3, gt=0.0)
    weight_decay: float = per_run(1e-4, ge=0.0)
    momentum: float = per_run(0.9, ge=0.0, lt=1.0)
    schedule: Literal["cosine", "constant"] = per_run("cosine")
    clip: float = per_run(1.0, gt=0.0)
    batch_size: int | None = Field(None, ge=1)
    batch_tasks: int = Field(8, ge=1)


class InitConfig(Config):
    """Where a run starts. `random`: all is drawn. `earlier`: what fits of an earlier model, which
    the search names, is taken over, and the rest is drawn."""

    kind: Literal["random", "earlier"] = per_run("random")


def _section(axis: str) -> Any:
    """A pydantic validator that picks the config class by `kind` in the axis's registry."""

    def pick(value: Any) -> Any:
        if isinstance(value, Config):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(
                f"Parameter `{axis}` should be a mapping with a `kind`. Found `{axis} = {value!r}`."
            )
        registry = REGISTRIES[axis]
        kind = value.get("kind", _DEFAULT_KIND[axis])
        if kind not in registry:
            raise ValueError(
                f"Parameter `{axis}.kind` should be one of {', '.join(registry)}. Found "
                f"`{axis}.kind = {kind}`.{nearest(kind, registry)}"
            )
        try:
            return parse(registry[kind].Config, {**value, "kind": kind}, where=axis)
        except ConfigError as exc:
            raise ValueError(str(exc)) from None

    return BeforeValidator(pick)


_DEFAULT_KIND = {
    "backbone": "mlp",
    "sharing": "hard",
    "adaptation": "joint",
    "balancing": "equal",
}


class TrialConfig(Config):
    """One point of the search: how tasks share, are conditioned, adapted, balanced, trained."""

    backbone: Annotated[SerializeAsAny[Config], _section("backbone")] = BACKBONES["mlp"].Config()
    sharing: Annotated[SerializeAsAny[Config], _section("sharing")] = SHARING["hard"].Config()
    conditioning: ConditioningConfig = ConditioningConfig()
    head: Literal["multi_head", "single_head"] = "multi_head"
    adaptation: Annotated[SerializeAsAny[Config], _section("adaptation")] = LEARNERS[
        "joint"
    ].Config()
    balancing: Annotated[SerializeAsAny[Config], _section("balancing")] = BALANCING[
        "equal"
    ].Config()
    optimizer: OptimizerConfig = OptimizerConfig()
    init: InitConfig = InitConfig()

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Build from dotted names; what is missing takes its default.

        Raises:
            ConfigError: an unknown name or an invalid value, with the nearest valid name.
        """
        return parse(cls, nest(values))

    def flat(self) -> dict[str, Any]:
        """Dotted names to plain values; `from_flat` gives the same config back."""
        return flatten(self.model_dump(mode="json"))

    def rates(self) -> dict[str, float]:
        """The numbers that a forward pass needs and that may differ between fused runs."""
        out = {}
        for section in (self.backbone, self.sharing, self.adaptation, self.balancing):
            for name, field in type(section).model_fields.items():
                extra = field.json_schema_extra
                if isinstance(extra, dict) and extra.get("per_run"):
                    out[name] = float(getattr(section, name))
        return out

    def shape_key(self) -> str:
        """Equal for configs whose runs are trained as one population (`build_together`).

        They build the same graph with the same shapes on one suite, or graphs that differ only in
        what costs little: how z enters layers that each task's rows pass through apart in all of
        them (`Sharing.apart_from`), whether there is one head or one a task, and balancers that
        merge.
        """
        return _digest(self._merged())

    def graph_key(self) -> str:
        """Equal for configs that build the same graph with the same shapes on one suite."""
        return _digest(self.shape())

    def _merged(self) -> dict[str, Any]:
        """`shape` without what may differ within a population."""
        shape, (sharing, balancing, adaptation) = self.shape(), _kinds(self)
        if not LEARNERS[adaptation].merges:
            return shape
        balancer = BALANCING[balancing]
        if balancer.merges():
            shape["balancing"] = "merged"
        backbone: Any = self.backbone
        n_blocks = backbone.depth
        apart = SHARING[sharing].apart_from(self.sharing, self.head, n_blocks)
        if apart is not None and balancer.needs == "losses":
            first = min([apart, *self.conditioning.places(n_blocks)])
            shape["conditioning"] = {"first": first, **self.conditioning.representation()}
            shape["head"] = "merged"
        if shape["sharing"].get("split_at", 0) is None:
            shape["sharing"]["split_at"] = n_blocks
        return shape


def _digest(shape: dict[str, Any]) -> str:
    text = json.dumps(shape, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check(config: TrialConfig, problem: Problem) -> None:
    """Find out, without building a tensor, whether `config` can be built for `problem`.

    Raises:
        ConfigError: it cannot, with the parameter to change.
    """
    backbone = _backbone(config, problem)
    sharing: Any = config.sharing
    mechanism = SHARING[sharing.kind]
    _around(config, problem)
    _check_adaptation(config, problem, len(backbone.blocks))
    mechanism.check(sharing, problem, len(backbone.blocks))
    mechanism.check_backbone(sharing, backbone)
    if mechanism.mixes_tasks and config.conditioning.kind != "none":
        raise ConfigError(
            f"Parameter `conditioning.kind` should be `none` with `sharing.kind = {sharing.kind}`: "
            "every row passes through the networks of all tasks, so there is not one task to tell "
            f"them. Found `conditioning.kind = {config.conditioning.kind}`."
        )
    if config.head == "single_head":
        if len(set(zip(problem.kinds, problem.n_outputs, strict=True))) > 1:
            raise ConfigError(
                "Parameter `head` should be `multi_head` where tasks differ in kind or number of "
                "classes. Found `head = single_head`."
            )
        own = mechanism.tells_apart(sharing, problem, len(backbone.blocks))
        same_rows = problem.layout == "aligned" and problem.episode is None
        if same_rows and config.conditioning.kind == "none" and not own:
            raise ConfigError(
                "Parameter `head` should be `multi_head` (or `conditioning.kind` other than "
                "`none`) where every target is predicted from the same row: with one head and "
                "nothing else all predictions are equal. Found `head = single_head`."
            )
    _check_balancing(config, problem)


def build(config: TrialConfig, problem: Problem) -> Learner:
    """The learner of a trial.

    Raises:
        ConfigError: the network cannot be built for this problem.
    """
    return build_together([config], problem)


def build_together(configs: Sequence[TrialConfig], problem: Problem) -> Learner:
    """One learner for runs of one shape key: it has the leaves of each one's own (`own_leaf`).

    It has a head for each task where one of them has. `training.merging` says how each run is what
    it is alone. Runs with different balancers have a rate `balancer` (`Either`).

    Raises:
        ConfigError: a network cannot be built for this problem.
    """
    for config in configs:
        check(config, problem)
    first = configs[0]
    ways: dict[str, Balancer] = {}
    for config in sorted(configs, key=lambda config: _kinds(config)[1]):
        kind = _kinds(config)[1]
        ways[kind] = BALANCING[kind](config.balancing)
    balancer = Either(ways) if len(ways) > 1 else next(iter(ways.values()))
    conditionings = [config.conditioning for config in configs]
    heads = {config.head for config in configs}
    whole = first.model_copy(update={"head": "multi_head"}) if len(heads) > 1 else first
    # the abstract base leaves the constructor to each entry of its registry
    return LEARNERS[_kinds(first)[2]](  # type: ignore[call-arg]
        first.adaptation,
        problem,
        _network(whole, problem, conditionings),
        next((one for one in conditionings if one.kind != "none"), first.conditioning),
        balancer,
    )


def own_leaf(config: TrialConfig, name: str, leaves: Mapping[str, Any]) -> str:
    """The name of a run's leaf among those of a learner that was built for several."""
    start, _, leaf = name.rpartition(".")
    with_graph = f"{start}.{graph_of(config.conditioning.kind)}.{leaf}"
    return with_graph if with_graph in leaves else name


def _check_adaptation(config: TrialConfig, problem: Problem, n_blocks: int) -> None:
    """New tasks need a learner that adapts, and parameters that they share with the old ones."""
    adaptation: Any = config.adaptation
    learner = LEARNERS[adaptation.kind]
    if learner.episodic != (problem.episode is not None):
        allowed = [kind for kind, other in LEARNERS.items() if other.episodic != learner.episodic]
        where = "in episodes" if problem.episode else "without episodes, where no task is new"
        raise ConfigError(
            f"Parameter `adaptation.kind` should be {' or '.join(f'`{k}`' for k in allowed)} "
            f"{where}. Found `adaptation.kind = {adaptation.kind}`."
        )
    now, later = problem.episode, problem.test_episode
    if now and later and now.ways != later.ways and not learner.any_ways:
        allowed = [kind for kind, other in LEARNERS.items() if other.any_ways]
        raise ConfigError(
            f"Parameter `adaptation.kind` should be {' or '.join(f'`{k}`' for k in allowed)} where "
            f"episodes of held-out tasks have another number of classes ({later.ways}, not "
            f"{now.ways}). Found `adaptation.kind = {adaptation.kind}`."
        )
    if problem.episode is not None:
        _check_episodic(config, learner)
    if not learner.reads_rows and any(_around(config, problem)):
        raise ConfigError(
            "Parameters `backbone.inputs` and `backbone.linear` should be `plain` and `none` with "
            f"`adaptation.kind = {adaptation.kind}`. Found `backbone.inputs = "
            f"{config.flat()['backbone.inputs']}`, `backbone.linear = "
            f"{config.flat()['backbone.linear']}`."
        )
    learner.check(config, problem, n_blocks)


def _check_episodic(config: TrialConfig, learner: type[Learner]) -> None:
    """What no learner that takes episodes can be built with: every task is a new one."""
    sharing, balancing, adaptation = _kinds(config)
    allowed = [kind for kind, entry in SHARING.items() if entry.extends_to_new_tasks]
    allowed += [kind for kind in learner.also_shares if kind not in allowed]
    if sharing not in allowed:
        raise ConfigError(
            f"Parameter `sharing.kind` should be {' or '.join(f'`{kind}`' for kind in allowed)} "
            f"with `adaptation.kind = {adaptation}`, which has to serve new tasks. Found "
            f"`sharing.kind = {sharing}`."
        )
    if balancing != "equal":
        raise ConfigError(
            "Parameter `balancing.kind` should be `equal` in episodes, where every task is a new "
            f"one and none is to be weighed for itself. Found `balancing.kind = {balancing}`."
        )
    conditioning = config.conditioning
    if conditioning.kind != "none" and conditioning.embedding != "learned":
        raise ConfigError(
            "Parameter `conditioning.embedding` should be `learned` in episodes: a new task has no "
            f"number. Found `conditioning.embedding = {conditioning.embedding}`."
        )


def _check_balancing(config: TrialConfig, problem: Problem) -> None:
    sharing, balancing, adaptation = _kinds(config)
    balancer = BALANCING[balancing]
    balancer.check()
    if not (balancer.is_stateless() or LEARNERS[adaptation].balances):
        allowed = ", ".join(f"`{kind}`" for kind, b in BALANCING.items() if b.is_stateless())
        raise ConfigError(
            f"Parameter `balancing.kind` should be one of {allowed} with `adaptation.kind = "
            f"{adaptation}`. Found `balancing.kind = {balancing}`."
        )
    parts = (config.backbone, config.sharing, config.conditioning, config.head, problem)
    if balancer.needs != "losses" and not _shares(*parts):
        setting = getattr(config.sharing, "split_at", None)
        found = f"sharing.kind = {sharing}" + (f", split_at = {setting}" if setting == 0 else "")
        raise ConfigError(
            "Parameter `balancing.kind` should be one that balances losses, such as `equal`, where "
            f"tasks share no parameters ({found}): there is no gradient that they have in common. "
            f"Found `balancing.kind = {balancing}`."
        )


@lru_cache(maxsize=1024)
def _shares(
    backbone: Any, sharing: Any, conditioning: ConditioningConfig, head: Any, problem: Problem
) -> bool:
    """Whether some parameters belong to no task alone."""
    config = TrialConfig(backbone=backbone, sharing=sharing, conditioning=conditioning, head=head)
    return "shared" in _network(config, problem).roles().values()


def _network(
    config: TrialConfig, problem: Problem, conditionings: Sequence[ConditioningConfig] = ()
) -> Sharing:
    """The network of `config`, with those `conditionings` of all its population if given."""
    representation = config.conditioning.representation()
    z_dim = representation["dim"] if representation["embedding"] == "learned" else problem.n_tasks
    mechanism = SHARING[_kinds(config)[0]]
    inputs, path = _around(config, problem)
    inner = problem if inputs is None else problem.with_features(inputs.shape)
    parts = Parts.assemble(
        inner,
        _backbone(config, inner),
        conditionings or [config.conditioning],
        config.head,
        z_dim,
        inputs=inputs,
        path=path,
    )
    return mechanism(config.sharing, parts)


def _around(
    config: TrialConfig, problem: Problem
) -> tuple[PiecewiseInputs | None, LinearPath | None]:
    """What a learner puts before the network and beside it; other backbones have no such thing."""
    backbone: Any = config.backbone
    inputs = path = None
    if getattr(backbone, "inputs", "plain") == "piecewise":
        inputs = PiecewiseInputs(problem, backbone.bins)
    if getattr(backbone, "linear", "none") == "path":
        own = config.head == "multi_head" or SHARING[_kinds(config)[0]].own_heads
        path = LinearPath(problem, per_task=own)
    return inputs, path


def _backbone(config: TrialConfig, problem: Problem) -> Any:
    section: Any = config.backbone
    return BACKBONES[section.kind](section, problem)


def _kinds(config: TrialConfig) -> tuple[str, str, str]:
    sections: tuple[Any, ...] = (config.sharing, config.balancing, config.adaptation)
    sharing, balancing, adaptation = (section.kind for section in sections)
    return sharing, balancing, adaptation
