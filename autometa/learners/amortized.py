"""Neural processes: a network that reads a data set and predicts for new points."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from autometa.balancing import Balancer
from autometa.config import Config
from autometa.errors import ConfigError
from autometa.learners import embedding
from autometa.learners.base import Batch, Learner
from autometa.learners.bayesian import gaussian_losses
from autometa.learners.encoder import Encoder, attend, mean_rows
from autometa.learners.inner import stream
from autometa.learners.losses import at_least_float32, mean_over_tasks, row_losses, task_losses
from autometa.networks import ConditioningConfig, Problem, Step
from autometa.networks.layers import fan_in_uniform
from autometa.sharing import Params, Role, Sharing
from autometa.sharing.base import subset


class AmortizedConfig(Config):
    """`aggregation` of the support rows: their `mean`, or `attention` of each query row to them.

    `encoder_width`, `encoder_depth`: of its MLPs. `attention_heads` divides the width; attention
    only. `min_std`: the least standard deviation of a (standardised) prediction; regression only.
    """

    kind: Literal["amortized"] = "amortized"
    aggregation: Literal["mean", "attention"] = "mean"
    encoder_width: int = Field(128, ge=1, le=4096)
    encoder_depth: int = Field(3, ge=1, le=16)
    attention_heads: int = Field(4, ge=1, le=64)
    min_std: float = Field(0.05, gt=0.0, lt=1.0)


class Amortized(Learner):
    """The conditional neural process (Garnelo et al. 2018), and the attentive one's deterministic
    path (Kim et al. 2019).

        r_i = encoder(x_i, y_i)
        z = A·mean_i r_i + a,   or   z(x*) = A·Σ_i softmax_i(e(x*)ᵀe(x_i)/√d) r_i + a
        outputs = network(x*, z)

    z enters the network as `conditioning` says, and has `conditioning.dim` entries. No support
    rows give z = a. Regression: outputs are a mean and u, the standard deviation
    min_std + (1 − min_std)·softplus(u), and the loss is the negative log density. Binary: a logit;
    y is given as −1 or 1.

    N-way: classes are interchangeable, so r_i is of x_i alone, and the network, conditioned on z,
    has features q(x) whose means c_n over the support rows of class n become the weights of a
    linear classifier: logit_n = g(c_n)ᵀq(x)/√D + h(c_n) (as in CNAPs, Requeima et al. 2019, with
    linear g = 1 + δ and h, δ = h = 0 at the start). Classes without support rows have −∞, and
    query rows of them are not in the loss.

    φ = θ with what the support rows became: `adapted.z` [task, z], or `adapted.keys`,
    `adapted.values` [task, support, width] and `adapted.valid` [task, support]; N-way also
    `adapted.classes` [task, class, D] and `adapted.counts` [task, class].
    """

    Config = AmortizedConfig
    episodic = True
    any_ways = True
    has_variance = True

    def __init__(
        self,
        config: AmortizedConfig,
        problem: Problem,
        network: Sharing,
        conditioning: ConditioningConfig,
        balancer: Balancer,
    ) -> None:
        self.problem = problem
        self._kind = problem.kinds[0]
        self._config = config
        self._attends = config.aggregation == "attention"
        self._z_dim = conditioning.dim
        outputs = {"regression": 2, "binary": 1, "multiclass": config.encoder_width}
        self._outputs = outputs[self._kind]
        self.network = embedding.shared_network(network, conditioning, "grouped", self._outputs)
        backbone = self.network.parts.backbone
        self.row_size = max(backbone.row_size, config.encoder_width)
        self._encoder = Encoder(
            backbone,
            problem.feature_shape,
            config.encoder_width,
            config.encoder_depth,
            labels=0 if self._kind == "multiclass" else 1,
            attends=self._attends,
        )

    @classmethod
    def check(cls, config: Any, problem: Problem, n_blocks: int) -> None:
        own = config.adaptation
        if config.conditioning.kind == "none":
            raise ConfigError(
                "Parameter `conditioning.kind` should be `concat`, `additive` or `multiplicative` "
                "with `adaptation.kind = amortized`: it is how the network is told what the "
                "support rows say. Found `conditioning.kind = none`."
            )
        if own.aggregation == "attention" and own.encoder_width % own.attention_heads:
            raise ConfigError(
                "Parameter `adaptation.attention_heads` should divide `adaptation.encoder_width` "
                f"({own.encoder_width}). Found `adaptation.attention_heads = "
                f"{own.attention_heads}`."
            )

    def init(self, generator: torch.Generator) -> tuple[Params, Params]:
        params, buffers = self.network.init(generator)
        encoder = self._encoder.init(generator)
        params |= {f"encoder.{name}": leaf for name, leaf in encoder.items()}
        width = self._config.encoder_width
        params["representation.weight"] = fan_in_uniform((self._z_dim, width), width, generator)
        params["representation.bias"] = torch.zeros(self._z_dim)
        if self._kind == "multiclass":
            size = self._outputs
            params["classifier.weight"] = torch.zeros(size + 1, size)
        return params, buffers

    def roles(self) -> dict[str, Role]:
        return embedding.all_shared(self.init(torch.Generator())[0])

    def adapt(self, params: Params, buffers: Params, support: Batch, step: Step) -> Params:
        own = subset(params, "encoder")
        seen = self._encoder.look(own, support.x)
        r = at_least_float32(self._encoder.pairs(own, seen, self._labels(support, seen)))
        if self._attends:
            keys = at_least_float32(self._encoder.places(own, seen))
            valid = support.mask.to(r.dtype)
            found = {"adapted.keys": keys, "adapted.values": r, "adapted.valid": valid}
        else:
            found = {"adapted.z": self._z(params, mean_rows(r, support.mask))}
        phi = params | found
        if self._kind == "multiclass":
            h = self._outputs_at(phi, support.x, stream(step, 1))
            n = embedding.n_classes(self.problem, support.tasks)
            members = embedding.one_hot(support.y, support.mask, n, h.dtype)
            classes, counts = embedding.class_means(h, members)
            phi |= {"adapted.classes": classes, "adapted.counts": counts}
        return phi

    def loss(
        self, params: Params, buffers: Params, batch: Batch, step: Step
    ) -> tuple[Tensor, Tensor, Params]:
        h = self._outputs_at(params, batch.x, step)
        mask = batch.mask
        if self._kind == "regression":
            rows = gaussian_losses(*self._gaussian(h), batch.y)
        else:
            if self._kind == "multiclass":
                counts = params["adapted.counts"]
                mask = embedding.known_labels(self.problem, batch.y, mask, counts)
            rows = row_losses(self.problem, self._logits(params, h), batch.y)
        losses, present = task_losses(rows, mask)
        return mean_over_tasks(losses, present), losses, buffers

    def predict(self, params: Params, buffers: Params, x: Tensor, tasks: Tensor) -> Tensor:
        h = self._outputs_at(params, x, Step())
        return h[..., :1] if self._kind == "regression" else self._logits(params, h)

    def moments(
        self, params: Params, buffers: Params, x: Tensor, tasks: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self._kind != "regression":
            return super().moments(params, buffers, x, tasks)
        return self._gaussian(self._outputs_at(params, x, Step()))

    def _labels(self, support: Batch, seen: Tensor) -> Tensor:
        """y as the encoder is given it [task, row, label]."""
        if self._kind == "multiclass":
            return seen[..., :0]
        y = support.y.to(seen.dtype)[..., None]
        return 2.0 * y - 1.0 if self._kind == "binary" else y

    def _z(self, params: Params, r: Tensor) -> Tensor:
        return F.linear(r, params["representation.weight"], params["representation.bias"])

    def _outputs_at(
        self, phi: Params, x: Float[Tensor, "task row *feature"], step: Step
    ) -> Float[Tensor, "task row output"]:
        """Outputs of the conditioned network, at least float32."""
        if self._attends:
            own = subset(phi, "encoder")
            places = self._encoder.places(own, self._encoder.look(own, x))
            r = attend(
                places,
                phi["adapted.keys"],
                phi["adapted.values"],
                phi["adapted.valid"] > 0,
                self._config.attention_heads,
            )
            # every row has a z: to the network it is a task of its own
            z, rows = self._z(phi, r).flatten(0, 1), x.flatten(0, 1)[:, None]
        else:
            z, rows = phi["adapted.z"], x
        which = torch.zeros(len(rows), dtype=torch.int64, device=x.device)
        out = self.network.forward(phi, {}, rows, tasks=which, z=z, step=step)[0]
        return at_least_float32(out).reshape(*x.shape[:2], self._outputs)

    def _gaussian(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance from the network's two outputs."""
        least = self._config.min_std
        std = least + (1.0 - least) * F.softplus(h[..., 1])
        return h[..., 0], std.square()

    def _logits(self, phi: Params, h: Tensor) -> Tensor:
        if self._kind == "binary":
            return h
        classes, size = phi["adapted.classes"], self._outputs
        made = F.linear(classes, phi["classifier.weight"])
        weights, bias = classes + made[..., :size], made[..., size]
        out = (h @ weights.mT) * size**-0.5 + bias[:, None]
        return embedding.without_absent(out, phi["adapted.counts"])
