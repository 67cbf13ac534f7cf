"""The grouped journal: what is committed survives any kill, and one driver writes at a time."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from autometa.errors import InfrastructureError, StudyError
from autometa.study import journal as journal_module
from autometa.study.journal import GroupedJournalBackend, ReadOnlyJournalBackend

DISTRIBUTION = optuna.distributions.FloatDistribution(0.0, 1e9)


@contextmanager
def opened(path: Path) -> Iterator[tuple[GroupedJournalBackend, JournalStorage]]:
    backend = GroupedJournalBackend(path)
    try:
        yield backend, JournalStorage(backend)
    finally:
        backend.close()


def study_id(storage: JournalStorage) -> int:
    if not storage.get_all_studies():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optuna.storages.journal._storage._logger, "disabled", True)
            return storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    return storage.get_all_studies()[0]._study_id


def add_trial(storage: JournalStorage, study: int) -> None:
    """A trial whose parameter, intermediate values and value all equal its number."""
    number = len(storage.get_all_trials(study, deepcopy=False))
    finish(storage, storage.create_new_trial(study, create_trial(state=TrialState.RUNNING)), number)


def finish(storage: JournalStorage, trial_id: int, number: int) -> None:
    storage.set_trial_param(trial_id, "p", float(number), DISTRIBUTION)
    storage.set_trial_user_attr(trial_id, "config", {"a": [number] * 50})
    for epoch in (1, 3):
        storage.set_trial_intermediate_value(trial_id, epoch, float(number))
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [float(number)])


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_committed_records_are_read_by_plain_optuna_and_others_are_not_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.journal"
    with opened(path) as (backend, storage):
        study = study_id(storage)
        add_trial(storage, study)
        backend.commit()
        add_trial(storage, study)
        assert backend.pending == 6
        assert len(storage.get_all_trials(study)) == 2, "the driver sees what is not committed yet"
        plain = JournalStorage(JournalFileBackend(str(path)))
        assert [t.value for t in plain.get_all_trials(study)] == [0.0]
    with opened(path) as (_, storage):
        assert [t.value for t in storage.get_all_trials(study)] == [0.0]


def test_one_sync_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "s.journal") as (backend, storage):
        synced = []
        monkeypatch.setattr(os, "fsync", synced.append)
        study = study_id(storage)
        for _ in range(20):
            add_trial(storage, study)
        backend.commit()
        backend.commit()  # nothing new: nothing written
        assert len(synced) == 1


@pytest.mark.parametrize("short_writes", [False, True])
def test_kills_lose_nothing_committed_and_corrupt_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_writes: bool
) -> None:
    path = tmp_path / "s.journal"
    rng = random.Random(0)
    write = os.write

    def short(fd: int, data: bytes) -> int:
        time.sleep(1e-4)  # a slow disk: about half of the kills hit a commit
        return write(fd, bytes(data[:97]))  # the kernel may write less than it was given

    def drive() -> None:
        if short_writes:
            monkeypatch.setattr(journal_module.os, "write", short)
        with opened(path) as (backend, storage):
            study = study_id(storage)
            for trial in storage.get_all_trials(study, states=(TrialState.RUNNING,)):
                finish(storage, trial._trial_id, trial.number)  # left by the driver before
            while True:
                for _ in range(8):
                    add_trial(storage, study)
                backend.commit()
                write(acks, b"%d\n" % len(storage.get_all_trials(study, deepcopy=False)))

    torn = total = 0
    for _ in range(15):
        receiver, acks = os.pipe()
        child = in_child(drive)
        os.close(acks)
        first = os.read(receiver, 20)  # at least one commit is through
        time.sleep(rng.uniform(0.0, 0.02))
        kill(child)
        with os.fdopen(receiver, "rb") as rest:
            acked = int((first + rest.read()).split()[-1])
        before = path.stat().st_size
        with opened(path) as (backend, storage):
            torn += backend.cut_bytes > 0
            assert path.stat().st_size == before - backend.cut_bytes
            trials = storage.get_all_trials(study_id(storage))
            assert len(trials) >= acked >= total
            for number, trial in enumerate(trials[:acked]):
                assert trial.state == TrialState.COMPLETE
                assert trial.params == {"p": number}
                assert trial.values == [number]
                assert trial.intermediate_values == {1: number, 3: number}
                assert trial.user_attrs == {"config": {"a": [number] * 50}}
            total = len(trials)
        assert all(json.loads(line) for line in path.read_text().splitlines())
    assert torn > 0 or not short_writes, "no kill hit the middle of a commit"


def test_torn_last_line_is_cut_and_the_next_commit_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    with opened(path) as (backend, storage):
        study = study_id(storage)
        add_trial(storage, study)
        backend.commit()
    whole = path.read_bytes()
    for tail in (b'{"op_code":4,"worker', b"\0" * 300, b'{"a":1}\n', b"\xff\n{"):
        path.write_bytes(whole + tail)
        if b"\n" not in tail:
            assert len(JournalStorage(ReadOnlyJournalBackend(path)).get_all_trials(study)) == 1
        with opened(path) as (backend, storage):
            assert backend.cut_bytes == len(tail)
            assert path.read_bytes() == whole
            add_trial(storage, study)
            backend.commit()
        with opened(path) as (_, storage):
            assert [t.value for t in storage.get_all_trials(study)] == [0.0, 1.0]


def test_damage_before_the_end_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    with opened(path) as (backend, storage):
        study_id(storage)
        backend.commit()
    damaged = b"not a record\n" + path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(InfrastructureError, match=r"damaged at line 1 and has readable lines"):
        GroupedJournalBackend(path)
    assert path.read_bytes() == damaged
    path.write_bytes(b"")
    GroupedJournalBackend(path).close()  # the failed attempt did not keep the lock


def test_second_driver_is_refused_by_process_id(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    with opened(path), pytest.raises(StudyError, match=rf"`s` is in use by process {os.getpid()} "):
        GroupedJournalBackend(path)
    receiver, ready = os.pipe()

    def hold() -> None:
        with opened(path):
            os.write(ready, b"x")
            time.sleep(60)

    child = in_child(hold)
    assert os.read(receiver, 1) == b"x"
    with pytest.raises(StudyError, match=rf"is in use by process {child} on .*Wait for it"):
        GroupedJournalBackend(path)
    kill(child)
    GroupedJournalBackend(path).close()  # at once: the lock died with its holder
    os.close(receiver)
    os.close(ready)


def test_a_forked_child_neither_keeps_the_lock_nor_writes(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    receiver, ready = os.pipe()

    def drive() -> None:
        with opened(path) as (backend, storage):
            study_id(storage)

            def child() -> None:
                try:
                    backend.commit()
                except InfrastructureError:
                    os.write(ready, b"%d\n" % os.getpid())
                time.sleep(60)

            in_child(child)
            time.sleep(60)

    driver = in_child(drive)
    orphan = int(os.read(receiver, 20))
    with pytest.raises(StudyError, match=f"process {driver} "):
        GroupedJournalBackend(path)
    kill(driver)
    try:
        GroupedJournalBackend(path).close()  # free, though the driver's child still lives
        assert path.read_bytes() == b""
    finally:
        os.kill(orphan, signal.SIGKILL)
    os.close(receiver)
    os.close(ready)


def test_full_disk_is_an_error_that_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(path) as (backend, storage):
        study = study_id(storage)
        add_trial(storage, study)
        backend.commit()
        before = path.read_bytes()
        for _ in range(5):
            add_trial(storage, study)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 500, limits[1]))
        try:
            with pytest.raises(InfrastructureError, match="cannot be written: File too large"):
                backend.commit()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        backend.commit()
    with opened(path) as (_, storage):
        assert [t.value for t in storage.get_all_trials(study)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("written", [False, True])
def test_ctrl_c_in_a_commit_leaves_it_to_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    path = tmp_path / "s.journal"
    sync = os.fsync

    def stop(fd: int) -> None:
        if written:
            sync(fd)
        raise KeyboardInterrupt

    with opened(path) as (backend, storage):
        study = study_id(storage)
        add_trial(storage, study)
        backend.commit()
        before = path.read_bytes()
        add_trial(storage, study)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", stop)
            with pytest.raises(KeyboardInterrupt):
                backend.commit()
        assert path.read_bytes() == before
        add_trial(storage, study)
        backend.commit()
    with opened(path) as (_, storage):
        assert [t.value for t in storage.get_all_trials(study)] == [0, 1, 2]


def test_another_writer_is_noticed_before_it_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    with opened(path) as (backend, storage):
        study = study_id(storage)
        backend.commit()
        other = JournalStorage(JournalFileBackend(str(path)))
        add_trial(other, study)
        add_trial(storage, study)
        with pytest.raises(InfrastructureError, match="changed by another program"):
            backend.commit()
    with opened(path) as (_, storage):
        assert [t.value for t in storage.get_all_trials(study)] == [0.0]


def test_the_driver_sees_values_as_a_later_reader_will(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    with opened(path) as (backend, storage):
        study = study_id(storage)
        trial = storage.create_new_trial(study)
        storage.set_trial_user_attr(trial, "x", {"t": (1, 2), 3: float("nan")})
        seen = storage.get_trial(trial).user_attrs["x"]
        assert seen["t"] == [1, 2]
        assert "3" in seen
        with pytest.raises(TypeError):
            storage.set_trial_user_attr(trial, "y", object())
        backend.commit()
    with opened(path) as (_, storage):
        assert str(storage.get_trial(trial).user_attrs) == str({"x": seen})


def test_reading_does_not_write(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    with opened(path) as (backend, storage):
        study = study_id(storage)
        backend.commit()
        reader = JournalStorage(ReadOnlyJournalBackend(path))
        with pytest.raises(StudyError, match="opened for reading"):
            reader.create_new_trial(study)
        add_trial(storage, study)
        backend.commit()
        assert len(reader.get_all_trials(study)) == 1, "a reader follows the driver"
