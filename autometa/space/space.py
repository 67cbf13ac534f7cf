"""The search space: a YAML file that says which parameters a search may change, and how.

    parameters:
      backbone.depth: 3                                                # fixed
      optimizer.lr: {type: float, low: 3.0e-4, high: 2.0e-2, log: true}
      conditioning.kind: {type: categorical, choices: [none, multiplicative]}
      conditioning.at:
        {type: categorical, choices: [input, every], when: {conditioning.kind: multiplicative}}

`sharing.partitions: {type: partitions}` searches trees of tasks (`parameters.Partitions`).
A parameter is suggested only where all of its `when` holds, or one of a list of such conditions;
elsewhere its default holds. One file describes both arms of a study: in the arm `independent` the
parameter `sharing.kind` is not suggested but fixed to `independent`, and what hangs on other kinds
of sharing falls away. Parameters under `independent:` are that arm's alone; they take the place of
those of the same name, and new ones come after all others. `defaults:` holds the configurations
that each arm starts with (`defaults`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna.distributions import BaseDistribution
from pydantic import Field

from autometa.config import Config, parse, read_yaml
from autometa.errors import SpaceError, nearest
from autometa.space.defaults import (
    Defaults,
    buildable,
    check_defaults,
    read_defaults,
    suggestions,
)
from autometa.space.parameters import (
    BLOCKS_FROM,
    Categorical,
    Fixed,
    Float,
    Int,
    Parameter,
    Partitions,
    Suggests,
    holds,
    n_blocks,
    read_parameter,
)
from autometa.space.shipped import shipped_spaces

if TYPE_CHECKING:
    from autometa.networks import Problem
    from autometa.tasks import EpisodicSuite, TaskSuite

Arm = Literal["sharing", "independent"]
Section = Literal["parameters", "independent"]
Key = tuple[Section, str]
"""Which parameter: the section of the file, and its name."""
Assignment = dict[str, Any]
KIND = "sharing.kind"
INDEPENDENT = "independent"


@dataclass(frozen=True)
class Space:
    """A search space; `bind` checks it against a suite before it is used.

    Attributes:
        text: the YAML it was read from, stored with every study.
        where: file or name, for messages.
        unbuildable: what `bind` does with choices that this suite cannot build: `error` or `drop`.
        parameters: name → parameter, in the order of the file.
        independent: likewise of the independent arm alone.
        dropped: what `bind` left out and why, one sentence each.
        defaults: arm → the configurations it starts with.
    """

    text: str
    where: str
    description: str
    unbuildable: Literal["error", "drop"]
    parameters: dict[str, Parameter]
    independent: dict[str, Parameter] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    defaults: Defaults = field(default_factory=dict)

    @classmethod
    def from_yaml(cls, text: str, where: str = "the search space") -> Space:
        """Read and check everything that can be checked without a suite.

        Raises:
            SpaceError: not YAML, an unknown key or type, an empty range, a `when` or a bound that
                names a later or missing parameter, a value that can never hold, a parameter that
                the arms search in ways that one study cannot hold, or a default configuration that
                is none of this space.
        """
        file = parse(_File, read_yaml(text, where, SpaceError), where=where, error=SpaceError)
        parameters, independent = (
            {name: read_parameter(raw, name, where) for name, raw in section.items()}
            for section in (file.parameters, file.independent)
        )
        for name, parameter in independent.items():
            if name == KIND or isinstance(parameter, Partitions):
                raise SpaceError(
                    f"Parameter `{name}` in {where} should not be under `independent:`, where "
                    f"`{KIND}` is `{INDEPENDENT}`."
                )
        space = cls(
            text,
            where,
            file.description,
            file.unbuildable,
            parameters,
            independent,
            defaults=read_defaults(file.defaults),
        )
        space.possible()  # raises where a `when` or a bound makes no sense
        space.check_arms_agree()
        check_defaults(space)
        return space

    @classmethod
    def load(cls, path_or_name: str | Path) -> Space:
        """A YAML file, or a shipped space by name (`shipped_spaces()`).

        Raises:
            SpaceError: there is no such file and no such name, or the file is not a valid space.
        """
        path, shipped = Path(path_or_name), shipped_spaces()
        name = str(path_or_name).removesuffix(".yaml")
        if not path.is_file():
            if name not in shipped:
                raise SpaceError(
                    "Parameter `space` should be a YAML file or one of "
                    f"{', '.join(shipped)}. Found `space = {path_or_name}`.{nearest(name, shipped)}"
                )
            path = shipped[name]
        try:
            return cls.from_yaml(path.read_text(encoding="utf-8"), str(path_or_name))
        except (OSError, UnicodeDecodeError) as exc:
            raise SpaceError(f"Space `{path_or_name}` cannot be read: {exc}.") from None

    @property
    def arms(self) -> tuple[Arm, ...]:
        """`sharing` is missing where the file offers nothing but independent networks."""
        values = self._kinds("sharing")
        return ("sharing", "independent") if values else ("independent",)

    def suggest(self, trial: Suggests, arm: Arm) -> Assignment:
        """Every parameter's value for one trial, fixed ones included, in the order of the file.

        Asking twice with one Optuna trial gives the same values, so that a trial whose driver was
        killed half-way through can be asked again.
        """
        given: Assignment = {}
        for name, parameter in self.arm_parameters(arm):
            if not holds(parameter.when, given):
                continue
            if isinstance(parameter, Fixed):
                given[name] = parameter.value
            else:
                given[name] = parameter.suggest(trial, name, given)
        return given

    def default_suggestions(self, arm: Arm) -> list[dict[str, Any]]:
        """The configurations that an arm starts with: what `suggest` is to be answered."""
        return suggestions(self, arm)

    def distributions(self, arm: Arm) -> dict[str, BaseDistribution]:
        """Optuna's distribution of everything this arm can be suggested; a bound that names
        another parameter is taken at its widest. Trees need a space that is bound."""
        possible = self.possible(arm)
        widest = {n: (min(v), max(v)) for n, v in possible.items() if v and _all_ints(v)}
        out: dict[str, BaseDistribution] = {}
        for name, parameter in self.arm_parameters(arm):
            if name not in possible or isinstance(parameter, Fixed):
                continue
            if isinstance(parameter, Partitions):
                out.update(parameter.distributions(name, self.block_counts(possible)[-1]))
                continue
            if isinstance(parameter, Int):
                low, high = parameter.low, parameter.high
                low = widest[low][0] if isinstance(low, str) else low
                high = widest[high][1] if isinstance(high, str) else high
                parameter = parameter.model_copy(update={"low": low, "high": high})
            out[name] = parameter.distribution({})
        return out

    @property
    def cuts(self) -> tuple[str, ...]:
        """The nested groups that trees are made of; empty without trees of many tasks."""
        found = [p.cuts for p in self.parameters.values() if isinstance(p, Partitions)]
        return found[0] if found else ()

    def bind(
        self, suite: TaskSuite | EpisodicSuite | Problem, cuts: Sequence[str] | None = None
    ) -> Space:
        """This space for one suite, every branch of it known to be buildable.

        Args:
            cuts: partitions of the tasks into 1, 2, … clusters, each refining the one before, of
                which trees of more than `MAX_LISTED` tasks are made. Without them the groups are
                placeholders: enough to check the space, not to search it.

        Raises:
            SpaceError: an unknown parameter or choice (with the nearest valid one), a branch that
                cannot be built, or a parameter that no branch reaches.
        """
        from autometa.networks import Problem
        from autometa.space.check import checked

        problem = suite if isinstance(suite, Problem) else Problem.of(suite)
        trees: dict[Key, Parameter | None] = {
            ("parameters", name): parameter.bound(problem.n_tasks, cuts)
            for name, parameter in self.parameters.items()
            if isinstance(parameter, Partitions)
        }
        bound = checked(self.without(trees), problem)
        return replace(bound, defaults=buildable(bound, problem))

    def entries(self) -> dict[Key, Parameter]:
        """The parameters of both sections."""
        shared: dict[Key, Parameter] = {("parameters", n): p for n, p in self.parameters.items()}
        return shared | {("independent", n): p for n, p in self.independent.items()}

    def key(self, name: str, arm: Arm) -> Key:
        """Which parameter a name means in an arm."""
        own = arm == INDEPENDENT and name in self.independent
        return ("independent" if own else "parameters", name)

    def without(
        self, changes: Mapping[Key, Parameter | None], reasons: Sequence[str] = ()
    ) -> Space:
        """A copy in which some parameters are narrowed, or removed (None)."""
        kept = {key: changes.get(key, parameter) for key, parameter in self.entries().items()}
        shared, own = (
            {n: p for (section, n), p in kept.items() if section == wanted and p is not None}
            for wanted in ("parameters", "independent")
        )
        dropped = (*self.dropped, *reasons)
        return replace(self, parameters=shared, independent=own, dropped=dropped)

    def check_arms_agree(self) -> None:
        """What both arms are asked for by one name has to be one thing to Optuna.

        Raises:
            SpaceError: they differ in type, scale or choices (ranges may differ).
        """
        for name, own in self.independent.items():
            other = self.parameters.get(name)
            pair = [p for p in (own, other) if not isinstance(p, Fixed | None)]
            if (
                len({(p.type, getattr(p, "log", None), getattr(p, "choices", None)) for p in pair})
                > 1
            ):
                raise SpaceError(
                    f"Parameter `{name}` in {self.where}: one study cannot hold what `parameters:` "
                    "and `independent:` say of it; `type` and `log` or `choices` should be equal "
                    f"(ranges may differ). Found `{_brief(other)}` and `{_brief(own)}`."
                )

    def possible(self, arm: Arm | None = None) -> dict[str, tuple[Any, ...]]:
        """Name → the values it can take, of every parameter that can be reached; an empty tuple
        stands for a range of numbers. Without `arm`: in either arm.

        Raises:
            SpaceError: a `when` or a bound names what is not an earlier parameter, or a value that
                it cannot have (without `arm` only: what one arm lacks the other may have).
        """
        if arm is not None:
            return self._reach(arm, {})
        alone: dict[str, tuple[Any, ...]] = {KIND: (INDEPENDENT,)}
        if self.independent:
            alone = self._reach("independent", {}, strict=self.independent)
        return self._reach("sharing", alone, strict=self.parameters)

    def _reach(
        self,
        arm: Arm,
        others: Mapping[str, tuple[Any, ...]],
        strict: Container[str] = (),
    ) -> dict[str, tuple[Any, ...]]:
        """The values of one arm's parameters, with those they may have in the other arm.

        Args:
            strict: parameters of which every condition has to make sense.
        """
        found: dict[str, tuple[Any, ...]] = {}
        if others and KIND not in self.parameters:
            found[KIND] = (*self._kinds("sharing"), INDEPENDENT)
        for name, parameter in self.arm_parameters(arm):
            fits = [
                [
                    self._can_hold(name, other, values, found, strict=name in strict)
                    for other, values in condition.items()
                ]
                for condition in parameter.when
            ]
            if not fits or any(map(all, fits)):
                found[name] = self._values(name, parameter, found)
                if name in others and (name == KIND or name in self.independent):
                    ranges = not found[name] or not others[name]
                    both = dict.fromkeys((*found[name], *others[name]))
                    found[name] = () if ranges else tuple(both)
        return {**{n: v for n, v in others.items() if n not in found}, **found}

    def block_counts(self, possible: Mapping[str, tuple[Any, ...]]) -> list[int]:
        """Every number of blocks that a network can have, from what `possible` returned."""
        kinds, depths = (
            [{name: value} for value in possible.get(name, ())] or [{}] for name in BLOCKS_FROM
        )
        return sorted({n_blocks({**kind, **depth}) for kind in kinds for depth in depths})

    def _can_hold(
        self,
        name: str,
        other: str,
        values: tuple[Any, ...],
        found: Mapping[str, tuple[Any, ...]],
        *,
        strict: bool,
    ) -> bool:
        if other not in found:
            if strict:
                raise _not_earlier(self, name, "when", other)
            return False
        if not found[other]:
            raise SpaceError(
                f"Parameter `{name}` in {self.where}: `when` should name a categorical, int or "
                f"fixed parameter. Found `{other}`, which is a range."
            )
        wrong = [v for v in values if v not in found[other]]
        if strict and wrong:
            raise SpaceError(
                f"Parameter `{name}` in {self.where}: `when: {{{other}: {wrong[0]}}}` can never "
                f"hold, because `{other}` is one of {', '.join(map(str, found[other]))}."
                f"{nearest(wrong[0], found[other])}"
            )
        return len(wrong) < len(values)

    def _values(
        self, name: str, parameter: Parameter, found: Mapping[str, tuple[Any, ...]]
    ) -> tuple[Any, ...]:
        if isinstance(parameter, Fixed):
            return (parameter.value,)
        if isinstance(parameter, Categorical):
            return parameter.choices
        if isinstance(parameter, Partitions):
            names = list(self.parameters)
            for other in BLOCKS_FROM:
                if other in names[names.index(name) :]:
                    raise SpaceError(
                        f"Parameter `{name}` in {self.where} should come after `{other}`, which "
                        "says how many blocks there are."
                    )
        if isinstance(parameter, Float | Partitions):
            return ()
        ends = []
        for key, bound, pick in (("low", parameter.low, min), ("high", parameter.high, max)):
            if isinstance(bound, str):
                if bound not in found or not _all_ints(found[bound]):
                    raise _not_earlier(self, name, key, bound)
                bound = pick(found[bound])
            ends.append(bound)
        count = (ends[1] - ends[0]) // parameter.step + 1
        return tuple(range(ends[0], ends[1] + 1, parameter.step)) if count <= 1000 else ()

    def arm_parameters(self, arm: Arm) -> list[tuple[str, Parameter]]:
        """Names and parameters of one arm, `sharing.kind` as it is there."""
        if arm == "sharing" and INDEPENDENT in self._all_kinds():
            fixed: Parameter | None = None
            if kinds := self._kinds("sharing"):
                old = self.parameters[KIND]
                fixed = old.model_copy(update={"choices": kinds})
        else:
            fixed = Fixed(value=INDEPENDENT) if arm == INDEPENDENT else None
        own = self.independent if arm == INDEPENDENT else {}
        items = {
            n: fixed if n == KIND and fixed is not None else own.get(n, p)
            for n, p in self.parameters.items()
        }
        if arm == INDEPENDENT and KIND not in self.parameters:
            items = {KIND: Fixed(value=INDEPENDENT), **items}
        return list({**items, **own}.items())

    def _all_kinds(self) -> tuple[Any, ...]:
        parameter = self.parameters.get(KIND)
        if isinstance(parameter, Categorical):
            return parameter.choices
        if isinstance(parameter, Fixed):
            return (parameter.value,)
        from autometa.trial import TrialConfig

        return (TrialConfig().flat()[KIND],)

    def _kinds(self, arm: Arm) -> tuple[Any, ...]:
        return tuple(k for k in self._all_kinds() if (k == INDEPENDENT) == (arm == INDEPENDENT))


class _File(Config):
    """The top of a search space file."""

    description: str = ""
    unbuildable: Literal["error", "drop"] = "error"
    parameters: dict[str, Any] = Field(min_length=1)
    independent: dict[str, Any] = Field(default_factory=dict)
    defaults: dict[Arm, list[dict[str, Any]]] = Field(default_factory=dict)


def _not_earlier(space: Space, name: str, key: str, other: str) -> SpaceError:
    names = list(dict.fromkeys((*space.parameters, *space.independent)))
    earlier = names[: names.index(name)] if name in names else names
    what = "an earlier parameter" if key == "when" else "an earlier whole-number parameter"
    return SpaceError(
        f"Parameter `{name}` in {space.where}: `{key}` should name {what}. "
        f"Found `{other}`.{nearest(other, earlier)}"
    )


def _brief(parameter: Parameter | None) -> str:
    if isinstance(parameter, Categorical):
        return f"choices: {list(parameter.choices)}"
    log = ", log: true" if getattr(parameter, "log", False) else ""
    return f"type: {getattr(parameter, 'type', None)}{log}"


def _all_ints(values: tuple[Any, ...]) -> bool:
    return bool(values) and all(type(v) is int for v in values)
