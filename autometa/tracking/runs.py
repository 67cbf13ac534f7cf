"""The part that talks to MLflow: records become runs, each looked up before it is created."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import threading
import urllib.parse
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autometa.home import Home
from autometa.tracking.outbox import BATCH, Writer, leftovers
from autometa.tracking.reaching import one_at_a_time, probe
from autometa.tracking.records import MAX_DIGEST, MAX_SCHEMA, Record, Update, chunks, merge, record

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "autometa"
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}


class RunWriter:
    """Writes records to one MLflow experiment; every call may be repeated after a failure."""

    def __init__(self, uri: str, home: Home, study: str, study_id: str | None) -> None:
        self.uri, self.study, self.study_id = uri, study, study_id
        self.parent: str | None = None
        self.unusable: Exception | None = None
        self._home = home
        self._client: Any = None
        self._name = self._experiment = ""
        self._trials: dict[int, str] = {}
        self._status: dict[str, str] = {}
        # While we made the parent ourselves and no answer was lost, no trial's run can exist yet.
        self._nothing_before = False

    @property
    def display_uri(self) -> str:
        return re.sub(r"(://[^/:@]*):[^@/]*@", r"\1:***@", self.uri)

    def connect(self) -> None:
        """Reach the server (quickly or not at all) and find or make the experiment."""
        self._nothing_before = False
        _quiet_thread()
        _ignore_warnings()
        try:
            self._connect()
        except Exception as exc:
            self.unusable = exc
            password = urllib.parse.urlsplit(self.uri).password
            if password and password in str(exc):
                raise RuntimeError(str(exc).replace(password, "***")) from None
            raise

    def _connect(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Else every finished run prints two lines to stdout.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._name = name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        from mlflow import MlflowClient

        _quiet_thread()  # MLflow's log handlers exist from here on
        with one_at_a_time(self.uri):
            probe(self.uri, name)
            self._client = MlflowClient(self.uri, registry_uri=self.uri)
            self._experiment = self._find_experiment()

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        client, name = self._client, self._name
        found = client.get_experiment_by_name(name)
        if found is None:
            place = None
            if not self.uri.startswith(("http", "databricks")):
                place = self._home.artifacts.as_uri()  # else ./mlruns of the current folder
            try:
                return str(client.create_experiment(name, artifact_location=place))
            except MlflowException as exc:
                if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)  # another search was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def send(self, records: list[Record]) -> list[tuple[list[Record], str]]:
        """Write all records; returns those that the server will never take, with its reason."""
        updates = merge(records)
        if not updates:
            return []
        parent = updates.pop(0) if updates[0].number is None else Update(None, time=updates[0].time)
        refused = []
        try:
            parent_id = self._parent(parent)
            refused += self._write(parent_id, parent)
            for update in updates:
                refused += self._write(self._trial(update, parent_id), update)
            if parent.ends:
                self._end_search(parent_id, parent)
        except Exception:
            self._nothing_before = False
            raise
        return refused

    def delete(self) -> int:
        parents = self._search(self._parent_filter(), 1000)
        ids = [run.info.run_id for run in parents]
        for parent in list(ids):
            token: str | None = None
            while True:
                query = f"tags.`mlflow.parentRunId` = '{parent}'"
                page = self._client.search_runs(
                    [self._experiment], query, max_results=1000, page_token=token
                )
                ids += [run.info.run_id for run in page]
                token = page.token
                if not token:
                    break
        for run_id in reversed(ids):
            self._client.delete_run(run_id)
        return len(ids)

    def _parent_filter(self) -> str:
        query = f"tags.study_name = '{self.study}' and tags.`autometa.role` = 'search'"
        if self.study_id is not None:
            query += f" and tags.`autometa.study_id` = '{self.study_id}'"
        return query

    def _search(self, query: str, most: int = 1) -> list[Any]:
        # The oldest, should two writers ever have made one each.
        return list(
            self._client.search_runs(
                [self._experiment], query, max_results=most, order_by=["attributes.start_time ASC"]
            )
        )

    def _parent(self, update: Update) -> str:
        if self.parent is None:
            if found := self._search(self._parent_filter()):
                self._status[found[0].info.run_id] = found[0].info.status
                self.parent = found[0].info.run_id
            else:
                tags = {"study_name": self.study, "autometa.role": "search"}
                if self.study_id is not None:
                    tags["autometa.study_id"] = self.study_id
                self.parent = self._create(self.study, update, tags)
                self._nothing_before = True
        return self.parent

    def _trial(self, update: Update, parent: str) -> str:
        number = int(update.number or 0)
        if number not in self._trials:
            query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.trial_number = '{number}'"
            if not self._nothing_before and (found := self._search(query)):
                run_id = found[0].info.run_id
                self._status[run_id] = found[0].info.status
            else:
                tags = {
                    "mlflow.parentRunId": parent,
                    "study_name": self.study,
                    "trial_number": str(number),
                    "autometa.role": "trial",
                }
                run_id = self._create(f"trial-{number}", update, tags)
            self._trials[number] = run_id
        return self._trials[number]

    def _create(self, name: str, update: Update, tags: dict[str, str]) -> str:
        tags |= {
            "mlflow.user": _user(),
            "mlflow.source.name": "autometa",
            "mlflow.source.type": "LOCAL",
        }
        first = dict(list(update.tags.items())[:50]) | tags
        run_id: str = self._client.create_run(
            self._experiment, start_time=update.time, tags=first, run_name=name
        ).info.run_id
        self._status[run_id] = "RUNNING"
        update.tags = {k: v for k, v in update.tags.items() if k not in first}
        return run_id

    def _write(self, run_id: str, update: Update) -> list[tuple[list[Record], str]]:
        from mlflow.exceptions import MlflowException

        try:
            self._log(run_id, update)
        except MlflowException as exc:
            if exc.error_code not in _REFUSALS:
                raise
            try:
                self._drop_known_params(run_id, update)
                self._log(run_id, update)
            except MlflowException as second:
                if second.error_code not in _REFUSALS:
                    raise
                return [(update.records, str(second))]
        try:
            self._log_artifacts(run_id, update)
        except Exception as exc:
            # An artifact store of its own (S3 without credentials) must not hold up the metrics.
            probe(self.uri, self._name)
            return [(update.records, f"artifacts: {exc}")]
        return []

    def _log_artifacts(self, run_id: str, update: Update) -> None:
        for name, text in update.texts.items():
            self._client.log_text(run_id, text, name)
        for path in map(Path, update.artifacts):
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), path.name)
            elif path.exists():  # else it went while the record waited
                self._client.log_artifact(run_id, str(path))

    def _log(self, run_id: str, update: Update) -> None:
        from mlflow.entities import Metric, Param, RunTag

        for params, tags, metrics in chunks(update):
            self._client.log_batch(
                run_id,
                params=[Param(*p) for p in params],
                tags=[RunTag(*t) for t in tags],
                metrics=[Metric(*m) for m in metrics],
                synchronous=True,
            )
        for dataset in update.datasets:
            self._log_dataset(run_id, dataset)
        if update.number is not None and update.ends:
            self._set_status(run_id, update)
        elif update.status == "RUNNING" and self._status.get(run_id) != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
            self._status[run_id] = "RUNNING"

    def _drop_known_params(self, run_id: str, update: Update) -> None:
        """MLflow never changes a parameter: what a resume changed becomes `resumed.<name>`."""
        known = self._client.get_run(run_id).data.params
        for name in [n for n in update.params if n in known]:
            value = update.params.pop(name)
            if value != known[name]:
                update.tags[f"resumed.{name}"[:250]] = value

    def _log_dataset(self, run_id: str, dataset: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run_id, [DatasetInput(Dataset(**dataset), tags)])

    def _set_status(self, run_id: str, update: Update) -> None:
        self._terminate(run_id, str(update.status), update.end_time)
        if update.number is None:
            self._status[run_id] = str(update.status)
        else:
            self._status.pop(run_id, None)  # memory stays bounded by the trials that run

    def _terminate(self, run_id: str, status: str, end_time: int) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_terminated(run_id, status, end_time)
        except MlflowException as exc:
            if exc.error_code not in _REFUSALS:  # those mean that someone deleted the run
                raise

    def _end_search(self, parent: str, update: Update) -> None:
        """End the parent, and as KILLED the trials that were running: a resume revives them."""
        for run_id in [r for r, s in self._status.items() if s == "RUNNING" and r != parent]:
            self._terminate(run_id, "KILLED", update.end_time)
            self._status[run_id] = "KILLED"
        self._set_status(parent, update)


def dataset_record(frame: pd.DataFrame, name: str, fingerprint: str) -> Record:
    """The data set of a search: what is in it is told by `fingerprint`, of which MLflow takes a
    part. A digest of MLflow's own would leave out truth values, dates and texts with gaps."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.pandas_dataset import from_pandas

    _ignore_warnings()
    source = CodeDatasetSource({"mlflow.source.name": "autometa", "mlflow.source.type": "LOCAL"})
    digest = fingerprint[:MAX_DIGEST]
    found = from_pandas(frame, source=source, name=name[:500], digest=digest).to_dict()
    schema = found.get("schema")
    dataset = {k: found.get(k) for k in ("name", "digest", "source_type", "source", "profile")}
    dataset["schema"] = schema if schema and len(schema) <= MAX_SCHEMA else None
    return record("dataset", dataset=dataset)


