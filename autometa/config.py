"""Base of all configurations: frozen pydantic models that refuse unknown keys.

Every mechanism defines its own config beside its code. A field declared with `per_run` may
differ between the runs of one population; every other field is part of `shape`, so two
configs with equal shapes build the same graph with the same tensor shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autometa.errors import ConfigError, UserError, nearest


class Config(BaseModel):
    """A frozen configuration; `model_dump(mode="json")` and `parse` round-trip it."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def shape(self) -> dict[str, Any]:
        """The part of this config that fixes graph and tensor shapes (no `per_run` field)."""
        out: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("per_run"):
                continue
            value = getattr(self, name)
            out[name] = value.shape() if isinstance(value, Config) else value
        return out


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def per_run(default: Any, **constraints: Any) -> Any:
    """Declare a field that may differ between the runs of one population (a rate, a decay)."""
    return Field(default, json_schema_extra={"per_run": True}, **constraints)


def parse(
    cls: type[ConfigT],
    data: Mapping[str, Any],
    *,
    where: str = "",
    error: type[UserError] = ConfigError,
) -> ConfigT:
    """Build `cls` from plain data.

    Raises:
        UserError: of the kind `error`, one sentence that names the key, the value found and, for
            an unknown key, the nearest valid one. `where` is put before the key.
    """
    try:
        return cls.model_validate(dict(data))
    except ValidationError as exc:
        raise error(_sentence(cls, exc, where)) from None


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted names: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out.update(flatten(value, f"{name}."))
        else:
            out[name] = value
    return out


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to a nested mapping, the inverse of `flatten`."""
    out: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = out
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return out


def read_yaml(text: str, where: str, error: type[UserError] = ConfigError) -> dict[str, Any]:
    """Parse YAML that users write: safe tags only, no aliases, no key twice, a mapping on top."""
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError as exc:
        raise error(f"{where} is not valid YAML: {' '.join(str(exc).split())}.") from None
    if not isinstance(data, dict):
        raise error(f"{where} should be a YAML mapping. Found `{type(data).__name__}`.")
    return data


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases (a small file can expand without bound) and repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (`*name`) are not allowed; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"key `{key}` appears twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _sentence(cls: type[BaseModel], exc: ValidationError, where: str) -> str:
    # a misspelt key is also a missing one: the unknown name is what the user must mend
    first = min(exc.errors(), key=lambda error: error["type"] != "extra_forbidden")
    name = ".".join([p for p in (where, *map(str, first["loc"])) if p])
    more = exc.error_count() - 1
    rest = f" ({more} more problem{'s' if more > 1 else ''} in the same place.)" if more else ""
    if first["type"] == "extra_forbidden":
        known = list(_fields_at(cls, first["loc"][:-1]))
        return (
            f"Parameter `{name}` is not known.{nearest(first['loc'][-1], known)} "
            f"Known here: {', '.join(known)}.{rest}"
        )
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{message}{rest}"
    if first["type"] == "missing":
        return f"Parameter `{name}` is missing.{rest}"
    message = message[0].lower() + message[1:]
    return f"Parameter `{name}`: {message}. Found `{first['input']!r}`.{rest}"


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> Iterator[str]:
    node: Any = cls
    for part in loc:
        field = getattr(node, "model_fields", {}).get(part)
        if field is None:
            return
        node = field.annotation
    yield from getattr(node, "model_fields", {})
