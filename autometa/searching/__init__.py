"""Search over training runs: work units, promotion, executors (inline, Ray Tune), the loop."""

from autometa.searching.loop import SearchLoop, SearchSettings
from autometa.searching.progress import Progress
from autometa.searching.promotion import PRUNERS

__all__ = ["PRUNERS", "Progress", "SearchLoop", "SearchSettings"]
