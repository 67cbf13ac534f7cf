"""scripts/bench_sharing_steps.py times every mechanism of the registry."""

from __future__ import annotations

import json

import pytest

from autometa.balancing import BALANCING
from autometa.networks import Problem
from autometa.networks.conditioning import CONDITIONING
from autometa.sharing import SHARING
from autometa.training.state import Run
from autometa.trial import TrialConfig
from scripts import bench_sharing_steps as script


def test_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    rows = found["rows"]
    assert {row["runs"] for row in rows} == {1, 2}
    # the plain trunk, every kind of sharing, and every conditioning but `none`
    assert len(rows) == 2 * (1 + len(SHARING) + len(CONDITIONING) - 1)
    assert found["left_out"] == {"table6": {}}
    for row in rows:
        assert row["seconds"] > 0
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    weights = {row["mechanism"]: row["weights"] for row in rows}
    assert weights["independent"] > 5 * weights[script.PLAIN]
    assert sum(line.startswith("| table6") for line in lines) == len(rows)


@pytest.mark.parametrize("name", script.SUITES)
def test_mechanisms_are_those_they_are_called(name: str) -> None:
    problem = Problem.of(script.make_suite(name))
    network = script.CONV if name == "image2" else script.MLP
    values = script.mechanisms(network, problem.n_tasks)
    configs, refused = script.built(values, network, problem)
    assert not refused
    kinds = {label: config.flat() for label, config in configs.items()}
    assert kinds[script.PLAIN]["sharing.split_at"] is None
    assert {flat["sharing.kind"] for flat in kinds.values()} == set(SHARING)
    tree = next(flat for label, flat in kinds.items() if label.startswith("tree"))
    first, *_, last = tree["sharing.partitions"].split("/")
    assert len(set(first)) == 1
    assert len(set(last)) == 2


def test_balancers_are_those_of_the_registry() -> None:
    problem = Problem.of(script.make_suite("table6"))
    configs, refused = script.built(script.balancers(), script.MLP, problem)
    kinds = {config.flat()["balancing.kind"] for config in configs.values()}
    assert kinds | set(refused) == set(BALANCING)
    assert configs[script.PLAIN].flat()["balancing.kind"] == "equal"


def test_what_happens_every_few_steps_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(trainer: object, config: TrialConfig, size: int, steps: int) -> float:
        return {None: 1.0, 10: 2.0, 1: 7.0}[getattr(config.sharing, "update_every", None)]

    monkeypatch.setattr(script, "wall_seconds", fake)
    configs = {
        kind: TrialConfig.from_flat({"sharing.kind": kind}) for kind in ("hard", "deep_relation")
    }
    times = {k: script.step_seconds(None, c, 1, 1, "wall") for k, c in configs.items()}  # type: ignore[arg-type]  # a stand-in
    assert times == {"hard": 1.0, "deep_relation": 2.5}


def test_processor_time_is_that_of_the_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building the population and the warm-up step drop out of the difference."""
    clock = [0.0]
    monkeypatch.setattr(script.time, "process_time", lambda: clock[0])

    class Fake:
        def step_seconds(self, runs: list[Run], repeats: int) -> float:
            clock[0] += 5.0 + 2.0 * len(runs) * (1 + repeats)
            return 0.0

    config = TrialConfig.from_flat({})
    assert script.cpu_seconds(Fake(), config, 3, 4) == pytest.approx(6.0)  # type: ignore[arg-type]  # a stand-in


def test_help_and_bad_suites(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert "python scripts/bench_sharing_steps.py --suites" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script.main(["--suites", "nothing"])
    assert "found nothing" in capsys.readouterr().err
