"""Configs: parsing with errors for people, flat names, YAML that users write."""

from __future__ import annotations

import pytest
from pydantic import Field

from autometa.config import Config, flatten, nest, parse, per_run, read_yaml
from autometa.errors import ConfigError, SpaceError, UserError, nearest


class Inner(Config):
    rate: float = per_run(0.5, ge=0.0)
    width: int = Field(3, ge=1)


class Outer(Config):
    name: str
    inner: Inner = Inner()


def test_round_trip():
    config = Outer(name="a", inner=Inner(rate=0.25, width=7))
    assert parse(Outer, config.model_dump(mode="json")) == config
    assert parse(Outer, nest(flatten(config.model_dump()))) == config


def test_shape_leaves_out_what_may_differ_per_run():
    assert Outer(name="a").shape() == {"name": "a", "inner": {"width": 3}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "Parameter `name` is missing"),
        ({"name": "a", "inner": {"widht": 1}}, r"`inner.widht` is not known. Did you mean `width`"),
        ({"nmae": "a"}, r"`nmae` is not known. Did you mean `name`"),
        ({"name": "a", "inner": {"width": 0}}, r"`inner.width`: .*Found `0`"),
        ({"name": "a", "inner": {"width": 0, "rate": -1}}, r"\(1 more problem in the same place"),
    ],
)
def test_parse_errors(data, message):
    with pytest.raises(ConfigError, match=message):
        parse(Outer, data)


def test_parse_says_where_and_raises_what_it_is_told():
    with pytest.raises(SpaceError, match="`here.inner.width`"):
        parse(Outer, {"name": "a", "inner": {"width": 0}}, where="here", error=SpaceError)


def test_flatten_and_nest_are_inverse():
    data = {"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}
    assert flatten(data) == {"a.b": 1, "a.c.d": None, "e": [1, 2]}
    assert nest(flatten(data)) == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "key `a` appears twice"),
        ("a: &x [1]\nb: *x", "aliases .* are not allowed"),
        ("- 1", "should be a YAML mapping. Found `list`"),
        ("", "should be a YAML mapping"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_yaml_is_strict(text, message):
    with pytest.raises(UserError, match=f"^file.yaml.*{message}"):
        read_yaml(text, "file.yaml")


def test_yaml():
    assert read_yaml("a: {b: 1}", "file") == {"a": {"b": 1}}


def test_nearest():
    assert nearest("hrad", ["hard", "soft"]) == " Did you mean `hard`?"
    assert nearest("zzz", ["hard"]) == ""
