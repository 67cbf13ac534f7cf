"""All peers by name, in the order in which a report lists them."""

from __future__ import annotations

from autometa.baselines.base import Peer
from autometa.baselines.boosting import BoostingPeer, PooledBoostingPeer
from autometa.baselines.linear import PooledRidgePeer, RidgePeer
from autometa.baselines.trees import TreesPeer
from autometa.errors import DataError, nearest

PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (RidgePeer, PooledRidgePeer, TreesPeer, BoostingPeer, PooledBoostingPeer)
}


def find_peer(name: str) -> type[Peer]:
    """The peer of that name.

    Raises:
        DataError: there is none.
    """
    if name not in PEERS:
        raise DataError(
            f"Parameter `peer` should be one of {', '.join(PEERS)}. Found `peer = {name!r}`."
            f"{nearest(name, PEERS)}"
        )
    return PEERS[name]
