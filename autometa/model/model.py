"""A trained network, or several of one kind as an ensemble, in one folder without pickles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from autometa.balancing import EqualConfig
from autometa.config import parse
from autometa.ensembles import mixture
from autometa.errors import UserError
from autometa.learners import Learner
from autometa.model import adapting
from autometa.model.conformal import Calibration
from autometa.model.outputs import Module, task_logits
from autometa.model.predictor import Predictor, Reading, inference_seconds, read_members
from autometa.model.storing import FORMAT, NETWORK, read_facts, write_facts
from autometa.networks import Problem
from autometa.sharing import Params
from autometa.tasks import EpisodicSuite, Task, TaskSuite
from autometa.tasks.encoder import Encoder, encoder_from_json
from autometa.tasks.reading import ReadOptions, Table, read_table
from autometa.tasks.support import NewTask, read_support
from autometa.training.predicting import predict
from autometa.training.state import Layout, PopulationState, read_tensors, write_tensors
from autometa.trial import TrialConfig, build

_FACTS = {"config", "problem", "tasks", "encoder", "target", "task_column", "facts"}


@dataclass(frozen=True, eq=False)
class Model(Predictor):
    """Networks of one configuration that predict together, and how a table becomes their input.

    Attributes:
        config: what was trained.
        tasks: what it predicts, in order; none where it was trained in episodes, until it is
            adapted to one.
        params, buffers: θ, or φ where it is adapted; leaves [member, …].
        facts: where it comes from: suite, study, epochs, seed, scores; `members`, `parameters` and
            `inference_seconds_per_1000_rows`; `adapted`: what it was adapted to.
        new_task: what is known of every task, where it was trained in episodes.
    """

    config: TrialConfig
    problem: Problem
    tasks: tuple[Task, ...]
    encoder: Encoder | None
    target: str | None
    task_column: str | None
    params: Params
    buffers: Params
    facts: dict[str, Any] = field(default_factory=dict)
    new_task: NewTask | None = None
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls,
        suite: TaskSuite | EpisodicSuite,
        config: TrialConfig,
        state: PopulationState,
        facts: dict[str, Any],
        calibration: Calibration | None = None,
    ) -> Model:
        """All runs of a population as the members of one model.

        Args:
            config: of every run.
            calibration: what its intervals are made of (`conformal.calibrate`).
        """
        problem = Problem.of(suite)
        layout = Layout(build(config, problem).init(torch.Generator().manual_seed(0))[0])
        leaves = layout.unpack(state.values[:, : layout.size].detach().cpu().contiguous())
        new = NewTask.of(suite) if isinstance(suite, EpisodicSuite) else None
        made = cls(
            config,
            problem,
            () if isinstance(suite, EpisodicSuite) else suite.tasks,
            suite.encoder,
            suite.target,
            suite.task_column,
            {name: leaf.clone() for name, leaf in leaves.items()},
            {name: buffer.detach().cpu().clone() for name, buffer in state.buffers.items()},
            facts,
            new,
            calibration,
        )
        size: dict[str, Any] = {"members": made.members, "parameters": made.n_parameters}
        if new is None:
            size["inference_seconds_per_1000_rows"] = inference_seconds(made)
        return replace(made, facts={**facts, **size})

    @property
    def members(self) -> int:
        """Networks that predict together, M."""
        return len(next(iter(self.params.values())))

    @property
    def n_parameters(self) -> int:
        """Of all members."""
        return sum(leaf.numel() for leaf in self.params.values())

    @property
    def layout(self) -> Literal["aligned", "grouped"]:
        return self.problem.layout

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.problem.feature_shape

    def member(self, number: int) -> tuple[Params, Params]:
        """Parameters and buffers of one network."""
        return (
            {name: leaf[number] for name, leaf in self.params.items()},
            {name: leaf[number] for name, leaf in self.buffers.items()},
        )

    def save(self, folder: Path) -> Path:
        """Write `model.json` and `weights.safetensors`.

        Raises:
            InfrastructureError: the disk refuses it.
        """
        tensors = {f"params.{n}": t for n, t in self.params.items()}
        tensors |= {f"buffers.{n}": t for n, t in self.buffers.items()}
        write_tensors(tensors, {"format": str(FORMAT)}, folder / "weights.safetensors")
        facts = {
            "config": self.config.flat(),
            "problem": self.problem.model_dump(mode="json"),
            "tasks": [task.to_json() for task in self.tasks],
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "target": self.target,
            "task_column": self.task_column,
            "facts": self.facts,
            "new_task": None if self.new_task is None else self.new_task.to_json(),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }
        write_facts(folder, NETWORK, facts)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Model:
        """The inverse of `save`; models of format 1 have one member.

        Raises:
            UserError: the folder holds no network that this version can read.
        """
        path = Path(folder)
        found = read_facts(path)
        if found["kind"] != NETWORK:
            raise UserError(
                f"Model `{path}` is no network ({found.get('words', found['kind'])}), and a "
                "network is needed here. `autometa train` makes one, and `autometa search "
                "--deliver network` keeps to them."
            )
        facts = read_facts(path, _FACTS)
        tensors, _ = read_tensors(path / "weights.safetensors")
        if facts["format"] == 1:
            tensors = {name: leaf[None] for name, leaf in tensors.items()}
        return cls(
            TrialConfig.from_flat(facts["config"]),
            parse(Problem, facts["problem"]),
            tuple(Task.from_json(task) for task in facts["tasks"]),
            None if facts["encoder"] is None else encoder_from_json(facts["encoder"]),
            facts["target"],
            facts["task_column"],
            {n[7:]: t for n, t in tensors.items() if n.startswith("params.")},
            {n[8:]: t for n, t in tensors.items() if n.startswith("buffers.")},
            facts["facts"],
            NewTask.from_json(facts["new_task"]) if facts.get("new_task") else None,
            Calibration.from_json(facts["calibration"]) if facts.get("calibration") else None,
        )

    def adapt(
        self,
        support: pd.DataFrame | Table | np.ndarray | Tensor | str | os.PathLike[str],
        *,
        target: str | None = None,
        labels: Sequence[Any] | np.ndarray | pd.Series | Tensor | None = None,
        steps: int | None = None,
        rate: float | None = None,
        **written: Any,
    ) -> Model:
        """The model of a new task, from a few labelled rows that every member adapts to.

        Rows without a label are left out. `facts["adapted"]` of what is returned says what was
        learned from, how well it is fitted, and where conditions differ from those of training.

        Args:
            support: a table with the features and the target, or a file of one; or an array or
                images, with `labels`.
            target: the column of the labels; that of training if not given, or the only column
                that is no feature.
            labels: one label for each row, where they are no column of the table.
            steps, rate: number and rate of gradient steps, for learners that take them; as
                configured if not given.
            written: how the table is written, as in `predict`.

        Raises:
            UserError: the model cannot take new tasks, or is adapted already.
            DataError: no rows, a column that is missing or holds something else, one class only,
                or other classes than the learner can take.
        """
        adapting.check_is_meta(self.problem, self._adaptation)
        if self.tasks or self.new_task is None:
            raise UserError(
                f"The model is adapted to `{self.tasks[0].name}` already; adapt the one that it "
                "was made from."
            )
        config = adapting.tuned(self.config, steps, rate)
        made = replace(self, config=config)
        learner = made._learner()
        options = ReadOptions.of(**written)
        if isinstance(support, (str, os.PathLike)):
            support = read_table(support, options)
        found = read_support(
            self.new_task, self.encoder, support, target=target, labels=labels, options=options
        )
        adapting.check_ways(learner, self._adaptation, found.task)
        adapted = [
            adapting.adapt(learner, *self.member(number), found) for number in range(self.members)
        ]
        made = replace(
            made,
            tasks=(found.task,),
            target=found.task.name,
            params={name: torch.stack([one[name] for one in adapted]) for name in adapted[0]},
        )
        told = adapting.told(learner, config, found, made._read(found.x, None, (0,), None).out[0])
        return replace(made, facts={**self.facts, "adapted": told})

    def module(self) -> nn.Module:
        """The networks as one `nn.Module`: x and, if grouped, task numbers in, outputs out.

        Raises:
            UserError: the model was trained in episodes and not adapted.
        """
        adapting.check_is_adapted(self.problem, self.tasks)
        classes = adapting.n_classes(self.tasks[0]) if self.problem.episode else None
        members = [self.member(number) for number in range(self.members)]
        return Module(self._learner(), members, self.tasks, classes)

    @property
    def _adaptation(self) -> str:
        section: Any = self.config.adaptation
        return str(section.kind)

    def _learner(self) -> Learner:
        # predictions need no balancer, nor the packages that it may need
        config = self.config.model_copy(update={"balancing": EqualConfig()})
        return build(config, self.problem)

    def _check_ready(self, interval: float | None, proba: bool) -> None:
        adapting.check_is_adapted(self.problem, self.tasks)
        if interval is not None and not proba and self.problem.episode is not None:
            adapting.check_is_sure(self._adaptation)

    def _read(
        self, x: Tensor, task: Tensor | None, wanted: Sequence[int], level: float | None
    ) -> Reading:
        if self.problem.episode is not None:
            return self._read_adapted(x, level)
        learner, cpu = self._learner(), torch.device("cpu")
        members = predict(learner, self.params, self.buffers, x, task, cpu)
        return read_members(members, self, task, wanted, level)

    def _read_adapted(self, x: Tensor, level: float | None) -> Reading:
        learner, task = self._learner(), self.tasks[0]
        members = [self.member(number) for number in range(self.members)]
        found = [adapting.predict_episode(learner, *one, x, task) for one in members]
        outputs = torch.from_numpy(np.stack(found))[:, None]
        out = mixture(outputs, task_logits(self.tasks)).numpy()
        if level is None:
            return Reading(out)
        moments = [adapting.moments_of_episode(learner, *one, x, task) for one in members]
        mean, variance = (np.stack(part) for part in zip(*moments, strict=True))
        return Reading(out, adapting.gaussian_reach(mean, variance, level)[None])
