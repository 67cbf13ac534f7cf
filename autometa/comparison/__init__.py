"""The comparison of methods on test rows or test episodes."""

from autometa.comparison.compare import by_score, compare_episodes, compare_rows
from autometa.comparison.effects import TaskComparison, task_effects
from autometa.comparison.methods import ARMS, Arm, Candidate, Method
from autometa.comparison.resampling import Resampled, resample_rows

__all__ = [
    "ARMS",
    "Arm",
    "Candidate",
    "Method",
    "Resampled",
    "TaskComparison",
    "by_score",
    "compare_episodes",
    "compare_rows",
    "resample_rows",
    "task_effects",
]
