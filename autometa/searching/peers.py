"""A peer in a worker: tuned on the saved suite, written so that the driver can predict with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autometa.baselines import tune
from autometa.baselines.storing import write_peer
from autometa.tasks import TaskSuite
from autometa.tasks.folds import fold_numbers


def run_peer(
    name: str,
    *,
    suite: Path,
    checkpoints: Path,
    seed: int,
    seconds: float | None,
    threads: int = 1,
    folds: int = 0,
) -> dict[str, Any]:
    """Tune a peer on a saved suite's training and validation rows; never an exception.

    Args:
        name: one of `PEERS`.
        suite: folder of the suite, which has no test rows.
        checkpoints: folder that the fitted peer is written to.
        seconds: for all settings together, but the first; None: no limit.
        folds: of training and validation rows; 0 where the suite's own validation rows are used.

    Returns:
        Plain JSON: `name`, `words`, `value` (score on validation), `setting`, `tried` (number of
        settings), `seconds`, `path` (see `baselines.storing.read_peer`), `validation` (file of
        what it predicts for the validation rows) and `reason`: why it failed, with everything but
        the name None then; None if it did not.
    """
    try:
        rows = TaskSuite.load(suite)
        fold = fold_numbers(rows, folds) if folds else None
        tuned = tune(name, rows, seed=seed, seconds=seconds, threads=threads, fold=fold)
        path = write_peer(tuned.fitted, peer_path(checkpoints, name))
        validation = path.with_suffix(".npy")
        np.save(validation, tuned.outputs)
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
        "validation": str(validation),
        "reason": None,
    }


def failed_peer(name: str, reason: str) -> dict[str, Any]:
    """What is known of a peer that was not fitted."""
    unknown = dict.fromkeys(("words", "value", "setting", "tried", "seconds", "path", "validation"))
    return {"name": name, **unknown, "reason": reason}


def peer_path(checkpoints: Path, name: str) -> Path:
    """The file of a fitted peer."""
    return checkpoints / f"peer-{name}.skops"
