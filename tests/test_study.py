"""Studies in journals: opening, asking, resuming, reviving, reading beside a driver."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from autometa.errors import ConfigError, StudyError, UserError
from autometa.home import Home
from autometa.networks import Problem
from autometa.space import Arm, Space
from autometa.study import (
    ADVISED,
    SAMPLER_TRIALS,
    SAMPLERS,
    StudyHandle,
    delete_study,
    list_studies,
    make_sampler,
    open_study,
    read_study,
    trial_rows,
    visible_trials,
)
from autometa.study.samplers import _CmaEs

ARMS: tuple[Arm, Arm] = ("sharing", "independent")
PROBLEM = Problem(
    layout="aligned", feature_shape=(4,), kinds=("regression", "regression"), n_outputs=(1, 1)
)
SPACE = Space.load("hard").bind(PROBLEM)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def opened(home: Home, name: str = "s", **options: Any) -> StudyHandle:
    given = {"fingerprint": "f", "attrs": {"space": SPACE.text}}
    return open_study(home, name, **{**given, **options})


def score(values: dict[str, Any]) -> float:
    """A smooth function of what was suggested, with structure for the samplers to find."""
    out = -abs(values["backbone.dropout"] - 0.1) - abs(values["optimizer.lr"] - 3e-3) * 50
    out += 0.2 * (values["optimizer.schedule"] == "cosine") + values["backbone.width"] / 1000
    return out + 0.1 * values.get("sharing.split_at", 0)


def step(
    handle: StudyHandle, arm: Arm, sampler: str, seed: int = 0, bonus: float = 0.0
) -> dict[str, Any]:
    """Ask, commit, report, tell, commit: what a search does for one trial."""
    trial = handle.ask(arm, partial(make_sampler, sampler, seed))
    values = SPACE.suggest(trial, arm)
    handle.commit()
    value = score(values) + bonus
    trial.report(value / 2, 1)
    if trial.number % 5 == 4:
        handle.tell(trial, state=TrialState.PRUNED)
    elif trial.number % 7 == 6:
        handle.tell(trial, state=TrialState.FAIL, reason="loss was NaN at step 3")
    else:
        handle.tell(trial, value)
    handle.commit()
    return values


# --- opening


def test_names(home: Home) -> None:
    with opened(home, "a") as handle:
        assert not handle.resumed
        assert handle.path == home.journal("a")
    with pytest.raises(StudyError, match=r"Study `a` exists\. Add --resume .* or choose another"):
        opened(home, "a")
    with opened(home, "a", resume=True) as handle:
        assert handle.resumed
    with opened(home, "b", resume=True) as handle:
        assert not handle.resumed, "resuming without a study starts one"
    with pytest.raises(UserError, match="study_name"):
        opened(home, "../x")
    assert list_studies(home) == ["a", "b"]


def test_a_study_belongs_to_one_suite_and_one_space(home: Home) -> None:
    with opened(home, attrs={"space": SPACE.text, "settings": {"n_trials": 4}, "t": (1, 2)}):
        pass
    with pytest.raises(StudyError, match=r"fingerprint f, this one has g.*another study name"):
        opened(home, resume=True, fingerprint="g")
    other = SPACE.text.replace("[32, 96, 192]", "[32, 96]")
    with pytest.raises(StudyError, match="another search space"):
        opened(home, resume=True, attrs={"space": other})
    comments = SPACE.text.replace("# The network", "# A network")
    with opened(home, resume=True, attrs={"space": comments, "settings": {"n_trials": 8}}) as h:
        attrs = h.study.user_attrs
    assert attrs["space"] == SPACE.text
    assert attrs["settings"] == {"n_trials": 8}
    assert attrs["t"] == [1, 2]
    assert attrs["fingerprint"] == "f"


def test_opening_again_writes_nothing(home: Home) -> None:
    with opened(home):
        before = home.journal("s").read_bytes()
    with opened(home, resume=True):
        pass
    assert home.journal("s").read_bytes() == before


def test_one_driver(home: Home) -> None:
    with opened(home):
        with pytest.raises(StudyError, match="in use by process"):
            opened(home, resume=True)
        with pytest.raises(StudyError, match="in use by process"):
            delete_study(home, "s")
    with opened(home, resume=True):
        pass


def test_nothing_is_printed(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)  # another test may have changed it
    with opened(home) as handle:
        for arm in ARMS:
            step(handle, arm, "tpe")
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO, "the user's setting is theirs"


# --- reading


def test_reading_while_a_driver_runs(home: Home) -> None:
    with opened(home) as handle:
        step(handle, "sharing", "random")
        seen = read_study(home, "s")
        assert len(seen.trials) == 1
        trial = handle.ask("sharing", partial(make_sampler, "random", 0))
        assert len(read_study(home, "s").trials) == 1
        handle.commit()
        assert seen.get_trials()[trial.number].state == TrialState.RUNNING
        with pytest.raises(StudyError, match="opened for reading"):
            seen.tell(trial.number, 1.0)
    with pytest.raises(StudyError, match=r"no study `ss` in .*Did you mean `s`\? It has: s\."):
        read_study(home, "ss")
    with pytest.raises(StudyError, match="It has no studies yet"):
        read_study(Home(home.root / "empty"), "s")
    assert not (home.root / "empty").exists()


def test_rows(home: Home) -> None:
    with opened(home) as handle:
        for arm in ARMS * 4:
            step(handle, arm, "random")
        handle.ask("independent", partial(make_sampler, "random", 0))
        handle.commit()
        rows = trial_rows(read_study(home, "s"))
    assert [r["number"] for r in rows] == list(range(9))
    assert [r["state"] for r in rows] == [
        *["COMPLETE"] * 4, "PRUNED", "COMPLETE", "FAIL", "COMPLETE", "RUNNING"
    ]  # fmt: skip
    assert [r["arm"] for r in rows] == [*ARMS * 4, "independent"]
    assert rows[6]["reason"] == "loss was NaN at step 3"
    assert rows[6]["value"] is None
    assert rows[4]["step"] == 1
    assert isinstance(rows[4]["value"], float), "a pruned trial has its last reported value"
    assert all(r["params"]["sharing.kind"] == "independent" for r in rows[1::2])
    assert all(r["params"]["sharing.kind"] == "hard" for r in rows[0:8:2])
    assert rows[8]["params"] == {"sharing.kind": "independent"}
    assert rows[8]["finished"] is None
    times = [datetime.fromisoformat(r["finished"]) for r in rows[:8]]
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert times == sorted(set(times)), "trials of one second are told apart"
    assert datetime.now(UTC) - times[-1] < timedelta(minutes=1)


def test_delete(home: Home) -> None:
    with opened(home) as handle:
        step(handle, "sharing", "random")
    files = [home.checkpoints("s") / "3" / "w.safetensors", home.outbox / "s.jsonl"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    removed = delete_study(home, "s")
    assert set(removed) == {
        home.journal("s"),
        home.studies / "s.lock",
        home.checkpoints("s"),
        home.outbox / "s.jsonl",
    }
    assert not any(path.exists() for path in removed)
    with pytest.raises(StudyError, match="no study `s`"):
        delete_study(home, "s")
    with opened(home) as handle:
        assert handle.trials() == []


# --- asking, resuming, reviving


def no_commit(handle: StudyHandle) -> None:
    """The driver dies: what it has not committed is gone."""
    assert handle._backend is not None
    handle._backend.close()


@pytest.mark.parametrize(("sampler", "n"), [("tpe", 40), ("random", 12), ("cmaes", 60), ("gp", 15)])
def test_an_interrupted_search_suggests_what_a_straight_one_does(
    home: Home, sampler: str, n: int
) -> None:
    # Gaussian processes cost a second a suggestion: one arm, a few trials past their random start.
    arms = ("sharing",) if sampler == "gp" else ARMS
    order = [arm for arm, _ in zip(itertools.cycle(arms), range(n), strict=False)]
    with opened(home, "straight") as handle:
        straight = [step(handle, arm, sampler) for arm in order]

    handle = opened(home, "resumed")
    for number, arm in enumerate(order):
        if number % 6 == 3:  # killed after a suggestion that was not committed
            SPACE.suggest(handle.ask(arm, partial(make_sampler, sampler, 0)), arm)
            no_commit(handle)
            handle = opened(home, "resumed", resume=True)
        if number % 6 == 5:  # killed while the trial was running
            trial = handle.ask(arm, partial(make_sampler, sampler, 0))
            SPACE.suggest(trial, arm)
            handle.commit()
            no_commit(handle)
            handle = opened(home, "resumed", resume=True)
            (trial,) = handle.revive(partial(make_sampler, sampler, 0))
            assert SPACE.suggest(trial, arm) == straight[number]
            value = score(straight[number])
            trial.report(value / 2, 1)
            if number % 5 == 4:
                handle.tell(trial, state=TrialState.PRUNED)
            elif number % 7 == 6:
                handle.tell(trial, state=TrialState.FAIL)
            else:
                handle.tell(trial, value)
            handle.commit()
            continue
        assert step(handle, arm, sampler) == straight[number], f"trial {number} differs"
    handle.close()
    learned = [t for t in read_study(home, "straight").trials if t.number > n // 2]
    if sampler != "random":
        assert any("relative" in k or "cma" in k for t in learned for k in t.system_attrs), (
            "the sampler never came past its random start"
        )


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_other_seeds_and_other_numbers_suggest_otherwise(home: Home, sampler: str) -> None:
    seen = []
    for seed in (0, 1):
        with opened(home, f"s{seed}") as handle:
            seen += [step(handle, "sharing", sampler, seed)["optimizer.lr"] for _ in range(12)]
    assert len(set(seen)) == 24


def test_revived_trials_go_on_from_what_they_had(home: Home) -> None:
    with opened(home, "whole") as handle:
        whole = SPACE.suggest(handle.ask("sharing", partial(make_sampler, "tpe", 0)), "sharing")
    with opened(home) as handle:
        trial = handle.ask("sharing", partial(make_sampler, "tpe", 0))
        trial.suggest_categorical("backbone.width", [32, 96, 192])  # killed half-way
        trial.set_user_attr("seed", 5)
        trial.report(0.25, 3)
        handle.commit()
        no_commit(handle)
    with opened(home, resume=True) as handle:
        (trial,) = handle.revive(partial(make_sampler, "tpe", 0))
        assert trial.user_attrs == {"arm": "sharing", "seed": 5}
        width = trial.params["backbone.width"]
        values = SPACE.suggest(trial, "sharing")
        assert values["backbone.width"] == width
        assert values.keys() >= whole.keys() - {"conditioning.at", "head"}
        trial.report(0.5, 9)
        told = handle.tell(trial, state=TrialState.PRUNED)
        assert told.intermediate_values == {3: 0.25, 9: 0.5}
        assert told.value == 0.5
        assert handle.revive() == []


def test_waiting_trials_go_to_their_arm(home: Home) -> None:
    with opened(home) as handle:
        handle.study.enqueue_trial({"optimizer.lr": 1e-3}, user_attrs={"arm": "independent"})
        handle.study.enqueue_trial({"optimizer.lr": 2e-3})
        make = partial(make_sampler, "random", 0)
        either, own, new = (handle.ask(arm, make) for arm in ("sharing", "independent", "sharing"))
        assert [t.number for t in (either, own, new)] == [1, 0, 2]
        assert SPACE.suggest(either, "sharing")["optimizer.lr"] == 2e-3
        assert SPACE.suggest(own, "independent")["optimizer.lr"] == 1e-3
        assert [t.user_attrs["arm"] for t in handle.trials()] == [
            "independent", "sharing", "sharing"
        ]  # fmt: skip


def test_trials_enqueued_later_are_found_and_known_ones_not_looked_at_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going through all trials for every new one would cost more and more."""
    with opened(home) as handle:
        make = partial(make_sampler, "random", 0)
        first = [handle.ask("sharing", make).number for _ in range(3)]
        handle.study.enqueue_trial({"optimizer.lr": 2e-3})

        def all_trials(*args: Any, **options: Any) -> None:
            raise AssertionError("went through all trials")

        with monkeypatch.context() as patched:
            patched.setattr(handle.study._storage, "get_all_trials", all_trials)
            found = [handle.ask("sharing", make).number for _ in range(3)]
        assert (first, found) == ([0, 1, 2], [3, 4, 5])
        assert handle.trials()[3].system_attrs["fixed_params"] == {"optimizer.lr": 2e-3}


