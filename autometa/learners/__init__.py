"""How task parameters are obtained: one file a learner, behind adapt / loss / predict."""

from autometa.learners.amortized import Amortized
from autometa.learners.base import Batch, Episode, Learner
from autometa.learners.bayesian import Bayesian
from autometa.learners.finetune import FineTune
from autometa.learners.gradient import Gradient
from autometa.learners.joint import Joint
from autometa.learners.metric import Metric
from autometa.learners.reptile import Reptile

LEARNERS: dict[str, type[Learner]] = {
    "joint": Joint,
    "finetune": FineTune,
    "gradient": Gradient,
    "reptile": Reptile,
    "metric": Metric,
    "amortized": Amortized,
    "bayesian": Bayesian,
}

__all__ = [
    "LEARNERS",
    "Amortized",
    "Batch",
    "Bayesian",
    "Episode",
    "FineTune",
    "Gradient",
    "Joint",
    "Learner",
    "Metric",
    "Reptile",
]
