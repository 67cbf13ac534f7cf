"""Peers: methods without networks that a user would try first, lightly tuned on validation."""

from autometa.baselines.base import Peer
from autometa.baselines.fitted import FittedPeer
from autometa.baselines.registry import PEERS
from autometa.baselines.tuning import TunedPeer, tune

__all__ = ["PEERS", "FittedPeer", "Peer", "TunedPeer", "tune"]
