"""Work units: stateless, idempotent, and one run's failure is that run's result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from autometa.searching import units
from autometa.searching.units import UnitResult, WorkUnit, run_unit
from autometa.trial import TrialConfig
from tests.searching.support import small_suite

CONFIG = TrialConfig.from_flat(
    {"backbone.width": 8, "backbone.depth": 2, "optimizer.batch_size": 16}
).flat()


@pytest.fixture
def unit(tmp_path: Path) -> WorkUnit:
    suite = small_suite()
    suite.without_test().save(tmp_path / "suite")
    return WorkUnit(
        names=("0", "1", "2"),
        configs=(CONFIG, {**CONFIG, "optimizer.lr": 0.01}, CONFIG),
        seeds=(1, 2, 3),
        from_epoch=0,
        to_epoch=4,
        max_epochs=4,
        suite=str(tmp_path / "suite"),
        fingerprint=suite.fingerprint,
        checkpoints=str(tmp_path / "checkpoints"),
    )


def without_times(result: UnitResult) -> list[object]:
    return [dataclasses.replace(r, seconds=0.0) for r in result.results]


def test_unit_and_result_round_trip_as_json(unit: WorkUnit) -> None:
    assert WorkUnit.from_json(unit.to_json()) == unit
    result = run_unit(unit)
    assert UnitResult.from_json(result.to_json()) == result


def test_running_a_unit_again_gives_the_same_results(unit: WorkUnit) -> None:
    assert without_times(run_unit(unit)) == without_times(run_unit(unit))


def test_stopping_at_a_rung_changes_nothing(unit: WorkUnit) -> None:
    whole = run_unit(unit)
    run_unit(dataclasses.replace(unit, to_epoch=1))
    assert unit.checkpoint("1", 1).exists()
    rest = run_unit(dataclasses.replace(unit, from_epoch=1))
    assert without_times(rest) == without_times(whole)


def test_survivors_of_different_units_are_packed_together(unit: WorkUnit) -> None:
    whole = run_unit(unit)
    for k in range(3):
        part = dataclasses.replace(
            unit,
            names=unit.names[k : k + 1],
            configs=unit.configs[k : k + 1],
            seeds=unit.seeds[k : k + 1],
            to_epoch=2,
        )
        run_unit(part)
    rest = run_unit(dataclasses.replace(unit, from_epoch=2))
    assert without_times(rest) == without_times(whole)


def test_lost_checkpoint_is_trained_again(unit: WorkUnit) -> None:
    whole = run_unit(unit)
    run_unit(dataclasses.replace(unit, to_epoch=2))
    unit.checkpoint("0", 2).unlink()
    rest = run_unit(dataclasses.replace(unit, from_epoch=2))
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
    monkeypatch.setattr(units.Trainer, "step_seconds", lambda self, runs: float(len(runs)) ** 2)
    probed = run_unit(dataclasses.replace(wide, chunk=None))
    assert probed.chunk == 2
    assert without_times(probed) == without_times(fused)
