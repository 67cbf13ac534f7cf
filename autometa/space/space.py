"""The search space: a YAML file that says which parameters a search may change, and how.

    parameters:
      backbone.depth: 3                                                # fixed
      optimizer.lr: {type: float, low: 3.0e-4, high: 2.0e-2, log: true}
      conditioning.kind: {type: categorical, choices: [none, multiplicative]}
      conditioning.at:
        {type: categorical, choices: [input, every], when: {conditioning.kind: multiplicative}}

`sharing.partitions: {type: partitions}` searches trees of tasks (`parameters.Partitions`).
A parameter is suggested only where all of its `when` hold; elsewhere its default holds. One file
describes both arms of a study: in the arm `independent` the parameter `sharing.kind` is not
suggested but fixed to `independent`, and what hangs on other kinds of sharing falls away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna.distributions import BaseDistribution
from pydantic import Field

from autometa.config import Config, parse, read_yaml
from autometa.errors import SpaceError, nearest
from autometa.space.parameters import (
    BLOCKS_FROM,
    Categorical,
    Fixed,
    Float,
    Int,
    Parameter,
    Partitions,
    Suggests,
    n_blocks,
    read_parameter,
)

if TYPE_CHECKING:
    from autometa.networks import Problem
    from autometa.tasks import TaskSuite

Arm = Literal["sharing", "independent"]
Assignment = dict[str, Any]
KIND = "sharing.kind"
INDEPENDENT = "independent"
LARGE_IMAGE = 400
"""Images of at least so many pixels a channel get the convolutional default space."""


@dataclass(frozen=True)
class Space:
    """A search space; `bind` checks it against a suite before it is used.

    Attributes:
        text: the YAML it was read from, stored with every study.
        where: file or name, for messages.
        unbuildable: what `bind` does with choices that this suite cannot build: `error` or `drop`.
        parameters: name → parameter, in the order of the file.
        dropped: what `bind` left out and why, one sentence each.
    """

    text: str
    where: str
    description: str
    unbuildable: Literal["error", "drop"]
    parameters: dict[str, Parameter]
    dropped: tuple[str, ...] = ()

    @classmethod
    def from_yaml(cls, text: str, where: str = "the search space") -> Space:
        """Read and check everything that can be checked without a suite.

        Raises:
            SpaceError: not YAML, an unknown key or type, an empty range, a `when` or a bound that
                names a later or missing parameter, or a value that can never hold.
        """
        file = parse(_File, read_yaml(text, where, SpaceError), where=where, error=SpaceError)
        parameters = {
            name: read_parameter(raw, name, where) for name, raw in file.parameters.items()
        }
        space = cls(text, where, file.description, file.unbuildable, parameters)
        space.possible()  # raises where a `when` or a bound makes no sense
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
        for name, parameter in self._arm_parameters(arm):
            if not holds(parameter.when, given):
                continue
            if isinstance(parameter, Fixed):
                given[name] = parameter.value
            else:
                given[name] = parameter.suggest(trial, name, given)
        return given

    def distributions(self, arm: Arm) -> dict[str, BaseDistribution]:
        """Optuna's distribution of everything this arm can be suggested; a bound that names
        another parameter is taken at its widest. Trees need a space that is bound."""
        possible = self.possible(arm)
        widest = {n: (min(v), max(v)) for n, v in possible.items() if v and _all_ints(v)}
        out: dict[str, BaseDistribution] = {}
        for name, parameter in self._arm_parameters(arm):
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

    def bind(self, suite: TaskSuite | Problem, cuts: Sequence[str] | None = None) -> Space:
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
        trees: dict[str, Parameter | None] = {
            name: parameter.bound(problem.n_tasks, cuts)
            for name, parameter in self.parameters.items()
            if isinstance(parameter, Partitions)
        }
        return checked(self.without(trees, []), problem)

    def without(self, names: Mapping[str, Parameter | None], reasons: Sequence[str]) -> Space:
        """A copy in which some parameters are narrowed, or removed (None)."""
        kept = {n: names.get(n, p) for n, p in self.parameters.items()}
        parameters = {n: p for n, p in kept.items() if p is not None}
        return replace(self, parameters=parameters, dropped=(*self.dropped, *reasons))

    def possible(self, arm: Arm | None = None) -> dict[str, tuple[Any, ...]]:
        """Name → the values it can take, of every parameter that can be reached; an empty tuple
        stands for a range of numbers. Without `arm`: in either arm.

        Raises:
            SpaceError: a `when` or a bound names what is not an earlier parameter, or a value that
                it cannot have (without `arm` only: what one arm lacks the other may have).
        """
        found: dict[str, tuple[Any, ...]] = {}
        if arm is None and KIND not in self.parameters:
            found[KIND] = (*self._kinds("sharing"), INDEPENDENT)
        for name, parameter in self._arm_parameters(arm or "sharing"):
            if all(
                self._can_hold(name, other, values, found, strict=arm is None)
                for other, values in parameter.when.items()
            ):
                found[name] = self._values(name, parameter, found)
                if name == KIND and arm is None:
                    found[name] = tuple(dict.fromkeys((*found[name], INDEPENDENT)))
        return found

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
        if isinstance(self.parameters.get(other), Float) or not found[other]:
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

    def _arm_parameters(self, arm: Arm) -> list[tuple[str, Parameter]]:
        if arm == "sharing" and INDEPENDENT in self._all_kinds():
            fixed: Parameter | None = None
            if kinds := self._kinds("sharing"):
                old = self.parameters[KIND]
                fixed = old.model_copy(update={"choices": kinds})
        else:
            fixed = Fixed(value=INDEPENDENT) if arm == INDEPENDENT else None
        items = [
            (n, fixed if n == KIND and fixed is not None else p) for n, p in self.parameters.items()
        ]
        if arm == INDEPENDENT and KIND not in self.parameters:
            items.insert(0, (KIND, Fixed(value=INDEPENDENT)))
        return items

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


def default_space(suite: TaskSuite) -> Space:
    """`images` for images of at least `LARGE_IMAGE` pixels a channel, else `sharing`."""
    shape = tuple(suite.feature_shape)
    large = suite.input_kind == "image" and shape[-1] * shape[-2] >= LARGE_IMAGE
    return Space.load("images" if large else "sharing")


def shipped_spaces() -> dict[str, Path]:
    """Name → file of the spaces that come with autometa."""
    package = Path(__file__).parent.parent
    for folder in (package / "search_spaces", package.parent / "search_spaces"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def holds(when: Mapping[str, tuple[Any, ...]], given: Mapping[str, Any]) -> bool:
    """Whether every condition is met; a parameter that is absent meets none."""
    return all(other in given and given[other] in values for other, values in when.items())


class _File(Config):
    """The top of a search space file."""

    description: str = ""
    unbuildable: Literal["error", "drop"] = "error"
    parameters: dict[str, Any] = Field(min_length=1)


def _not_earlier(space: Space, name: str, key: str, other: str) -> SpaceError:
    names = list(space.parameters)
    earlier = names[: names.index(name)] if name in names else names
    what = "an earlier parameter" if key == "when" else "an earlier whole-number parameter"
    return SpaceError(
        f"Parameter `{name}` in {space.where}: `{key}` should name {what}. "
        f"Found `{other}`.{nearest(other, earlier)}"
    )


def _all_ints(values: tuple[Any, ...]) -> bool:
    return bool(values) and all(type(v) is int for v in values)
