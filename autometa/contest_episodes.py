"""The contest in episodes: held-out tasks, each learned anew from its support rows.

Beside the best way found to learn from many tasks, and networks that learn every new task from
scratch, stand joint training with fine-tuning, and what scikit-learn reaches on the same episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from autometa.baselines.episodes import pooled_baselines, support_baselines
from autometa.comparison import Candidate, Method, compare_episodes
from autometa.contests import Contest, Facts, network_method
from autometa.describing import describe_learner, describe_shape, kind_of
from autometa.finals import Entrant, Finalist, Finals
from autometa.model import Model
from autometa.searching.executors import Script
from autometa.searching.settings import SearchSettings
from autometa.study import is_eligible, score_of
from autometa.tasks import EpisodeSet, EpisodicSuite
from autometa.training.devices import find_device
from autometa.training.population import Trainer
from autometa.training.scoring import evaluate_episodes
from autometa.trial import TrialConfig

#: name of joint training with fine-tuning among the methods
JOINT = "joint"


class EpisodeContest(Contest):
    """On episodes of meta-test tasks, against joint training and methods without networks."""

    #: an episode is a step, and how many tasks there are to learn from does not grow with them
    longer = False
    members = 1

    def __init__(self, suite: EpisodicSuite, settings: SearchSettings) -> None:
        self.suite = suite
        self._settings = settings
        self._episodes: EpisodeSet | None = None

    def beside(self, trials: Sequence[FrozenTrial], entrants: Sequence[Entrant]) -> list[Entrant]:
        best = {entrant.method: entrant.config for entrant in reversed(entrants)}
        if kind_of(best.get("sharing")) == "finetune":
            return []
        config, number = joint_config(trials, best)
        return [Entrant(JOINT, number, config, optional=True)]

    def fit_baselines(self, finals: Finals, search_seconds: float) -> Script[None]:
        """Nothing: they are fitted to the support rows of the test episodes."""
        yield from ()

    def open(self, finalists: Sequence[Finalist], finals: Finals) -> list[Finalist]:
        suite, settings = self.suite, self._settings
        trainer = Trainer(suite.without_test(), settings.max_steps, find_device(settings.device))
        self._episodes = episodes = suite.open_test_episodes()
        judged, said = [], set[str]()
        for one in finalists:
            if one.method not in said:
                finals.say(f"The test episodes are learned: {_WORDS.get(one.method, one.method)}.")
                said.add(one.method)
            found = evaluate_episodes(
                trainer.predict_episodes(one.runs, one.state, episodes), episodes
            )
            if np.isfinite(found.error).any():
                judged.append(replace(one, judged=Candidate(one.number, one.value, found=found)))
        return judged

    def compare(
        self,
        finalists: Mapping[str, Sequence[Finalist]],
        trials: Sequence[FrozenTrial],
        finals: Finals,
        notes: Sequence[str],
    ) -> dict[str, Any]:
        suite, episodes = self.suite, self._episodes
        if episodes is None:
            raise ValueError("The test episodes should be opened before methods are compared.")
        methods = []
        for name, some in finalists.items():
            winner = finalists.get("sharing", some)[0]
            if name == JOINT and kind_of(winner.config) == "finetune":
                continue  # it would be compared with itself
            words = describe_learner(some[0].config)
            if name == JOINT and some[0].number is None:
                words += ", not tuned"
            methods.append(network_method(name, words, some, trials))
        methods += self._baselines(episodes, finals)
        found = compare_episodes(
            methods,
            suite=suite.name,
            shape=describe_shape(suite.test_shape),
            notes=[*_mismatch(suite), *notes],
            seed=self._settings.seed,
        )
        conditions = {
            "match": suite.shape == suite.test_shape,
            "train": suite.shape.model_dump(),
            "test": suite.test_shape.model_dump(),
        }
        return {**found, "conditions": conditions}

    def deliver(
        self,
        name: str,
        finalists: Mapping[str, Sequence[Finalist]],
        finals: Finals,
        facts: Facts,
    ) -> Script[Path]:
        if name not in finalists:
            raise ValueError(f"Method `{name}` should be a network in episodes.")
        finalist = finalists[name][0]
        finals.say("The recommended model is trained on training and validation tasks.")
        merged = self.suite.merged()
        state, facts = yield from finals.refit(merged, finalist, self.members, facts)
        return Model.of(merged, finalist.config, state, facts).save(finals.place())

    def _baselines(self, episodes: EpisodeSet, finals: Finals) -> list[Method]:
        suite = self.suite
        finals.say("The test episodes are learned: baselines.")
        support, new = episodes.support, episodes.query.x.numpy()
        found = support_baselines(
            suite.kind,
            suite.is_image,
            suite.test_shape.ways or 0,
            support.x.numpy(),
            support.y.numpy(),
            support.mask.numpy(),
            new,
        )
        if suite.test_shape.ways is None and not suite.is_image:
            rows = suite.rows("train")
            found |= pooled_baselines(suite.kind, rows.x.numpy(), rows.y.numpy(), new)
        return [
            Method(
                name,
                words,
                "baseline",
                (Candidate(None, float("nan"), found=evaluate_episodes(pred[None], episodes)),),
            )
            for name, (words, pred) in found.items()
        ]


def joint_config(
    trials: Sequence[FrozenTrial], winners: Mapping[str, TrialConfig]
) -> tuple[TrialConfig, int | None]:
    """Joint training with fine-tuning: the best such trial and its number; or, where none was
    trained to the end, the best network with the learner's defaults, and None."""
    done = [
        t
        for t in trials
        if is_eligible(t)
        and t.user_attrs.get("arm") == "sharing"
        and t.user_attrs["config"]["adaptation.kind"] == "finetune"
    ]
    if done:
        best = max(done, key=lambda t: (score_of(t) or 0.0, -t.number))
        return TrialConfig.from_flat(best.user_attrs["config"]), best.number
    like = winners.get("sharing") or winners["independent"]
    kept = ("backbone.", "optimizer.", "init.")
    values = {name: value for name, value in like.flat().items() if name.startswith(kept)}
    plain = {"sharing.kind": "hard", "sharing.split_at": 0, "adaptation.kind": "finetune"}
    return TrialConfig.from_flat({**values, **plain}), None


def _mismatch(suite: EpisodicSuite) -> list[str]:
    if suite.shape == suite.test_shape:
        return []
    trained, tested = describe_shape(suite.shape), describe_shape(suite.test_shape)
    return [f"Conditions do not match: trained on {trained}, tested on {tested}."]


_WORDS = {
    "sharing": "the best of many tasks",
    "independent": "from scratch",
    JOINT: "joint training, fine-tuned",
}
