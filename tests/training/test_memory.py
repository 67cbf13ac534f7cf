"""What a run takes, held against what torch's own profiler sees a whole stack take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from autometa.training import replay
from autometa.training.memory import (
    AllocationPeak,
    RunMemory,
    _free_on_cpu,
    free_bytes,
    plannable,
)
from autometa.training.population import Run, Trainer
from tests.small import make_config, make_suite

CPU = torch.device("cpu")
#: the factor that the estimate is promised to keep to
WITHIN = 2.0
#: layers of each task's own, where runs of all kinds of conditioning are trained as one
WIDE_TOWERS = {"sharing.split_at": 1, "backbone.width": 128}


def profiled_peak(work: Callable[[], object]) -> int:
    """The most bytes at a time that torch's allocator has given out during `work`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    assert found.profiler is not None
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.timeout(300)  # recording imports much of torch
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("aligned", {"recorded": True}),
        ("aligned", {"backbone.width": 128, "optimizer.batch_size": 256}),
        ("aligned", {"backbone.width": 64, "optimizer.kind": "sgd"}),
        ("aligned", {"sharing.kind": "cross_stitch", "backbone.width": 32}),
        ("aligned", {"balancing.kind": "pcgrad", "backbone.width": 64}),
        ("grouped", {"sharing.kind": "mtan", "backbone.width": 32}),
        ("image", {"backbone.kind": "conv", "backbone.width": 8}),
    ],
)
def test_a_stack_takes_what_was_estimated_for_its_runs(
    kind: str, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = dict(values)
    monkeypatch.setattr(replay, "RECORD_FROM", 1 if values.pop("recorded", False) else 10**9)
    trainer = Trainer(make_suite(kind), 1, CPU)
    runs = [Run(make_config(values), seed) for seed in range(12)]
    estimated = 12 * max(trainer.memory(runs))
    taken = profiled_peak(lambda: trainer.train(runs, trainer.start(runs), 1))
    assert estimated / WITHIN < taken < WITHIN * estimated


def test_runs_of_several_kinds_take_what_was_estimated_for_them_together() -> None:
    trainer = Trainer(make_suite("aligned"), 1, CPU)
    plain, film = (
        Run(make_config({**WIDE_TOWERS, "conditioning.kind": kind, "conditioning.at": "last"}), 0)
        for kind in ("none", "multiplicative")
    )
    assert plain.config.shape_key() == film.config.shape_key()
    alone = trainer.memory([plain]).training
    together = trainer.memory([plain, film]).training
    assert alone < together
    # whichever is there, but for the leaves that only one of them brings
    assert trainer.memory([film, plain, plain]).training == pytest.approx(together, rel=0.1)
    runs = [plain, film] * 6
    taken = profiled_peak(lambda: trainer.train(runs, trainer.start(runs), 1))
    assert 12 * together / WITHIN < taken < WITHIN * 12 * together


def test_an_optimizer_with_more_state_and_task_gradients_take_more() -> None:
    trainer = Trainer(make_suite("aligned"), 1, CPU)

    def training(**values: object) -> int:
        wide = {"backbone.width": 256, "backbone.depth": 3, "optimizer.batch_size": 2}
        named = {name.replace("_kind", ".kind"): value for name, value in values.items()}
        return trainer.memory([Run(make_config({**wide, **named}), 0)]).training

    adamw = training()
    leaf_bytes = 4 * trainer.start([Run(make_config({"backbone.width": 256}), 0)]).values.numel()
    assert training(optimizer_kind="sgd") <= adamw - leaf_bytes  # one matrix of state less
    assert training(balancing_kind="mgda") >= adamw + 2 * leaf_bytes  # of three tasks


def test_the_peak_counts_what_lives_at_a_time() -> None:
    with AllocationPeak() as watched:
        first = torch.zeros(1000)
        view = first[:10]
        view.add_(1.0)
        assert watched.peak == 4000
        second = first + 1  # 8,000 bytes at once
        del first, view
        third = torch.zeros(500)
        assert watched.peak == 8000
        watched.restart()
        assert watched.peak == 6000
        del second, third
        torch.zeros(1)
        assert watched.peak == 6000


def test_no_function_runs_where_ctrl_c_would_be_forgotten() -> None:
    called: list[str] = []
    with AllocationPeak() as watched:
        made = torch.zeros(1000)
        sys.setprofile(lambda frame, event, _: called.append(f"{event} {frame.f_code.co_name}"))
        del made  # what a finalizer raises is printed and dropped, KeyboardInterrupt too
        sys.setprofile(None)
        torch.zeros(500)
    assert [name for name in called if name.startswith("call ")] == []
    assert watched.peak == 4000


def test_as_many_runs_as_fit_and_at_least_one() -> None:
    memory = RunMemory(training=100, scoring=50)
    assert [memory.most(budget) for budget in (0, 99, 100, 250, 1000)] == [1, 1, 1, 2, 10]
    assert RunMemory(training=50, scoring=100).most(1000) == 10
    # blocks of a prediction stop growing: 48 MB are all that scoring takes
    assert RunMemory(training=10**6, scoring=10**8).most(1_048_000_000) == 1000


def test_four_fifths_of_the_free_memory_are_planned_with() -> None:
    free = free_bytes(CPU)
    assert 10**7 < free < 2**50
    assert plannable(CPU, 0.25) == pytest.approx(0.2 * free, rel=0.3)  # others are at work here


def machine(root: Path, available: int, **groups: int | str) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal: 99 kB\nMemFree: 5 kB\nMemAvailable:   {available} kB\n"
    )
    folder = root / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    for name, value in groups.items():
        (folder / name.replace("_", ".")).write_text(f"{value}\n")
    (folder / "memory.stat").write_text("anon 7\ninactive_file 24\n")
    return root


def test_a_container_has_what_is_left_of_its_limit(tmp_path: Path) -> None:
    limited = machine(tmp_path / "a", 4, memory_max=2048, memory_current=1024)
    assert _free_on_cpu(limited) == 2048 - 1024 + 24
    roomy = machine(tmp_path / "b", 4, memory_max=10**9, memory_current=0)
    assert _free_on_cpu(roomy) == 4096
    unlimited = machine(tmp_path / "c", 4, memory_max="max", memory_current=1024)
    assert _free_on_cpu(unlimited) == 4096
    assert _free_on_cpu(tmp_path) > 10**7  # no file says: half of all memory
