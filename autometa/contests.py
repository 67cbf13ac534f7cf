"""What differs between a final comparison on rows and one in episodes: a contest for each.

A contest knows its suite: what stands beside the two arms, how finalists are judged on what no
trial has seen, and how the recommended method becomes a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from torch import device as torch_device

from autometa.baselines import PEERS
from autometa.baselines.storing import read_peer
from autometa.comparison import Candidate, Method, compare_rows
from autometa.describing import describe_independent, describe_sharing, start_words
from autometa.ensembles import combine
from autometa.finals import Entrant, Finalist, Finals
from autometa.metrics import evaluate
from autometa.model import Model, PeerModel, calibrate
from autometa.model.storing import NETWORK
from autometa.searching.executors import Script
from autometa.searching.peer_script import peer_script
from autometa.searching.settings import FINAL_SEEDS, SearchSettings
from autometa.study import is_advised, is_eligible, score_of
from autometa.tasks import Rows, TaskSuite
from autometa.tasks.folds import fold_numbers
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs

#: what is said while the methods predict, and by the notes
Facts = dict[str, Any]


class Contest(ABC):
    """A suite's final comparison, but for the trainings.

    Attributes:
        suite: with its test rows or meta-test tasks, opened in `open` and nowhere else.
        longer: whether the arms are also trained longer, to see whether they have levelled off.
        members: networks that the delivered model has.
        folds: that finalists are judged on, one a paired seed; 0: the suite's own validation rows.
    """

    suite: Any
    longer: bool
    members: int
    folds: int = 0

    def beside(self, trials: Sequence[FrozenTrial], entrants: Sequence[Entrant]) -> list[Entrant]:
        """Networks that take part beside those of the two arms."""
        return []

    @abstractmethod
    def fit_baselines(self, finals: Finals, search_seconds: float) -> Script[None]:
        """Fit what is compared beside the networks."""

    def value(self, finalist: Finalist) -> float:
        """A finalist's score on validation."""
        return finalist.value

    @abstractmethod
    def open(self, finalists: Sequence[Finalist], finals: Finals) -> list[Finalist]:
        """Open what no trial has seen, and predict it with every finalist.

        Returns:
            Those whose predictions can be judged, with them.
        """

    @abstractmethod
    def compare(
        self,
        finalists: Mapping[str, Sequence[Finalist]],
        trials: Sequence[FrozenTrial],
        finals: Finals,
        notes: Sequence[str],
    ) -> dict[str, Any]:
        """Judge all methods; plain JSON.

        Args:
            finalists: name of the method → those of it that were judged, best on validation first.
        """

    @abstractmethod
    def deliver(
        self,
        name: str,
        finalists: Mapping[str, Sequence[Finalist]],
        finals: Finals,
        facts: Facts,
    ) -> Script[Path]:
        """Write the method's model, trained on all but the test rows.

        Args:
            finalists: as in `compare`.
        """


