"""What a search learns from earlier ones, and what it leaves for the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from autometa.errors import InfrastructureError, StudyError, UserError
from autometa.home import Home
from autometa.priors import probes, shelf
from autometa.priors.account import account
from autometa.priors.chosen import Chosen, useful
from autometa.priors.records import PROBES_ATTRIBUTE, Record, record_of
from autometa.priors.storages import is_storage, read_storage, shown_storage
from autometa.searching.progress import Progress
from autometa.searching.settings import SearchSettings
from autometa.space import Arm, Space
from autometa.study import StudyHandle
from autometa.tasks import EpisodicSuite, TaskSuite

Tell = Callable[[str], None]

#: attribute of a study: what was asked for, and the sources in words; their trials are in
#: `prior:0`, `prior:1`, …
PRIOR = "prior"
NOTHING = "no earlier search to learn from"
#: largest portfolio, and its largest part of the trials
PORTFOLIO, PORTFOLIO_SHARE = 8, 0.15


@dataclass(frozen=True)
class Wanted:
    """The prior that a search was asked for.

    Attributes:
        text: `auto`, `off`, or the name of the sources, without a password.
        records: sources that were named; None for `auto`, `off`, and on resuming.
        reason: why there will be none; None if there may be.
    """

    text: str
    records: tuple[Record, ...] | None = None
    reason: str | None = None


def wanted_prior(
    prior: str | Path,
    settings: SearchSettings,
    home: Home,
    earlier: Mapping[str, Any],
    *,
    episodic: bool,
    tell: Tell,
) -> Wanted:
    """What `prior` means, sources that it names read and checked.

    Args:
        earlier: attributes of the study to go on with; empty if it starts now.
        episodic: whether the search is in episodes.

    Raises:
        UserError: the settings leave no room for a prior that was named, it is not there or cannot
            be read, or is not that of the study to go on with.
        InfrastructureError: a storage cannot be reached.
    """
    text = str(prior)
    shown = shown_storage(text)
    setting = _no_room(settings)
    if setting is not None and text not in ("auto", "off"):
        raise UserError(
            f"Parameter `prior` should be `auto` or `off` {setting}: earlier searches are learned "
            f"from by the sampler tpe, for the score alone. Found `prior = {shown}`."
        )
    reason = None if setting is None else f"off {setting}"
    if text == "off":
        reason = "switched off"
    if kept := earlier.get(PRIOR):
        was, is_off = kept["asked"], text == "off" and not kept["sources"]
        if text not in ("auto", was) and shown != was and not is_off:
            raise StudyError(
                f"The study was started with `prior = {was}`; a resumed study must keep it. "
                f"Found `prior = {shown}`. Leave it out, or choose another study name."
            )
        return Wanted(was, reason=reason)
    if text in ("auto", "off"):
        return Wanted(text, reason=reason)
    if is_storage(text):
        records = read_storage(text, episodic, tell)
    else:
        records = list(shelf.find(home, text, tell).records)
    fitting = tuple(r for r in records if r.facts.episodic == episodic)
    if not fitting:
        has, lacks = ("rows", "episodes") if episodic else ("episodes", "rows")
        raise UserError(
            f"Parameter `prior` should name searches in {lacks}, as this one is. Found `prior = "
            f"{shown}`, which has searches in {has} only."
        )
    return Wanted(shown, fitting)


def check_useful(wanted: Wanted, space: Space) -> None:
    """Refuse named sources that have nothing to say of any parameter of the space.

    Raises:
        UserError: one sentence that names them.
    """
    if wanted.records is not None and not useful(wanted.records, _names(space)):
        raise UserError(
            "Parameter `prior` should name searches with at least three finished trials of "
            f"different scores, and a parameter of {space.where}. Found `prior = {wanted.text}`."
        )


def settle_prior(
    handle: StudyHandle,
    wanted: Wanted,
    home: Home,
    suite: TaskSuite | EpisodicSuite,
    space: Space,
    settings: SearchSettings,
    tell: Tell,
) -> dict[Arm, BaseSampler]:
    """Arm → the sampler that learned from earlier searches, of arms for which there are any.

    The sources are chosen once and kept with the study, so that a study that is resumed has the
    suggestions it would have had, whatever is in the home folder by then.
    """
    kept = handle.study.user_attrs.get(PRIOR)
    if kept is None:
        kept = _choose(handle, wanted, home, suite, space, settings, tell)
    if wanted.reason is not None or not kept["sources"]:
        return {}
    attrs = handle.study.user_attrs
    pieces = [attrs[f"{PRIOR}:{k}"] for k in range(kept["pieces"])]
    where = f"The prior of study `{handle.name}`"
    chosen = Chosen.unpack(pieces, attrs.get(PROBES_ATTRIBUTE), where)
    found = {arm: chosen.sampler(arm, settings.seed, kept["n_portfolio"]) for arm in space.arms}
    n = len(chosen.records)
    names = ", ".join(record.name for record in chosen.records[:3]) + (", …" if n > 3 else "")
    tell(f"Learning from {n} earlier search{'es' if n > 1 else ''}: {names}")
    return {arm: sampler for arm, sampler in found.items() if sampler is not None}


def prior_account(handle: StudyHandle) -> dict[str, Any] | None:
    """What earlier searches did for a study, as JSON (`priors.account`); None in a study of a
    version that had no priors. Beside what is told there `asked`: what the search was asked for,
    `n_portfolio`, and `reason`: why there are no sources, None if there are."""
    kept = handle.study.user_attrs.get(PRIOR)
    if kept is None:
        return None
    told = {key: kept[key] for key in ("asked", "reason", "n_portfolio")}
    return told | account(handle.trials(), kept["sources"])


def suite_probes(
    handle: StudyHandle, suite: TaskSuite | EpisodicSuite, tell: Tell
) -> dict[str, float | None]:
    """The probes of a study's suite, measured once; none of them if that failed."""
    kept: dict[str, float | None] | None = handle.study.user_attrs.get(PROBES_ATTRIBUTE)
    if kept is None:
        try:
            found = probes.measure(suite.without_test())
        except Exception as exc:  # whatever it stumbled over, the search can do without
            tell(f"The suite could not be measured for priors ({type(exc).__name__}: {exc}).")
            found = {}
        kept = {name: v if math.isfinite(v) else None for name, v in found.items()}
        handle.set_attr(PROBES_ATTRIBUTE, kept)
    return kept


