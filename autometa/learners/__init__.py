"""How task parameters are obtained: one file a learner, behind adapt / loss / predict."""

from autometa.learners.base import Batch, Episode, Learner
from autometa.learners.finetune import FineTune
from autometa.learners.gradient import Gradient
from autometa.learners.joint import Joint
from autometa.learners.reptile import Reptile

LEARNERS: dict[str, type[Learner]] = {
    "joint": Joint,
    "finetune": FineTune,
    "gradient": Gradient,
    "reptile": Reptile,
}

__all__ = ["LEARNERS", "Batch", "Episode", "Joint", "Learner"]