class RowContest(Contest):
    """On the test rows of a suite, against peers without networks."""

    longer = True

    def __init__(self, suite: TaskSuite, settings: SearchSettings) -> None:
        self.suite = suite
        self.members = settings.ensemble
        self._settings = settings
        self._stripped = suite.without_test()
        self._specs = task_specs(self._stripped)
        self._trainer = Trainer(self._stripped, settings.max_steps, torch_device("cpu"))
        # the reference of a bound was measured on the suite's own validation rows
        bound = settings.no_task_worse_than is not None
        self._fold = None if bound else fold_numbers(self._stripped, FINAL_SEEDS)
        self.folds = 0 if self._fold is None else FINAL_SEEDS
        self._val = suite.rows("val") if self._fold is None else suite.merged().rows("train")
        self._peers: list[dict[str, Any]] = []
        self._test: Rows | None = None

    def fit_baselines(self, finals: Finals, search_seconds: float) -> Script[None]:
        finals.say("Methods without networks are tuned on the validation rows.")
        self._peers = yield from peer_script(
            self._stripped,
            folder=finals.folder,
            seed=self._settings.seed,
            search_seconds=search_seconds,
            folds=self.folds,
        )

    def value(self, finalist: Finalist) -> float:
        """Its score on the validation rows: of its networks together, or of each on its fold."""
        outputs, rows, task = self._on_validation(finalist), self._val, _numpy(self._val.task)
        members = combine(outputs, self._specs, task)[None] if self.members > 1 else outputs
        found = evaluate(members, rows.y.numpy(), self._specs, mask=rows.mask.numpy(), task=task)
        return float(found.value().mean())

    def open(self, finalists: Sequence[Finalist], finals: Finals) -> list[Finalist]:
        finals.say("The test rows are predicted by every method, once.")
        self._test = test = self.suite.open_test()
        found = []
        for one in finalists:
            outputs = self._predict(one, test)
            if self._is_finite(outputs, test):
                found.append(replace(one, judged=Candidate(one.number, one.value, outputs)))
        return found

    def compare(
        self,
        finalists: Mapping[str, Sequence[Finalist]],
        trials: Sequence[FrozenTrial],
        finals: Finals,
        notes: Sequence[str],
    ) -> dict[str, Any]:
        test = self._test
        if test is None:
            raise ValueError("The test rows should be opened before methods are compared on them.")
        methods = [
            network_method(arm, self._words(arm, some[0], trials), some, trials)
            for arm, some in finalists.items()
        ]
        left_out = {p["name"]: p["reason"] for p in self._peers if p["reason"] is not None}
        for peer in self._peers:
            if peer["reason"] is None:
                outputs = self._peer_outputs(peer, test)[None]
                if self._is_finite(outputs, test):
                    methods.append(_peer(peer, outputs))
                else:
                    left_out[peer["name"]] = "Its predictions of the test rows are not finite."
        found = compare_rows(
            methods,
            test.y.numpy(),
            self._specs,
            mask=test.mask.numpy(),
            task=_numpy(test.task),
            groups=_numpy(test.group),
            ensemble=self.members > 1,
            suite=self.suite.name,
            notes=notes,
            seed=self._settings.seed,
            deliver=self._settings.deliver,
        )
        rows = {"rows": len(self._val.x), "folds": self.folds}
        return {**found, "left_out": left_out, "validation": rows}

    def deliver(
        self,
        name: str,
        finalists: Mapping[str, Sequence[Finalist]],
        finals: Finals,
        facts: Facts,
    ) -> Script[Path]:
        """A peer's model has in its folder, under `NETWORK`, that of the best way to share, for
        those who want to go on from its parameters."""
        if name in finalists:
            model = yield from self._network(finalists[name][0], finals, facts)
            return model.save(finals.place())
        path = self._peer_model(name, finals, facts).save(finals.place())
        arm = "sharing" if "sharing" in finalists else next(iter(finalists))
        winner = finalists[arm][0]
        own = {**facts, "method": arm, "arm": arm, "trial": winner.number, "test_score": None}
        model = yield from self._network(winner, finals, {**own, "validation_score": winner.value})
        model.save(path / NETWORK)
        return path

    def _peer_model(self, name: str, finals: Finals, facts: Facts) -> PeerModel:
        merged = self.suite.merged()
        (peer,) = (peer for peer in self._peers if peer["name"] == name)
        members = np.load(peer["validation"])[None]
        fitted = read_peer(Path(peer["path"]))
        if self._fold is None:  # with folds it is fitted on all these rows already
            finals.say("The recommended model is trained on training and validation rows.")
            fitted = PEERS[name].fit(merged, peer["setting"], seed=self._settings.seed)
        facts = {**facts, "study": finals.study, "setting": peer["setting"]}
        return PeerModel.of(merged, fitted, facts, self._calibration(members))

    def _network(self, finalist: Finalist, finals: Finals, facts: Facts) -> Script[Model]:
        merged = self.suite.merged()
        members = self._on_validation(finalist)[: self.members]
        if self._fold is not None and self.members == len(finalist.state):
            state, facts = finalist.state, finals.facts_of(finalist, facts)
        else:
            finals.say("The recommended model is trained on training and validation rows.")
            state, facts = yield from finals.refit(merged, finalist, self.members, facts)
        return Model.of(merged, finalist.config, state, facts, self._calibration(members))

    def _words(self, arm: str, winner: Finalist, trials: Sequence[FrozenTrial]) -> str:
        if arm == "independent":
            return describe_independent(trials) + start_words(winner.config)
        return describe_sharing(winner.config)

    def _peer_outputs(self, peer: Mapping[str, Any], rows: Rows) -> np.ndarray:
        return read_peer(Path(peer["path"])).predict(rows.x.numpy(), _numpy(rows.task))

    def _predict(self, finalist: Finalist, rows: Rows) -> np.ndarray:
        """What its networks predict: as many as are delivered together, all where that is one."""
        runs, state = finalist.runs, finalist.state
        if 1 < self.members < len(runs):
            runs, state = runs[: self.members], state.select(range(self.members))
        return self._trainer.predict(runs, state, rows)

    def _on_validation(self, finalist: Finalist) -> np.ndarray:
        """What its networks predict for the validation rows: [run, …]; with folds the one of each
        row's fold: [1, …]."""
        if self._fold is None:
            return self._predict(finalist, self._val)
        outputs = self._trainer.predict(finalist.runs, finalist.state, self._val)
        before = (1,) * (outputs.ndim - 2)  # outputs are [run, row, …] or [run, task, row, …]
        return np.take_along_axis(outputs, self._fold.numpy().reshape(*before, -1, 1), 0)

    def _is_finite(self, outputs: np.ndarray, rows: Rows) -> bool:
        found = evaluate(
            outputs, rows.y.numpy(), self._specs, mask=rows.mask.numpy(), task=_numpy(rows.task)
        )
        return bool(np.isfinite(found.error).all())

    def _calibration(self, members: np.ndarray) -> Any:
        rows = self._val
        return calibrate(
            members, rows.y.numpy(), self._specs, mask=rows.mask.numpy(), task=_numpy(rows.task)
        )