class Spy(RandomSampler):
    """Notes which trials the study shows it."""

    def __init__(self, seen: list[list[FrozenTrial]]) -> None:
        super().__init__(seed=0)
        self._seen = seen

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict:
        self._seen += [study._get_trials(use_cache=True), study.get_trials()]
        return {}


def test_a_sampler_sees_its_own_arm_only(home: Home) -> None:
    seen: list[list[FrozenTrial]] = []
    make: Callable[[int], BaseSampler] = lambda number: Spy(seen)  # noqa: E731
    with opened(home) as handle:
        for arm in ("sharing", "independent", "sharing", "independent", "independent"):
            step(handle, arm, "random")
        SPACE.suggest(handle.ask("independent", make), "independent")
    assert [[t.number for t in trials] for trials in seen] == [[1, 3, 4, 5]] * 2  # 5 is itself


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_one_arm_does_not_change_the_suggestions_of_the_other(home: Home, sampler: str) -> None:
    alone: list[list[dict[str, Any]]] = []
    for name, bonus in (("low", 0.0), ("high", 5.0)):
        with opened(home, name) as handle:
            alone.append([])
            for _ in range(20):
                alone[-1].append(step(handle, "independent", sampler))
                step(handle, "sharing", sampler, bonus=bonus * (handle.trials()[-1].number % 3))
    assert alone[0] == alone[1]


