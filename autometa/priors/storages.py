"""Studies in anyone's Optuna storage as records of finished searches."""

from __future__ import annotations

from collections.abc import Callable

import optuna
from optuna.study import StudyDirection

from autometa.errors import StudyError, UserError, nearest, reason_of
from autometa.priors.records import Record, is_ours, record_of_any
from autometa.study import hidden, reading

_JOURNAL = ".journal"


def is_storage(text: str) -> bool:
    """Whether this names a storage: a URL, or the path of a journal; `#STUDY` may follow."""
    return "://" in text or _parts(text)[0].endswith(_JOURNAL)


def shown_storage(text: str) -> str:
    """The name without a password, for messages and for what is kept."""
    where, name = _parts(text)
    return (hidden(where) + (f"#{name}" if name else "")) if "://" in where else text


def read_storage(text: str, episodic: bool, warn: Callable[[str], None]) -> list[Record]:
    """The studies of a storage, the newest first, or the one that is named after `#`.

    Args:
        episodic: whether studies that do not say so are of searches in episodes.
        warn: told of those that are left out, as they are not to be maximised.

    Raises:
        UserError: there is no such storage or study, or none that maximises one value.
        InfrastructureError: the storage cannot be reached.
    """
    where, wanted = _parts(text)
    shown = shown_storage(text)
    try:
        with reading(where) as storage:
            found = {s.study_name: s.directions for s in storage.get_all_studies()}
            if wanted and wanted not in found:
                raise UserError(
                    f"Parameter `prior`: storage `{hidden(where)}` should hold the study named "
                    f"after `#`. Found `prior = {shown}`.{nearest(wanted, found)}"
                )
            records, odd = [], []
            for name in [wanted] if wanted else found:
                study = optuna.load_study(study_name=name, storage=storage)
                up = found[name][0] == StudyDirection.MAXIMIZE
                if up and (len(found[name]) == 1 or is_ours(study)):
                    record = record_of_any(study, episodic)
                    records.append(record)
                    if record.left_out:
                        warn(f"Of study `{name}` of `{shown}`: {record.odd_ones()}")
                else:
                    odd.append(name)
    except StudyError as exc:
        # the storage of the search itself is a parameter too, and has the same checks
        if "`storage" not in str(exc):
            why = f". {exc}"
        else:
            why = f" ({reason_of(exc.__cause__)})." if exc.__cause__ else "."
        raise UserError(
            "Parameter `prior` should be `auto`, `off`, a name, a prior file, or a storage of "
            "Optuna studies such as `sqlite:///studies.db` or `postgresql://user@host/name` that a "
            f"driver is installed for. Found `prior = {shown}`{why}"
        ) from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise UserError(
            f"Parameter `prior`: a study of `{shown}` cannot be read "
            f"({' '.join(str(exc).split())[:200]})."
        ) from None
    if not records:
        has = f"Study `{odd[0]}` does not." if odd else "It holds no study."
        raise UserError(
            "Parameter `prior` should name studies that maximise one value, the score. "
            f"Found `prior = {shown}`. {has}"
        )
    for name in odd:
        warn(f"Study `{name}` of `{shown}` does not maximise one value. It is left out.")
    return sorted(records, key=lambda record: record.order, reverse=True)


def _parts(text: str) -> tuple[str, str]:
    """The storage and the study's name, which is empty if there is none. A `#` before the `@` of a
    URL is of its password."""
    _, _, rest = text.partition("://")
    authority = rest.partition("/")[0]
    begin = len(text) - len(rest) + authority.rfind("@") + 1 if rest else 0
    where, _, name = text[begin:].partition("#")
    return text[:begin] + where, name
