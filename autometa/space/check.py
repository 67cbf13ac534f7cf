"""Checks a search space against a suite: can every branch of it be built?

A branch is one value for each parameter that is not a plain range. Branches are enumerated, or,
beyond `MAX_BRANCHES`, chosen so that every two values that can occur together do; configuration
errors are the file's fault and always raised, whereas what this suite cannot build may be dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, islice
from typing import Any

from autometa.errors import ConfigError, SpaceError, nearest
from autometa.networks import Problem
from autometa.space.parameters import (
    Categorical,
    Fixed,
    Float,
    Int,
    Parameter,
    Partitions,
    n_blocks,
)
from autometa.space.space import (
    INDEPENDENT,
    KIND,
    Arm,
    Assignment,
    Space,
    holds,
)
from autometa.trial import REGISTRIES, TrialConfig, check

MAX_BRANCHES = 20_000
MAX_WHOLE_RANGE = 8
"""A whole-number range of more values than this is tried at its ends."""

Choice = tuple[str, Any]


def checked(space: Space, problem: Problem) -> Space:
    """See `Space.bind`."""
    _check_names(space)
    while True:
        branches = list(_branches(space))
        _check_reached(space, branches)
        failed: list[tuple[Assignment, str]] = []
        good: set[Choice] = set()
        for branch in branches:
            reason = _cannot_build(space, branch, problem)
            if reason is None:
                good.update(branch.items())
            else:
                failed.append((branch, reason))
        if not failed:
            _check_ranges(space, branches, problem)
            return space
        lost = {
            choice: reason
            for branch, reason in failed
            for choice in branch.items()
            if choice not in good
        }
        if not good:
            raise SpaceError(f"{_title(space)} cannot be built on this suite: {failed[0][1]}")
        if space.unbuildable == "error" or not lost:
            branch, reason = failed[0]
            blamed = {n: v for n, v in branch.items() if (n, v) in lost} or branch
            advice = "Remove that choice, restrict it with `when`, or set `unbuildable: drop`."
            if not lost:
                advice = "Each choice can be built, but not together: restrict one with `when`."
            raise SpaceError(
                f"{_title(space)} has a branch that cannot be built on this suite, "
                f"{_words(space, blamed)}: {reason} {advice}"
            )
        space = _drop(space, lost)


def known_names() -> dict[str, None]:
    """Every dotted parameter name that some `TrialConfig` has."""
    names = dict.fromkeys(TrialConfig().flat())
    for axis, registry in REGISTRIES.items():
        for cls in registry.values():
            names.update(dict.fromkeys(f"{axis}.{field}" for field in cls.Config.model_fields))
    return names


def _check_names(space: Space) -> None:
    known = known_names()
    for name in space.parameters:
        if name not in known:
            raise SpaceError(
                f"Parameter `{name}` in {space.where} is not known.{nearest(name, known)} "
                f"Known: {', '.join(known)}."
            )


def _check_reached(space: Space, branches: list[Assignment]) -> None:
    reached = {name for branch in branches for name in branch}
    for name, parameter in space.parameters.items():
        if name not in reached:
            when = ", ".join(f"{o} in {list(v)}" for o, v in parameter.when.items())
            raise SpaceError(
                f"Parameter `{name}` in {space.where} is never reached: no branch has {when}. "
                "Remove it or change its `when`."
            )


def _cannot_build(space: Space, branch: Assignment, problem: Problem) -> str | None:
    """Why the suite cannot build it; what no suite could build raises."""
    try:
        config = TrialConfig.from_flat(branch)
    except ConfigError as exc:
        hint = ""
        if branch.get(KIND) == INDEPENDENT:
            hint = f" If it belongs to other kinds of sharing, add `when: {{{KIND}: …}}`."
        raise SpaceError(
            f"{_title(space)} has a branch that is not valid, {_words(space, branch)}: {exc}{hint}"
        ) from None
    try:
        check(config, problem)
    except ConfigError as exc:
        return str(exc)
    return None


def _check_ranges(space: Space, branches: list[Assignment], problem: Problem) -> None:
    """Both ends of every range of floats, each in the first branch that has it."""
    for name, parameter in space.parameters.items():
        if isinstance(parameter, Float):
            branch = next(b for b in branches if name in b)
            for end in (parameter.low, parameter.high):
                reason = _cannot_build(space, {**branch, name: end}, problem)
                if reason is not None:
                    raise SpaceError(f"{_title(space)}, with `{name} = {end}`: {reason}")


def _branches(space: Space) -> Iterator[Assignment]:
    for arm in space.arms:
        found = list(islice(_product(space, arm), MAX_BRANCHES + 1))
        yield from found if len(found) <= MAX_BRANCHES else _pairs(space, arm)


def _product(space: Space, arm: Arm) -> Iterator[Assignment]:
    items = space._arm_parameters(arm)

    def walk(position: int, given: Assignment) -> Iterator[Assignment]:
        while position < len(items) and not holds(items[position][1].when, given):
            position += 1
        if position == len(items):
            yield given
            return
        name, parameter = items[position]
        for value in _values(space, name, parameter, given):
            yield from walk(position + 1, {**given, name: value})

    return walk(0, {})


def _pairs(space: Space, arm: Arm) -> Iterator[Assignment]:
    """Branches that together hold every two values that can occur together."""
    possible = space.possible(arm)
    parameters = dict(space._arm_parameters(arm))
    choices = [
        (name, value)
        for name in possible
        for value in _candidates(space, parameters[name], possible, name)
    ]
    seen: set[frozenset[Choice]] = set()
    for (name, value), (other, second) in combinations(choices, 2):
        pair = frozenset(((name, value), (other, second)))
        if name == other or pair in seen:
            continue
        branch = _complete(space, parameters, {name: value, other: second})
        if branch is not None:
            seen.update(map(frozenset, combinations(branch.items(), 2)))
            yield branch


def _candidates(
    space: Space, parameter: Parameter, possible: Mapping[str, tuple[Any, ...]], name: str
) -> tuple[Any, ...]:
    if isinstance(parameter, Partitions):
        return tuple(tree for n in space.block_counts(possible) for tree in parameter.examples(n))
    return _spread(parameter, possible[name])


def _complete(
    space: Space, parameters: Mapping[str, Parameter], wanted: Assignment
) -> Assignment | None:
    """A branch with the wanted values, or None where they exclude each other."""
    forced, queue = dict(wanted), list(wanted)
    while queue:
        for other, allowed in parameters[queue.pop()].when.items():
            if other not in forced:
                forced[other] = allowed[0]
                queue.append(other)
            elif forced[other] not in allowed:
                return None
    given: Assignment = {}
    for name, parameter in parameters.items():
        if holds(parameter.when, given):
            values = _values(space, name, parameter, given)
            given[name] = forced.get(name, values[0])
            if name in forced and not isinstance(parameter, Int) and forced[name] not in values:
                return None
            if isinstance(parameter, Int):
                low, high = parameter.bounds(given)
                if not low <= given[name] <= high:
                    return None
    return given if all(name in given for name in wanted) else None


def _values(
    space: Space, name: str, parameter: Parameter, given: Mapping[str, Any]
) -> tuple[Any, ...]:
    if isinstance(parameter, Fixed):
        return (parameter.value,)
    if isinstance(parameter, Categorical):
        return parameter.choices
    if isinstance(parameter, Float):
        return (parameter.low,)
    if isinstance(parameter, Partitions):
        return parameter.examples(n_blocks(given))
    missing = [b for b in (parameter.low, parameter.high) if isinstance(b, str) and b not in given]
    if missing:
        raise SpaceError(
            f"Parameter `{name}` in {space.where} is bounded by `{missing[0]}`, which is absent "
            f"{_words(space, given)}. Give both the same `when`."
        )
    low, high = parameter.bounds(given)
    if low > high:
        raise SpaceError(
            f"Parameter `{name}` in {space.where} has no value {_words(space, given)}: `low` "
            f"should be at most `high`. Found `low = {low}`, `high = {high}`."
        )
    return _spread(parameter, tuple(range(low, high + 1, parameter.step)))


def _spread(parameter: Parameter, values: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(parameter, Float):
        return (parameter.low,)
    if isinstance(parameter, Int):
        if not values:
            low, high = parameter.low, parameter.high
            return tuple(b for b in (low, high) if isinstance(b, int))
        if len(values) > MAX_WHOLE_RANGE:
            return (values[0], values[-1])
    return values


def _drop(space: Space, lost: Mapping[Choice, str]) -> Space:
    """Narrow every parameter to its buildable choices, remove those that nothing leads to."""
    changes: dict[str, Parameter | None] = {}
    emptied: list[Choice] = []
    reasons = []
    for name, parameter in space.parameters.items():
        gone = [value for (other, value) in lost if other == name]
        if not gone or isinstance(parameter, Fixed | Float):
            continue
        if name == KIND and INDEPENDENT in gone:
            raise SpaceError(
                f"{_title(space)}: independent networks cannot be built on this suite, and nothing "
                f"can be compared without them: {lost[KIND, INDEPENDENT]}"
            )
        narrowed = None if isinstance(parameter, Partitions) else _narrow(parameter, gone)
        if narrowed is None and name == KIND:
            narrowed = Categorical(type="categorical", choices=(INDEPENDENT,))
        if narrowed is None:
            emptied.append((name, gone[0]))  # fine if what leads here is dropped as well
        elif narrowed == parameter:  # a hole inside a range, or a bound that follows another
            raise SpaceError(
                f"{_title(space)} cannot be built with `{name} = {gone[0]}`: {lost[name, gone[0]]} "
                "Change the range by hand."
            )
        else:
            changes[name] = narrowed
        reasons += [(name, f"{name} = {value}: {lost[name, value]}") for value in gone]
    space = _without_unreachable(space.without(changes, ()))
    # what goes with a choice that is dropped needs no mention
    space = space.without({}, [reason for name, reason in reasons if name in space.parameters])
    for name, value in emptied:
        if name in space.parameters:
            is_tree = isinstance(space.parameters[name], Partitions)
            what = f"`{name} = {value}`" if is_tree else f"any choice of `{name}`"
            raise SpaceError(f"{_title(space)} cannot be built with {what}: {lost[name, value]}")
    return space


def _without_unreachable(space: Space) -> Space:
    """Follow what was dropped: conditions lose values, parameters without a way in go."""
    while True:
        reachable: dict[str, tuple[Any, ...]] = {}
        for arm in space.arms:
            for name, values in space.possible(arm).items():
                reachable[name] = tuple(dict.fromkeys((*reachable.get(name, ()), *values)))
        changes: dict[str, Parameter | None] = {}
        for name, parameter in space.parameters.items():
            when = {
                other: tuple(v for v in values if v in reachable.get(other, ()))
                for other, values in parameter.when.items()
            }
            if name not in reachable:
                changes[name] = None
            elif when != parameter.when:
                changes[name] = parameter.model_copy(update={"when": when})
        if not changes:
            return space
        space = space.without(changes, [])


def _narrow(parameter: Int | Categorical, gone: list[Any]) -> Parameter | None:
    """The parameter without some values; None where nothing is left."""
    if isinstance(parameter, Categorical):
        kept = tuple(c for c in parameter.choices if c not in gone)
        return parameter.model_copy(update={"choices": kept}) if kept else None
    if isinstance(parameter.low, str) or isinstance(parameter.high, str):
        return parameter
    whole = range(parameter.low, parameter.high + 1, parameter.step)
    values = [v for v in whole if v not in gone]
    if not values:
        return None
    return parameter.model_copy(update={"low": values[0], "high": values[-1]})


def _title(space: Space) -> str:
    return f"Space `{space.where}`"


def _words(space: Space, branch: Mapping[str, Any]) -> str:
    searched = {
        n: v
        for n, v in branch.items()
        if n == KIND or not isinstance(space.parameters.get(n), Fixed | Float | None)
    }
    return "with " + ", ".join(f"`{n} = {v}`" for n, v in (searched or branch).items())
