"""Checks a search space against a suite: can every branch of it be built?

A branch is one value for each parameter that is not a plain range. Branches are enumerated, or,
beyond `MAX_BRANCHES`, chosen so that every two values that can occur together do; configuration
errors are the file's fault and always raised, whereas what this suite cannot build may be dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

from autometa.errors import ConfigError, SpaceError, nearest
from autometa.networks import Problem
from autometa.space.parameters import (
    Categorical,
    Condition,
    Fixed,
    Float,
    Int,
    Parameter,
    Partitions,
    holds,
    n_blocks,
)
from autometa.space.space import INDEPENDENT, KIND, Arm, Assignment, Key, Space
from autometa.trial import REGISTRIES, TrialConfig, check

MAX_BRANCHES = 20_000
MAX_WHOLE_RANGE = 8
"""A whole-number range of more values than this is tried at its ends."""

Choice = tuple[Key, Any]
Branch = tuple[Arm, Assignment]


def checked(space: Space, problem: Problem) -> Space:
    """See `Space.bind`."""
    _check_names(space)
    while True:
        branches = list(_branches(space))
        _check_reached(space, branches)
        failed: list[tuple[Branch, str]] = []
        good: set[Choice] = set()
        for branch in branches:
            reason = _cannot_build(space, branch, problem)
            if reason is None:
                good.update(_choices(space, branch))
            else:
                failed.append((branch, reason))
        if not failed:
            _check_ranges(space, branches, problem)
            space.check_arms_agree()  # one arm may have lost choices that the other one keeps
            return space
        lost = {
            choice: reason
            for branch, reason in failed
            for choice in _choices(space, branch)
            if choice not in good
        }
        if not good:
            raise SpaceError(f"{_title(space)} cannot be built on this suite: {failed[0][1]}")
        if space.unbuildable == "error" or not lost:
            (arm, values), reason = failed[0]
            blamed = {n: v for n, v in values.items() if (space.key(n, arm), v) in lost} or values
            advice = "Remove that choice, restrict it with `when`, or set `unbuildable: drop`."
            if not lost:
                advice = "Each choice can be built, but not together: restrict one with `when`."
            raise SpaceError(
                f"{_title(space)} has a branch that cannot be built on this suite, "
                f"{_words(space, arm, blamed)}: {reason} {advice}"
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
    for _, name in space.entries():
        if name not in known:
            raise SpaceError(
                f"Parameter `{name}` in {space.where} is not known.{nearest(name, known)} "
                f"Known: {', '.join(known)}."
            )


def _check_reached(space: Space, branches: list[Branch]) -> None:
    reached = {space.key(name, arm) for arm, branch in branches for name in branch}
    for (section, name), parameter in space.entries().items():
        if (section, name) not in reached:
            when = " or ".join(
                ", ".join(f"{other} in {list(values)}" for other, values in condition.items())
                for condition in parameter.when
            )
            why = f"no branch has {when}" if when else "it is replaced under `independent:`"
            raise SpaceError(
                f"Parameter `{name}` in {space.where} is never reached: {why}. "
                "Remove it or change its `when`."
            )


def _choices(space: Space, branch: Branch) -> list[Choice]:
    arm, values = branch
    return [(space.key(name, arm), value) for name, value in values.items()]


def _cannot_build(space: Space, branch: Branch, problem: Problem) -> str | None:
    """Why the suite cannot build it; what no suite could build raises."""
    arm, values = branch
    try:
        config = TrialConfig.from_flat(values)
    except ConfigError as exc:
        hint = ""
        if arm == INDEPENDENT:
            hint = f" If it belongs to other kinds of sharing, add `when: {{{KIND}: …}}`."
        raise SpaceError(
            f"{_title(space)} has a branch that is not valid, {_words(space, arm, values)}: "
            f"{exc}{hint}"
        ) from None
    try:
        check(config, problem)
    except ConfigError as exc:
        return str(exc)
    return None


def _check_ranges(space: Space, branches: list[Branch], problem: Problem) -> None:
    """Both ends of every range of floats, each in the first branch that has it."""
    for (section, name), parameter in space.entries().items():
        if isinstance(parameter, Float):
            arm, branch = next(
                (a, b) for a, b in branches if name in b and space.key(name, a)[0] == section
            )
            for end in (parameter.low, parameter.high):
                reason = _cannot_build(space, (arm, {**branch, name: end}), problem)
                if reason is not None:
                    raise SpaceError(f"{_title(space)}, with `{name} = {end}`: {reason}")


def _branches(space: Space) -> Iterator[Branch]:
    for arm in space.arms:
        found = list(islice(_product(space, arm), MAX_BRANCHES + 1))
        for branch in found if len(found) <= MAX_BRANCHES else _pairs(space, arm):
            yield arm, branch


def _product(space: Space, arm: Arm) -> Iterator[Assignment]:
    items = space.arm_parameters(arm)

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
    parameters = dict(space.arm_parameters(arm))
    choices = [
        (name, value)
        for name in possible
        for value in _candidates(space, parameters[name], possible, name)
    ]
    seen: set[frozenset[tuple[str, Any]]] = set()
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
    for forced in _with_conditions(parameters, wanted, list(wanted)):
        given: Assignment | None = {}
        for name, parameter in parameters.items():
            if given is not None and holds(parameter.when, given):
                given = _extended(space, name, parameter, given, forced)
        if given is not None and all(name in given for name in wanted):
            return given
    return None


def _with_conditions(
    parameters: Mapping[str, Parameter], forced: Assignment, queue: list[str]
) -> Iterator[Assignment]:
    """`forced` with values under which the parameters in `queue` are suggested, in every way."""
    if not queue:
        yield forced
        return
    conditions: tuple[Condition, ...] = parameters[queue[0]].when or ({},)
    for condition in conditions:
        if all(forced.get(other, allowed[0]) in allowed for other, allowed in condition.items()):
            new = {o: allowed[0] for o, allowed in condition.items() if o not in forced}
            yield from _with_conditions(parameters, {**forced, **new}, [*queue[1:], *new])


def _extended(
    space: Space, name: str, parameter: Parameter, given: Assignment, forced: Assignment
) -> Assignment | None:
    """The branch with one more parameter; None if its forced value is not possible there."""
    values = _values(space, name, parameter, given)
    value = forced.get(name, values[0])
    if isinstance(parameter, Int):
        low, high = parameter.bounds(given)
        return {**given, name: value} if low <= value <= high else None
    return {**given, name: value} if value in values else None


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
            f"{_given(given)}. Give both the same `when`."
        )
    low, high = parameter.bounds(given)
    if low > high:
        raise SpaceError(
            f"Parameter `{name}` in {space.where} has no value {_given(given)}: `low` "
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
    changes: dict[Key, Parameter | None] = {}
    emptied: list[Choice] = []
    reasons = []
    for key, parameter in space.entries().items():
        name = key[1]
        gone = [value for (other, value) in lost if other == key]
        if not gone or isinstance(parameter, Fixed | Float):
            continue
        if name == KIND and INDEPENDENT in gone:
            raise _no_independent(space, lost)
        narrowed = None if isinstance(parameter, Partitions) else _narrow(parameter, gone)
        if narrowed is None and name == KIND:
            narrowed = Categorical(type="categorical", choices=(INDEPENDENT,))
        if narrowed is None:
            emptied.append((key, gone[0]))  # fine if what leads here is dropped as well
        elif narrowed == parameter:  # a hole inside a range, or a bound that follows another
            raise SpaceError(
                f"{_title(space)} cannot be built with `{name} = {gone[0]}`: {lost[key, gone[0]]} "
                "Change the range by hand."
            )
        else:
            changes[key] = narrowed
        reasons += [(key, f"{name} = {value}: {lost[key, value]}") for value in gone]
    if not changes and not emptied:
        raise _no_independent(space, lost)
    space = _without_unreachable(space.without(changes))
    # what goes with a choice that is dropped needs no mention
    space = space.without({}, [reason for key, reason in reasons if key in space.entries()])
    for key, value in emptied:
        if key in space.entries():
            is_tree = isinstance(space.entries()[key], Partitions)
            what = f"`{key[1]} = {value}`" if is_tree else f"any choice of `{key[1]}`"
            raise SpaceError(f"{_title(space)} cannot be built with {what}: {lost[key, value]}")
    return space


def _no_independent(space: Space, lost: Mapping[Choice, str]) -> SpaceError:
    reason = next((r for (key, v), r in lost.items() if (key[1], v) == (KIND, INDEPENDENT)), None)
    return SpaceError(
        f"{_title(space)}: independent networks cannot be built on this suite, and nothing "
        f"can be compared without them: {reason or next(iter(lost.values()))}"
    )


def _without_unreachable(space: Space) -> Space:
    """Follow what was dropped: conditions lose values, parameters without a way in go."""
    while True:
        arms = {arm: space.possible(arm) for arm in space.arms}
        reachable = {space.key(name, arm) for arm, values in arms.items() for name in values}
        changes: dict[Key, Parameter | None] = {}
        for key, parameter in space.entries().items():
            own = [values for arm, values in arms.items() if space.key(key[1], arm) == key]
            when = tuple(
                narrowed
                for condition in parameter.when
                if all((narrowed := _reachable(condition, own)).values())
            )
            if key not in reachable:
                changes[key] = None
            elif when != parameter.when:
                changes[key] = parameter.model_copy(update={"when": when})
        if not changes:
            return space
        space = space.without(changes)


def _reachable(
    condition: Condition, arms: Sequence[Mapping[str, tuple[Any, ...]]]
) -> dict[str, tuple[Any, ...]]:
    """The values of a condition that some arm can still have."""
    return {
        other: tuple(v for v in values if any(v in arm.get(other, ()) for arm in arms))
        for other, values in condition.items()
    }


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


def _words(space: Space, arm: Arm, branch: Mapping[str, Any]) -> str:
    parameters = dict(space.arm_parameters(arm))
    searched = {
        n: v
        for n, v in branch.items()
        if n == KIND or not isinstance(parameters.get(n), Fixed | Float | None)
    }
    return _given(searched or branch)


def _given(branch: Mapping[str, Any]) -> str:
    return "with " + ", ".join(f"`{n} = {v}`" for n, v in branch.items())
