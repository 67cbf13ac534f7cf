"""A new task from a few labelled rows: what `Model.adapt` is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from autometa.config import Config
from autometa.errors import DataError, UserError
from autometa.learners import LEARNERS, Batch, Learner
from autometa.model.outputs import episode_tasks, labels_of
from autometa.networks import Problem, Step
from autometa.sharing import Params
from autometa.tasks.support import Support
from autometa.tasks.task import Task
from autometa.trial import TrialConfig

#: largest number of activations [row × (support row) × number] in one pass
_NUMBERS = 50_000_000

#: parameter of `Model.adapt` → the learner's field, and its lowest value
_FIELDS = {"steps": "test_steps", "rate": "inner_lr"}


def check_is_meta(problem: Problem, kind: str) -> None:
    """Raise UserError where a model cannot take a new task."""
    if problem.episode is None:
        raise UserError(
            f"The model cannot take a new task: it learned its own ones together "
            f"(`adaptation.kind = {kind}`). Search or train with `--episodic` for one that can."
        )


def check_is_adapted(problem: Problem, tasks: tuple[Task, ...]) -> None:
    """Raise UserError where a model of episodes has not seen the task that it should predict."""
    if problem.episode is not None and not tasks:
        raise UserError(
            "The model has learned to learn, not yet the task: adapt it to a few labelled rows "
            "first (`autometa adapt`, `model.adapt`) and predict with what that gives."
        )


def tuned(config: TrialConfig, steps: int | None, rate: float | None) -> TrialConfig:
    """The configuration with the number and the rate of test-time steps that were asked for.

    Raises:
        UserError: the learner takes no steps, or the number is out of range.
    """
    section: Any = config.adaptation
    asked = {name: value for name, value in (("steps", steps), ("rate", rate)) if value is not None}
    for name, value in asked.items():
        if _FIELDS[name] not in type(section).model_fields:
            able = [k for k, one in LEARNERS.items() if _FIELDS[name] in one.Config.model_fields]
            raise UserError(
                f"Parameter `{name}` is for models that adapt by gradient steps "
                f"({', '.join(able)}). Found `adaptation.kind = {section.kind}`."
            )
        if value < 0 or (name == "rate" and not 0 < value < float("inf")):
            wanted = "at least 0" if name == "steps" else "a number above 0"
            raise UserError(f"Parameter `{name}` should be {wanted}. Found `{name} = {value}`.")
    if rate is not None and getattr(section, "learned_rates", False):
        raise UserError(
            "Parameter `rate` should be left out where the model has learned its rates "
            f"(`adaptation.learned_rates = true`). Found `rate = {rate}`."
        )
    update = {_FIELDS[name]: value for name, value in asked.items()}
    return config.model_copy(update={"adaptation": section.model_copy(update=update)})


def check_ways(learner: Learner, kind: str, task: Task) -> None:
    """Raise DataError where a learner cannot take this many classes.

    Args:
        kind: of the learner.
    """
    episode, found = learner.problem.episode, n_classes(task)
    if episode is None or found is None or found == episode.ways or learner.any_ways:
        return
    able = [f"`{name}`" for name, one in LEARNERS.items() if one.any_ways]
    raise DataError(
        f"Target `{task.name}` should have {episode.ways} classes, as in training, with "
        f"`adaptation.kind = {kind}` (other numbers work with {', '.join(able)}). Found {found}."
    )


def adapt(learner: Learner, params: Params, buffers: Params, support: Support) -> Params:
    """φ: θ and what was adapted to the support rows.

    Raises:
        UserError: the steps diverged.
    """
    tasks = episode_tasks(n_classes(support.task))
    known = torch.ones(1, len(support.y), dtype=torch.bool)
    batch = Batch(support.x[None], support.y[None], known, tasks)
    with torch.no_grad():
        found = learner.adapt(params, buffers, batch, Step())
    if not all(bool(leaf.isfinite().all()) for leaf in found.values()):
        hint = " Take fewer steps or a lower rate." if learner_steps(learner.Config) else ""
        raise UserError(f"Adapting to the rows diverged: a weight is NaN or infinite.{hint}")
    return {name: leaf.detach().clone() for name, leaf in found.items()}


def n_classes(task: Task) -> int | None:
    """Classes of a task whose episodes have ways; None otherwise."""
    return len(task.classes) if task.kind == "multiclass" else None


def learner_steps(config: type[Config]) -> bool:
    """Whether a learner adapts by steps whose number can be chosen."""
    return _FIELDS["steps"] in config.model_fields


def predict_episode(
    learner: Learner, params: Params, buffers: Params, x: Tensor, task: Task
) -> Float[np.ndarray, "row output"]:
    """Outputs of new rows of the task that `params` (φ) were adapted to."""
    tasks = episode_tasks(n_classes(task))
    with torch.no_grad():
        parts = [
            learner.predict(params, buffers, rows[None], tasks)[0].float()
            for rows in _blocks(learner, params, x)
        ]
    width = n_classes(task) or 1
    return torch.cat(parts)[:, :width].numpy() if parts else np.zeros((0, width), np.float32)


def moments_of_episode(
    learner: Learner, params: Params, buffers: Params, x: Tensor, task: Task
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Mean and variance of the standardised values of new rows."""
    tasks = episode_tasks(n_classes(task))
    with torch.no_grad():
        parts = [
            torch.cat(learner.moments(params, buffers, rows[None], tasks)).float()
            for rows in _blocks(learner, params, x)
        ]
    mean, variance = torch.cat(parts, 1).numpy() if parts else np.zeros((2, 0), np.float32)
    return mean, variance