def finished(number: int, value: float, *, pruned_at: int | None = None) -> FrozenTrial:
    trial = create_trial(
        state=TrialState.PRUNED if pruned_at else TrialState.COMPLETE,
        value=value,
        user_attrs={"arm": "sharing"},
        intermediate_values={pruned_at: value} if pruned_at else {},
    )
    trial.number = number
    return trial


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_an_advised_trial_does_not_blind_the_sampler(home: Home, sampler: str) -> None:
    make = partial(make_sampler, sampler, 0)
    with opened(home) as handle:
        for number in range(12):
            trial = handle.ask("sharing", make)
            trial.suggest_float("lr", 0.0, 1.0)
            handle.tell(trial, float(number))
        attrs = {"arm": "sharing", ADVISED: True}
        handle.add(create_trial(state=TrialState.COMPLETE, value=9.0, user_attrs=attrs))
        seen = visible_trials(handle.trials(), "sharing")
        assert [t.number for t in seen] == list(range(12))
        trial = handle.ask("sharing", make)
        assert set(trial.relative_params) == {"lr"}


def test_at_most_500_trials_the_best_and_the_most_recent() -> None:
    trials = [finished(n, -float(n)) for n in range(2000)]  # the older, the better
    shown = visible_trials(trials, "sharing")
    assert [t.number for t in shown] == [*range(250), *range(1750, 2000)]
    running = create_trial(state=TrialState.RUNNING, user_attrs={"arm": "sharing"})
    running.number = 2000
    assert visible_trials([*trials, running], "sharing")[-1] is running
    assert visible_trials(trials, "independent") == []
    assert visible_trials(trials[:SAMPLER_TRIALS], "sharing") == trials[:SAMPLER_TRIALS]
    ranked = [
        finished(0, 0.1, pruned_at=1),
        finished(1, 0.9, pruned_at=1),
        finished(2, 0.2, pruned_at=9),
        finished(3, float("nan"), pruned_at=9),
        finished(4, -1.0),
        *[finished(n, -2.0, pruned_at=1) for n in range(5, 15)],
    ]
    for limit, best in ((2, {4}), (4, {4, 2}), (6, {4, 2, 3}), (8, {4, 2, 3, 1})):
        kept = {t.number for t in visible_trials(ranked, "sharing", limit)}
        assert kept == best | set(range(15 - limit // 2, 15))


def test_samplers_by_name() -> None:
    assert list(SAMPLERS) == ["tpe", "gp", "random", "cmaes"]
    with pytest.raises(ConfigError, match=r"Found `sampler = tpee`\. Did you mean `tpe`\?"):
        make_sampler("tpee", 0, 0)


def test_cmaes_keeps_its_state_as_json_and_suggests_what_optunas_does(home: Home) -> None:
    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", -1, 1), trial.suggest_int("y", 1, 9)
        return -(x**2) + y

    found = []
    for cls in (_CmaEs, CmaEsSampler):
        study = optuna.create_study(direction="maximize")
        optuna.logging.get_logger("optuna.study.study").disabled = True
        for number in range(40):
            study.sampler = cls(seed=number, warn_independent_sampling=False)
            study.optimize(objective, n_trials=1)
        found.append(study)
    assert [t.params for t in found[0].trials] == [t.params for t in found[1].trials]
    stored = [t.system_attrs for t in found[0].trials if "cma:optimizer:0" in t.system_attrs]
    assert len(stored) > 4
    assert all(attrs["cma:optimizer:0"].startswith('{"_n_dim": 2') for attrs in stored)


def test_a_stored_state_is_never_unpickled(home: Home, tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "boom",))

    with opened(home) as handle:
        for _ in range(3):
            step(handle, "sharing", "cmaes")
        trial = handle.trials()[0]
        sneaked = create_trial(
            value=1.0,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs,
            system_attrs={"cma:optimizer:0": pickle.dumps(Bomb()).hex()},
        )
        handle.study.add_trial(sneaked)
        step(handle, "sharing", "cmaes")
    assert not (tmp_path / "boom").exists()
