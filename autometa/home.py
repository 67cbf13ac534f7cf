"""The home folder: where studies, checkpoints, models and the tracking database live."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autometa.errors import InfrastructureError, UserError, nearest, reason_of

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

HOME = "The home folder (`home`, `--home` or `$AUTOMETA_HOME`)"
"""How messages name it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Home:
    """Paths below one home folder. Nothing is created until it is written."""

    root: Path

    @classmethod
    def find(cls, path: str | os.PathLike[str] | None = None) -> Home:
        """`path`, else `$AUTOMETA_HOME`, else `./autometa-home`; always absolute."""
        chosen = path or os.environ.get("AUTOMETA_HOME") or "autometa-home"
        return cls(Path(chosen).expanduser().resolve())

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def mlflow_db(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def priors(self) -> Path:
        """Named priors, and the records of finished searches in a folder of their own."""
        return self.root / "priors"

    def record(self, study: str, study_id: str) -> Path:
        """What a finished search leaves for the next; two studies of one name have one each."""
        return self.priors / "records" / f"{study}-{study_id[:8]}.prior"

    @property
    def models(self) -> Path:
        return self.root / "models"

    def find_model(self, name: str | os.PathLike[str], what: str) -> Path:
        """The folder of a model, given by path or by its name here.

        Args:
            what: which argument or parameter it is, for the message.

        Raises:
            UserError: neither exists; the nearest name is told.
        """
        for path in (Path(name).expanduser(), self.models / name):
            if path.is_dir():
                return path
        known = sorted(path.name for path in self.models.iterdir()) if self.models.is_dir() else []
        raise UserError(
            f"{what} should be a model's folder or its name in {self.models}. "
            f"Found `{name}`.{nearest(name, known)}"
        )

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    def journal(self, study: str) -> Path:
        return self.studies / f"{study}.journal"

    def initial(self, study: str) -> Path:
        """What the runs of a study may start from, where it was given an earlier model."""
        return self.studies / f"{study}.initial.safetensors"

    def checkpoints(self, study: str) -> Path:
        return self.root / "checkpoints" / study


def check_writable(folder: Path, what: str) -> None:
    """Refuse a folder in which nothing can be written, before any work is done for it.

    Args:
        what: names it, for the message.

    Raises:
        UserError: it is a file, or cannot be made or written.
        InfrastructureError: the disk is full.
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir():
            raise UserError(f"{what} should be a folder. Found the file `{existing}`.")
        with tempfile.TemporaryDirectory(prefix=".autometa-", dir=existing):
            pass
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InfrastructureError(f"{what}: {reason_of(exc)} (`{folder}`).") from exc
        raise UserError(
            f"{what} should be a folder that can be written. Found `{folder}` ({reason_of(exc)})."
        ) from None


def is_name(text: str) -> bool:
    """Whether this can be the name of a study, and so a file name on every system."""
    return _NAME.fullmatch(text) is not None


def stem_of(text: str) -> str:
    """A name for a study or a model, after any text: accents are dropped, and what else is no
    letter or digit of ASCII becomes `-`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")
    return stem[:80].rstrip("-._") or "study"


def check_study_name(name: str, parameter: str = "study_name") -> str:
    """Return `name` if it can be a file name on every system.

    Raises:
        UserError: it is empty, starts with a dot, or has other characters than
            letters, digits, `.`, `_` and `-`.
    """
    if not is_name(name):
        raise UserError(
            f"Parameter `{parameter}` should be 1 to 100 letters, digits, `.`, `_` or `-` and "
            f"start with a letter or digit. Found `{parameter} = {name!r}`."
        )
    return name


def note_opening(home: Home, fingerprint: str) -> int:
    """Count that the test rows of a suite are opened, and return how often they were before.

    Args:
        fingerprint: of the suite, `TaskSuite.fingerprint`.

    Processes on one machine may call it at once: a lock is held while the file is changed, and the
    new file replaces the old one as a whole. A file that cannot be read counts from the start.

    Raises:
        InfrastructureError: the home folder cannot be written.
    """
    path = home.root / "openings.json"
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            counts = _read_counts(path)
            before = counts.get(fingerprint, 0)
            counts[fingerprint] = before + 1
            part = path.with_suffix(".part")
            part.write_text(json.dumps(counts, indent=1), encoding="utf-8")
            part.replace(path)
    except OSError as exc:
        raise InfrastructureError(
            f"The openings of test rows cannot be counted in `{path}` ({reason_of(exc)})."
        ) from exc
    return before


def _read_counts(path: Path) -> dict[str, int]:
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): int(value) for key, value in counts.items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return {}
