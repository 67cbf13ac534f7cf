"""A peer in a worker: tuned on the saved suite, written so that the driver can predict with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autometa.baselines import tune
from autometa.baselines.storing import write_peer
from autometa.tasks import TaskSuite


def run_peer(
    name: str,
    *,
    suite: Path,
    checkpoints: Path,
    seed: int,
    seconds: float | None,
    threads: int = 1,
) -> dict[str, Any]:
    """Tune a peer on a saved suite's training and validation rows; never an exception.

    Args:
        name: one of `PEERS`.
        suite: folder of the suite, which has no test rows.
        checkpoints: folder that the fitted peer is written to.
        seconds: for all settings together, but the first; None: no limit.

    Returns:
        Plain JSON: `name`, `words`, `value` (score on validation), `setting`, `tried` (number of
        settings), `seconds`, `path` (see `baselines.storing.read_peer`) and `reason`: why it
        failed, with everything but the name None then; None if it did not.
    """
    try:
        tuned = tune(name, TaskSuite.load(suite), seed=seed, seconds=seconds, threads=threads)
        path = write_peer(tuned.fitted, peer_path(checkpoints, name))
    except Exception as exc:  # whatever scikit-learn or memory has against it: others go on
        return failed_peer(name, f"{type(exc).__name__}: {exc}")
    return {
        "name": name,
        "words": tuned.words,
        "value": tuned.value,
        "setting": tuned.setting,
        "tried": tuned.tried,
        "seconds": tuned.seconds,
        "path": str(path),
        "reason": None,
    }


def failed_peer(name: str, reason: str) -> dict[str, Any]:
    """What is known of a peer that was not fitted."""
    unknown = dict.fromkeys(("words", "value", "setting", "tried", "seconds", "path"))
    return {"name": name, **unknown, "reason": reason}


def peer_path(checkpoints: Path, name: str) -> Path:
    """The file of a fitted peer."""
    return checkpoints / f"peer-{name}.skops"