def leave_record(
    home: Home,
    handle: StudyHandle,
    suite: TaskSuite | EpisodicSuite,
    notify: Callable[[Progress], None],
) -> None:
    """Write the record of a finished search; if that fails the search is no worse for it."""

    def tell(message: str) -> None:
        notify(Progress("judge", 0, 0, message=message))

    measured = suite_probes(handle, suite, tell)
    handle.commit()
    try:
        record = record_of(handle.study, measured)
        if record.left_out:
            tell(f"Of the record for later searches: {record.odd_ones()}")
        if record.trials:  # else a space without anything to search
            shelf.keep(home, record)
    except InfrastructureError as exc:
        tell(f"No record is left for later searches: {exc}")
    except Exception as exc:  # the search is done, and its result is to be returned
        tell(f"No record is left for later searches ({type(exc).__name__}: {exc}).")


def _choose(
    handle: StudyHandle,
    wanted: Wanted,
    home: Home,
    suite: TaskSuite | EpisodicSuite,
    space: Space,
    settings: SearchSettings,
    tell: Tell,
) -> dict[str, Any]:
    """Choose the sources and keep them with the study; returns the attribute `prior`."""
    reason, chosen = wanted.reason, Chosen((), None)
    if handle.trials():
        reason = "the study was started without one"
        if wanted.records is not None:
            raise StudyError(
                f"Study `{handle.name}` was started without a prior; a resumed study must keep "
                f"that. Found `prior = {wanted.text}`. Leave it out, or choose another study name."
            )
    if reason is None:
        records = wanted.records
        if records is None:
            records = _on_the_shelf(home, isinstance(suite, EpisodicSuite), tell)
        records = tuple(r for r in records if r.facts.id != handle.study.user_attrs["id"])
        found = useful(records, _names(space))
        measured = suite_probes(handle, suite, tell) if found else {}
        chosen = Chosen.of(found, measured).nearest()
        if not found:
            reason = NOTHING
        elif chosen.probes is None and wanted.records is None:
            reason, chosen = "the suite could not be measured", Chosen((), None)
    pieces = chosen.pack() if chosen.records else []
    for k, piece in enumerate(pieces):
        handle.set_attr(f"{PRIOR}:{k}", piece)
    kept = {
        "asked": wanted.text,
        "reason": reason,
        "sources": chosen.rows(),
        "pieces": len(pieces),
        "n_portfolio": max(1, min(PORTFOLIO, int(PORTFOLIO_SHARE * settings.n_trials + 1e-9))),
    }
    handle.set_attr(PRIOR, kept)  # last: what was begun and not finished is chosen again
    handle.commit()
    return kept


def _on_the_shelf(home: Home, episodic: bool, tell: Tell) -> tuple[Record, ...]:
    """The shipped prior and the records of the home folder, newest first."""
    shipped = shelf.shipped()
    found = [*(shipped.records if shipped else ()), *shelf.records(home, tell)]
    return tuple(r for r in reversed(found) if r.facts.episodic == episodic)


def _no_room(settings: SearchSettings) -> str | None:
    """Why a search with these settings cannot learn from earlier ones."""
    if settings.sampler != "tpe":
        return f"with `sampler = {settings.sampler}`"
    for name in ("cost", "no_task_worse_than"):
        if (value := getattr(settings, name)) is not None:
            return f"with `{name} = {value}`"
    return None


def _names(space: Space) -> dict[str, set[str]]:
    return {arm: set(space.distributions(arm)) for arm in space.arms}
