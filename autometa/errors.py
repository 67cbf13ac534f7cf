"""The errors autometa raises on purpose: one sentence that names the value and says what to do.

The command line prints the sentence without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutometaError(Exception):
    """Base of every error that autometa raises on purpose."""

    exit_code = 1


class UserError(AutometaError):
    """Something the user gave cannot be used; nothing was started and nothing is lost."""

    exit_code = 2


class DataError(UserError):
    """A table, suite or split cannot be used as asked."""


class ConfigError(UserError):
    """A trial's configuration is not valid or cannot be built on this suite."""


class SpaceError(UserError):
    """A search space is not valid or has a branch that cannot be built."""


class StudyError(UserError):
    """A study does not exist, exists already, is in use, or belongs to other data."""


class BrokenStudyError(StudyError):
    """What is left of a study holds none: it can only be deleted, or begun anew."""


class DeviceError(UserError):
    """A device was asked for that this machine does not have."""


class InfrastructureError(AutometaError):
    """A storage, tracking server or disk failed; what was finished before is kept."""


class DataWarning(UserWarning):
    """A table was read, and something of it means less than was written or was never seen."""


def reason_of(exc: BaseException, length: int = 300) -> str:
    """Why something failed, to be put into a sentence: what the system or the library says, on one
    line and without its full stop; the kind of error where it says nothing."""
    said = exc.strerror if isinstance(exc, OSError) else None
    text = " ".join(str(said or exc).split())[:length].rstrip(".")
    return text or type(exc).__name__


def nearest(name: object, choices: Iterable[object]) -> str:
    """Return `` Did you mean `x`?`` for the choice nearest to `name`, or an empty string."""
    found = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    return f" Did you mean `{found[0]}`?" if found else ""


def not_one_of(parameter: str, value: object, choices: Iterable[str]) -> str:
    """The sentence on a value that is none of a parameter's choices."""
    known = list(choices)
    return (
        f"Parameter `{parameter}` should be one of {', '.join(known)}. Found `{value}`."
        f"{nearest(value, known)}"
    )
