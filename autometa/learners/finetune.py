"""Joint pretraining and fine-tuning, and training from scratch: what meta-learning has to beat."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from autometa.balancing import Balancer
from autometa.config import Config, per_run
from autometa.errors import ConfigError
from autometa.learners.base import Batch, Learner
from autometa.learners.inner import InnerLoop, check_adapts
from autometa.learners.losses import at_least_float32, mean_over_tasks, task_losses
from autometa.networks import ConditioningConfig, Problem, Step
from autometa.networks.layers import fan_in_uniform
from autometa.sharing import Params, Role
from autometa.sharing.base import subset
from autometa.sharing.hard import Hard
from autometa.sharing.independent import Independent

#: ending of leaves that are never trained; it keeps weight decay away from those of weights
_END = ".start"


class FineTuneConfig(Config):
    """`test_steps`: gradient steps on a new task. `inner_lr`: their rate."""

    kind: Literal["finetune"] = "finetune"
    test_steps: int = Field(20, ge=0, le=1000)
    inner_lr: float = per_run(0.01, gt=0.0, allow_inf_nan=False)


class FineTune(Learner):
    """One network is trained on all rows of all training tasks; a new task fine-tunes it.

    Fine-tuning is `test_steps` gradient steps on the support rows, of the leaves with role `task`.
    The classes of episodes are numbered anew in each, so that N-way episodes pretrain the network
    with a wide head over the classes of all training tasks (leaves `base_head.…`), and the head
    of a new task starts at zero.

    With sharing `independent` there is no pretraining: a task trains the whole network from its
    initialisation, which nothing changes.

    In training φ is θ and the support rows, as `support.…`, for `loss` to pool with the query rows.
    """

    Config = FineTuneConfig
    episodic = True
    also_shares = ("independent",)
    any_ways = True

    def __init__(
        self,
        config: FineTuneConfig,
        problem: Problem,
        network: Hard | Independent,
        conditioning: ConditioningConfig,
        balancer: Balancer,
    ) -> None:
        self.problem = problem
        self.row_size = network.parts.backbone.row_size
        self._config = config
        self._scratch = isinstance(network, Independent)
        self._network = network.towers if isinstance(network, Independent) else network
        self._inner = InnerLoop(problem, self._network, 0)
        self._wide = problem.base_classes > 0 and not self._scratch

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        if config.conditioning.kind != "none":
            raise ConfigError(
                "Parameter `conditioning.kind` should be `none` with `adaptation.kind = finetune`: "
                "pretraining knows no context. Found "
                f"`conditioning.kind = {config.conditioning.kind}`."
            )
        check_adapts(config, n_blocks, context=False)
        own_head = config.head == "multi_head" or config.sharing.kind == "independent"
        if problem.base_classes and not own_head:
            raise ConfigError(
                "Parameter `head` should be `multi_head` with `adaptation.kind = finetune` where "
                "episodes have classes: they are other ones in each. Found `head = single_head`."
            )

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self._inner.init(generator)
        if self._scratch:
            return {f"{name}{_END}": leaf for name, leaf in params.items()}, buffers
        if self._wide:
            params = {n: leaf for n, leaf in params.items() if not n.startswith("head.")}
            features, classes = self._network.parts.backbone.out_features, self.problem.base_classes
            params["base_head.weight"] = fan_in_uniform((classes, features), features, generator)
            params["base_head.bias"] = torch.zeros(classes)
        return params, buffers

    def roles(self) -> dict[str, Role]:
        roles = self._inner.roles()
        if self._scratch:
            return {f"{name}{_END}": role for name, role in roles.items()}
        if self._wide:
            roles = {n: role for n, role in roles.items() if not n.startswith("head.")}
            roles |= {"base_head.weight": "shared", "base_head.bias": "shared"}
        return roles

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        if step.train:
            rows = {"x": support.x, "y": support.y, "mask": support.mask}
            return params | {f"support.{name}": part for name, part in rows.items()}
        rate = step.rate("inner_lr")
        own = self._inner.adapt(
            self._whole(params, support.tasks),
            support,
            step,
            steps=self._config.test_steps,
            rate=self._config.inner_lr if rate is None else rate,
            first_order=True,
        )
        return params | {name: leaf for name, leaf in own.items() if name.startswith("adapted.")}

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        if rows := subset(params, "support"):
            batch = batch._replace(
                x=torch.cat([rows["x"], batch.x], 1),
                y=torch.cat([rows["y"], batch.y], 1),
                mask=torch.cat([rows["mask"], batch.mask], 1),
            )
        if self._wide and not subset(params, "adapted"):
            losses = self._base_losses(params, batch, step)
        else:
            out = self._inner.outputs(self._whole(params), batch.x, step)
            losses = self._inner.losses(out, batch)
        total = mean_over_tasks(losses, batch.mask.any(-1))
        if self._scratch:  # every leaf has a gradient, and it is zero
            leaves = [leaf for name, leaf in params.items() if name.endswith(_END)]
            total = total.detach() + 0.0 * torch.stack([leaf.sum() for leaf in leaves]).sum()
        return total, losses, buffers

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        return self._inner.outputs(self._whole(params), x, Step())

    def _whole(self, params: Params, tasks: Tensor | None = None) -> Params:
        """The leaves under the network's names, with the head of a new task.

        Args:
            tasks: as in `Batch`; there may be more or fewer classes than in training, of which
                the head starts at zero.
        """
        head = self._network.parts.head
        ways = head.channels if tasks is None or tasks.ndim < 2 else tasks.shape[1]
        if self._scratch:
            whole = {name.removesuffix(_END): leaf for name, leaf in params.items()}
        else:
            whole = dict(params)
        if self._wide or ways != head.channels:
            like = next(iter(params.values()))
            whole["head.weight"] = like.new_zeros(1, ways, head.in_features)
            whole["head.bias"] = like.new_zeros(1, ways)
        return whole

    def _base_losses(self, params: Params, batch: Batch, step: Step) -> Tensor:
        """Cross-entropy of each task's rows among the classes of all training tasks."""
        h = self._network.features(
            params, batch.x.flatten(0, 1), tasks=batch.tasks[:1, 0], z=None, step=step
        )
        out = F.linear(h[0], params["base_head.weight"], params["base_head.bias"])
        label = batch.tasks.gather(1, batch.y.long())
        log_p = F.log_softmax(at_least_float32(out), -1).unflatten(0, label.shape)
        return task_losses(-log_p.gather(-1, label[..., None])[..., 0], batch.mask)[0]
