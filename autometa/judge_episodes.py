"""The final comparison on held-out tasks: their episodes are opened once, for every method at once.

The best trials of both arms are run again on the meta-validation tasks, and the winner of each is
trained with paired seeds: the best way found to learn from many tasks, and networks that learn
every new task from scratch, on its support rows. Beside them stand joint training with
fine-tuning, and what scikit-learn reaches on the same episodes. Nothing else ever opens the
meta-test tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from autometa.baselines_episodes import pooled_baselines, support_baselines
from autometa.comparison import Candidate, Method, compare_episodes
from autometa.finals import FINAL_SEEDS, Finalist, Finals, Judgement, deliver_network
from autometa.searching.executors import Script
from autometa.searching.finalists import Rerun
from autometa.searching.progress import Progress
from autometa.searching.settings import SearchSettings
from autometa.study import is_eligible, score_of
from autometa.tasks import EpisodeSet, EpisodicSuite
from autometa.tasks.episodes import EpisodeShape
from autometa.training.devices import find_device
from autometa.training.population import Trainer
from autometa.training.scoring import evaluate_episodes
from autometa.training.state import PopulationState, Run
from autometa.trial import TrialConfig

#: names among the methods: the best of what was searched over many tasks, and joint training with
#: fine-tuning
MAIN, JOINT = "sharing", "joint"


class EpisodeJudge:
    """The final comparison of a study of episodes, as a script of units.

    Args:
        suite: with its meta-test tasks, opened here and nowhere else.
        folder, models: as in `Finals`.
    """

    def __init__(
        self,
        suite: EpisodicSuite,
        settings: SearchSettings,
        *,
        study: str,
        folder: Path,
        models: Path,
        notify: Callable[[Progress], None],
    ) -> None:
        self._suite = suite
        self._settings = settings
        self._finals = Finals(
            settings,
            study=study,
            fingerprint=suite.fingerprint,
            folder=folder,
            models=models,
            notify=notify,
        )
        self.unit_done = self._finals.unit_done

    def script(self, trials: Sequence[FrozenTrial]) -> Script[Judgement]:
        """Compare all methods and leave the recommended model.

        Raises:
            InfrastructureError: no trial completed, or no finalist could be trained again.
        """
        self._suite.without_test().save(self._finals.folder / "suite")
        finalists = yield from self._finals.finalists(trials, {}, _finalist)
        winners: dict[str, Finalist] = {}
        for one in finalists:
            if one.arm not in winners or one.rank > winners[one.arm].rank:
                winners[one.arm] = one
        configs = {arm: winner.config for arm, winner in winners.items()}
        numbers: dict[str, int | None] = {arm: winner.number for arm, winner in winners.items()}
        if _kind(configs.get(MAIN)) != "finetune":
            configs[JOINT], numbers[JOINT] = joint_config(trials, configs)
        states = yield from self._finals.train(configs, optional=(JOINT,))
        values = {arm: winner.value for arm, winner in winners.items()}
        test = self._compare({n: configs[n] for n in states}, numbers, states, values)
        test["winners"] = {arm: winner.number for arm, winner in winners.items()}
        chosen = test["recommended"]
        self._finals.say("The recommended model is trained on training and validation tasks.")
        facts = {
            "suite": self._suite.name,
            "fingerprint": self._suite.fingerprint,
            "trial": numbers[chosen],
            "arm": chosen,
            "test_score": next(m["score"] for m in test["methods"] if m["name"] == chosen),
            "verdict": test["verdict"],
        }
        if chosen in winners:
            facts["validation_score"] = winners[chosen].value
        model = yield from self._finals.refit(self._suite.merged(), configs[chosen], facts)
        return Judgement(winners, finalists, test, model)

    def _compare(
        self,
        configs: Mapping[str, TrialConfig],
        numbers: Mapping[str, int | None],
        states: Mapping[str, PopulationState],
        values: Mapping[str, float],
    ) -> dict[str, Any]:
        suite, settings = self._suite, self._settings
        stripped = suite.without_test()
        trainer = Trainer(stripped, settings.max_epochs, find_device(settings.device))
        episodes = suite.open_test_episodes()
        methods: list[Method] = []
        for name, config in configs.items():
            self._finals.say(f"The test episodes are learned: {_WORDS.get(name, name)}.")
            runs = [Run(config, k) for k in range(FINAL_SEEDS)]
            found = evaluate_episodes(
                trainer.predict_episodes(runs, states[name], episodes), episodes
            )
            words = describe_learner(config)
            if name == JOINT and numbers[JOINT] is None:
                words += ", not tuned"
            value = values.get(name, float("nan"))
            candidate = Candidate(numbers[name], value, found=found)
            methods.append(Method(name, words, "network", (candidate,)))
        methods += self._baselines(episodes)
        test = compare_episodes(
            methods,
            suite=suite.name,
            shape=describe_shape(suite.test_shape),
            notes=_mismatch(suite),
            seed=settings.seed,
        )
        test = deliver_network(test, values)
        return {
            **test,
            "conditions": {
                "match": suite.shape == suite.test_shape,
                "train": suite.shape.model_dump(),
                "test": suite.test_shape.model_dump(),
            },
        }

    def _baselines(self, episodes: EpisodeSet) -> list[Method]:
        suite = self._suite
        self._finals.say("The test episodes are learned: baselines.")
        support, query = episodes.support, episodes.query
        new = query.x.numpy()
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
        out = []
        for name, (words, pred) in found.items():
            judged = evaluate_episodes(pred[None], episodes)
            out.append(
                Method(name, words, "baseline", (Candidate(None, float("nan"), found=judged),))
            )
        return out


def joint_config(
    trials: Sequence[FrozenTrial], winners: Mapping[str, TrialConfig]
) -> tuple[TrialConfig, int | None]:
    """Joint training with fine-tuning: the best such trial and its number; or, where none was
    trained to the end, the winner's network with the learner's defaults, and None."""
    done = [
        t
        for t in trials
        if is_eligible(t)
        and t.user_attrs.get("arm") == MAIN
        and t.user_attrs["config"]["adaptation.kind"] == "finetune"
    ]
    if done:
        best = max(done, key=lambda t: (score_of(t) or 0.0, -t.number))
        return TrialConfig.from_flat(best.user_attrs["config"]), best.number
    like = winners.get(MAIN) or winners["independent"]
    kept = ("backbone.", "optimizer.", "init.")
    values = {name: value for name, value in like.flat().items() if name.startswith(kept)}
    plain = {"sharing.kind": "hard", "sharing.split_at": 0, "adaptation.kind": "finetune"}
    return TrialConfig.from_flat({**values, **plain}), None


def describe_learner(config: TrialConfig) -> str:
    """How a configuration learns a new task, in a few words."""
    flat = config.flat()
    kind, depth = flat["adaptation.kind"], flat["backbone.depth"]
    earlier = flat["init.kind"] != "random"
    if flat["sharing.kind"] == "independent":
        start = "from an earlier model" if earlier else "from scratch"
        return f"training {start} on the support rows"
    name = _LEARNERS.get(kind, kind)
    details = []
    if kind == "gradient" and flat["adaptation.learned_rates"]:
        details.append("learned rates")
    if kind == "gradient" and flat["adaptation.first_order"]:
        details.append("first order")
    if kind == "amortized" and flat["adaptation.aggregation"] == "attention":
        details.append("attentive")
    if kind in ("gradient", "reptile", "finetune"):
        split = flat["sharing.split_at"]
        split = depth if split is None else split
        adapted = (
            "the head" if split == depth else f"{depth - split} of {depth} blocks and the head"
        )
        if flat["head"] == "single_head" and split == depth:
            adapted = "the context alone"
        elif flat["conditioning.kind"] != "none":
            adapted += " and a context"
        details.append(f"adapts {adapted}")
    if kind in ("gradient", "reptile"):
        steps = flat["adaptation.steps"]
        details.append(f"{steps} step{'s' if steps > 1 else ''}")
    if earlier:
        details.append("started from an earlier model")
    return f"{name} ({', '.join(details)})" if details else name


def describe_shape(shape: EpisodeShape) -> str:
    """ "5-way 1-shot", or "10 support rows"."""
    if shape.ways is not None:
        return f"{shape.ways}-way {shape.shots}-shot"
    return f"{shape.shots} support row{'s' if shape.shots > 1 else ''}"


def _mismatch(suite: EpisodicSuite) -> list[str]:
    if suite.shape == suite.test_shape:
        return []
    trained, tested = describe_shape(suite.shape), describe_shape(suite.test_shape)
    return [f"Conditions do not match: trained on {trained}, tested on {tested}."]


def _finalist(trial: FrozenTrial, run: Rerun) -> Finalist:
    config = TrialConfig.from_flat(trial.user_attrs["config"])
    return Finalist(trial.user_attrs["arm"], trial.number, config, run.value)


def _kind(config: TrialConfig | None) -> str | None:
    section: Any = None if config is None else config.adaptation
    return None if section is None else section.kind


_LEARNERS = {
    "gradient": "gradient-based meta-learning",
    "reptile": "Reptile",
    "metric": "prototypes",
    "amortized": "a neural process",
    "bayesian": "a Bayesian head on learned features",
    "finetune": "joint training and fine-tuning",
}
_WORDS = {MAIN: "the winner", "independent": "from scratch", JOINT: "joint training, fine-tuned"}
