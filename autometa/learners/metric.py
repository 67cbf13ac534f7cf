"""Prototypical networks (Snell et al. 2017): the nearest mean of a class's support rows."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from autometa.balancing import Balancer
from autometa.config import Config, per_run
from autometa.errors import ConfigError
from autometa.learners import embedding
from autometa.learners.base import Batch, Learner
from autometa.learners.inner import stream
from autometa.learners.losses import mean_over_tasks, row_losses, task_losses
from autometa.networks import ConditioningConfig, Problem, Step
from autometa.sharing import Params, Role, Sharing


class MetricConfig(Config):
    """`distance_scale`: where the learned scale of the distances starts."""

    kind: Literal["metric"] = "metric"
    distance_scale: float = per_run(0.1, gt=0.0, allow_inf_nan=False)


class Metric(Learner):
    """Logits −s‖f(x) − c_n‖², c_n the mean of f over the support rows of class n.

    f is what the network's head would be given; there is no head. s is learned (as in TADAM,
    Oreshkin et al. 2018; Snell et al. have s = 1), since normalised features cannot change their
    size. A binary task's logit is the difference of the two.

    φ = θ with `adapted.prototypes` [task, class, feature] and `adapted.counts` [task, class], the
    support rows of each class. A class without any has the logit −∞ (all are alike where none
    has), and query rows of it are not in the loss; without rows of one of a binary task's classes
    the logit is 0. An episode may have any number of classes.
    """

    Config = MetricConfig
    episodic = True
    any_ways = True

    def __init__(
        self,
        config: MetricConfig,
        problem: Problem,
        network: Sharing,
        conditioning: ConditioningConfig,
        balancer: Balancer,
    ) -> None:
        self.problem = problem
        self.network = embedding.shared_network(network, conditioning, "aligned", 1)
        backbone = self.network.parts.backbone
        # every row has a difference to each prototype
        shapes = [one for one in (problem.episode, problem.test_episode) if one is not None]
        ways = max([2, *(one.ways or 2 for one in shapes)])
        self.row_size = max(backbone.row_size, ways * backbone.out_features)
        self._scale = config.distance_scale

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        if "regression" in problem.kinds:
            raise ConfigError(
                "Parameter `adaptation.kind` should be other than `metric` for regression: "
                "prototypes are means of classes. Found `adaptation.kind = metric`."
            )
        embedding.check_unconditioned(config)

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self.network.init(generator)
        params = embedding.without_head(params)
        params["distance.log_scale"] = torch.tensor(math.log(self._scale))
        return params, buffers

    def roles(self) -> dict[str, Role]:
        return embedding.all_shared(self.init(torch.Generator())[0])

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        h = self._features(params, support.x, stream(step, 1))
        n = embedding.n_classes(self.problem, support.tasks)
        members = embedding.one_hot(support.y, support.mask, n, h.dtype)
        prototypes, counts = embedding.class_means(h, members)
        return params | {"adapted.prototypes": prototypes, "adapted.counts": counts}

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        out = self._logits(params, batch.x, step)
        known = embedding.known_labels(self.problem, batch.y, batch.mask, params["adapted.counts"])
        losses, present = task_losses(row_losses(self.problem, out, batch.y), known)
        return mean_over_tasks(losses, present), losses, buffers

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        return self._logits(params, x, Step())

    def _features(self, params: Params, x: Tensor, step: Step) -> Tensor:
        return embedding.fold_rows(self.network, params, x, step, head=False)

    def _logits(self, params: Params, x: Tensor, step: Step) -> Tensor:
        h = self._features(params, x, step)
        # the difference first: squares of long vectors would cancel in float32
        apart = h[:, :, None] - params["adapted.prototypes"][:, None]
        out = -params["distance.log_scale"].exp() * apart.square().sum(-1)
        counts = params["adapted.counts"]
        if self.problem.kinds[0] == "binary":
            both = (counts > 0).all(-1)[:, None, None]
            return torch.where(both, out[..., 1:] - out[..., :1], torch.zeros_like(out[..., :1]))
        return embedding.without_absent(out, counts)
