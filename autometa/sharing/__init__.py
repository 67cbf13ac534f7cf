"""Which parameters the tasks of a suite share: one file a mechanism, behind one contract."""

from autometa.sharing.base import Params, Role, Sharing
from autometa.sharing.hard import Hard
from autometa.sharing.independent import Independent

SHARING: dict[str, type[Sharing]] = {"independent": Independent, "hard": Hard}

__all__ = ["SHARING", "Params", "Role", "Sharing"]
