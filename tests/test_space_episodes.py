"""The shipped spaces of episodes: every learner, every sharing depth, and an arm from scratch."""

from __future__ import annotations

import itertools

import optuna
import pytest

from autometa.learners import LEARNERS
from autometa.networks import Problem
from autometa.space import Space
from autometa.trial import TrialConfig, build
from tests.small import make_episode_problem

PROBLEMS = {
    "regression": ("meta", make_episode_problem("regression")),
    "binary": ("meta", make_episode_problem("binary")),
    "classes": ("meta", make_episode_problem("multiclass")),
    "images": ("meta_images", make_episode_problem("multiclass", (1, 28, 28), ways=5)),
}
EPISODIC = {kind for kind, learner in LEARNERS.items() if learner.episodic}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.storages._in_memory._logger, "disabled", True)


def ask(seed: int) -> optuna.trial.Trial:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()


@pytest.mark.parametrize("kind", PROBLEMS)
def test_everything_that_suits_the_tasks_is_searched(kind: str) -> None:
    name, problem = PROBLEMS[kind]
    bound = Space.load(name).bind(problem)
    assert bound.arms == ("sharing", "independent")
    wanted = EPISODIC - ({"metric"} if kind == "regression" else set())
    assert set(bound.possible("sharing")["adaptation.kind"]) == wanted
    assert len(bound.dropped) == (kind == "regression")
    assert bound.possible("independent")["adaptation.kind"] == ("finetune",)
    seen = set()
    for seed, arm in itertools.product(range(60), bound.arms):
        values = bound.suggest(ask(seed), arm)
        config = TrialConfig.from_flat(values)
        build(config, problem)
        assert (values["sharing.kind"] == "independent") == (arm == "independent")
        if arm == "sharing":
            assert ("conditioning.kind" in values) == (
                values["adaptation.kind"] == "amortized" or values.get("head") == "single_head"
            )
            seen.add((values["adaptation.kind"], values.get("sharing.split_at")))
    assert {learner for learner, _ in seen} == wanted
    depth = TrialConfig.from_flat(values).flat()["backbone.depth"]
    splits = {split for learner, split in seen if learner in ("gradient", "reptile", "finetune")}
    assert splits >= {None, 0, 1, 2}, f"of {depth} blocks"


@pytest.mark.parametrize("kind", PROBLEMS)
def test_scratch_is_tuned_in_what_matters_to_it(kind: str) -> None:
    name, problem = PROBLEMS[kind]
    bound = Space.load(name).bind(problem)
    assert set(bound.distributions("independent")) == {
        "backbone.width",
        "backbone.depth",
        "adaptation.inner_lr",
        "adaptation.test_steps",
    }


@pytest.mark.parametrize("kind", PROBLEMS)
def test_one_study_takes_both_arms(kind: str) -> None:
    name, problem = PROBLEMS[kind]
    bound = Space.load(name).bind(problem)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        for arm in bound.arms:
            trial = study.ask()
            bound.suggest(trial, arm)
            study.tell(trial, 0.0)


def test_not_for_suites_without_episodes() -> None:
    plain = Problem(
        layout="aligned", feature_shape=(4,), kinds=("regression",) * 2, n_outputs=(1, 1)
    )
    with pytest.raises(Exception, match="cannot be built on this suite") as caught:
        Space.load("meta").bind(plain)
    assert "without episodes" in str(caught.value)
