"""Where priors are kept in the home folder: records of finished searches, and named priors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from autometa.errors import UserError, nearest
from autometa.home import Home, check_study_name, is_name
from autometa.priors.prior_file import SUFFIX, Prior, merged, read_prior, write_prior
from autometa.priors.records import Record

Warn = Callable[[str], None]

SHIPPED_NAME = "shipped"
SHIPPED = Path(__file__).parent / "data" / f"{SHIPPED_NAME}{SUFFIX}"


def shipped() -> Prior | None:
    """The prior that came with the package; None if it has none."""
    return read_prior(SHIPPED) if SHIPPED.is_file() else None


def keep(home: Home, record: Record) -> Path:
    """Write a finished search's record; an older one of the same study is replaced.

    Raises:
        InfrastructureError: it cannot be written.
    """
    path = home.record(record.facts.study, record.facts.id)
    return write_prior(path, Prior(record.name, (record,)))


def records(home: Home, warn: Warn) -> list[Record]:
    """All records of the home folder, oldest first; `warn` is told of those that are damaged."""
    found: list[Record] = []
    for path in sorted((home.priors / "records").glob(f"*{SUFFIX}")):
        try:
            found += read_prior(path).records
        except UserError as exc:
            warn(f"{exc} It is left out.")
    return sorted(found, key=lambda record: record.order)


def names(home: Home) -> list[str]:
    """The named priors; files that no name can be of are not looked at."""
    found = (path.name.removesuffix(SUFFIX) for path in home.priors.glob(f"*{SUFFIX}"))
    return sorted(name for name in found if is_name(name))


def named(home: Home, name: str) -> Path:
    """The file of a named prior; there need not be one yet.

    Raises:
        UserError: it is no name.
    """
    if name in ("auto", "off", SHIPPED_NAME) or name.endswith(SUFFIX):
        raise UserError(
            f"Parameter `name` should be other than `auto`, `off` and `{SHIPPED_NAME}`, and "
            f"without `{SUFFIX}`. Found `name = {name}`."
        )
    return home.priors / f"{check_study_name(name, 'name')}{SUFFIX}"


def find(home: Home, text: str, warn: Warn) -> Prior:
    """A prior by its name (`shipped`: the package's), by the path of its file, or one record by its
    name or its study's (the newest of that name).

    Raises:
        UserError: there is none (with the nearest name), or it is damaged.
    """
    if text == SHIPPED_NAME and (ours := shipped()) is not None:
        return ours
    known = names(home)
    if text in known:
        return read_prior(named(home, text))
    with contextlib.suppress(OSError, RuntimeError):  # too long, or of a user that is not there
        path = Path(text).expanduser()
        if path.is_file():
            return read_prior(path)
    found = records(home, warn)
    kept = {record.facts.study: record for record in found} | {r.name: r for r in found}
    if text in kept:
        return Prior(text, (kept[text],))
    hint = nearest(text, [*known, *kept])
    raise UserError(
        "Parameter `prior` should be the name of a prior or a record of `autometa prior list`, or "
        f"a prior file. Found `prior = {text}`.{hint}"
    )


def build(home: Home, name: str, parts: Sequence[str], warn: Warn, *, replace: bool) -> Prior:
    """Make a named prior of records and other priors; of all records if none are named.

    Raises:
        UserError: the name is taken and `replace` is not set, or there is nothing to make it of.
    """
    path = _free(home, name, replace)
    found = (
        [find(home, part, warn) for part in parts]
        if parts
        else [Prior(r.name, (r,)) for r in records(home, warn)]
    )
    prior = merged(name, found)
    if not prior.records:
        raise UserError(
            "There is no finished search to learn from yet. Each `autometa search` leaves a record."
        )
    write_prior(path, prior)
    return prior


def export(home: Home, file: Path, text: str | None, warn: Warn, *, replace: bool) -> Prior:
    """Write a prior, or all records of the home folder, to a file of the user's.

    Raises:
        UserError: the file is there and `replace` is not set, or there is nothing to write.
    """
    if file.exists() and not replace:
        raise UserError(f"File `{file}` exists. Name another, or add --force.")
    if text is None:
        stem = file.name.removesuffix(SUFFIX)
        prior = merged(stem[:100], [Prior(r.name, (r,)) for r in records(home, warn)])
    else:
        prior = find(home, text, warn)
    if not prior.records:
        raise UserError("There is no record to export yet. Each `autometa search` leaves one.")
    write_prior(file, prior)
    return prior


def take_in(home: Home, file: Path, name: str | None, *, replace: bool) -> Prior:
    """Check a prior file from elsewhere and keep what was understood of it under a name.

    Raises:
        UserError: it is no prior, or the name is taken and `replace` is not set.
    """
    prior = read_prior(file)
    prior = Prior(name or prior.name, prior.records)
    write_prior(_free(home, prior.name, replace), prior)
    return prior


def _free(home: Home, name: str, replace: bool) -> Path:
    path = named(home, name)
    if path.exists() and not replace:
        raise UserError(f"There is a prior `{name}` already. Choose another name, or add --force.")
    return path
