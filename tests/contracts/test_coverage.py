"""Every entry of every registry is covered by the contract tests, and configs keep their rules."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from autometa.balancing import BALANCING, Balancer
from autometa.learners import LEARNERS, Learner
from autometa.networks import BACKBONES, Backbone, Block
from autometa.networks.conditioning import CONDITIONING, ConditioningConfig
from autometa.sharing import SHARING, Sharing
from autometa.training.optimizers import OPTIMIZERS
from autometa.trial import REGISTRIES, OptimizerConfig, TrialConfig
from tests.contracts import variants
from tests.small import TABLE, make_problem

COVERED = {
    "backbone": (BACKBONES, variants.BACKBONE_SETTINGS),
    "sharing": (SHARING, variants.SHARING_SETTINGS),
    "adaptation": (LEARNERS, variants.LEARNER_SETTINGS),
    "balancing": (BALANCING, variants.BALANCING_SETTINGS),
    "optimizer": (OPTIMIZERS, variants.OPTIMIZER_SETTINGS),
}
ENTRIES = [(axis, kind) for axis, (registry, _) in COVERED.items() for kind in registry]
SECTIONS = [(axis, kind) for axis, kind in ENTRIES if axis != "optimizer"]


def sample(config: type[Any]) -> dict[str, Any]:
    """Another valid value than the default for every field that the settings can hold."""
    out: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        choices = [c for c in get_args(field.annotation) if isinstance(c, str)]
        if choices:
            out[name] = choices[-1]
        elif isinstance(field.default, float):
            out[name] = field.default / 2 + 0.125
        elif isinstance(field.default, int):
            out[name] = field.default + 1
        elif int in get_args(field.annotation):
            out[name] = 1
    return out


def test_registries_are_those_of_a_trial():
    assert {axis: registry for axis, (registry, _) in COVERED.items() if axis in REGISTRIES} == (
        REGISTRIES
    )
    assert set(get_args(OptimizerConfig.model_fields["kind"].annotation)) == set(OPTIMIZERS)
    assert set(get_args(ConditioningConfig.model_fields["kind"].annotation)) == set(CONDITIONING)


@pytest.mark.parametrize("axis", COVERED)
def test_every_entry_has_a_variant(axis):
    registry, settings = COVERED[axis]
    missing = set(registry) - set(settings)
    assert not missing, f"add {missing} to {axis.upper()}_SETTINGS in tests/contracts/variants.py"
    assert not set(settings) - set(registry)
    assert all(settings.values())


def test_every_setting_is_run():
    run = [v.values for v in variants.variants()]
    trained = variants.training_settings()
    in_episodes = [v.values for v in variants.episode_variants()]
    for axis, (_, table) in COVERED.items():
        for kind, settings in table.items():
            for setting in settings:
                wanted = {f"{axis}.kind": kind, **setting}.items()
                if axis == "adaptation" and LEARNERS[kind].episodic:
                    assert any(wanted <= values.items() for values in in_episodes)
                    continue
                assert any(wanted <= values.items() for values in trained)
                if axis != "optimizer":
                    assert any(wanted <= values.items() for values in run)


@pytest.mark.parametrize(("axis", "kind"), SECTIONS)
def test_entry_keeps_its_contract(axis, kind):
    entry = REGISTRIES[axis][kind]
    assert entry.Config().kind == kind
    contract = {"sharing": Sharing, "adaptation": Learner, "balancing": Balancer}
    if axis in contract:
        assert issubclass(entry, contract[axis])
        assert not entry.__abstractmethods__
        assert not entry.__subclasses__(), "classes are abstract or final"
    else:
        shape = variants.FEATURES.get(kind, TABLE)
        backbone = entry(entry.Config(), make_problem(shape=shape))
        assert isinstance(backbone, Backbone)
        assert all(isinstance(block, Block) for block in backbone.blocks)
        assert len(backbone.blocks) == entry.Config().depth


@pytest.mark.parametrize(("axis", "kind"), ENTRIES)
def test_config_round_trips(axis, kind):
    section = OptimizerConfig if axis == "optimizer" else REGISTRIES[axis][kind].Config
    values = {f"{axis}.{name}": value for name, value in sample(section).items()}
    values[f"{axis}.kind"] = kind
    config = TrialConfig.from_flat(values)
    flat = config.flat()
    assert values.items() <= flat.items()
    again = TrialConfig.from_flat(flat)
    assert again == config
    assert again.flat() == flat
    assert again.shape_key() == config.shape_key()
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(("axis", "kind"), ENTRIES)
def test_shape_key_ignores_per_run_fields_only(axis, kind):
    section = OptimizerConfig if axis == "optimizer" else REGISTRIES[axis][kind].Config
    base = TrialConfig.from_flat({f"{axis}.kind": kind})
    for name, value in sample(section).items():
        if name == "kind":
            continue
        other = TrialConfig.from_flat({f"{axis}.kind": kind, f"{axis}.{name}": value})
        assert other != base, f"the sample of {name} is its default"
        extra = section.model_fields[name].json_schema_extra or {}
        same = other.shape_key() == base.shape_key()
        assert same == bool(extra.get("per_run")), f"{axis}.{name}"


def test_names_of_rates_are_unique():
    # `TrialConfig.rates` merges the sections: a name used twice would be one number
    for axis, kind in SECTIONS:
        for other_axis, other_kind in SECTIONS:
            if other_axis <= axis:
                continue
            here, there = (
                TrialConfig.from_flat({f"{a}.kind": k})
                for a, k in ((axis, kind), (other_axis, other_kind))
            )
            first = _per_run(getattr(here, axis))
            assert not first & _per_run(getattr(there, other_axis))


def _per_run(section: Any) -> set[str]:
    fields = type(section).model_fields
    return {n for n, f in fields.items() if (f.json_schema_extra or {}).get("per_run")}
