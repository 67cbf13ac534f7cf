"""What a trained network costs: its parameters, or the time it takes to predict.

Parameters are counted, so they are the same on every machine. Inference time is measured on the
run's device, beside whatever else runs there: it is noisy, and a search that minimises it cannot
be repeated exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autometa.errors import UserError, nearest
from autometa.networks import Problem
from autometa.training.population import Trainer
from autometa.training.state import PopulationState, Run
from autometa.trial import TrialConfig, build

#: cost → what one unit of it is
COSTS: dict[str, str] = {
    "parameters": "parameters",
    "inference-time": "ms for 1,000 rows",
}
#: rows of a timed prediction; validation rows are repeated where there are fewer
ROWS = 1000


def check_cost(name: str) -> str:
    """Return `name`.

    Raises:
        UserError: it is not a cost.
    """
    if name not in COSTS:
        raise UserError(
            f"Parameter `cost` should be one of {', '.join(COSTS)}. Found `cost = {name}`."
            f"{nearest(name, COSTS)}"
        )
    return name


def costs_of(
    cost: str, trainer: Trainer, runs: Sequence[Run], state: PopulationState
) -> list[float]:
    """The cost of each of K trained runs."""
    if cost == "parameters":
        return [float(parameter_count(run.config, trainer.problem)) for run in runs]
    return [
        1000.0 * trainer.inference_seconds(run, state.select([k]), ROWS)
        for k, run in enumerate(runs)
    ]


def parameter_count(config: TrialConfig, problem: Problem) -> int:
    """Numbers that are trained and needed to predict: all of θ but the balancer's loss weights."""
    params, _ = build(config, problem).init(torch.Generator().manual_seed(0))
    return sum(leaf.numel() for name, leaf in params.items() if not name.startswith("balancing."))
