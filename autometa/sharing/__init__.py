"""Which parameters the tasks of a suite share: one file a mechanism, behind one contract."""

from autometa.sharing.base import Params, Role, Sharing
from autometa.sharing.cross_stitch import CrossStitch
from autometa.sharing.deep_relation import DeepRelation
from autometa.sharing.hard import Hard
from autometa.sharing.independent import Independent
from autometa.sharing.mtan import MTAN
from autometa.sharing.sluice import Sluice
from autometa.sharing.soft import Soft
from autometa.sharing.tree import Tree

SHARING: dict[str, type[Sharing]] = {
    "independent": Independent,
    "hard": Hard,
    "tree": Tree,
    "soft": Soft,
    "cross_stitch": CrossStitch,
    "sluice": Sluice,
    "mtan": MTAN,
    "deep_relation": DeepRelation,
}

__all__ = ["SHARING", "Params", "Role", "Sharing"]
