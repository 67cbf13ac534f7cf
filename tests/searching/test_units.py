"""Work units: stateless, idempotent, and one run's failure is that run's result."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.searching import units
from autometa.searching.units import UnitResult, WorkUnit, curve_steps, run_unit
from autometa.tasks import TaskSuite
from autometa.trial import TrialConfig
from tests.searching.support import small_suite

CONFIG = TrialConfig.from_flat(
    {"backbone.width": 8, "backbone.depth": 2, "optimizer.batch_size": 16}
).flat()
#: in turn
BALANCERS = ("equal", "uncertainty") * 3
#: of a network for which memory is never short
TINY = (1, 1)


@pytest.fixture
def unit(tmp_path: Path) -> WorkUnit:
    suite = small_suite()
    suite.without_test().save(tmp_path / "suite")
    return WorkUnit(
        names=("0", "1", "2"),
        configs=(CONFIG, {**CONFIG, "optimizer.lr": 0.01}, CONFIG),
        seeds=(1, 2, 3),
        from_step=0,
        to_step=4,
        max_steps=4,
        suite=str(tmp_path / "suite"),
        fingerprint=suite.fingerprint,
        checkpoints=str(tmp_path / "checkpoints"),
    )


def without_times(result: UnitResult) -> list[object]:
    """Nor the training loss: it is of the steps since the last stop."""
    return [dataclasses.replace(r, seconds=0.0, train_loss=None) for r in result.results]


def test_unit_and_result_round_trip_as_json(unit: WorkUnit) -> None:
    assert WorkUnit.from_json(unit.to_json()) == unit
    result = run_unit(unit)
    assert UnitResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    again = dataclasses.replace(unit, memory=result.memory)
    assert WorkUnit.from_json(json.loads(json.dumps(again.to_json()))) == again


def test_older_units_and_results_still_load(unit: WorkUnit) -> None:
    data = unit.to_json()
    del data["measure"], data["memory"], data["share"], data["threads"]
    assert WorkUnit.from_json(data) == unit
    result = dataclasses.replace(run_unit(unit), memory=None, most=None)
    data = result.to_json()
    del data["curves"], data["affinities"], data["memory"], data["most"]
    assert UnitResult.from_json(data) == result


def test_a_curve_ends_where_training_in_one_go_does(unit: WorkUnit) -> None:
    whole = run_unit(unit)
    measured = run_unit(dataclasses.replace(unit, curve=curve_steps(4)))
    assert UnitResult.from_json(measured.to_json()) == measured
    assert without_times(measured) == without_times(whole)
    assert [[r.step for r in curve] for curve in measured.curves] == [[1, 2, 3, 4]] * 3
    assert [curve[-1] for curve in measured.curves] == list(measured.results)
    first = run_unit(dataclasses.replace(unit, to_step=1))
    assert [curve[0].value for curve in measured.curves] == [r.value for r in first.results]


def test_long_curves_are_thinned_out_and_keep_the_end() -> None:
    assert curve_steps(3) == (1, 2, 3)
    assert len(curve_steps(100)) == 27
    assert curve_steps(100)[-1] == 100


def test_a_run_that_fails_on_the_way_has_failed_in_its_curve(unit: WorkUnit) -> None:
    configs = (CONFIG, {**CONFIG, "optimizer.lr": 1e30, "optimizer.clip": 1e30}, CONFIG)
    found = run_unit(dataclasses.replace(unit, configs=configs, curve=curve_steps(4)))
    assert [r.reason is None for r in found.results] == [True, False, True]
    assert {len(curve) for curve in found.curves} == {4}


def test_affinities_are_measured_a_run(unit: WorkUnit) -> None:
    asked = dataclasses.replace(unit, measure="affinity")
    found = run_unit(asked)
    assert UnitResult.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert [a is not None and a["tasks"] for a in found.affinities] == [["up", "down", "sign"]] * 3
    assert not unit.checkpoint("0", 4).exists()
    alone = {**CONFIG, "sharing.kind": "independent"}
    del alone["sharing.split_at"]
    none = run_unit(dataclasses.replace(asked, configs=(alone,) * 3))
    assert none.affinities == (None,) * 3
    assert all("in common" in (r.reason or "") for r in none.results)


def test_running_a_unit_again_gives_the_same_results(unit: WorkUnit) -> None:
    assert without_times(run_unit(unit)) == without_times(run_unit(unit))


def test_stopping_at_a_rung_changes_nothing(unit: WorkUnit) -> None:
    whole = run_unit(unit)
    run_unit(dataclasses.replace(unit, to_step=1))
    assert unit.checkpoint("1", 1).exists()
    rest = run_unit(dataclasses.replace(unit, from_step=1))
    assert without_times(rest) == without_times(whole)


def test_survivors_of_different_units_are_packed_together(unit: WorkUnit) -> None:
    whole = run_unit(unit)
    for k in range(3):
        part = dataclasses.replace(
            unit,
            names=unit.names[k : k + 1],
            configs=unit.configs[k : k + 1],
            seeds=unit.seeds[k : k + 1],
            to_step=2,
        )
        run_unit(part)
    rest = run_unit(dataclasses.replace(unit, from_step=2))
    for found, expected in zip(rest.results, whole.results, strict=True):
        # a stack of one may round differently
        assert found.step == expected.step == 4
        assert found.value == pytest.approx(expected.value, rel=1e-5)
        assert found.tasks == pytest.approx(expected.tasks, rel=1e-5)


def test_lost_checkpoint_is_trained_again(unit: WorkUnit) -> None:
    whole = run_unit(unit)
    run_unit(dataclasses.replace(unit, to_step=2))
    unit.checkpoint("0", 2).unlink()
    rest = run_unit(dataclasses.replace(unit, from_step=2))
    assert without_times(rest) == without_times(whole)


def test_diverged_run_fails_alone(unit: WorkUnit) -> None:
    bad = dataclasses.replace(
        unit,
        configs=(
            CONFIG,
            {**CONFIG, "optimizer.lr": 1e30, "optimizer.clip": 1e30, "backbone.norm": "none"},
            CONFIG,
        ),
    )
    # `backbone.norm` is part of the shape, so the others must have it too
    plain = {**CONFIG, "backbone.norm": "none"}
    bad = dataclasses.replace(bad, configs=(plain, bad.configs[1], plain))
    found = run_unit(bad).results
    good = run_unit(dataclasses.replace(unit, configs=(plain,) * 3)).results
    assert found[1].value is None
    assert "infinite or undefined" in (found[1].reason or "")
    assert found[0].value == good[0].value
    assert found[2].value == good[2].value


def test_error_in_a_bundle_is_blamed_on_the_run_that_has_it(
    unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = units.Trainer.start

    def failing(self: units.Trainer, runs: list[units.Run]) -> units.PopulationState:
        if any(run.seed == 2 for run in runs):
            raise RuntimeError("out of memory")
        return start(self, runs)

    monkeypatch.setattr(units.Trainer, "start", failing)
    found = run_unit(unit).results
    assert [r.reason for r in found] == [None, "RuntimeError: out of memory", None]


def test_the_probe_picks_a_chunk_and_does_not_change_results(
    unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = dataclasses.replace(
        unit, names=tuple("abcdef"), configs=(CONFIG,) * 6, seeds=tuple(range(6)), chunk=6
    )
    fused = run_unit(wide)
    assert fused.chunk is None  # it was told, so there is no verdict
    monkeypatch.setattr(
        units.Trainer, "step_seconds", lambda self, runs, others: float(len(runs)) ** 2
    )
    probed = run_unit(dataclasses.replace(wide, chunk=None))
    assert probed.chunk == 4
    assert without_times(probed) == without_times(fused)


@pytest.mark.parametrize(
    "config",
    [
        {"backbone.width": 17, "conditioning.kind": "concat", "conditioning.at": "input"},
        {"backbone.width": 33, "sharing.kind": "cross_stitch"},
        {"backbone.width": 33, "sharing.kind": "hard", "head": "single_head"},
        {"backbone.kind": "transformer", "backbone.width": 6, "backbone.heads": 2},
    ],
)
def test_odd_sizes_have_the_same_bits_whatever_the_clock_picks(
    tmp_path: Path, unit: WorkUnit, config: dict[str, object]
) -> None:
    rng = np.random.default_rng(0)
    suite = TaskSuite.from_arrays(rng.normal(size=(97, 9)), rng.normal(size=(97, 3)))
    suite.without_test().save(tmp_path / "odd")
    full = TrialConfig.from_flat({"backbone.depth": 2, "optimizer.batch_size": 33, **config}).flat()
    for n in (9, 12):  # the last part of nine has five: one alone would differ
        odd = dataclasses.replace(
            wide_unit(unit, n, full), suite=str(tmp_path / "odd"), fingerprint=suite.fingerprint
        )
        whole, eights, fours = (run_unit(dataclasses.replace(odd, chunk=c)) for c in (n, 8, 4))
        assert without_times(eights) == without_times(whole)
        assert without_times(fours) == without_times(whole)


def test_the_clock_is_not_asked_where_stacks_are_not_exact(
    unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units.Trainer, "step_seconds", lambda *_, **__: pytest.fail("asked"))
    config = TrialConfig.from_flat({"sharing.kind": "mtan", "backbone.width": 4}).flat()
    assert run_unit(wide_unit(unit, 8, config)).chunk == 8


def test_how_runs_of_several_kinds_are_split_changes_rounding_alone(unit: WorkUnit) -> None:
    ways = itertools.product(("concat", "multiplicative"), ("input", "every"))
    told = [{"conditioning.kind": kind, "conditioning.at": at} for kind, at in ways]
    balanced = [{**told[k % 4], "balancing.kind": b} for k, b in enumerate(BALANCERS)]
    wide = dataclasses.replace(
        wide_unit(unit, 6), configs=tuple({**CONFIG, **own} for own in balanced)
    )
    shapes = [TrialConfig.from_flat(config) for config in wide.configs]
    assert len({shape.shape_key() for shape in shapes}) == 1
    assert len({shape.graph_key() for shape in shapes}) == 4
    whole, pairs = (run_unit(dataclasses.replace(wide, chunk=chunk)) for chunk in (6, 2))
    for one, other in zip(pairs.results, whole.results, strict=True):
        assert one.reason is None
        assert one.value == pytest.approx(other.value, abs=1e-5)
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)


def wide_unit(unit: WorkUnit, n: int, config: dict[str, object] = CONFIG) -> WorkUnit:
    names = tuple(f"run-{k}" for k in range(n))
    return dataclasses.replace(unit, names=names, configs=(config,) * n, seeds=tuple(range(n)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError("Unable to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_bundle_and_goes_on(
    error: Exception, unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = dataclasses.replace(wide_unit(unit, 8), chunk=8, memory=TINY)
    whole = run_unit(wide)
    assert whole.memory is None  # it was told
    start, sizes = units.Trainer.start, []

    def limited(self: units.Trainer, runs: list[units.Run]) -> units.PopulationState:
        sizes.append(len(runs))
        if len(runs) > 3:
            raise error
        return start(self, runs)

    monkeypatch.setattr(units.Trainer, "start", limited)
    found = run_unit(wide)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    assert without_times(found) == without_times(whole)
    assert found.most == 2
    assert found.memory is not None  # the next unit of this shape starts with what fits
    monkeypatch.setattr(units, "plannable", lambda device, share: int(2.1 * found.memory[0]))
    sizes.clear()
    assert without_times(run_unit(dataclasses.replace(wide, memory=found.memory))) == (
        without_times(whole)
    )
    assert sizes == [2, 2, 2, 2]


def test_a_run_too_big_for_memory_fails_with_its_reason(
    unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: units.Trainer, runs: list[units.Run]) -> units.PopulationState:
        raise MemoryError("Unable to allocate")

    monkeypatch.setattr(units.Trainer, "start", never)
    for chunk in (3, None):
        found = run_unit(dataclasses.replace(unit, chunk=chunk))
        assert [r.reason for r in found.results] == ["MemoryError: Unable to allocate"] * 3
        assert found.most == 1


def test_a_stack_is_cut_where_memory_is_short(
    unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = wide_unit(unit, 9)
    whole = run_unit(wide)
    assert whole.memory is not None
    assert whole.most is not None
    assert whole.most > 9
    a_run = max(whole.memory)
    train, sizes = units.Trainer.train, []

    def watched(
        self: units.Trainer, runs: list[units.Run], *more: object, **named: object
    ) -> object:
        sizes.append(len(runs))
        return train(self, runs, *more, **named)

    monkeypatch.setattr(units.Trainer, "train", watched)
    probed: list[int] = []
    monkeypatch.setattr(
        units.Trainer, "step_seconds", lambda self, runs, others: probed.append(len(runs)) or 1.0
    )
    # 80% of half of the machine's memory is planned with
    monkeypatch.setattr("autometa.training.memory.free_bytes", lambda device: int(15.1 * a_run))
    half = dataclasses.replace(wide, share=0.5, memory=whole.memory)
    found = run_unit(half)
    assert sizes == [4, 5]
    assert max(probed) == 6
    assert found.most == 6
    assert without_times(found) == without_times(whole)
    sizes.clear()
    run_unit(dataclasses.replace(half, chunk=9))
    assert sizes == [4, 5]  # also where the probe had more memory
    sizes.clear()
    monkeypatch.setattr("autometa.training.memory.free_bytes", lambda device: a_run)
    alone = run_unit(half)
    assert sizes == [1] * 9  # too big for two
    assert alone.most == 1
    assert [r.reason for r in alone.results] == [None] * 9


def test_a_probe_without_memory_takes_the_smaller_stack(
    unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(self: units.Trainer, runs: list[units.Run], others: list[units.Run]) -> float:
        if len(runs) > 4:
            raise MemoryError
        return 1.0

    wide = wide_unit(unit, 6)
    whole = run_unit(dataclasses.replace(wide, chunk=6))
    monkeypatch.setattr(units.Trainer, "step_seconds", seconds)
    found = run_unit(wide)
    assert found.chunk == 4
    assert without_times(found) == without_times(whole)


def test_a_unit_has_the_threads_of_its_worker(unit: WorkUnit) -> None:
    before = torch.get_num_threads()
    try:
        run_unit(dataclasses.replace(unit, threads=2))
        assert torch.get_num_threads() == 2
        run_unit(unit)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_convolutions_may_be_stepped_one_by_one(
    tmp_path: Path, unit: WorkUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    suite = TaskSuite.from_arrays(rng.normal(size=(40, 6, 6)), rng.normal(size=(40, 2)))
    suite.without_test().save(tmp_path / "images")
    config = TrialConfig.from_flat({"backbone.kind": "conv", "backbone.width": 4}).flat()
    images = dataclasses.replace(
        wide_unit(unit, 3, config), suite=str(tmp_path / "images"), fingerprint=suite.fingerprint
    )
    monkeypatch.setattr(
        units.Trainer, "step_seconds", lambda self, runs, others: float(len(runs)) ** 2
    )
    found = run_unit(images)
    assert found.chunk == 1
    assert all(r.reason is None for r in found.results)
    assert run_unit(wide_unit(unit, 3)).chunk is None  # a table's network: no choice below six


def test_lengths_on_the_way_are_scored_saved_and_change_nothing(unit: WorkUnit) -> None:
    whole = run_unit(unit)
    found = run_unit(dataclasses.replace(unit, at=(1, 3, 4), curve=(2,)))
    assert without_times(found) == without_times(whole)
    assert [[r.step for r in curve] for curve in found.curves] == [[1, 2, 3, 4]] * 3
    saved = [step for step in range(5) if unit.checkpoint("0", step).exists()]
    assert saved == [1, 3, 4], "a point of the curve is not saved"
    rest = run_unit(dataclasses.replace(unit, from_step=3))
    assert without_times(rest) == without_times(whole)