def _peer(peer: Mapping[str, Any], outputs: np.ndarray) -> Method:
    return Method(
        name=peer["name"],
        words=peer["words"],
        kind="baseline",
        candidates=(Candidate(None, peer["value"], outputs),),
        tuned=peer["tried"],
        seconds=round(peer["seconds"], 2),
    )


def network_method(
    name: str, words: str, some: Sequence[Finalist], trials: Sequence[FrozenTrial]
) -> Method:
    """The networks of one name as a method of the comparison.

    Args:
        some: its finalists, best on validation first.
    """
    values = tuple(values_of(trials, name))
    number = sum(trial.user_attrs.get("arm") == name for trial in trials)
    return Method(
        name=name,
        words=words,
        kind="network",
        candidates=tuple(one.judged for one in some if one.judged is not None),
        values=values,
        n_trials=number,
        n_completed=len(values),
        tuned=number or 1,  # what stands beside the arms has no trials of its own
        seconds=round(seconds_of(trials, name), 2),
    )


def values_of(trials: Sequence[FrozenTrial], arm: str) -> list[float]:
    """Validation scores of the trials of an arm that were trained to the end."""
    return [
        float(score_of(t) or 0.0)
        for t in trials
        if t.user_attrs.get("arm") == arm and is_eligible(t)
    ]


def seconds_of(trials: Sequence[FrozenTrial], arm: str | None = None) -> float:
    """Seconds of training that trials took, advised ones left out."""
    return sum(
        float(t.user_attrs.get("seconds", 0.0))
        for t in trials
        if not is_advised(t) and arm in (None, t.user_attrs.get("arm"))
    )


def _numpy(values: Any) -> np.ndarray | None:
    return None if values is None else values.numpy()
