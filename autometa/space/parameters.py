"""The kinds of parameters that a search space file may hold.

Fixed, float, int, categorical, and the partitions of a tree of tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BeforeValidator, Field

from autometa.config import Config, parse
from autometa.errors import SpaceError, nearest
from autometa.sharing.tree import refinements

PARTITIONS = "sharing.partitions"
CLUSTERS = "sharing.clusters"
BLOCKS_FROM = ("backbone.kind", "backbone.depth")
"""Parameters that fix the number of blocks."""
MAX_LISTED = 5
"""Up to so many tasks every tree is a point of the space: 52 partitions of 5 tasks, 203 of 6."""
MAX_CLUSTERS = 8
"""Beyond `MAX_LISTED`, a block has at most so many groups."""

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-3, written without a dot, as a string.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def read_plain(value: Any) -> Any:
    """A plain value as a parameter of the file would have it."""
    return _number(value)


def _numbers(value: Any) -> Any:
    return [_number(v) for v in value] if isinstance(value, list) else value


def _conditions(value: Any) -> Any:
    if isinstance(value, Mapping):
        value = (value,) if value else ()
    return tuple(_condition(one) for one in value) if isinstance(value, list | tuple) else value


def _condition(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {k: _numbers(v) if isinstance(v, list) else [_number(v)] for k, v in value.items()}


Scalar = bool | int | float | str | None
Condition = dict[str, tuple[Scalar, ...]]
"""Names of earlier parameters → the values that each may have; all have to hold."""
When = Annotated[tuple[Condition, ...], BeforeValidator(_conditions)]
"""Conditions of which one has to hold; none: always."""


class Suggests(Protocol):
    """What `Space.suggest` asks of a trial: `optuna.trial.Trial` and its look-alikes have it."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Fixed(Config):
    """A plain value in the file: not searched."""

    value: Scalar
    when: When = ()


class Float(Config):
    """A number from `low` to `high`, on a log scale with `log`, on a grid with `step`."""

    type: Literal["float"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    step: float | None = Field(None, gt=0)
    when: When = ()

    def distribution(self, given: Mapping[str, Any]) -> FloatDistribution:
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: Suggests, name: str, given: Mapping[str, Any]) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


class Int(Config):
    """A whole number; `low` and `high` may name an earlier parameter that is one."""

    type: Literal["int"]
    low: int | str
    high: int | str
    log: bool = False
    step: int = Field(1, ge=1)
    when: When = ()

    def bounds(self, given: Mapping[str, Any]) -> tuple[int, int]:
        low, high = (int(given[b]) if isinstance(b, str) else b for b in (self.low, self.high))
        return low, high - (high - low) % self.step

    def distribution(self, given: Mapping[str, Any]) -> IntDistribution:
        low, high = self.bounds(given)
        return IntDistribution(low, high, log=self.log, step=self.step)

    def suggest(self, trial: Suggests, name: str, given: Mapping[str, Any]) -> int:
        low, high = self.bounds(given)
        return trial.suggest_int(name, low, high, log=self.log, step=self.step)