def gaussian_reach(
    mean: Float[np.ndarray, "member row"], variance: Float[np.ndarray, "member row"], level: float
) -> Float[np.ndarray, " row"]:
    """Half the length of the central Gaussian interval, in standardised units.

    Its variance is that of the members' mixture: the mean of theirs, plus that of their means.

    Args:
        mean, variance: of standardised values, noise included.
        level: its probability.
    """
    total = variance.astype(np.float64).mean(0) + mean.astype(np.float64).var(0)
    return np.asarray(norm.ppf(0.5 + level / 2) * np.sqrt(total))


def check_is_sure(kind: str) -> None:
    """Raise UserError where a learner does not say how sure its predictions are."""
    if not LEARNERS[kind].has_variance:
        able = [name for name, one in LEARNERS.items() if one.has_variance]
        raise UserError(
            f"Parameter `interval` is for models that say how sure they are "
            f"({', '.join(f'`adaptation.kind = {name}`' for name in able)}). "
            f"Found `adaptation.kind = {kind}`."
        )


def told(
    learner: Learner, config: TrialConfig, support: Support, outputs: Float[np.ndarray, "row out"]
) -> dict[str, Any]:
    """What was learned from, and how well the adapted model fits it.

    Args:
        outputs: of the support rows.
    """
    task, rows = support.task, len(support.y)
    section: Any = config.adaptation
    facts: dict[str, Any] = {
        "target": task.name,
        "task": support.group,
        "rows": rows,
        "unlabelled": support.unlabelled,
    }
    if learner_steps(learner.Config):
        facts["steps"] = section.test_steps
    if task.kind == "regression":
        error = outputs[:, 0] - support.y.numpy()
        facts["fit"] = {"rmse": float(np.sqrt(np.mean(error.astype(np.float64) ** 2))) * task.std}
    else:
        classes = support.y.long().numpy()
        counts = np.bincount(classes, minlength=len(task.classes))
        labels = [str(label) for label in task.classes]
        facts["classes"] = dict(zip(labels, counts.tolist(), strict=True))
        right = labels_of(task, outputs) == task.restore(classes)
        facts["fit"] = {"accuracy": float(np.mean(right))}
    facts["notes"] = [*support.remarks, *_differences(learner.problem, support)]
    return facts


def _differences(problem: Problem, support: Support) -> Iterator[str]:
    """Where the new task's conditions are not those of training."""
    episode, rows = problem.episode, len(support.y)
    if episode is None:
        return
    ways = n_classes(support.task)
    if ways is not None and ways != episode.ways:
        yield f"Trained on tasks of {episode.ways} classes, this one has {ways}."
    counts = set(np.bincount(support.y.long().numpy()).tolist()) if ways else {rows}
    if counts != {episode.shots}:
        of = " of each class" if ways else ""
        found = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        rows_of = f"{episode.shots} row{'s' * (episode.shots != 1)}"
        yield f"Trained to learn from {rows_of}{of}, this task has {found}."


def _blocks(learner: Learner, params: Params, x: Tensor) -> tuple[Tensor, ...]:
    """Rows in parts that fit memory, attention to what was adapted included."""
    kept = sum(leaf.numel() for name, leaf in params.items() if name.startswith("adapted."))
    size = max(learner.row_size, min(kept, _NUMBERS // 64))
    return x.split(max(1, _NUMBERS // size)) if len(x) else ()
