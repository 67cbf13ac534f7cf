"""`--init-from`: the earlier model that a search's runs may start from.

The search is given one more choice, `init.kind`: `random` or `earlier`, in both arms alike, so that
networks that share and independent ones are tuned with the same offer. It is judged like any other
choice: on validation rows, then over new seeds. What may be taken over is kept with the study, so
that a resumed search starts its runs from the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autometa.api.earlier import Candidate, Unfit, candidate, nearest_candidate
from autometa.errors import InfrastructureError, SpaceError, StudyError, UserError
from autometa.home import Home
from autometa.networks import Problem
from autometa.searching.units import initial_path
from autometa.space import Categorical, Fixed, Space
from autometa.study import StudyHandle
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.training.initial import EARLIER, Initial
from autometa.trial import TrialConfig

INIT = "init"
"""Attribute of a study: which model its runs may start from; `model` None where `auto` found none.
"""
NAME = "init.kind"
"""The parameter that says whether a run does."""
AUTO = "auto"


@dataclass(frozen=True)
class Start:
    """What a search's runs may start from; nothing without `initial`.

    Attributes:
        space: of the search, with the choice.
        attrs: what the study remembers.
        file: where the parameters are kept with the study.
        message: what to tell the user.
    """

    space: Space
    problem: Problem
    file: Path
    initial: Initial | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    message: str | None = None

    def keep(self, checkpoints: Path) -> None:
        """Keep the parameters with the study, and put them where its workers read.

        Raises:
            InfrastructureError: the disk refuses it.
        """
        if self.initial is not None:
            self.initial.save(self.file)
            self.initial.save(initial_path(checkpoints))

    def taken(self, config: TrialConfig) -> dict[str, int] | None:
        """How much of a run's network starts from the model; None where it starts at random."""
        if self.initial is None or config.init.kind != EARLIER:
            return None
        return self.initial.taken(config, self.problem)._asdict()


def choose_start(
    init_from: str | Path | None,
    suite: TaskSuite | EpisodicSuite,
    space: Space,
    home: Home,
    study: str,
    earlier: Mapping[str, Any],
) -> Start:
    """What was asked for, or what the study to go on with has.

    Args:
        init_from: a model's folder or name, `auto`, or None.
        space: bound to the suite.
        earlier: attributes of the study to go on with; empty if it starts now.

    Raises:
        UserError: there is no such model, it cannot be read, or nothing of it fits.
        StudyError: the study was started from something else.
        InfrastructureError: what the study keeps was lost or changed.
    """
    none = Start(space, Problem.of(suite), home.initial(study))
    if "fingerprint" in earlier:  # written last: the study was started
        start = _resumed(none, init_from, suite, home, study, earlier.get(INIT))
    elif init_from is None:
        start = none
    elif str(init_from) == AUTO:
        found, why = nearest_candidate(home, suite, lambda initial: offered(space, initial))
        if found is None:
            start = replace(none, attrs={INIT: {"asked": AUTO, "model": None}}, message=why)
        else:
            start = _start(none, found)
            start = replace(start, message=f"{why} {start.message}".strip())
    else:
        try:
            start = _start(none, _asked(init_from, suite, home))
        except Unfit as exc:
            raise _nothing(init_from, str(exc)) from None
    if start.initial is None and EARLIER in _choices(space):
        raise SpaceError(
            f"Parameter `{NAME}` in {space.where} should be `random` without an earlier model "
            f"(`--init-from MODEL`, `init_from`). Found `{EARLIER}`."
        )
    return start


def start_of(
    init_from: str | Path, suite: TaskSuite | EpisodicSuite, config: TrialConfig, home: Home
) -> tuple[TrialConfig, Initial]:
    """One configuration that starts from a model, and what of it.

    Raises:
        UserError: there is no such model, it cannot be read, or nothing of it fits.
    """
    flat = config.flat()
    chosen = TrialConfig.from_flat({**flat, NAME: EARLIER})
    initial = _asked(init_from, suite, home).initial
    if not initial.taken(chosen, Problem.of(suite)).leaves:
        differ = [
            f"`backbone.{name} = {value}`, not {flat.get(f'backbone.{name}')}"
            for name, value in initial.backbone.items()
            if flat.get(f"backbone.{name}") != value
        ]
        why = f"it has {' and '.join(differ)}" if differ else "its blocks have other shapes"
        raise _nothing(init_from, why)
    return chosen, initial


