"""All peers that apply to a suite, one unit each, within a share of the search's time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autometa.baselines import PEERS
from autometa.searching.executors import Script
from autometa.searching.peers import failed_peer
from autometa.searching.units import UnitResult, WorkUnit
from autometa.tasks import TaskSuite

#: of the seconds that the search took: for all peers together
PEER_SHARE = 0.2
#: seconds that a peer has at least
LEAST_SECONDS = 5.0


def peer_script(
    suite: TaskSuite,
    *,
    folder: Path,
    seed: int,
    search_seconds: float | None,
    share: float = PEER_SHARE,
    folds: int = 0,
) -> Script[list[dict[str, Any]]]:
    """Tune every peer; what each reached on validation, in the order of `PEERS`.

    Each has the same part of `share` of `search_seconds`, of one worker, but `LEAST_SECONDS` at
    least, and its first setting is fitted whatever it takes.

    Args:
        suite: read for which peers apply only; the rows are those saved in `folder/suite`.
        folder: as of `Finals`; takes the fitted peers.
        search_seconds: None: all settings are tried.
        folds: as in `run_peer`.

    Returns:
        Plain JSON, one a peer, see `run_peer`; with the reason of those that do not apply.
    """
    reasons = {name: peer.applies(suite) for name, peer in PEERS.items()}
    names = [name for name, reason in reasons.items() if reason is None]
    seconds = seconds_each(search_seconds, len(names), share)
    units = [
        peer_unit(name, suite, folder=folder, seed=seed, seconds=seconds, folds=folds)
        for name in names
    ]
    results = yield units
    found = {name: _outcome(name, result) for name, result in zip(names, results, strict=True)}
    return [
        found[name] if reason is None else failed_peer(name, reason)
        for name, reason in reasons.items()
    ]


def seconds_each(search_seconds: float | None, peers: int, share: float) -> float | None:
    """Seconds that each of so many peers has."""
    if search_seconds is None or not peers:
        return None
    return max(LEAST_SECONDS, share * search_seconds / peers)


def peer_unit(
    name: str, suite: TaskSuite, *, folder: Path, seed: int, seconds: float | None, folds: int = 0
) -> WorkUnit:
    """The unit that tunes one peer; it trains no network, so it has no steps."""
    return WorkUnit(
        names=(f"peer-{name}",),
        configs=({},),
        seeds=(seed,),
        from_step=0,
        to_step=0,
        max_steps=0,
        suite=str(folder / "suite"),
        fingerprint=suite.fingerprint,
        checkpoints=str(folder),
        peer=name,
        seconds_at_most=seconds,
        folds=tuple(range(folds)),
    )


def _outcome(name: str, result: UnitResult) -> dict[str, Any]:
    """A unit whose worker died has no peer, but says why."""
    if result.peers:
        return result.peers[0]
    return failed_peer(name, result.results[0].reason or "Its worker returned nothing.")
