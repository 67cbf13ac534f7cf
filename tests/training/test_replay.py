"""Recorded steps: the same bits as steps that are not, for every variant."""

from __future__ import annotations

import pytest
import torch

from autometa.training import replay
from autometa.training.population import Trainer
from autometa.training.replay import Recordings
from tests.contracts.test_training import every_case, make_runs
from tests.small import in_steps, make_suite

CPU = torch.device("cpu")


@every_case
def test_replayed_training_has_the_same_bits(values, kind, monkeypatch):
    suite = make_suite(kind)
    runs = make_runs(values)
    found = []
    for record_from in (1, 10**9):
        monkeypatch.setattr(replay, "RECORD_FROM", record_from)
        trainer = Trainer(suite, 9, CPU)
        results, state = trainer.train(runs, trainer.start(runs), 3)
        made = list(trainer._recordings._made.values())
        found.append(([r.value for r in results], state, made))
    (replayed, state, recordings), (plain, expected, none) = found
    assert not none
    weighed = trainer.start(runs) and not trainer._recordings._calls  # gradients of tasks
    assert weighed or (recordings and all(recordings)), "it was not recorded"
    assert replayed == plain
    assert torch.equal(state.values, expected.values)
    for name, buffer in state.buffers.items():
        assert torch.equal(buffer, expected.buffers[name])


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        self.calls += 1
        leaf = x.detach().requires_grad_()
        return [torch.autograd.grad((leaf * y).sin().sum(), leaf)[0], x + 1]


def test_a_function_is_recorded_where_enough_calls_follow(monkeypatch):
    monkeypatch.setattr(replay, "RECORD_FROM", 5)
    x, y = torch.randn(3), torch.randn(3)
    for calls, more in ((0, 4), (2, 2)):
        recordings, function = Recordings(), Counted()
        for _ in range(calls):
            recordings.call("a", function, [x, y], 0)
            assert not recordings._made
        recordings.call("a", function, [x, y], more)
        before = function.calls
        for scale in (1.0, 2.0):
            gradient, moved = recordings.call("a", function, [scale * x, y], 0)
            assert torch.equal(gradient, y * (scale * x * y).cos())
            assert torch.equal(moved, scale * x + 1)
        assert function.calls == before
        # other shapes are another recording
        recordings.call("a", function, [torch.randn(2), torch.randn(2)], 0)
        assert function.calls == before + 1


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch):
    monkeypatch.setattr(replay, "RECORD_FROM", 1)

    def branches(x: torch.Tensor) -> list[torch.Tensor]:
        return [x * 2 if float(x.sum()) > 0 else x * 3]

    counter = iter(range(100))
    for function in (branches, lambda x: [x + next(counter)]):
        recordings = Recordings()
        first = recordings.call("a", function, [torch.ones(2)], 0)[0]
        assert list(recordings._made.values()) == [None]
        again = recordings.call("a", function, [-torch.ones(2)], 0)[0]
        assert not torch.equal(again, -first)


def test_old_recordings_make_room(monkeypatch):
    monkeypatch.setattr(replay, "RECORD_FROM", 1)
    monkeypatch.setattr(replay, "_MOST", 2)
    recordings = Recordings()
    for size in (1, 2, 3):
        recordings.call("a", lambda x: [x + 1], [torch.ones(size)], 0)
    assert [key[1][0] for key in recordings._made] == [(2,), (3,)]


def test_an_undefined_number_is_the_same_number():
    values = torch.tensor([1.0, float("nan"), float("inf")])
    assert replay._same(values, values.clone())
    assert not replay._same(values, torch.tensor([1.0, 0.0, float("inf")]))
    assert not replay._same(values, values.double())


@pytest.mark.parametrize("epochs", [1, 3])
def test_short_trainings_are_not_recorded(epochs, monkeypatch):
    suite = make_suite("aligned")
    runs = make_runs({})
    steps = in_steps(suite, runs[0].config, 1)
    trainer = Trainer(suite, 3 * steps, CPU)
    monkeypatch.setattr(replay, "RECORD_FROM", 2 * steps)
    trainer.train(runs, trainer.start(runs), epochs * steps)
    assert bool(trainer._recordings._made) == (epochs > 1)
