"""The front of tracking: queues records of a search; see the package's docstring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autometa.errors import ConfigError, InfrastructureError
from autometa.home import Home, check_study_name
from autometa.tracking.outbox import Outbox, Writer
from autometa.tracking.places import tracking_place
from autometa.tracking.records import MAX_PARAM, MAX_TAG, clean_metrics, clean_values, record
from autometa.tracking.runs import RunWriter, dataset_record, quiet, send_leftovers

if TYPE_CHECKING:
    import pandas as pd


class Tracker:
    """Writes a search and its trials to MLflow; use `Tracker.open`, and close it when done."""

    def __init__(self, writer: Writer | None, sender: RunWriter | None) -> None:
        self._writer, self._sender = writer, sender

    @staticmethod
    def open(
        uri: str | None,
        home: Home,
        study_name: str,
        *,
        study_id: str | None = None,
        linger: float = 2.0,
        timeout: float = 20.0,
    ) -> Tracker:
        """Start tracking a study.

        Args:
            uri: an MLflow tracking URI, `"off"`, or None for that of `$MLFLOW_TRACKING_URI`, else
                `<home>/mlflow.db` with artifacts in `<home>/artifacts`. The experiment is
                `$MLFLOW_EXPERIMENT_NAME`, else `autometa`.
            study_id: tells apart studies of one name on a shared server; the same at every resume.
            linger: seconds for which records are collected, to be written together.
            timeout: seconds to wait for a server that was named. The home's own database is opened
                in the background instead, and its failures never raise.

        Raises:
            ConfigError: the URI has a scheme that MLflow cannot write to.
            InfrastructureError: the server that was named cannot be reached or refuses us.
        """
        place = tracking_place(uri, home)
        if place.uri == "off":
            return NullTracker()
        check_study_name(study_name)
        target = place.uri
        sender = RunWriter(target, home, study_name, study_id)
        server = hashlib.sha256(target.encode()).hexdigest()[:16]  # a URI may hold a password
        head = {"outbox": 1, "study": study_name, "study_id": study_id, "server": server}
        box = Outbox.for_study(home.outbox, study_name, head)
        writer = Writer(box, sender, linger)
        writer.start(after=lambda: send_leftovers(home, server, sender, writer))
        if place.source and not writer.wait(
            writer.connected.is_set, _patience(target, timeout), since=0
        ):
            writer.close(timeout=0)
            if isinstance(sender.unusable, ConfigError):
                of = f" It is from {place.source}." if place.is_of_environment else ""
                raise ConfigError(f"{sender.unusable}{of}") from sender.unusable
            why = writer.problem or f"no answer within {timeout:g} seconds"
            raise InfrastructureError(
                f"The MLflow tracking server at `{sender.display_uri}` cannot be used: {why}. "
                f"Start it, or correct {place.source}; without one the home folder is used."
            )
        return Tracker(writer, sender)

    def search_started(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        suite: Mapping[str, Any],
        space_text: str,
        dataset_frame: pd.DataFrame | None,
        dataset_name: str,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Start or go on with the search's run; logs suite.json, space.yaml, `more` (name of a file
        → what is in it) and the data set."""
        texts = {"suite.json": json.dumps(suite, indent=2, default=str), "space.yaml": space_text}
        texts |= more or {}
        self._put(
            "search_started",
            params=clean_values(params, MAX_PARAM),
            tags=clean_values(tags, MAX_TAG),
            texts=texts,
        )
        if dataset_frame is not None and self._writer is not None:
            frame = dataset_frame.copy(deep=False)
            digest = str(suite["fingerprint"])
            self._writer.put_later(lambda: dataset_record(frame, dataset_name, digest))

    def trial_started(
        self, number: int, params: Mapping[str, Any], tags: Mapping[str, Any]
    ) -> None:
        """Start or go on with the run of a trial."""
        self._put(
            "trial_started",
            number=int(number),
            params=clean_values(params, MAX_PARAM),
            tags=clean_values(tags, MAX_TAG),
        )

    def trial_rung(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a trial after `step` optimizer steps; None is left out."""
        self._put("trial_rung", number=int(number), step=int(step), metrics=clean_metrics(metrics))

    def trial_finished(
        self,
        number: int,
        state: Literal["COMPLETE", "PRUNED", "FAIL"],
        value: float | None,
        reason: str | None,
        step: int = 0,
    ) -> None:
        """End a trial's run: FINISHED, with the tag `pruned` if it was, or FAILED with `reason`;
        `step` is how far it was trained."""
        tags = {"state": state, "reason": reason, "pruned": "true" if state == "PRUNED" else None}
        self._put(
            "trial_finished",
            number=int(number),
            state=state,
            step=int(step),
            metrics=clean_metrics({} if value is None else {"value": value}),
            tags=clean_values(tags, MAX_TAG),
        )

    def search_finished(
        self,
        metrics: Mapping[str, Any],
        tags: Mapping[str, Any],
        artifacts: Sequence[Path],
        status: Literal["FINISHED", "KILLED", "FAILED"],
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """End the search's run; artifacts are files or folders, read when they are sent, `texts`
        are names of files to what is in them."""
        self._put(
            "search_finished",
            metrics=clean_metrics(metrics),
            tags=clean_values(tags, MAX_TAG),
            artifacts=[str(Path(p).absolute()) for p in artifacts],
            texts=dict(texts or {}),
            status=status,
        )

    def flush(self, timeout: float = 30.0) -> bool:
        """Send now; True if all was sent within `timeout` seconds."""
        return self._writer is None or self._writer.flush(timeout)

    def close(self, timeout: float = 30.0) -> bool:
        """Send what is queued for at most `timeout` seconds (5 if the server is failing already).

        What is left waits in the outbox. Returns True if nothing is left. Also runs at exit.
        """
        return self._writer is None or self._writer.close(timeout)

    @property
    def tracking_uri(self) -> str | None:
        """The URI written to, as given (it may hold a password; `display_uri` does not)."""
        return self._sender.uri if self._sender else None

    @property
    def display_uri(self) -> str | None:
        return self._sender.display_uri if self._sender else None

    @property
    def run_id(self) -> str | None:
        """The search's run; waits for it up to 30 seconds. None if tracking is off or failing."""
        if self._writer is None or self._sender is None:
            return None
        sender = self._sender
        self._writer.wait(lambda: sender.parent is not None, 30.0)
        return sender.parent

    @property
    def problem(self) -> str | None:
        """Why records are not being written at the moment, in one sentence; None if they are."""
        return self._writer.problem if self._writer else None

    @property
    def queued(self) -> int:
        """How many records are not yet written."""
        return self._writer.queued if self._writer else 0

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _put(self, kind: str, **values: Any) -> None:
        if self._writer is not None:
            self._writer.put(record(kind, **values))


class NullTracker(Tracker):
    """A tracker that does nothing."""

    def __init__(self) -> None:
        super().__init__(None, None)


def delete_runs(uri: str | None, home: Home, study_name: str, study_id: str | None = None) -> int:
    """Mark the study's runs as deleted, so that a new study of that name starts new ones.

    Returns the number of runs. A home without a tracking database is left without one.

    Raises:
        InfrastructureError: the tracking server cannot be reached.
    """
    for path in home.outbox.glob(f"{check_study_name(study_name)}.*"):
        path.unlink(missing_ok=True)
    place = tracking_place(uri, home)
    if place.uri == "off" or (place.source is None and not home.mlflow_db.exists()):
        return 0
    sender = RunWriter(place.uri, home, study_name, study_id)
    try:
        with quiet():
            sender.connect()
            return sender.delete()
    except ConfigError:
        raise
    except Exception as exc:
        raise InfrastructureError(
            f"The runs of `{study_name}` at `{sender.display_uri}` were not deleted: {exc}."
        ) from exc


def _patience(uri: str, timeout: float) -> float:
    # A new database file takes all migrations, on a slow disk a minute; but it cannot hang.
    return max(timeout, 120.0) if uri.startswith("sqlite") else timeout
