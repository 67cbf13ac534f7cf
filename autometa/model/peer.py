"""A scikit-learn model that is as good as a network or better: it predicts as one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from autometa.errors import InfrastructureError, UserError, reason_of
from autometa.model.conformal import Calibration
from autometa.model.predictor import Predictor, Reading, inference_seconds, read_members
from autometa.model.storing import PEER, read_facts, write_facts
from autometa.tasks import Task, TaskSuite
from autometa.tasks.encoder import Encoder, encoder_from_json

_FACTS = {"peer", "words", "layout", "feature_shape", "tasks", "encoder", "target", "task_column"}
_FILE = "estimators.skops"


class Fitted(Protocol):
    """What is asked of a fitted peer (`baselines.FittedPeer`).

    Attributes:
        words: what it is, in plain words: "ExtraTrees, one model for all tasks".
        estimators: scikit-learn estimators by name.
    """

    @property
    def words(self) -> str: ...

    @property
    def estimators(self) -> dict[str, Any]: ...

    def predict(
        self, x: Float[np.ndarray, "row *feature"], task: Int[np.ndarray, " row"] | None
    ) -> Float[np.ndarray, "*cells output"]:
        """`[T, N, O]` aligned, `[N, O]` grouped: outputs as networks have them."""

    def to_json(self) -> dict[str, Any]:
        """All but the estimators, as plain JSON."""


class Inputs(NamedTuple):
    """What the suite's rows were like: see `Predictor`."""

    layout: Literal["aligned", "grouped"]
    feature_shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PeerModel(Predictor):
    """Fitted scikit-learn estimators, and how a table becomes their input.

    It is stored without pickles: the estimators by skops, which builds objects of a fixed list of
    types only.
    """

    fitted: Fitted
    inputs: Inputs
    tasks: tuple[Task, ...]
    encoder: Encoder | None
    target: str | None
    task_column: str | None
    facts: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls,
        suite: TaskSuite,
        fitted: Fitted,
        facts: dict[str, Any],
        calibration: Calibration | None = None,
    ) -> PeerModel:
        """A peer that was fitted on a suite.

        Args:
            calibration: what its intervals are made of (`conformal.calibrate`, as of one member).
        """
        made = cls(
            fitted,
            Inputs(suite.layout, tuple(suite.feature_shape)),
            suite.tasks,
            suite.encoder,
            suite.target,
            suite.task_column,
            facts,
            calibration,
        )
        seconds = inference_seconds(made)
        return replace(made, facts={**facts, "inference_seconds_per_1000_rows": seconds})

    @property
    def layout(self) -> Literal["aligned", "grouped"]:
        return self.inputs.layout

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.inputs.feature_shape

    def save(self, folder: Path) -> Path:
        """Write `model.json` and `estimators.skops`.

        Raises:
            InfrastructureError: the disk refuses it.
        """
        path = folder / _FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            import_module("autometa.baselines.storing").write_estimators(
                self.fitted.estimators, path
            )
        except OSError as exc:
            raise InfrastructureError(f"Cannot write {path}: {reason_of(exc)}.") from exc
        facts = {
            "words": self.fitted.words,
            "peer": self.fitted.to_json(),
            "layout": self.layout,
            "feature_shape": list(self.feature_shape),
            "tasks": [task.to_json() for task in self.tasks],
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "target": self.target,
            "task_column": self.task_column,
            "facts": self.facts,
            "calibration": None if self.calibration is None else self.calibration.to_json(),
        }
        write_facts(folder, PEER, facts)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> PeerModel:
        """The inverse of `save`.

        Raises:
            UserError: the folder holds no such model, or one with types that are not on the list.
        """
        path = Path(folder)
        facts = read_facts(path, _FACTS)
        return cls(
            _fitted(facts["peer"], path / _FILE),
            Inputs(facts["layout"], tuple(facts["feature_shape"])),
            tuple(Task.from_json(task) for task in facts["tasks"]),
            None if facts["encoder"] is None else encoder_from_json(facts["encoder"]),
            facts["target"],
            facts["task_column"],
            facts["facts"],
            Calibration.from_json(facts["calibration"]) if facts.get("calibration") else None,
        )

    def adapt(self, *_: Any, **__: Any) -> PeerModel:
        """No new task: that takes a network.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"The model cannot take a new task: it is no network ({self.fitted.words}). Search or "
            "train with `--episodic` for one that can."
        )

    def module(self) -> nn.Module:
        """No `nn.Module`: that takes a network.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"The model has no `nn.Module`: it is no network ({self.fitted.words}). `autometa "
            "train` makes one, and `autometa search --deliver network` keeps to them."
        )

    def _check_ready(self, interval: float | None, proba: bool) -> None:
        """It can always predict."""

    def _read(
        self, x: Tensor, task: Tensor | None, wanted: Sequence[int], level: float | None
    ) -> Reading:
        found = self.fitted.predict(x.numpy(), None if task is None else task.numpy())
        return read_members(found[None], self, task, wanted, level)


def _fitted(facts: Mapping[str, Any], path: Path) -> Fitted:
    # loaded when there is one to load: scikit-learn takes a second
    estimators = import_module("autometa.baselines.storing").read_estimators(path)
    found: Fitted = import_module("autometa.baselines.fitted").FittedPeer.from_parts(
        facts, estimators
    )
    return found
