"""What the contract tests run: every entry of every registry, with the settings worth a test.

A new entry needs a line here; `test_coverage.py` fails until it has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from autometa.balancing import BALANCING
from autometa.errors import ConfigError
from autometa.learners import LEARNERS, Learner
from autometa.networks import Problem
from autometa.sharing import SHARING, Params, Role
from autometa.trial import TrialConfig, check
from tests.small import (
    IMAGE,
    TABLE,
    make_config,
    make_episode_problem,
    make_learner,
    make_problem,
    same_kind,
)

Values = dict[str, Any]

BACKBONE_SETTINGS: dict[str, list[Values]] = {
    "mlp": [
        {},
        {"backbone.norm": "none"},
        {"backbone.linear": "path"},
        {"backbone.inputs": "piecewise", "backbone.bins": 3},
    ],
    "conv": [{}],
    "transformer": [{}, {"backbone.max_tokens": 2}],
}
SHARING_SETTINGS: dict[str, list[Values]] = {
    "independent": [{}],
    "hard": [{}, {"sharing.split_at": 1}, {"sharing.split_at": 0}],
    "tree": [{}, {"sharing.partitions": "010/012"}, {"sharing.partitions": "011/011"}],
    "soft": [{}],
    "cross_stitch": [{}, {"sharing.units": "channel"}],
    "sluice": [{}, {"sharing.subspaces": 4}],
    "mtan": [{}],
    "deep_relation": [{"sharing.update_every": 1}, {"sharing.split_at": 0}],
}
#: settings of a backbone that are no matter of its blocks alone: with every mechanism
AROUND = {"backbone.linear", "backbone.inputs"}
#: gradient steps, more in evaluation than in training
STEPS: Values = {"adaptation.steps": 2, "adaptation.test_steps": 3}
CAVIA: Values = {**STEPS, "head": "single_head", "conditioning.dim": 3}
ENCODER: Values = {"adaptation.encoder_width": 8, "adaptation.encoder_depth": 2}
LEARNER_SETTINGS: dict[str, list[Values]] = {
    "joint": [{}],
    "finetune": [
        {"adaptation.test_steps": 3},
        {"adaptation.test_steps": 3, "sharing.split_at": 1},
        {"adaptation.test_steps": 3, "sharing.kind": "independent"},
    ],
    "gradient": [
        STEPS,
        {**STEPS, "sharing.split_at": 0},
        {**STEPS, "sharing.split_at": 1, "adaptation.first_order": True},
        {**STEPS, "sharing.split_at": 1, "adaptation.learned_rates": True},
        {**CAVIA, "conditioning.kind": "additive"},
        {**CAVIA, "conditioning.kind": "multiplicative", "adaptation.learned_rates": True},
        {**STEPS, "sharing.split_at": 1, "conditioning.kind": "concat", "conditioning.at": "last"},
        {**STEPS, "conditioning.kind": "multiplicative", "conditioning.at": "head"},
    ],
    "reptile": [
        {**STEPS, "sharing.split_at": 0},
        {**STEPS, "sharing.split_at": 1},
        {**CAVIA, "conditioning.kind": "concat", "conditioning.at": "input"},
    ],
    "metric": [{}],
    "amortized": [
        {**ENCODER, "conditioning.kind": "concat"},
        {**ENCODER, "conditioning.kind": "multiplicative", "adaptation.aggregation": "attention"},
        {**ENCODER, "conditioning.kind": "additive", "conditioning.at": "head"},
    ],
    "bayesian": [{"adaptation.basis": 6}],
}
BALANCING_SETTINGS: dict[str, list[Values]] = {
    "equal": [{}],
    "random": [{}],
    "uncertainty": [{}],
    "dwa": [{}],
    "famo": [{}],
    "imtl_l": [{}],
    "geometric_mean": [{}],
    "stch": [{}],
    "gradnorm": [{}],
    "pcgrad": [{}],
    "cagrad": [{}],
    "mgda": [{}],
    "imtl_g": [{}],
    "nash_mtl": [{}],
    "upgrad": [{}, {"sharing.kind": "tree", "sharing.partitions": "010/012"}],
    "aligned_mtl": [{}, {"balancing.scale": "rmse"}],
    "config": [{}, {"sharing.split_at": 1}],
    "gradvac": [{}],
    "dualproj": [{}],
    "fairgrad": [{}],
    "graddrop": [{}],
}
OPTIMIZER_SETTINGS: dict[str, list[Values]] = {
    "adamw": [{}],
    "sgd": [{}, {"optimizer.momentum": 0.0}],
}
#: balancers to train where a step has slots of some tasks, too: some with state, and one of each
#: way in which the rest look at gradients
SLOTS_MATTER = {"dwa", "famo", "gradnorm", "gradvac", "config", "upgrad"}
PARTITIONS = "sharing.partitions"
#: input shape a backbone is tested on
FEATURES = {"conv": IMAGE}


def skip_without_extra(values: Values) -> None:
    """Leave out a test of a balancer whose extra is not installed."""
    try:
        BALANCING[values.get("balancing.kind", "equal")].check()
    except ConfigError as exc:
        pytest.skip(str(exc))


@dataclass(frozen=True)
class Variant:
    """One network and learner to test."""

    problem: Problem
    values: Values = field(default_factory=dict)

    def learner(self, problem: Problem | None = None) -> Learner:
        skip_without_extra(self.values)
        return make_learner(problem or self.problem, self.values)

    def config(self) -> TrialConfig:
        return make_config(self.values)

    def __str__(self) -> str:
        named = [f"{name.split('.')[-1]}={value}" for name, value in self.values.items()]
        shape = "image" if len(self.problem.feature_shape) == 3 else "table"
        layout = self.problem.kinds[0] if self.problem.episode else self.problem.layout
        return "-".join([layout, shape, *named])


def permuted_tasks(
    values: Values, params: Params, roles: dict[str, Role], order: list[int]
) -> tuple[Values, Params]:
    """The same network for tasks in another order: settings and leaves.

    A group of a tree is numbered by its first task, so groups may change their numbers.
    """
    moved = {n: leaf[order] if roles[n] == "task" else leaf for n, leaf in params.items()}
    if PARTITIONS not in values:
        return values, moved
    parts = []
    for block, part in enumerate(values[PARTITIONS].split("/")):
        old = list(dict.fromkeys(part[task] for task in order))
        parts.append("".join(str(old.index(part[task])) for task in order))
        if 1 < len(old) < len(order):
            for name in moved:
                if name.startswith((f"blocks.{block}.", f"conditioning.{block}.")):
                    moved[name] = moved[name][[int(group) for group in old]]
    return {**values, PARTITIONS: "/".join(parts)}, moved


def _settings(axis: str, table: dict[str, list[Values]]) -> list[Values]:
    return [{f"{axis}.kind": kind, **more} for kind, found in table.items() for more in found]


def _learners(*, episodic: bool) -> list[Values]:
    table = {k: s for k, s in LEARNER_SETTINGS.items() if LEARNERS[k].episodic == episodic}
    return _settings("adaptation", table)


def episode_variants() -> list[Variant]:
    """Every setting of every learner that takes episodes, where it can be built.

    On regression and N-way tables, the first of each learner on binary tasks and on images, too.
    """
    some = [make_episode_problem(kind) for kind in ("regression", "multiclass")]
    more = [make_episode_problem("binary"), make_episode_problem("multiclass", IMAGE, shots=2)]
    out: list[Variant] = []
    for values in _learners(episodic=True):
        first = all(v.values["adaptation.kind"] != values["adaptation.kind"] for v in out)
        for problem in [*some, *more] if first else some:
            how = {"backbone.kind": "conv"} if problem.is_image else {}
            variant = Variant(problem, {**how, **values})
            try:
                check(variant.config(), problem)
            except ConfigError:
                continue
            out.append(variant)
    return out


def variants() -> list[Variant]:
    """Every entry with every layout, and every sharing mechanism with conditioning."""
    out = []
    for layout in ("aligned", "grouped"):
        for backbone in _settings("backbone", BACKBONE_SETTINGS):
            shape = FEATURES.get(backbone["backbone.kind"], TABLE)
            sharings = _settings("sharing", SHARING_SETTINGS)
            every = len(backbone) == 1 or AROUND & backbone.keys()
            for sharing in sharings if every else [{}]:
                out.append(Variant(make_problem(layout, shape), {**backbone, **sharing}))
        for sharing in _settings("sharing", SHARING_SETTINGS):
            if SHARING[sharing["sharing.kind"]].mixes_tasks:
                continue  # such towers take no conditioning
            kind = "concat" if layout == "aligned" else "multiplicative"
            out.append(Variant(make_problem(layout), {**sharing, "conditioning.kind": kind}))
        how = {"backbone.kind": "conv", "conditioning.kind": "multiplicative"}
        out.append(Variant(make_problem(layout, IMAGE), how))
        how = {"backbone.kind": "transformer", "conditioning.kind": "multiplicative"}
        for more in ({"conditioning.at": "last"}, {"sharing.kind": "mtan"}):
            out.append(Variant(make_problem(layout, IMAGE), {**how, **more}))
        how["conditioning.kind"] = "concat"
        out.append(Variant(make_problem(layout), {**how, "conditioning.at": "input"}))
        for kind in ("additive", "multiplicative"):
            how = {"conditioning.kind": kind, "conditioning.at": "head"}
            out.append(Variant(make_problem(layout), how))
        one_head = {"head": "single_head", "conditioning.kind": "additive"}
        out.append(Variant(same_kind(layout), one_head))
        out.append(Variant(same_kind(layout), {**one_head, "backbone.linear": "path"}))
        out.append(Variant(same_kind(layout), {**one_head, "conditioning.at": "input"}))
        out += [Variant(make_problem(layout), values) for values in _learners(episodic=False)]
    # a balancer sees losses and gradients, not rows, so one layout will do
    balancers = _settings("balancing", BALANCING_SETTINGS)
    out += [Variant(make_problem("aligned"), values) for values in balancers]
    out.append(Variant(same_kind("grouped"), {"head": "single_head"}))
    out.append(Variant(same_kind("aligned", n_tasks=1)))
    out.append(Variant(same_kind("grouped", n_tasks=1)))
    return out


def training_settings() -> list[Values]:
    """Every entry once, for the tests that train."""
    return [
        *_settings("backbone", BACKBONE_SETTINGS),
        *_settings("sharing", SHARING_SETTINGS),
        *(
            {"sharing.kind": kind, "backbone.linear": "path", "backbone.inputs": "piecewise"}
            for kind in SHARING_SETTINGS
        ),
        *_learners(episodic=False),
        *_settings("balancing", BALANCING_SETTINGS),
        *_settings("optimizer", OPTIMIZER_SETTINGS),
        {"conditioning.kind": "multiplicative"},
        {"conditioning.kind": "concat"},
        {"backbone.kind": "conv", "sharing.kind": "sluice"},
        *(
            {"backbone.kind": "transformer", "sharing.kind": kind}
            for kind in ("cross_stitch", "sluice", "mtan", "deep_relation")
        ),
    ]


def suite_kinds(values: Values) -> list[str]:
    """The suites of `tests.small.make_suite` that a setting is trained on."""
    if values.get("backbone.kind") == "conv":
        return ["image"]
    if values.get("backbone.kind") == "transformer":
        return ["aligned", "grouped", "image"] if len(values) == 1 else ["aligned"]
    # grouped: two tasks
    both = "sharing.kind" in values or values.get("balancing.kind") in SLOTS_MATTER
    both = both and not values.keys() & {"sharing.split_at", PARTITIONS}
    return ["aligned", "grouped"] if both else ["aligned"]
