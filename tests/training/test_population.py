"""Populations: what the contract tests do not cover by entry."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.errors import DeviceError, InfrastructureError
from autometa.networks.keys import fold, keep, new_key
from autometa.training import devices
from autometa.training.memory import AllocationPeak
from autometa.training.optimizers import DECAYED, PLAIN, segment
from autometa.training.population import Run, Trainer
from autometa.training.predicting import predict
from autometa.training.state import Layout, PopulationState, load_run, save_run, write_tensors
from autometa.trial import build
from tests.small import make_config, make_suite

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def runs_of(*values: dict[str, object]) -> list[Run]:
    return [Run(make_config(own), seed=k) for k, own in enumerate(values)]


def digest_of_training() -> str:
    """Of the weights and predictions of a short training with everything random in it."""
    runs = runs_of(
        {"backbone.dropout": 0.3, "conditioning.kind": "concat", "sharing.split_at": 1},
        {"backbone.dropout": 0.1, "conditioning.kind": "concat", "sharing.split_at": 1},
    )
    digest = hashlib.sha256()
    for kind in ("aligned", "grouped"):
        suite = make_suite(kind)
        trainer = Trainer(suite, 6, CPU)
        _, state = trainer.train(runs, trainer.start(runs), 6)
        digest.update(state.values.numpy().tobytes())
        digest.update(trainer.predict(runs, state, suite.rows("val")).tobytes())
    return digest.hexdigest()


def test_reproducible_across_processes():
    code = "from tests.training.test_population import digest_of_training as d; print(d())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.strip() == digest_of_training()


def test_runs_that_start_differently_share_a_population():
    # `concat` and `additive` have one shape key; each must keep its own start
    runs = runs_of({"conditioning.kind": "additive"}, {"conditioning.kind": "concat"})
    assert runs[0].config.shape_key() == runs[1].config.shape_key()
    trainer = Trainer(make_suite(), 2, CPU)
    for order in (runs, runs[::-1]):
        together = trainer.start(order)
        for k, run in enumerate(order):
            assert torch.equal(together.values[k], trainer.start([run]).values[0])


def test_training_learns_and_reports(tmp_path):
    suite = make_suite("integers", rows=200)
    runs = runs_of({"optimizer.lr": 1e-2}, {"optimizer.lr": 1e-9})
    trainer = Trainer(suite, 120, CPU)
    results, state = trainer.train(runs, trainer.start(runs), 120)
    good, idle = results
    assert good.value is not None
    assert idle.value is not None
    assert good.tasks["size"] > 0.7
    assert good.value > idle.value
    assert good.train_loss < idle.train_loss
    assert good.step == state.step == 120
    assert set(good.tasks) == {"size", "grade"}
    assert good.reason is None
    assert good.seconds > 0


def test_without_validation_rows_there_is_no_value():
    suite = make_suite().merged()
    runs = runs_of({})
    trainer = Trainer(suite, 1, CPU)
    results, _ = trainer.train(runs, trainer.start(runs), 1)
    assert results[0].value is None
    assert results[0].reason is None
    assert results[0].train_loss is not None


def test_steps_can_be_timed():
    trainer = Trainer(make_suite(), 1, CPU)
    assert trainer.step_seconds(runs_of({}, {}), repeats=1) > 0


class TestState:
    @pytest.fixture
    def state(self) -> PopulationState:
        trainer = Trainer(make_suite(), 2, CPU)
        runs = runs_of({}, {}, {})
        return trainer.train(runs, trainer.start(runs), 1)[1]

    def test_select_and_join(self, state):
        picked = state.select([2, 0])
        assert len(picked) == 2
        assert torch.equal(picked.values, state.values[[2, 0]])
        joined = PopulationState.join([state.select([0]), state.select([1, 2])])
        for field in dataclasses.fields(state):
            first, second = getattr(state, field.name), getattr(joined, field.name)
            if isinstance(first, torch.Tensor):
                assert torch.equal(first, second)
            elif isinstance(first, dict):
                assert first.keys() == second.keys()
                assert all(torch.equal(first[n], second[n]) for n in first)
            else:
                assert first == second

    def test_selected_runs_are_copies(self, state):
        before = state.values.clone()
        picked = state.select([0, 1, 2])
        picked.values.zero_()
        picked.slots["mean"].fill_(7)
        assert torch.equal(state.values, before)
        assert not (state.slots["mean"] == 7).any()

    def test_layout_packs_and_unpacks(self):
        learner = build(
            make_config({"conditioning.kind": "concat"}), Trainer(make_suite(), 1, CPU).problem
        )
        params, _ = learner.init(torch.Generator().manual_seed(0))
        layout = Layout(params)
        row = layout.pack(params)
        assert row.shape == (sum(leaf.numel() for leaf in params.values()),)
        again = layout.unpack(row)
        assert again.keys() == params.keys()
        assert all(torch.equal(again[n], params[n]) for n in params)
        stacked = layout.unpack(torch.stack([row, 2 * row]))
        assert all(torch.equal(stacked[n][1], 2 * params[n]) for n in params)
        alike = [segment(name) for name in layout.shapes]
        assert alike == sorted(alike)
        assert set(alike) == {DECAYED, PLAIN}

    def test_missing_or_wrong_checkpoints(self, tmp_path):
        with pytest.raises(InfrastructureError, match="Cannot read"):
            load_run(tmp_path / "none.safetensors")
        (tmp_path / "text").write_text("not tensors")
        with pytest.raises(InfrastructureError, match="Cannot read"):
            load_run(tmp_path / "text")
        write_tensors({"a": torch.zeros(1)}, {}, tmp_path / "other")
        with pytest.raises(InfrastructureError, match="not a checkpoint of a run"):
            load_run(tmp_path / "other")

    def test_a_refused_write_says_where_and_leaves_nothing(self, state, tmp_path, monkeypatch):
        run = runs_of({})[0]
        (tmp_path / "file").write_text("")
        with pytest.raises(InfrastructureError, match="Cannot write.*AUTOMETA_HOME"):
            save_run(state, 0, run, tmp_path / "file" / "run")

        def full(tensors, path, metadata):
            from safetensors import SafetensorError

            Path(path).write_text("half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")

        monkeypatch.setattr("autometa.training.state.save_file", full)
        save_to = tmp_path / "runs" / "run"
        with pytest.raises(InfrastructureError, match="No space left"):
            save_run(state, 0, run, save_to)
        assert list(save_to.parent.iterdir()) == []

    def test_an_old_checkpoint_survives_a_failed_write(self, state, tmp_path, monkeypatch):
        run, path = runs_of({})[0], tmp_path / "run"
        save_run(state, 0, run, path)
        before = path.read_bytes()

        def refuse(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("autometa.training.state.save_file", refuse)
        with pytest.raises(InfrastructureError):
            save_run(state, 1, run, path)
        assert path.read_bytes() == before


class TestKeys:
    @pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
    def test_shares_kept(self, rate):
        found = keep(new_key(3), 0, torch.tensor(rate), (400, 500))
        assert found.dtype == torch.bool
        assert found.float().mean().item() == pytest.approx(1 - rate, abs=0.004)
        if rate:
            columns = np.corrcoef(found[:, :50].numpy().T.astype(float)) - np.eye(50)
            assert np.abs(columns).max() < 0.25
        else:
            assert found.all()

    def test_a_higher_rate_keeps_fewer_of_the_same(self):
        low, high = (keep(new_key(3), 1, torch.tensor(r), (1000,)) for r in (0.2, 0.6))
        assert not (high & ~low).any()

    def test_streams_differ_between_seeds_steps_layers_and_tasks(self):
        seeds = [0, 1, 2, 1000, 2**31, 2**40 + 1]
        keys = {int(new_key(seed)) for seed in seeds}
        assert len(keys) == len(seeds)
        key = new_key(0)
        folded = {int(fold(fold(key, step), layer)) for step in range(50) for layer in range(10)}
        assert len(folded) == 500
        half = torch.tensor(0.5)
        masks = [keep(fold(key, step), s, half, (64,)) for step in range(20) for s in range(3)]
        assert len({tuple(mask.tolist()) for mask in masks}) == 60

    def test_a_number_and_a_tensor_fold_alike(self):
        key = new_key(5)
        for number in (0, 1, 7, 100_000):
            assert fold(key, number) == fold(key, torch.tensor(number, dtype=torch.int32))

    def test_golden_values(self):
        # a changed stream changes every result: it has to be meant
        assert int(new_key(1)) == KEY_OF_1
        bits = keep(new_key(1), 1, torch.tensor(0.5), (12,)).int().tolist()
        assert "".join(map(str, bits)) == FIRST_OF_1


KEY_OF_1 = 1753845952
FIRST_OF_1 = "101000001100"


def test_prediction_does_not_depend_on_the_size_of_its_blocks(monkeypatch):
    for kind in ("aligned", "grouped"):
        suite = make_suite(kind)
        trainer = Trainer(suite, 1, CPU)
        state = trainer.start(runs_of({}, {}))
        learner = build(make_config(), trainer.problem)
        params = Layout(learner.init(torch.Generator())[0]).unpack(state.values)
        rows = suite.rows("train")
        whole = predict(learner, params, {}, rows.x, rows.task, CPU)
        monkeypatch.setattr("autometa.training.predicting._NUMBERS", 50 * learner.row_size)
        parts = predict(learner, params, {}, rows.x, rows.task, CPU)
        monkeypatch.undo()
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["aligned", "grouped"])
def test_predicting_many_rows_takes_the_memory_of_a_block(kind):
    """And every bit is what it is in other blocks."""
    suite, wide = make_suite(kind), {"backbone.width": 96}
    trainer = Trainer(suite, 1, CPU)
    state = trainer.start(runs_of(wide, wide))
    learner = build(make_config(wide), trainer.problem)
    params = Layout(learner.init(torch.Generator())[0]).unpack(state.values)
    rows = suite.rows("train")
    many = torch.arange(100_000) % len(rows.x)
    x, task = rows.x[many], None if rows.task is None else rows.task[many]
    with AllocationPeak() as watched:
        found = predict(learner, params, {}, x, task, CPU)
    assert watched.peak - 2 * found.nbytes < 3 * 4 * 4_000_000  # in parts, and as one
    some = predict(learner, params, {}, x[:30_001], None if task is None else task[:30_001], CPU)
    assert np.array_equal(some, found[..., :30_001, :])


class TestDevices:
    def test_auto_is_the_cpu_without_cuda(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert devices.find_device("auto") == devices.find_device("cpu") == CPU

    def test_absent_cuda(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(DeviceError, match="finds no CUDA device here.*--device cpu"):
            devices.find_device("cuda")

    def test_unknown_name(self):
        with pytest.raises(DeviceError, match="Found `device = tpu`"):
            devices.find_device("tpu")

    def test_auto_is_cuda_where_there_is_one(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert devices.find_device("auto") == devices.find_device("cuda") == torch.device("cuda")
        assert devices.find_device("cpu") == CPU


@needs_cuda
class TestCuda:
    def test_keys_are_those_of_the_cpu(self):
        for seed in range(5):
            masks = [
                keep(fold(new_key(seed, device), 3), 1, torch.tensor(0.3, device=device), (100,))
                for device in ("cpu", "cuda")
            ]
            assert torch.equal(masks[0], masks[1].cpu())

    @pytest.mark.parametrize("kind", ["aligned", "grouped", "image"])
    def test_training_in_bfloat16_is_close_to_the_cpu(self, kind):
        suite = make_suite(kind)
        how = {"backbone.kind": "conv"} if kind == "image" else {}
        runs = runs_of(how, {**how, "backbone.dropout": 0.2})
        found = []
        for device in (CPU, torch.device("cuda")):
            trainer = Trainer(suite, 9, device)
            results, state = trainer.train(runs, trainer.start(runs), 9)
            assert state.values.dtype == torch.float32
            assert state.values.device.type == device.type
            found.append([r.train_loss for r in results])
        assert found[1] == pytest.approx(found[0], rel=0.05)
