"""The judge of episodes: what stands beside the winner, and how learners are called."""

from __future__ import annotations

import pytest
from optuna.trial import FrozenTrial, create_trial

from autometa.contest_episodes import joint_config
from autometa.describing import describe_learner, describe_shape
from autometa.tasks.episodes import EpisodeShape
from autometa.trial import TrialConfig


def trial(number: int, value: float, **values: object) -> FrozenTrial:
    config = TrialConfig.from_flat({"backbone.depth": 2, **values})
    found = create_trial(value=value, user_attrs={"arm": "sharing", "config": config.flat()})
    found.number = number
    return found


def tuned(number: int, value: float) -> FrozenTrial:
    return trial(number, value, **{"adaptation.kind": "finetune", "backbone.width": 10 + number})


def test_joint_training_is_the_best_such_trial() -> None:
    gradient = trial(0, 0.9, **{"adaptation.kind": "gradient"})
    config, number = joint_config([gradient, tuned(1, 0.3), tuned(2, 0.5), tuned(3, 0.4)], {})
    assert number == 2
    assert config.flat()["backbone.width"] == 12


def test_joint_training_is_of_the_winners_network_where_none_completed() -> None:
    winner = TrialConfig.from_flat(
        {
            "backbone.width": 24,
            "optimizer.lr": 0.002,
            "adaptation.kind": "amortized",
            "conditioning.kind": "concat",
        }
    )
    config, number = joint_config([trial(0, 0.9)], {"sharing": winner})
    flat = config.flat()
    assert number is None
    assert (flat["backbone.width"], flat["optimizer.lr"]) == (24, 0.002)
    assert (flat["adaptation.kind"], flat["conditioning.kind"]) == ("finetune", "none")
    assert (flat["sharing.kind"], flat["sharing.split_at"]) == ("hard", 0)
    alone = TrialConfig.from_flat({"sharing.kind": "independent", "adaptation.kind": "finetune"})
    assert joint_config([], {"independent": alone})[0].flat()["sharing.kind"] == "hard"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"adaptation.kind": "metric"}, "prototypes"),
        ({"adaptation.kind": "bayesian"}, "a Bayesian head on learned features"),
        (
            {"adaptation.kind": "gradient", "sharing.split_at": 0, "adaptation.steps": 3},
            "gradient-based meta-learning (adapts 2 of 2 blocks and the head, 3 steps)",
        ),
        (
            {"adaptation.kind": "gradient", "adaptation.first_order": True},
            "gradient-based meta-learning (first order, adapts the head, 1 step)",
        ),
        (
            {
                "adaptation.kind": "gradient",
                "head": "single_head",
                "conditioning.kind": "concat",
                "adaptation.learned_rates": True,
            },
            "gradient-based meta-learning (learned rates, adapts the context alone, 1 step)",
        ),
        (
            {
                "adaptation.kind": "amortized",
                "adaptation.aggregation": "attention",
                "conditioning.kind": "concat",
            },
            "a neural process (attentive)",
        ),
        (
            {"adaptation.kind": "finetune", "sharing.split_at": 1},
            "joint training and fine-tuning (adapts 1 of 2 blocks and the head)",
        ),
        (
            {"adaptation.kind": "finetune", "sharing.kind": "independent"},
            "training from scratch on the support rows",
        ),
    ],
)
def test_learners_in_words(values: dict[str, object], words: str) -> None:
    assert describe_learner(TrialConfig.from_flat({"backbone.depth": 2, **values})) == words


def test_shapes_in_words() -> None:
    assert describe_shape(EpisodeShape(ways=5, shots=1)) == "5-way 1-shot"
    assert describe_shape(EpisodeShape(shots=10)) == "10 support rows"
    assert describe_shape(EpisodeShape(shots=1)) == "1 support row"
