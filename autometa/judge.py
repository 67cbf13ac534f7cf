"""The final comparison: the best of each arm, re-run, paired, and read on the test rows once.

The three best trials of each arm, and those that a diagnosis advised, are run again with three new
seeds each, on validation; the mean names the arm's winner. The two winners are then trained with
five seeds that both share, and their predictions on the test rows are compared. Nothing else ever
opens the test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from torch import device as torch_device

from autometa.baselines import gbdt_predictions
from autometa.comparison import Candidate, Method, compare_rows
from autometa.finals import FINAL_SEEDS, Finalist, Finals, Judgement, deliver_network
from autometa.searching.bound import Kept, Reference, judge_bound
from autometa.searching.executors import Script
from autometa.searching.finalists import Rerun
from autometa.searching.progress import Progress
from autometa.searching.settings import SearchSettings
from autometa.study import is_advised, is_eligible
from autometa.tasks import Rows, TaskSuite
from autometa.training.population import Trainer
from autometa.training.scoring import task_specs
from autometa.training.state import PopulationState, Run
from autometa.trial import TrialConfig


class Judge:
    """The final comparison of a study, as a script of units.

    Args:
        suite: with its test rows, opened here and nowhere else.
        folder: for the copy of the suite that workers read, and checkpoints.
        models: folder that the recommended model is written to.
    """

    def __init__(
        self,
        suite: TaskSuite,
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

    def script(
        self,
        trials: Sequence[FrozenTrial],
        reference: Reference | None = None,
        known: Mapping[str, float] | None = None,
    ) -> Script[Judgement]:
        """Compare the arms and leave the recommended model.

        Args:
            reference: what a bound on the tasks is measured from, where one is set.
            known: trial number → mean score on validation over new seeds, where the diagnosis has
                trained it already; of use without a bound only.

        Raises:
            InfrastructureError: no trial completed, or no finalist could be trained again.
        """
        self._suite.without_test().save(self._finals.folder / "suite")
        known = known if reference is None and known is not None else {}
        finalists = yield from self._finals.finalists(
            trials, known, lambda trial, run: self._finalist(trial, run, reference)
        )
        winners: dict[str, Finalist] = {}
        for one in finalists:
            if one.arm not in winners or one.rank > winners[one.arm].rank:
                winners[one.arm] = one
        states = yield from self._finals.train({arm: w.config for arm, w in winners.items()})
        independent = describe_independent(trials)
        if "independent" in winners:
            independent += start_words(winners["independent"].config)
        test = self._compare(winners, states, independent)
        test["winners"] = {arm: winner.number for arm, winner in winners.items()}
        test["notes"] = [*test.get("notes", ()), *_notes(winners, trials)]
        test = self._judge_bound(test, trials, winners, reference)
        model = yield from self._refit(winners[test["recommended"]], test)
        return Judgement(winners, finalists, test, model)

    def _finalist(self, trial: FrozenTrial, run: Rerun, reference: Reference | None) -> Finalist:
        arm, delta = trial.user_attrs["arm"], self._settings.no_task_worse_than
        kept = None
        if reference is not None and delta is not None and arm == "sharing":
            closest = reference.closest(run.tasks)
            kept = Kept(is_eligible(trial) and closest.below <= delta, closest)
        config = TrialConfig.from_flat(trial.user_attrs["config"])
        return Finalist(arm, trial.number, config, run.value, kept)

    def _judge_bound(
        self,
        test: dict[str, Any],
        trials: Sequence[FrozenTrial],
        winners: dict[str, Finalist],
        reference: Reference | None,
    ) -> dict[str, Any]:
        delta, sharing = self._settings.no_task_worse_than, winners.get("sharing")
        if reference is None or delta is None or sharing is None or sharing.kept is None:
            return test
        found = judge_bound(test, trials, reference, delta, sharing.number, sharing.kept)
        return found if found["recommended"] in winners else {**found, "recommended": "sharing"}

    def _compare(
        self,
        winners: dict[str, Finalist],
        states: dict[str, PopulationState],
        independent_words: str,
    ) -> dict[str, Any]:
        stripped = self._suite.without_test()
        specs = task_specs(stripped)
        trainer = Trainer(stripped, self._settings.max_epochs, torch_device("cpu"))
        test = self._suite.open_test()
        predictions = {
            arm: trainer.predict(
                [Run(winner.config, k) for k in range(FINAL_SEEDS)], states[arm], test
            )
            for arm, winner in winners.items()
        }
        truth = test.y.numpy()
        mask, task = test.mask.numpy(), _numpy(test.task)
        words = {"independent": independent_words}
        if "sharing" in winners:
            words["sharing"] = describe_sharing(winners["sharing"].config)
        methods = [
            Method(
                arm, words[arm], "network",
                (Candidate(winner.number, winner.value, predictions[arm]),),
            )
            for arm, winner in winners.items()
        ]  # fmt: skip
        if not self._suite.is_image:
            trees = Candidate(None, float("nan"), self._trees(test)[None])
            methods.append(Method("trees", "gradient-boosted trees", "baseline", (trees,)))
        found = compare_rows(
            methods,
            truth,
            specs,
            mask=mask,
            task=task,
            groups=_numpy(test.group),
            ensemble=False,
            suite=self._suite.name,
            seed=self._settings.seed,
        )
        return deliver_network(found, {arm: w.value for arm, w in winners.items()})

    def _trees(self, test: Rows) -> np.ndarray:
        train = self._suite.rows("train")
        return gbdt_predictions(
            train.x.numpy(),
            train.y.numpy(),
            test.x.numpy(),
            task_specs(self._suite.without_test()),
            mask_train=train.mask.numpy(),
            task_train=_numpy(train.task),
            task=_numpy(test.task),
            seed=self._settings.seed,
        )

    def _refit(self, winner: Finalist, test: dict[str, Any]) -> Script[Path]:
        facts = {
            "suite": self._suite.name,
            "fingerprint": self._suite.fingerprint,
            "trial": winner.number,
            "arm": winner.arm,
            "validation_score": winner.value,
            "test_score": test["score" if winner.arm == "sharing" else "independent_score"],
            "verdict": test["verdict"],
        }
        self._finals.say("The recommended model is trained on training and validation rows.")
        path = yield from self._finals.refit(self._suite.merged(), winner.config, facts)
        return path


def describe_sharing(config: TrialConfig) -> str:
    """How a configuration shares, in a few words: "hard sharing (2 of 3 blocks shared)"."""
    flat = config.flat()
    kind = flat["sharing.kind"]
    details = []
    if kind == "hard":
        depth = flat["backbone.depth"]
        split = flat["sharing.split_at"]
        details.append(f"{depth if split is None else split} of {depth} blocks shared")
    if kind == "tree" and flat["sharing.partitions"] is not None:
        parts = flat["sharing.partitions"].split("/")
        if len(parts[0]) > 12:  # of many tasks only how many groups they form
            parts = [f"{len(set(part))}" for part in parts]
        details.append(f"groups {', '.join(parts)}")
    if kind == "soft":
        details.append(f"tie {flat['sharing.tie']:.2g}")
    if kind == "cross_stitch":
        details.append(f"one unit a {flat['sharing.units']}")
    if kind == "sluice":
        details.append(f"{flat['sharing.subspaces']} subspaces")
    if flat["conditioning.kind"] != "none":
        details.append(f"{flat['conditioning.kind']} conditioning at {flat['conditioning.at']}")
    if flat["head"] == "single_head":
        details.append("one head for all tasks")
    if flat["init.kind"] != "random":
        details.append("started from an earlier model")
    name = f"{kind.replace('_', '-')} sharing"
    return f"{name} ({', '.join(details)})" if details else name


def describe_network(config: TrialConfig) -> str:
    """How a configuration shares, and how large it is: "…, 3 blocks of width 96"."""
    backbone: Any = config.backbone
    independent = config.flat()["sharing.kind"] == "independent"
    alone = f"independent networks{start_words(config)}"
    name = alone if independent else describe_sharing(config)
    return f"{name}, {backbone.depth} blocks of width {backbone.width}"


def start_words(config: TrialConfig) -> str:
    """What is said of networks that do not start at random; nothing of others."""
    return "" if config.init.kind == "random" else " that started from an earlier model"


def describe_independent(trials: Sequence[FrozenTrial]) -> str:
    """ "Equally tuned" only where both arms had as many trials, give or take one."""
    number = {
        arm: sum(t.user_attrs.get("arm") == arm and not is_advised(t) for t in trials)
        for arm in ("sharing", "independent")
    }
    if number["independent"] + 1 >= number["sharing"]:
        return "equally tuned independent networks"
    return (
        f"independent networks tuned with {number['independent']} of {sum(number.values())} trials"
    )


def _notes(winners: Mapping[str, Finalist], trials: Sequence[FrozenTrial]) -> list[str]:
    """What else a reader of the verdict has to know."""
    notes = []
    advised = [trial.number for trial in trials if is_advised(trial)]
    if "sharing" in winners and winners["sharing"].number in advised:
        notes.append(
            f"the sharing network was advised by the diagnosis, tried beyond the searched trials "
            f"({len(advised)} of its kind)"
        )
    starts = {winner.config.init.kind for winner in winners.values()}
    if len(starts) > 1:
        notes.append(
            "both arms were offered the start from an earlier model, and one of the two does "
            "better without, so the difference is not of sharing alone"
        )
    return notes


def _numpy(values: Any) -> np.ndarray | None:
    return None if values is None else values.numpy()
