"""The final comparison: all methods, judged once on what no trial has seen, and one delivered.

The best trials of each arm are trained with paired seeds, longer where an arm still gains; methods
without networks are tuned beside them. Their predictions on the test rows (in episodes: of the
meta-test tasks) are compared, and the recommended method becomes a model of all rows but these.
Nothing else ever opens them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autometa.contests import Contest, seconds_of
from autometa.finals import Finalist, Finals, Judgement, Trainings
from autometa.levelling import CAP, LONGER
from autometa.searching.bound import Kept, Reference, judge_bound
from autometa.searching.executors import Script
from autometa.searching.settings import SearchSettings
from autometa.study import is_advised, is_eligible

ARMS = ("sharing", "independent")
_CALLED = {"sharing": "sharing", "independent": "independent networks"}


class Judge:
    """The final comparison of a study, as a script of units.

    Args:
        opening: notes that the test rows are opened now, and says how often they were before.
    """

    def __init__(
        self,
        contest: Contest,
        finals: Finals,
        settings: SearchSettings,
        opening: Callable[[], int],
    ) -> None:
        self._contest = contest
        self._finals = finals
        self._settings = settings
        self._opening = opening
        self.unit_done = finals.unit_done

    def script(
        self, trials: Sequence[FrozenTrial], reference: Reference | None = None
    ) -> Script[Judgement]:
        """Compare the methods and leave the recommended model.

        Args:
            reference: what a bound on the tasks is measured from, where one is set.

        Raises:
            InfrastructureError: no trial completed, or no finalist could be trained again.
        """
        contest, finals = self._contest, self._finals
        contest.suite.without_test().save(finals.folder / "suite")
        entrants = finals.entrants(trials)
        entrants += contest.beside(trials, entrants)
        yield from contest.fit_baselines(finals, seconds_of(trials))
        trained = yield from finals.train(entrants, longer=contest.longer)
        by_number = {trial.number: trial for trial in trials}
        found = [
            replace(
                one, value=contest.value(one), kept=self._kept(one, by_number, reference)
            )
            for one in trained.finalists
        ]  # fmt: skip
        before = self._opening()
        judged = contest.open(found, finals)
        finalists: dict[str, list[Finalist]] = {}
        for one in sorted(judged, key=lambda one: one.rank, reverse=True):
            finalists.setdefault(one.method, []).append(one)
        notes = [*_left_out(found, judged), *_notes(finalists, trials, before)]
        if trained.left_out:
            notes.append(
                f"the time was up before {trained.left_out} of {len(entrants)} finalists were "
                "trained again, so the luck of tuning is known less well"
            )
        test = contest.compare(finalists, trials, finals, notes)
        budget = _budget(self._settings.max_steps, finalists, trained)
        test |= {
            "budget": budget,
            "opened_before": before,
            "winners": {arm: finalists[arm][0].number for arm in ARMS if arm in finalists},
        }
        if contest.longer:
            test["verdict"] = f"{test['verdict']} {_held_at(budget)}"
        test = self._judge_bound(test, trials, finalists, reference)
        name = test["delivered"]["method"]
        row = next(row for row in test["methods"] if row["name"] == name)
        facts = {
            "suite": contest.suite.name,
            "fingerprint": contest.suite.fingerprint,
            "method": name,
            "trial": row["trial"],
            "arm": name if name in ARMS else None,
            "validation_score": row["validation"],
            "test_score": row["score"],
            "verdict": test["verdict"],
        }
        model = yield from contest.deliver(name, finalists, finals, facts)
        winners = {arm: finalists[arm][0] for arm in ARMS if arm in finalists}
        flat = tuple(one for some in finalists.values() for one in some)
        return Judgement(winners, flat, test, model)

    def _kept(
        self, one: Finalist, trials: Mapping[int, FrozenTrial], reference: Reference | None
    ) -> Kept | None:
        delta = self._settings.no_task_worse_than
        if reference is None or delta is None or one.method != "sharing" or one.number is None:
            return None
        closest = reference.closest(one.tasks)
        return Kept(is_eligible(trials[one.number]) and closest.below <= delta, closest)

    def _judge_bound(
        self,
        test: dict[str, Any],
        trials: Sequence[FrozenTrial],
        finalists: Mapping[str, Sequence[Finalist]],
        reference: Reference | None,
    ) -> dict[str, Any]:
        delta = self._settings.no_task_worse_than
        if reference is None or delta is None or "sharing" not in finalists:
            return test
        sharing = finalists["sharing"][0]
        if sharing.kept is None or sharing.number is None:
            return test
        return judge_bound(test, trials, reference, delta, sharing.number, sharing.kept)


def _left_out(found: Sequence[Finalist], judged: Sequence[Finalist]) -> list[str]:
    """How many finalists of each method predict something that is not finite."""
    notes = []
    for method in dict.fromkeys(one.method for one in found):
        before, after = (sum(one.method == method for one in some) for some in (found, judged))
        if after < before:
            notes.append(
                f"{before - after} of {before} finalists of {_CALLED.get(method, method)} are left "
                "out, because their predictions here are not finite"
            )
    return notes


def _notes(
    finalists: Mapping[str, Sequence[Finalist]], trials: Sequence[FrozenTrial], before: int
) -> list[str]:
    """What else a reader of the verdict has to know."""
    notes = []
    advised = [trial.number for trial in trials if is_advised(trial)]
    winners = {arm: finalists[arm][0] for arm in ARMS if arm in finalists}
    for arm, winner in winners.items():
        if winner.number in advised:
            notes.append(
                f"the winner of the {arm} arm is one of {len(advised)} configurations that were "
                "tried beyond the searched trials, after the diagnosis"
            )
    stopped = {trial.number for trial in trials if trial.state != TrialState.COMPLETE}
    for arm, winner in winners.items():
        if winner.number in stopped:
            notes.append(
                f"no trial of the {arm} arm was trained to the end in the search, so those that "
                "came farthest were trained for the comparison"
            )
    if len({winner.config.init.kind for winner in winners.values()}) > 1:
        notes.append(
            "both arms were offered the start from an earlier model, and one of the two does "
            "better without, so the difference is not of sharing alone"
        )
    if before:
        times = "once" if before == 1 else f"{before} times"
        notes.append(
            f"these test rows have been opened {times} before: the more often one looks and "
            "chooses, the less they say"
        )
    return notes


def _budget(
    searched: int, finalists: Mapping[str, Sequence[Finalist]], trained: Trainings
) -> dict[str, Any]:
    """At which lengths the verdict holds, and what longer ones gave.

    An arm still gains where the last budget that was tried was better for it than the one before.
    """
    gains = trained.gains
    last = max((gain.longer for gain in gains), default=searched)
    open_at = [gain for gain in gains if gain.longer == last and gain.gains]
    return {
        "searched": searched,
        "steps": trained.budget,
        "lengths": {
            arm: {"steps": finalists[arm][0].steps, "budget": finalists[arm][0].budget}
            for arm in ARMS
            if arm in finalists
        },
        "gains": [gain.to_json() for gain in gains],
        "levelled": bool(gains) and not open_at,
        "still_gains": [gain.arm for gain in open_at],
    }


def _held_at(budget: Mapping[str, Any]) -> str:
    """The sentence on the budget."""
    steps = f"{budget['steps']:,}"
    if not budget["gains"]:
        return (
            f"It holds for {steps} optimizer steps a network; whether more would change it was "
            "not tried."
        )
    if budget["still_gains"]:
        arms = " and ".join(_CALLED[arm] for arm in budget["still_gains"])
        if budget["steps"] < CAP * budget["searched"]:
            return (
                f"It holds for {steps} optimizer steps a network: with {LONGER} times as many "
                f"{arms} gain on validation, but the time was up."
            )
        return (
            f"It holds for {steps} optimizer steps a network, the most that are tried "
            f"({CAP} times those of the search), where {arms} still gain."
        )
    told = ", ".join(
        f"{_CALLED[gain['arm']]} {gain['gain']:+.3f}"
        for gain in budget["gains"]
        if gain["steps"] == budget["steps"]
    )
    return (
        f"It holds for {steps} optimizer steps a network: with {LONGER} times as many no arm gains "
        f"more than noise on validation ({told})."
    )
