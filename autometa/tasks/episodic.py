"""EpisodicSuite: whole tasks held out, and the episodes that are drawn from the others."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int8, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autometa.errors import DataError
from autometa.tasks.drawing import Sampler
from autometa.tasks.encoder import Encoder, encoder_from_json
from autometa.tasks.episodes import EpisodeShape
from autometa.tasks.episodeset import EpisodeSet
from autometa.tasks.fixed import fixed_episodes, make_sampler, row_tensors
from autometa.tasks.held_out import hold_out
from autometa.tasks.reading import ColumnType
from autometa.tasks.splits import SPLIT_NAMES, TEST, TRAIN, VAL
from autometa.tasks.suite import Rows, TaskSuite, stored_columns
from autometa.tasks.task import Kind, Label, Metric

#: shares of the tasks to train on, to validate and to test
TASK_FRACTIONS = (2 / 3, 1 / 6, 1 / 6)
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class EpisodicSuite:
    """Tasks to meta-learn from, and others to be judged on: no task is in two splits.

    Build one with `from_suite`. Rows of test tasks that are given to the constructor are sealed:
    the public tensors have the other rows only, in their order, and episodes of test tasks come out
    of `open_test_episodes` alone, which only the final comparison calls.

    Attributes:
        shape, test_shape: of episodes to train on, and of those to validate and test on.
        tasks: names of all tasks.
        task_split: 0 meta-train, 1 meta-validation, 2 meta-test.
        x: inputs, standardised on the meta-train rows.
        y: regression targets standardised with `target_mean` and `target_std`, or with the
            `units` of their task; the class of a binary or multiclass task, within its task.
        task: number of the row's task.
        classes: with N-way episodes the row's class, counted over all tasks, those of meta-train
            tasks first; else None.
        one_task: the classes of an episode are of one task, else of all tasks of the split.
        labels: of binary tasks (negative, positive).
        target_mean, target_std: of regression targets on the meta-train rows.
        units: mean and deviation of every task where each target has a unit of its own. Labels of
            an episode are then standardised by its support rows (`drawing.support_units`).
        left_out: tasks that have too few rows or classes, with the reason.
        encoder: how a new table or new images become x.
        fingerprint: of the data and the split of tasks; kept by `without_test` and `merged`.
        notes, columns: as those of `TaskSuite`.
    """

    name: str
    shape: EpisodeShape
    test_shape: EpisodeShape
    kind: Kind
    metric: Metric
    input_kind: Literal["table", "image"]
    tasks: tuple[str, ...]
    task_split: Int8[Tensor, " task"]
    x: Float[Tensor, "row *feature"]
    y: Float[Tensor, " row"]
    task: Int64[Tensor, " row"]
    classes: Int64[Tensor, " row"] | None = None
    one_task: bool = False
    labels: tuple[Label, ...] = ()
    target_mean: float = 0.0
    target_std: float = 1.0
    units: tuple[tuple[float, float], ...] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    encoder: Encoder | None = None
    target: str | None = None
    task_column: str | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    columns: Mapping[str, ColumnType] = field(default_factory=dict)
    _test: dict[str, Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _tensor_fingerprint(self))
        test = self.task_split[self.task] == TEST
        if bool(test.any()):
            rows = row_tensors(self)
            object.__setattr__(self, "_test", {n: t[test] for n, t in rows.items()})
            for name, tensor in rows.items():
                object.__setattr__(self, name, tensor[~test])

    @classmethod
    def from_suite(
        cls,
        suite: TaskSuite,
        shape: EpisodeShape,
        *,
        seed: int = 0,
        fractions: Sequence[float] = TASK_FRACTIONS,
        one_task: bool = False,
        test_shape: EpisodeShape | None = None,
    ) -> EpisodicSuite:
        """Hold out whole tasks of a suite; all rows of a task belong to it, whatever their split.

        Args:
            shape: of an episode; `ways` for multiclass tasks and only there.
            seed: of the split of tasks.
            fractions: of the tasks to train on, to validate and to test.
            one_task: whether the classes of an episode are of one task.
            test_shape: of episodes of held-out tasks, if another.

        Raises:
            DataError: the suite cannot be cut into such episodes.
        """
        return cls(
            **hold_out(
                suite,
                shape,
                seed=seed,
                fractions=tuple(fractions),
                one_task=one_task,
                test_shape=test_shape or shape,
            )
        )

    @property
    def n_tasks(self) -> int:
        """All tasks, held out or not."""
        return len(self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        return self.tasks

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind,) * len(self.tasks)

    @property
    def layout(self) -> str:
        return "episodes"

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """(D,) or (C, H, W)."""
        return tuple(self.x.shape[1:])

    @property
    def is_image(self) -> bool:
        return self.input_kind == "image"

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each split of tasks; `test` is 0 where they were dropped."""
        split = self.task_split[self.task]
        return {
            "train": int((split == TRAIN).sum()),
            "val": int((split == VAL).sum()),
            "test": 0 if self._test is None else len(self._test["x"]),
        }

    @property
    def tasks_by_split(self) -> dict[str, tuple[str, ...]]:
        """Names of the tasks of each split."""
        code = self.task_split.tolist()
        return {
            name: tuple(t for t, c in zip(self.tasks, code, strict=True) if c == number)
            for number, name in enumerate(SPLIT_NAMES)
        }

    @cached_property
    def base_classes(self) -> int:
        """Classes of the meta-train tasks together; 0 where episodes have no classes."""
        if self.classes is None:
            return 0
        return int(self.classes[self.task_split[self.task] == TRAIN].max()) + 1

    @cached_property
    def constant(self) -> int:
        """The class that most meta-train rows of binary tasks have."""
        if self.kind != "binary":
            return 0
        train = self.y[self.task_split[self.task] == TRAIN]
        return int(train.mean() > 0.5)

    def rows(self, split: str) -> Rows:
        """Rows of the meta-train (`train`) or meta-validation tasks (`val`).

        Raises:
            DataError: any other split.
        """
        if split not in ("train", "val"):
            raise DataError(
                f"Parameter `split` should be `train` or `val`. Found `split = {split!r}`."
            )
        at = torch.nonzero(self.task_split[self.task] == SPLIT_NAMES.index(split))[:, 0]
        mask = torch.ones(len(at), dtype=torch.bool)
        return Rows(self.x[at], self.y[at], mask, self.task[at], at)

    def sampler(self, device: torch.device | str = "cpu") -> Sampler:
        """What draws episodes to train on; it numbers the rows of `rows("train")`."""
        at = self.rows("train").index
        return make_sampler(self, row_tensors(self), at, self.shape, device=device)

    def episodes(self, split: str, n: int | None = None, seed: int = 0) -> EpisodeSet:
        """Fixed episodes of meta-train or meta-validation tasks, the same for the same `seed`.

        Validation episodes have `test_shape`, training ones `shape`. Where an episode is rows of a
        task, tasks take turns, and every other row (up to 256) is a query row.

        Args:
            n: how many; by default 100 of N classes, and of tables 2 to 20 of each task, about
                100 and at most 400 in all.

        Raises:
            DataError: `split` is not `train` or `val`.
        """
        at = self.rows(split).index
        shape = self.shape if split == "train" else self.test_shape
        return fixed_episodes(self, row_tensors(self), at, shape, split, n, seed)

    def open_test_episodes(self, n: int | None = None, seed: int = 0) -> EpisodeSet:
        """Fixed episodes of the meta-test tasks. Only the final comparison calls this.

        Args:
            n: how many; by default 600 of N classes, and of tables 2 to 50 of each task, about
                600 and at most 2,000 in all.

        Raises:
            DataError: the suite was stripped of them (`without_test`, `merged`).
        """
        if self._test is None:
            raise DataError(
                f"Suite `{self.name}` has no test tasks here: they were left out for training."
            )
        at = torch.arange(len(self._test["x"]))
        return fixed_episodes(self, self._test, at, self.test_shape, "test", n, seed)

    def without_test(self) -> EpisodicSuite:
        """The same suite, rows of test tasks dropped; what searches and workers get."""
        return replace(self, _test=None)

    def merged(self) -> EpisodicSuite:
        """Meta-validation tasks as meta-train tasks too, for the final refit; no test rows.

        Standardisation stays as fitted on the original meta-train rows.
        """
        split = torch.where(self.task_split == VAL, TRAIN, self.task_split).to(torch.int8)
        return replace(self, task_split=split, _test=None)

    def describe(self) -> dict[str, Any]:
        """The facts of the suite as plain JSON."""
        return {
            "name": self.name,
            "layout": self.layout,
            "input": self.input_kind,
            "features": list(self.feature_shape),
            "rows": self.counts,
            "kind": self.kind,
            "metric": self.metric,
            "target": self.target,
            "task_column": self.task_column,
            "tasks": {split: list(names) for split, names in self.tasks_by_split.items()},
            "left_out": dict(self.left_out),
            "episode": self.shape.model_dump(mode="json"),
            "test_episode": self.test_shape.model_dump(mode="json"),
            "one_task": self.one_task,
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }

    def summary(self) -> str:
        """One line for people."""
        number = {split: len(names) for split, names in self.tasks_by_split.items()}
        size = "×".join(map(str, self.feature_shape))
        other = "" if self.test_shape == self.shape else f" (held out: {_words(self.test_shape)})"
        where = (
            ""
            if self.shape.ways is None
            else (" of one task" if self.one_task else " of all tasks of a split")
        )
        return (
            f"{self.name}: {self.kind} episodes, {_words(self.shape)}{where}{other} "
            f"({self.metric}), {size} {'pixels' if self.is_image else 'features'}, "
            f"{number['train']} train / {number['val']} val / {number['test']} test tasks"
            + (f", {len(self.left_out)} left out" if self.left_out else "")
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write safetensors and JSON into `folder` (made if need be); `load` is the inverse."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_file(
            {n: t.contiguous() for n, t in row_tensors(self).items()}, path / "rows.safetensors"
        )
        (path / "test.safetensors").unlink(missing_ok=True)
        if self._test is not None:
            save_file({n: t.contiguous() for n, t in self._test.items()}, path / "test.safetensors")
        facts = {
            "format": _FORMAT,
            **{k: v for k, v in self.describe().items() if k not in ("rows", "features", "tasks")},
            "tasks": list(self.tasks),
            "task_split": self.task_split.tolist(),
            "labels": list(self.labels),
            "target_mean": self.target_mean,
            "target_std": self.target_std,
            "units": self.units,
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "columns": {name: kind.to_json() for name, kind in self.columns.items()},
            "has_test": self._test is not None,
        }
        (path / "suite.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EpisodicSuite:
        """Read what `save` wrote.

        Raises:
            DataError: the folder holds no episodic suite, or one that cannot be read.
        """
        path = Path(folder)
        try:
            facts = json.loads((path / "suite.json").read_text(encoding="utf-8"))
            if facts.get("format") != _FORMAT or facts.get("layout") != "episodes":
                raise DataError(
                    f"Suite `{path}` should be one of episodes of format {_FORMAT}. Found "
                    f"{facts.get('layout')} of format {facts.get('format')}."
                )
            rows: dict[str, Any] = dict(load_file(path / "rows.safetensors"))
            units = facts["units"]
            return cls(
                **{k: facts[k] for k in ("name", "kind", "metric", "one_task", "left_out")},
                **{k: facts[k] for k in ("target", "task_column", "fingerprint")},
                **{k: facts[k] for k in ("target_mean", "target_std")},
                **rows,
                shape=EpisodeShape(**facts["episode"]),
                test_shape=EpisodeShape(**facts["test_episode"]),
                input_kind=facts["input"],
                tasks=tuple(facts["tasks"]),
                task_split=torch.tensor(facts["task_split"], dtype=torch.int8),
                labels=tuple(facts["labels"]),
                units=None if units is None else tuple((m, s) for m, s in units),
                encoder=None if facts["encoder"] is None else encoder_from_json(facts["encoder"]),
                notes=tuple(facts.get("notes", ())),
                columns=stored_columns(facts),
                _test=load_file(path / "test.safetensors") if facts["has_test"] else None,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as exc:
            raise DataError(f"Folder `{path}` holds no readable suite ({exc}).") from None


def load_saved(folder: str | os.PathLike[str]) -> TaskSuite | EpisodicSuite:
    """A saved suite of either type.

    Raises:
        DataError: the folder holds no suite that can be read.
    """
    path = Path(folder) / "suite.json"
    try:
        layout = json.loads(path.read_text(encoding="utf-8")).get("layout")
    except (OSError, ValueError, AttributeError) as exc:
        raise DataError(f"Folder `{folder}` holds no readable suite ({exc}).") from None
    return EpisodicSuite.load(folder) if layout == "episodes" else TaskSuite.load(folder)


def _words(shape: EpisodeShape) -> str:
    queries = f"{shape.queries} quer{'y' if shape.queries == 1 else 'ies'}"
    ways = "" if shape.ways is None else f"{shape.ways}-way "
    return f"{ways}{shape.shots}-shot, {queries}"


def _tensor_fingerprint(suite: EpisodicSuite) -> str:
    """For suites built by hand from tensors."""
    facts = [suite.tasks, suite.shape.model_dump(), suite.test_shape.model_dump(), suite.one_task]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for tensor in (*row_tensors(suite).values(), suite.task_split):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