class Categorical(Config):
    """One of `choices`."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], BeforeValidator(_numbers)] = Field(min_length=1)
    when: When = ()

    def distribution(self, given: Mapping[str, Any]) -> CategoricalDistribution:
        return CategoricalDistribution(self.choices)

    def suggest(self, trial: Suggests, name: str, given: Mapping[str, Any]) -> Any:
        return trial.suggest_categorical(name, self.choices)


class PartitionsEntry(Config):
    """What a file says of them: that they are searched."""

    type: Literal["partitions"]
    when: When = ()


class Partitions(PartitionsEntry):
    """A tree of tasks, suggested block by block; each partition refines the one before.

    Up to `MAX_LISTED` tasks: `sharing.partitions.1` is any partition, `sharing.partitions.2.0011`
    any refinement of `0011`, and so on. What may be chosen follows from the name, as Optuna wants
    it, and equal trees are one point. Beyond: the groups of a block are a cut of one dendrogram of
    the tasks, `sharing.clusters.1` ≤ `sharing.clusters.2` ≤ … clusters, so each refines the one
    before. What has one choice is not asked for. That all tasks are apart from the first block on
    is left out: it is the independent arm.

    `n_tasks`: 0 until the space is bound to a suite. `cuts`: the tasks in 1, 2, … clusters; empty
    up to `MAX_LISTED` tasks.
    """

    n_tasks: int = 0
    cuts: tuple[str, ...] = ()

    def bound(self, n_tasks: int, cuts: Sequence[str] | None) -> Partitions:
        """For so many tasks; beyond `MAX_LISTED` without `cuts`, placeholders good for checks."""
        most = min(n_tasks, MAX_CLUSTERS)
        if n_tasks <= MAX_LISTED:
            found: tuple[str, ...] = ()
        elif cuts is not None:
            found = tuple(cuts)
        else:  # one more task set apart in each
            found = tuple(
                "".join(str(min(task, k)) for task in range(n_tasks)) for k in range(most)
            )
        return self.model_copy(update={"n_tasks": n_tasks, "cuts": found})

    def suggest(self, trial: Suggests, name: str, given: Mapping[str, Any]) -> str:
        chosen: list[str] = []
        for block in range(1, n_blocks(given) + 1):
            choices = self._choices(chosen[-1] if chosen else None)
            if len(choices) == 1:
                chosen.append(choices[0])
            elif self.cuts:
                low = self.cuts.index(choices[0]) + 1
                count = trial.suggest_int(f"{CLUSTERS}.{block}", low, low + len(choices) - 1)
                chosen.append(self.cuts[count - 1])
            else:
                asked = f"{name}.{block}" + (f".{chosen[-1]}" if chosen else "")
                chosen.append(trial.suggest_categorical(asked, choices))
        return "/".join(chosen)

    def distributions(self, name: str, blocks: int) -> dict[str, BaseDistribution]:
        """Everything that can be asked for in a tree of at most so many blocks."""
        out: dict[str, BaseDistribution] = {}
        first = self._choices(None)
        if self.cuts:
            out[f"{CLUSTERS}.1"] = IntDistribution(1, len(first))
            for block in range(2, blocks + 1):
                out[f"{CLUSTERS}.{block}"] = IntDistribution(1, len(self.cuts))
            return out
        if len(first) > 1:
            out[f"{name}.1"] = CategoricalDistribution(first)
        reached = dict.fromkeys(first)
        for block in range(2, blocks + 1):
            for before in reached:
                if len(choices := self._choices(before)) > 1:
                    out[f"{name}.{block}.{before}"] = CategoricalDistribution(choices)
            reached = dict.fromkeys(fine for before in reached for fine in self._choices(before))
        return out

    def examples(self, blocks: int) -> tuple[str, ...]:
        """Trees that stand for all in checks: first splits at every block, coarse and fine."""
        first = self._choices(None)
        one, finest = first[0], self._choices(first[0])[-1]
        trees = [[one] * at + [finest] * (blocks - at) for at in range(1, blocks + 1)]
        trees += [[first[min(1, len(first) - 1)]] * blocks, [first[-1]] * blocks]
        return tuple(dict.fromkeys("/".join(tree) for tree in trees))

    def _choices(self, before: str | None) -> tuple[str, ...]:
        """Partitions of the block that follows `before` (None: of the first)."""
        if before is not None:
            return self.cuts[self.cuts.index(before) :] if self.cuts else refinements(before)
        every = self.cuts or refinements("0" * self.n_tasks)
        apart = len(set(every[-1])) == self.n_tasks > 1
        return every[:-1] if apart else every


def holds(when: When, given: Mapping[str, Any]) -> bool:
    """Whether a condition is met, if there is any; a parameter that is absent meets none."""
    return not when or any(
        all(other in given and given[other] in values for other, values in condition.items())
        for condition in when
    )


def n_blocks(given: Mapping[str, Any]) -> int:
    """Blocks of the network under an assignment that may leave the backbone at its defaults."""
    from autometa.trial import TrialConfig

    backbone: Any = TrialConfig.from_flat({n: given[n] for n in BLOCKS_FROM if n in given}).backbone
    return int(backbone.depth)


def readable(params: Mapping[str, Any], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was suggested, with the tree as a whole in place of the questions it was put together
    from; `config` is the trial's configuration, None if it is not known yet."""
    if config is None:
        return dict(params)
    asked = (f"{PARTITIONS}.", f"{CLUSTERS}.")
    return {
        PARTITIONS if name.startswith(asked) else name: (
            config[PARTITIONS] if name.startswith(asked) else value
        )
        for name, value in params.items()
    }


Parameter = Fixed | Float | Int | Categorical | Partitions
TYPES: dict[str, type[Config]] = {
    "float": Float,
    "int": Int,
    "categorical": Categorical,
    "partitions": PartitionsEntry,
}


def read_parameter(raw: Any, name: str, where: str) -> Parameter:
    """One entry of `parameters:`.

    Raises:
        SpaceError: not a plain value, or a mapping with a wrong key, type or range.
    """
    place = f"Parameter `{name}` in {where}"
    if isinstance(raw, list):
        raise SpaceError(
            f"{place} should be one value or a mapping. Found a list: to search over it write "
            f"`{{type: categorical, choices: {raw}}}`."
        )
    if not isinstance(raw, Mapping):
        return parse(Fixed, {"value": _number(raw)}, where=f"{where}: {name}", error=SpaceError)
    kind = raw.get("type")
    if kind not in TYPES:
        raise SpaceError(
            f"{place} should have `type: ` {', '.join(TYPES)}. Found `type = {kind}`."
            f"{nearest(kind, TYPES)}"
        )
    data = {k: _number(v) if k in ("low", "high", "step") else v for k, v in raw.items()}
    parameter: Any = parse(TYPES[kind], data, where=f"{where}: {name}", error=SpaceError)
    if isinstance(parameter, PartitionsEntry):
        if name != PARTITIONS:
            raise SpaceError(f"{place}: `type: partitions` is for `{PARTITIONS}` alone.")
        return Partitions.model_validate(data)
    if isinstance(parameter, Categorical):
        if len(set(parameter.choices)) < len(parameter.choices):
            raise SpaceError(f"{place}: a choice appears twice in {list(parameter.choices)}.")
        return parameter
    low, high = parameter.low, parameter.high
    known = not isinstance(low, str) and not isinstance(high, str)
    if known and low > high:
        raise SpaceError(
            f"{place}: `low` should be at most `high`. Found `low = {low}`, `high = {high}`."
        )
    if parameter.log and not isinstance(low, str) and low <= 0:
        raise SpaceError(f"{place}: `low` should be above 0 with `log: true`. Found `low = {low}`.")
    if parameter.log and parameter.step not in (None, 1):
        raise SpaceError(f"{place}: `log` and `step` cannot be combined. Leave one out.")
    return parameter
