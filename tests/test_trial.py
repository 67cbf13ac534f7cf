"""The configuration of a trial: defaults, flat names, errors, shape keys and rates."""

from __future__ import annotations

import pydantic
import pytest

from autometa.errors import ConfigError
from autometa.trial import TrialConfig, build, check
from tests.small import make_problem


def test_default_is_hard_sharing_of_everything():
    config = TrialConfig()
    assert config.flat()["sharing.kind"] == "hard"
    assert config.flat()["sharing.split_at"] is None
    assert config == TrialConfig.from_flat({})
    build(config, make_problem())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sharing.kind": "hrad"}, r"`sharing.kind` should be one of .*Did you mean `hard`\?"),
        ({"backbone.widht": 3}, r"`backbone.widht` is not known. Did you mean `width`\?"),
        ({"shraing.kind": "hard"}, r"`shraing` is not known. Did you mean `sharing`\?"),
        ({"optimizer.lr": -1.0}, r"`optimizer.lr`: .*greater than 0. Found `-1.0`"),
        ({"optimizer.kind": "adam"}, r"`optimizer.kind`: .*Found `'adam'`"),
        ({"backbone.dropout": 1.0}, r"`backbone.dropout`: .*less than 1"),
        ({"conditioning.kind": "film"}, r"`conditioning.kind`"),
        ({"sharing": "hard"}, r"`sharing` should be a mapping with a `kind`"),
        (
            {"sharing.kind": "independent", "sharing.split_at": 1},
            r"`sharing.split_at` is not known",
        ),
    ],
)
def test_errors_name_the_parameter(values, message):
    with pytest.raises(ConfigError, match=message):
        TrialConfig.from_flat(values)


def test_configs_are_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        TrialConfig().head = "single_head"  # type: ignore[misc]


def test_shape_key_is_stable_and_ignores_unused_conditioning():
    key = TrialConfig().shape_key()
    assert key == TrialConfig.from_flat({"conditioning.dim": 3}).shape_key()
    assert key != TrialConfig.from_flat({"conditioning.kind": "additive"}).shape_key()
    concat, additive = (
        TrialConfig.from_flat({"conditioning.kind": kind}) for kind in ("concat", "additive")
    )
    assert concat.shape_key() == additive.shape_key()
    assert concat != additive


def test_rates_are_the_per_run_numbers_of_the_forward_pass():
    assert TrialConfig.from_flat({"backbone.dropout": 0.25}).rates() == {"dropout": 0.25}


def test_check_builds_no_tensor(monkeypatch):
    import torch

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a tensor was drawn")

    monkeypatch.setattr(torch, "rand", refuse)
    monkeypatch.setattr(torch, "zeros", refuse)
    check(TrialConfig(), make_problem())
    with pytest.raises(ConfigError, match="split_at"):
        check(TrialConfig.from_flat({"sharing.split_at": 9}), make_problem())
    with pytest.raises(ConfigError, match="mlp"):
        check(TrialConfig.from_flat({"backbone.kind": "conv"}), make_problem())