def offered(space: Space, initial: Initial) -> Space:
    """The space with the choice where networks may fit; as it is if it has the choice already.

    Raises:
        Unfit: no network of the space has such blocks.
    """
    parameters = dict(space.parameters)
    condition: dict[str, list[Any]] = {}
    plain = TrialConfig.from_flat({"backbone.kind": initial.backbone["kind"]}).flat()
    for field_name, value in initial.backbone.items():
        name = f"backbone.{field_name}"
        values: set[Any] = set()
        is_range = False
        for arm in space.arms:
            known = space.possible(arm).get(name, (plain[name],))
            is_range |= not known
            values |= set(known)
        if value not in values and not is_range:
            has = ", ".join(map(str, sorted(values, key=str)))
            raise Unfit(f"it has `{name} = {value}`, and the space {has}")
        if len(values) > 1 and not is_range and name in parameters:
            condition[name] = [value]
    if NAME in parameters:
        return space
    when: Any = condition
    choices = ("random", EARLIER)
    parameters[NAME] = Categorical(type="categorical", choices=choices, when=when)
    return replace(space, parameters=parameters)


def told(handle: StudyHandle, winners: Mapping[str, int] | None) -> dict[str, Any] | None:
    """What a search's result says of where its runs started, as plain JSON; None without an offer.

    Args:
        winners: arm → number of the trial that won it, where the search was judged.
    """
    kept = handle.study.user_attrs.get(INIT)
    if kept is None:
        return None
    trials = {t.number: t for t in handle.trials() if "config" in t.user_attrs}
    kinds = {number: t.user_attrs["config"].get(NAME, "random") for number, t in trials.items()}
    return {
        **kept,
        "trials": sum(kind == EARLIER for kind in kinds.values()),
        "winners": {
            arm: {"trial": n, "start": kinds[n], "taken": trials[n].user_attrs.get("taken")}
            for arm, n in (winners or {}).items()
            if n in kinds
        },
    }


def _asked(init_from: str | Path, suite: TaskSuite | EpisodicSuite, home: Home) -> Candidate:
    """The model that was named.

    Raises:
        UserError: there is none, it cannot be read, or nothing of it fits.
    """
    path = home.find_model(init_from, "Parameter `init_from` (`--init-from`)")
    try:
        return candidate(path, suite)
    except Unfit as exc:
        raise _nothing(init_from, str(exc)) from None


def _nothing(init_from: str | Path, why: str) -> UserError:
    return UserError(
        f"Parameter `init_from` (`--init-from`): nothing of model `{init_from}` fits here: {why}. "
        "Choose another model, or leave it out."
    )


def _start(none: Start, found: Candidate) -> Start:
    space, initial = offered(none.space, found.initial), found.initial
    facts = {
        **found.facts,
        "sha256": initial.sha256(),
        "blocks": initial.blocks,
        "parameters": sum(leaf.numel() for leaf in initial.params.values()),
    }
    of = f" of {facts['fit']} that fit" if facts["distance"] is not None else ""
    message = (
        f"Runs may start from model `{facts['model']}` of suite `{facts['suite']}`"
        f"{of and f', the nearest{of}'}."
    )
    return replace(none, space=space, initial=initial, attrs={INIT: facts}, message=message)


def _resumed(
    none: Start,
    init_from: str | Path | None,
    suite: TaskSuite | EpisodicSuite,
    home: Home,
    study: str,
    kept: Mapping[str, Any] | None,
) -> Start:
    """What a study that was started goes on with."""
    has = None if kept is None else kept["model"]
    explicit = init_from is not None and str(init_from) != AUTO
    other = StudyError(
        f"Study `{study}` was started with "
        + ("no earlier model" if has is None else f"model `{has}`")
        + " to start runs from, and has trials of that. Resume it without `init_from` "
        f"(`--init-from`), or choose another study name. Found `init_from = {init_from}`."
    )
    if kept is None or has is None:
        if explicit or (kept is None and init_from is not None):
            raise other
        return none if kept is None else replace(none, attrs={INIT: dict(kept)})
    given = None
    if init_from is not None and explicit:
        given = _asked(init_from, suite, home).initial
        if given.sha256() != kept["sha256"]:
            raise other
    if given is None and not none.file.is_file():
        raise StudyError(
            f"The parameters that study `{study}` starts from are not in `{none.file}`. Use the "
            f"home folder that it was started in, copy that file, or add --init-from with "
            f"model `{has}`."
        )
    initial = Initial.load(none.file) if given is None else given
    if initial.sha256() != kept["sha256"]:
        raise InfrastructureError(
            f"File `{none.file}`, which study `{study}` starts from, is not what it was: its "
            f"SHA-256 should be {kept['sha256']}. Restore it, or remove it and add --init-from "
            f"with model `{has}`."
        )
    try:
        space = offered(none.space, initial)
    except Unfit:  # another space than that of the study, which refuses it
        space = none.space
    return replace(none, space=space, initial=initial, attrs={INIT: dict(kept)})


def _choices(space: Space) -> tuple[Any, ...]:
    found: list[Any] = []
    for parameter in (space.parameters.get(NAME), space.independent.get(NAME)):
        if isinstance(parameter, Categorical):
            found += parameter.choices
        elif isinstance(parameter, Fixed):
            found.append(parameter.value)
    return tuple(found)
