"""How task parameters are obtained: one file a learner, behind adapt / loss / predict."""

from autometa.learners.base import Batch, Episode, Learner
from autometa.learners.joint import Joint

LEARNERS: dict[str, type[Learner]] = {"joint": Joint}

__all__ = ["LEARNERS", "Batch", "Episode", "Joint", "Learner"]
