"""A trained model: everything that is needed to predict, in one folder without pickles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from autometa.balancing import EqualConfig
from autometa.config import parse
from autometa.errors import DataError, InfrastructureError, UserError, nearest
from autometa.learners import Learner
from autometa.model import adapting
from autometa.model.outputs import Module, class_probabilities, interval_of, labels_of
from autometa.networks import Problem
from autometa.sharing import Params
from autometa.tasks import EpisodicSuite, Task, TaskSuite
from autometa.tasks.encoder import Encoder, encoder_from_json
from autometa.tasks.support import NewTask, read_support
from autometa.tasks.task import task_numbers
from autometa.training.predicting import predict
from autometa.training.state import Layout, PopulationState, read_tensors, write_tensors
from autometa.trial import TrialConfig, build

_FORMAT = 1
_FACTS = {"config", "problem", "tasks", "encoder", "target", "task_column", "facts"}


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights, and how a table becomes its input.

    Attributes:
        config: what was trained.
        tasks: what it predicts, in order; none where it was trained in episodes, until it is
            adapted to one.
        params: θ, or φ where it is adapted.
        facts: where it comes from: suite, study, epochs, seed, scores; `adapted`: what it was
            adapted to.
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

    @classmethod
    def of(
        cls,
        suite: TaskSuite | EpisodicSuite,
        config: TrialConfig,
        state: PopulationState,
        facts: dict[str, Any],
    ) -> Model:
        """The first run of a population as a model."""
        problem = Problem.of(suite)
        params, _ = build(config, problem).init(torch.Generator().manual_seed(0))
        leaves = Layout(params).unpack(state.values[0].detach().cpu())
        tasks = () if isinstance(suite, EpisodicSuite) else suite.tasks
        new = NewTask.of(suite) if isinstance(suite, EpisodicSuite) else None
        return cls(
            config,
            problem,
            tasks,
            suite.encoder,
            suite.target,
            suite.task_column,
            {name: leaf.clone() for name, leaf in leaves.items()},
            {name: buffer[0].detach().cpu() for name, buffer in state.buffers.items()},
            facts,
            new,
        )

    def save(self, folder: Path) -> Path:
        """Write `model.json` and `weights.safetensors`.

        Raises:
            InfrastructureError: the disk refuses it.
        """
        tensors = {f"params.{n}": t for n, t in self.params.items()}
        tensors |= {f"buffers.{n}": t for n, t in self.buffers.items()}
        write_tensors(tensors, {"format": str(_FORMAT)}, folder / "weights.safetensors")
        facts = {
            "format": _FORMAT,
            "config": self.config.flat(),
            "problem": self.problem.model_dump(mode="json"),
            "tasks": [task.to_json() for task in self.tasks],
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "target": self.target,
            "task_column": self.task_column,
            "facts": self.facts,
            "new_task": None if self.new_task is None else self.new_task.to_json(),
        }
        path = folder / "model.json"
        try:
            path.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        except OSError as exc:
            raise InfrastructureError(f"Cannot write {path}: {exc.strerror or exc}.") from exc
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Model:
        """The inverse of `save`.

        Raises:
            UserError: the folder holds no model that this version can read.
        """
        path = Path(folder)
        try:
            facts = json.loads((path / "model.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise UserError(f"Folder `{path}` holds no autometa model ({exc}).") from None
        found = facts.get("format") if isinstance(facts, dict) else None
        if found != _FORMAT:
            raise UserError(
                f"Model `{path}` has format {found}; this version reads {_FORMAT}. "
                "Install the version of autometa that wrote it."
            )
        missing = _FACTS - set(facts)
        if missing:
            raise UserError(
                f"Folder `{path}` holds no autometa model (no {', '.join(sorted(missing))} in "
                "model.json)."
            )
        tensors, _ = read_tensors(path / "weights.safetensors")
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
        )

    def adapt(
        self,
        support: pd.DataFrame | np.ndarray | Tensor,
        *,
        target: str | None = None,
        labels: Sequence[Any] | np.ndarray | pd.Series | Tensor | None = None,
        steps: int | None = None,
        rate: float | None = None,
    ) -> Model:
        """The model of a new task, from a few labelled rows.

        Rows without a label are left out. `facts["adapted"]` of what is returned says what was
        learned from, how well it is fitted, and where conditions differ from those of training.

        Args:
            support: a table with the features and the target; or an array or images, with `labels`.
            target: the column of the labels; that of training if not given, or the only column
                that is no feature.
            labels: one label for each row, where they are no column of the table.
            steps, rate: number and rate of gradient steps, for learners that take them; as
                configured if not given.

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
        found = read_support(self.new_task, self.encoder, support, target=target, labels=labels)
        adapting.check_ways(learner, self._adaptation, found.task)
        made = replace(
            made,
            tasks=(found.task,),
            target=found.task.name,
            params=adapting.adapt(learner, self.params, self.buffers, found),
        )
        told = adapting.told(learner, config, found, made._outputs(found.x, None)[0])
        return replace(made, facts={**self.facts, "adapted": told})

    def predict(
        self,
        table: pd.DataFrame | np.ndarray | Tensor,
        tasks: str | Sequence[Any] | None = None,
        *,
        proba: bool = False,
        interval: float | None = None,
    ) -> pd.DataFrame:
        """Predictions in original units and labels.

        Args:
            table: rows as they were given to the search; extra columns are ignored. Images as
                an array [row, height, width] or [row, channel, height, width].
            tasks: aligned models: which targets to predict (all if not given). Grouped models:
                the task of each row, or one task for all; taken from the table's task column if
                not given.
            proba: class probabilities instead of labels, one column a class.
            interval: e.g. 0.9: the ends of the interval that holds the new value with this
                probability, in columns `…_lower` and `…_upper`; for models adapted by a learner
                that says how sure it is.

        Returns:
            One row an input row, with the table's index. Aligned: a column a target (with
            `proba`, `target=label` columns). Grouped: the task column and `prediction`.

        Raises:
            DataError: a column is missing, a task is unknown.
            UserError: the model was trained in episodes and not adapted, or knows no `interval`.
        """
        adapting.check_is_adapted(self.problem, self.tasks)
        if interval is not None:
            adapting.check_interval(self._adaptation, self.tasks[0], interval, proba)
        if self.encoder is None:
            x = torch.as_tensor(np.asarray(table), dtype=torch.float32)
        else:
            x = self.encoder.encode(table)
        index = table.index if isinstance(table, pd.DataFrame) else pd.RangeIndex(len(x))
        if self.problem.layout == "aligned":
            found = self._predict_aligned(x, index, tasks, proba)
            return found if interval is None else self._with_interval(found, x, interval)
        return self._predict_grouped(x, index, table, tasks, proba)

    def module(self) -> nn.Module:
        """The network as a plain `nn.Module`: x and, if grouped, task numbers in, outputs out.

        Raises:
            UserError: the model was trained in episodes and not adapted.
        """
        adapting.check_is_adapted(self.problem, self.tasks)
        classes = adapting.n_classes(self.tasks[0]) if self.problem.episode else None
        return Module(self._learner(), self.params, self.buffers, classes)

    @property
    def _adaptation(self) -> str:
        section: Any = self.config.adaptation
        return str(section.kind)

    def _learner(self) -> Learner:
        # predictions need no balancer, nor the packages that it may need
        config = self.config.model_copy(update={"balancing": EqualConfig()})
        return build(config, self.problem)

    def _outputs(self, x: Tensor, task: Tensor | None) -> np.ndarray:
        """[task, row, output] aligned, [row, output] grouped."""
        if self.problem.episode is not None:
            found = adapting.predict_episode(
                self._learner(), self.params, self.buffers, x, self.tasks[0]
            )
            return found[None]
        stacked = {n: t[None] for n, t in self.params.items()}
        buffers = {n: t[None] for n, t in self.buffers.items()}
        return predict(self._learner(), stacked, buffers, x, task, torch.device("cpu"))[0]

    def _predict_aligned(
        self, x: Tensor, index: pd.Index, tasks: str | Sequence[Any] | None, proba: bool
    ) -> pd.DataFrame:
        names = [task.name for task in self.tasks]
        wanted = names if tasks is None else [tasks] if isinstance(tasks, str) else list(tasks)
        if not wanted:
            raise DataError(
                f"Parameter `tasks` should name at least one of {', '.join(map(str, names))}."
            )
        for name in wanted:
            if name not in names:
                raise DataError(f"The model has no target `{name}`.{nearest(name, names)}")
        out = self._outputs(x, None)
        columns: dict[str, Any] = {}
        for name in wanted:
            number = names.index(name)
            task = self.tasks[number]
            if proba and task.kind != "regression":
                shares = class_probabilities(task, out[number])
                for label, share in zip(task.classes, shares.T, strict=True):
                    columns[f"{name}={label}"] = share
            else:
                columns[name] = labels_of(task, out[number])
        return pd.DataFrame(columns, index=index)

    def _with_interval(self, found: pd.DataFrame, x: Tensor, level: float) -> pd.DataFrame:
        task = self.tasks[0]
        mean, variance = adapting.moments_of_episode(
            self._learner(), self.params, self.buffers, x, task
        )
        lower, upper = interval_of(task, mean, variance, level)
        return found.assign(**{f"{task.name}_lower": lower, f"{task.name}_upper": upper})

    def _predict_grouped(
        self, x: Tensor, index: pd.Index, table: Any, tasks: Any, proba: bool
    ) -> pd.DataFrame:
        column = self.task_column or "task"
        if tasks is None:
            if not isinstance(table, pd.DataFrame) or column not in table:
                raise DataError(
                    f"The table has no column `{column}`, which says the task of each row. Add "
                    "it, or name the task."
                )
            tasks = table[column]
        elif isinstance(tasks, str) or np.ndim(tasks) == 0:
            tasks = [tasks] * len(x)
        numbers = task_numbers(self.tasks, tasks)
        if len(numbers) != len(x):
            raise DataError(f"There are {len(x)} rows and {len(numbers)} tasks given for them.")
        out = self._outputs(x, numbers)
        found = pd.Series([None] * len(x), dtype=object)
        shares = pd.DataFrame(index=range(len(x)))
        for number in torch.unique(numbers).tolist():
            task, rows = self.tasks[number], (numbers == number).numpy()
            found[rows] = list(labels_of(task, out[rows]))
            if proba and task.kind != "regression":
                for label, share in zip(
                    task.classes, class_probabilities(task, out[rows]).T, strict=True
                ):
                    shares.loc[rows, f"{self.target or 'prediction'}={label}"] = share
        if proba and len(shares.columns):
            result = shares
        else:
            result = pd.DataFrame({"prediction": found.infer_objects()})
        result.insert(0, column, [self.tasks[number].name for number in numbers.tolist()])
        return result.set_axis(index, axis=0)