def send_leftovers(home: Home, server: str, like: RunWriter, writer: Writer) -> None:
    """Send what others could not write to this server, unless a process still holds it."""
    for box in leftovers(home.outbox, server):
        if box.path == writer.outbox:
            continue
        like._nothing_before = False  # it may be of this very study
        sender = RunWriter(like.uri, home, str(box.head.get("study")), box.head.get("study_id"))
        sender._client, sender._name = like._client, like._name
        sender._experiment = like._experiment
        while box.records and not writer.abandoned:
            batch = box.records[:BATCH]
            for records, why in sender.send(batch):
                box.reject(records, why)
            del box.records[:BATCH]
            box.sent(len(batch), left=len(box.records))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        return "unknown"


class _ThreadFilter(logging.Filter):
    """Drops log records of our threads: failures are kept in `Tracker.problem` instead."""

    # not their numbers: those of a thread that has ended go to another one
    threads: ClassVar[weakref.WeakSet[threading.Thread]] = weakref.WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        return threading.current_thread() not in self.threads


_FILTER = _ThreadFilter()


def _quiet_thread() -> None:
    """Keep MLflow's, alembic's and urllib3's messages of this thread off stderr."""
    _FILTER.threads.add(threading.current_thread())
    for name in ("mlflow", "alembic", "sqlalchemy.engine"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_FILTER)
    for name in ("urllib3.connectionpool", "mlflow.store.db.utils"):
        logging.getLogger(name).addFilter(_FILTER)


def _ignore_warnings() -> None:
    """Let nobody's `-W error` turn MLflow's own warnings into failures of tracking."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")
    # Advice on integer columns whenever a schema is read; there is nothing to act on.
    warnings.filterwarnings("ignore", message="Hint: Inferred schema contains integer column")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep this thread quiet for a block (`delete_runs` runs in the caller's thread)."""
    before = threading.current_thread() in _FILTER.threads
    _quiet_thread()
    try:
        yield
    finally:
        if not before:
            _FILTER.threads.discard(threading.current_thread())
