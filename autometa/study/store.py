"""Opening, reading, listing and deleting studies, in the home folder or in a database."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection

from autometa.errors import (
    BrokenStudyError,
    InfrastructureError,
    StudyError,
    nearest,
    reason_of,
)
from autometa.home import Home, check_study_name
from autometa.space import Space
from autometa.study.databases import (
    DatabaseOwner,
    check_readable,
    connect,
    disconnect,
    hidden,
    holder,
    quiet,
    storage_errors,
)
from autometa.study.handle import StudyHandle
from autometa.study.journal import (
    GroupedJournalBackend,
    ReadOnlyJournalBackend,
    StudyLock,
    has_started,
    lock_path,
)


def open_study(
    home: Home,
    name: str,
    *,
    storage: str | None = None,
    resume: bool = False,
    fingerprint: str,
    attrs: Mapping[str, Any],
    with_cost: bool = False,
) -> StudyHandle:
    """Start a study, or go on with one, as its only driver.

    Args:
        home: where the journal is kept.
        name: the study's name, and its file's.
        storage: a database URL; a journal in the home folder if not given.
        resume: go on with a study of this name if there is one.
        fingerprint: of the suite; a study belongs to one.
        attrs: user attributes such as `suite`, `space` and `settings`. They are written when the
            study starts; on resuming they replace the old ones, but `space` must mean the same.
        with_cost: trials have two values, the score and a cost to be minimised.

    A study is made with all its attributes or not at all.

    Raises:
        StudyError: the name is taken and `resume` is not set, the study belongs to other data or
            another space or has other values, or another driver holds it.
        InfrastructureError: the storage cannot be reached, written or read.
    """
    check_study_name(name)
    attrs = _as_json(attrs)
    if storage is not None:
        return _open_database(name, storage, resume, fingerprint, attrs, with_cost)
    backend = GroupedJournalBackend(home.journal(name))
    try:
        store = _journal_storage(backend, backend.path)
        existed = _has_study(store, name)
        study = _start(store, name, resume, fingerprint, attrs, with_cost)
        backend.commit()
        return StudyHandle(study, resumed=existed, backend=backend)
    except BaseException:
        if backend.is_empty:
            with suppress(InfrastructureError):  # what went wrong first is what is told
                _remove([backend.path, lock_path(backend.path)])
        backend.close()
        raise


def read_study(home: Home, name: str, storage: str | None = None) -> optuna.Study:
    """A study as it is now, for reading, whether or not a driver runs.

    Raises:
        StudyError: there is no such study (with the nearest name).
        BrokenStudyError: its journal holds no study, as its driver died when it made it.
        InfrastructureError: the storage cannot be reached or read.
    """
    if storage is None:
        path = home.journal(check_study_name(name))
        if not path.is_file():
            raise _unknown(home, name, storage)
        store: BaseStorage = _journal_storage(ReadOnlyJournalBackend(path), path)
        if not _has_study(store, name):
            raise BrokenStudyError(
                f"Study `{name}` is broken: its journal `{path}` holds no study of this name, as "
                f"where its search was killed at once. `autometa delete {name}` removes it; a "
                "search with --resume starts it anew."
            )
        return _QuietStudy(name, store, sampler=RandomSampler(seed=0))
    check_readable(storage)
    rdb, store = connect(storage)
    try:
        with storage_errors(storage):
            if not _has_study(store, name):
                raise _unknown(home, name, storage)
            study = _QuietStudy(name, store, sampler=RandomSampler(seed=0))
    except BaseException:
        disconnect(rdb)
        raise
    weakref.finalize(study, disconnect, rdb)
    return study


@contextmanager
def reading(where: str) -> Iterator[BaseStorage]:
    """Anyone's Optuna storage, to read from: a database URL, or the path of a journal file.

    Raises:
        StudyError: there is no such file, it holds no studies, or the URL cannot be a database.
        InfrastructureError: it cannot be reached or read.
    """
    if "://" not in where:
        path = Path(where).expanduser()
        if not path.is_file():
            raise StudyError(f"There is no journal `{where}`.")
        yield _journal_storage(ReadOnlyJournalBackend(path), path)
        return
    check_readable(where)
    rdb, store = connect(where, create=False)
    try:
        with storage_errors(where):
            yield store
    finally:
        disconnect(rdb)


def list_studies(home: Home, storage: str | None = None, *, create: bool = False) -> list[str]:
    """Names of the studies in the home folder, or in a database, sorted.

    Args:
        create: make an SQLite file where there is none.

    Raises:
        StudyError: there is no such database.
        InfrastructureError: it cannot be reached or read.
    """
    if storage is None:
        return sorted(path.stem for path in home.studies.glob("*.journal"))
    if not create:
        check_readable(storage)
    rdb, _ = connect(storage)
    try:
        with storage_errors(storage):
            return sorted(study.study_name for study in rdb.get_all_studies())
    finally:
        disconnect(rdb)


def broken_studies(home: Home, storage: str | None = None) -> list[str]:
    """Names of the studies whose driver died before they were begun, sorted: they hold nothing,
    and may be deleted, or begun with `resume`.

    Raises:
        StudyError: there is no such database.
        InfrastructureError: it cannot be reached or read.
    """
    if storage is None:
        journals = sorted(home.studies.glob("*.journal"))
        return [path.stem for path in journals if not has_started(path)]
    with reading(storage) as store:
        return sorted(
            study.study_name
            for study in store.get_all_studies()
            if "owner" in study.user_attrs and "fingerprint" not in study.user_attrs
        )


def delete_study(home: Home, name: str, storage: str | None = None) -> list[Path]:
    """Remove a study, its checkpoints and what waits to be sent to the tracking server.

    Returns:
        The files and folders that were removed from the home folder.

    Raises:
        StudyError: there is no such study, or a driver holds it.
    """
    check_study_name(name)
    mine = [home.checkpoints(name), home.initial(name), home.outbox / f"{name}.jsonl"]
    if storage is None:
        path = home.journal(name)
        if not path.is_file():
            raise _unknown(home, name, storage)
        lock = StudyLock(lock_path(path), name)
        try:
            return _remove([path, *mine, lock_path(path)])
        finally:
            lock.release()
    study = read_study(home, name, storage)
    if owner := holder(study):
        raise StudyError(
            f"Study `{name}` is in use by process {owner['pid']} on {owner['host']}. Stop it first."
        )
    with storage_errors(storage):
        study._storage.delete_study(study._study_id)
    return _remove(mine)


class _QuietStudy(optuna.Study):
    """A study that does not print a line for every trial told."""

    def _log_completed_trial(self, *args: Any, **kwargs: Any) -> None:
        pass


def _open_database(
    name: str, url: str, resume: bool, fingerprint: str, attrs: Mapping[str, Any], with_cost: bool
) -> StudyHandle:
    rdb, store = connect(url)
    owner = None
    is_ours = False
    try:
        with storage_errors(url):
            existed = _has_study(store, name)
            if existed and not resume:
                raise _taken(name)
            if not existed:
                with quiet("optuna.storages._rdb.storage"):
                    try:
                        store.create_new_study(_directions(with_cost), name)
                        is_ours = True
                    except optuna.exceptions.DuplicatedStudyError:
                        if not resume:
                            raise _taken(name) from None  # another driver was quicker
            owner = DatabaseOwner(rdb, store.get_study_id_from_name(name), name, url)
            study = _start(store, name, True, fingerprint, attrs, with_cost)
    except BaseException:
        if owner is not None:
            if is_ours:
                with suppress(Exception):  # the same
                    store.delete_study(store.get_study_id_from_name(name))
            owner.release()
        disconnect(rdb)
        raise
    return StudyHandle(study, resumed=existed, owner=owner, where=url)


def _directions(with_cost: bool) -> list[StudyDirection]:
    """The score is maximised, a cost minimised."""
    return [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * with_cost


def _start(
    store: BaseStorage,
    name: str,
    resume: bool,
    fingerprint: str,
    attrs: Mapping[str, Any],
    with_cost: bool,
) -> optuna.Study:
    """Create or load the study and bring its attributes up to date."""
    if not _has_study(store, name):
        with quiet("optuna.storages.journal._storage"):
            store.create_new_study(_directions(with_cost), name)
    elif not resume:
        raise _taken(name)
    study = _QuietStudy(name, store, sampler=RandomSampler(seed=0))
    stored = study.user_attrs
    if study.directions != _directions(with_cost):
        has = "the score alone" if with_cost else "score and cost"
        raise StudyError(
            f"Study `{name}` was started for {has}, so it cannot go on with another `cost`. Resume "
            "it with the one it had, or choose another study name."
        )
    # A driver that died while it started the study may have left it without attributes.
    if "fingerprint" in stored and stored["fingerprint"] != fingerprint:
        raise StudyError(
            f"Study `{name}` was started on other data: its suite has the fingerprint "
            f"{stored['fingerprint']}, this one has {fingerprint}. Give back the same file, tasks "
            "and split, or choose another study name."
        )
    if "space" in stored and "space" in attrs and not _same_space(stored["space"], attrs["space"]):
        raise StudyError(
            f"Study `{name}` was started with another search space. Resume it without naming a "
            "space, or choose another study name."
        )
    for key, value in {**attrs, "fingerprint": fingerprint}.items():
        if key == "space" and key in stored:
            continue  # means the same; the text that the study began with stays
        if key not in stored or stored[key] != value:
            study.set_user_attr(key, value)
    return study


def _as_json(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes as they are read back, numbers of NumPy as plain ones.

    Raises:
        TypeError: JSON has no word for one of them.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic | np.ndarray):
            return value.tolist()
        raise TypeError(f"An attribute of a study should be JSON. Found `{value!r}`.")

    found: dict[str, Any] = json.loads(json.dumps(attrs, default=plain))
    return found


def _same_space(old: str, new: str) -> bool:
    """Comments and descriptions may differ."""
    if old == new:
        return True
    one, two = Space.from_yaml(old), Space.from_yaml(new)
    return (one.entries(), one.unbuildable) == (two.entries(), two.unbuildable)


def _journal_storage(
    backend: GroupedJournalBackend | ReadOnlyJournalBackend, path: Path
) -> JournalStorage:
    try:
        return JournalStorage(backend)
    except (AssertionError, KeyError, TypeError, ValueError) as exc:
        raise InfrastructureError(
            f"Journal `{path}` cannot be read ({type(exc).__name__}: {exc}): it is damaged, or "
            "was written by a newer Optuna. Upgrade Optuna or restore the file from a backup."
        ) from exc
    except OSError as exc:
        raise InfrastructureError(f"Journal `{path}` cannot be read: {reason_of(exc)}.") from exc


def _has_study(store: BaseStorage, name: str) -> bool:
    try:
        store.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


def _taken(name: str) -> StudyError:
    return StudyError(
        f"Study `{name}` exists. Add --resume (resume=True) to go on with it, or choose another "
        "study name."
    )


def _unknown(home: Home, name: str, storage: str | None) -> StudyError:
    names = list_studies(home, storage)
    where = hidden(storage) if storage else str(home.studies)
    has = f"It has: {', '.join(names[:10])}." if names else "It has no studies yet."
    if not storage:
        has += " Studies in a database are found with --storage URL (`storage`)."
    return StudyError(f"There is no study `{name}` in {where}.{nearest(name, names)} {has}")


def _remove(paths: list[Path]) -> list[Path]:
    removed = []
    for path in paths:
        try:
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
            else:
                continue
        except OSError as exc:
            raise InfrastructureError(
                f"`{path}` cannot be removed: {reason_of(exc)}. Remove it by hand."
            ) from exc
        removed.append(path)
    return removed
