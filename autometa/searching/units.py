"""The work unit: K runs of one shape key from one step to another. Stateless and idempotent.

Configurations, seeds and checkpoint paths go in, results come out; a unit that is lost with its
worker is simply run again.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from autometa.errors import AutometaError
from autometa.searching.costs import costs_of
from autometa.searching.settings import FINAL_SEEDS
from autometa.sharing import SHARING
from autometa.tasks import TaskSuite, load_saved
from autometa.tasks.folds import fold_numbers
from autometa.training.affinity import task_affinity
from autometa.training.cutting import ALIGNED, aligned
from autometa.training.devices import find_device
from autometa.training.initial import Initial
from autometa.training.memory import RunMemory, plannable
from autometa.training.population import RunResult, Trainer
from autometa.training.state import PopulationState, Run, load_run, save_run
from autometa.trial import TrialConfig

#: the probe looks at bundles of at least this many runs (of convolutional networks: two)
_PROBE_FROM = 6
#: what a run may raise for being what it is, or for want of memory
_TROUBLES = (RuntimeError, MemoryError, AutometaError)
#: points of a learning curve at most
_CURVE_POINTS = 27
#: fields of a unit that JSON has as lists
_LISTED = ("names", "configs", "seeds", "at", "curve", "folds")
#: measurements of an affinity in each of the spans of training
_PER_SPAN = 12


@dataclass(frozen=True)
class WorkUnit:
    """What one worker does in one go. Plain data: travels as JSON.

    Attributes:
        names: one a run; names its checkpoint file.
        configs: dotted names to values, one a run, all of one shape key.
        seeds: one a run.
        from_step, to_step: where to start (0: initialise) and to stop.
        max_steps: the length that schedules span.
        suite: folder of the saved suite (without test rows).
        fingerprint: of that suite.
        checkpoints: folder of the checkpoints.
        at: steps on the way at which runs are scored and, with `keep`, saved; at `to_step` they
            always are.
        curve: more steps on the way at which runs are scored.
        keep: write checkpoints.
        device: `cpu`, `cuda` or `auto`.
        chunk: about how many runs to step together; None asks the probe.
        memory: what a run takes (`RunMemory`); None measures it.
        share: of the machine's memory, or of the GPU's, that its worker may plan with.
        threads: that its worker may use.
        cost: what to say about a network that is trained to the end (`costs.COSTS`); None: nothing.
        measure: `affinity`: no checkpoint and no score, but how the tasks' gradients and losses
            affect each other in training.
        peer: no network at all: this method of `baselines.PEERS` is tuned and fitted, and written
            to the checkpoints.
        seconds_at_most: for all settings of the peer together, but the first; None: no limit.
        folds: the fold of each run (`tasks.folds`), or of a peer all that there are; empty where
            the suite's own validation rows are used.
    """

    names: tuple[str, ...]
    configs: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    from_step: int
    to_step: int
    max_steps: int
    suite: str
    fingerprint: str
    checkpoints: str
    keep: bool = True
    device: str = "cpu"
    chunk: int | None = None
    memory: tuple[int, int] | None = None
    share: float = 1.0
    threads: int = 1
    cost: str | None = None
    measure: Literal["affinity"] | None = None
    at: tuple[int, ...] = ()
    curve: tuple[int, ...] = ()
    peer: str | None = None
    seconds_at_most: float | None = None
    folds: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> WorkUnit:
        listed = {name: tuple(data[name]) for name in _LISTED}
        return cls(**{**data, **listed, "memory": _pair(data.get("memory"))})

    @property
    def points(self) -> tuple[int, ...]:
        """Steps at which its runs are scored, the last included."""
        between = {step for step in (*self.at, *self.curve) if self.from_step < step < self.to_step}
        return (*sorted(between), self.to_step)

    def checkpoint(self, name: str, step: int) -> Path:
        """The file of a run's state after `step` steps; a later rung does not overwrite it."""
        return checkpoint_path(Path(self.checkpoints), name, step)


@dataclass(frozen=True)
class UnitResult:
    """What a unit returns: a result a run, and what was measured to that end.

    Attributes:
        chunk: the probe's verdict, where it was asked.
        memory: what a run takes, where it was measured or memory did not suffice.
        most: how many runs of this shape this worker steps together at most, for their memory;
            None where there was one.
        seconds, probe_seconds: of all, and of measuring what fits and what is fastest.
        curves: for each run its results at the unit's `points`; empty where there is one point.
        affinities: of `measure = "affinity"`: an `Affinity` a run as JSON, None where it failed.
        peers: of `peer`: what `peers.run_peer` returns.
    """

    results: tuple[RunResult, ...]
    chunk: int | None = None
    seconds: float = 0.0
    probe_seconds: float = 0.0
    memory: tuple[int, int] | None = None
    most: int | None = None
    curves: tuple[tuple[RunResult, ...], ...] = ()
    affinities: tuple[dict[str, Any] | None, ...] = ()
    peers: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> UnitResult:
        listed = {
            "results": tuple(RunResult(**r) for r in data["results"]),
            "curves": tuple(tuple(RunResult(**r) for r in c) for c in data.get("curves", ())),
            "affinities": tuple(data.get("affinities", ())),
            "peers": tuple(data.get("peers", ())),
            "memory": _pair(data.get("memory")),
        }
        return cls(**{**data, **listed})

    @classmethod
    def lost(cls, unit: WorkUnit, reason: str) -> UnitResult:
        """The result of a unit whose workers died again and again."""
        failed = RunResult(unit.from_step, None, reason=reason)
        return cls(tuple(failed for _ in unit.names))


def _pair(data: Any) -> tuple[int, int] | None:
    return None if data is None else (int(data[0]), int(data[1]))


def best_point(points: Sequence[RunResult]) -> RunResult | None:
    """The length that a run counts with: its best score on validation, the earlier of equal ones.

    A run that diverged later counts with what it had reached; None if it reached nothing.
    """
    scored = [one for one in points if one.reason is None and one.value is not None]
    return max(scored, key=lambda one: (one.value, -one.step), default=None)


def best_of_unit(unit: WorkUnit, result: UnitResult) -> list[RunResult | None]:
    """For each run of a unit the best of its points in `at`, the last included."""
    wanted = {*unit.at, unit.to_step}
    curves = result.curves or [(one,) for one in result.results]
    return [best_point([one for one in curve if one.step in wanted]) for curve in curves]


def checkpoint_path(folder: Path, name: str, step: int) -> Path:
    return folder / f"{name}-step-{step}.safetensors"


def initial_path(checkpoints: Path) -> Path:
    """What runs with `init.kind = earlier` start from, beside the checkpoints, for all units."""
    return checkpoints / "initial.safetensors"


def run_unit(unit: WorkUnit) -> UnitResult:
    """Train the runs of a unit; an error of one run is that run's result."""
    started = time.perf_counter()
    if unit.peer is not None:
        return _peer(unit, unit.peer, started)
    torch.set_num_threads(unit.threads)
    device = find_device(unit.device)
    if unit.measure == "affinity":
        return _affinities(unit, device, started)
    trainer = _trainer(
        unit.suite,
        unit.fingerprint,
        unit.max_steps,
        str(device),
        _initial_file(unit),
        bool(unit.folds),
    )
    folds = unit.folds or (None,) * len(unit.seeds)
    runs = [
        Run(TrialConfig.from_flat(config), seed, fold)
        for config, seed, fold in zip(unit.configs, unit.seeds, folds, strict=True)
    ]
    began = time.perf_counter()
    budget = plannable(device, unit.share)
    memory = _memory(unit, trainer, runs, budget)
    most = len(runs) if memory is None else memory.most(budget)
    chunk = _probe(trainer, runs[:most]) if unit.chunk is None else min(unit.chunk, most)
    probe_seconds = time.perf_counter() - began
    steps: list[list[RunResult]] = []  # [run, point on the way]
    fits = most
    for part in _parts(len(runs), chunk, most):
        found, largest = _train_part(unit, trainer, runs, part)
        steps += found
        fits = min(fits, largest) if largest < len(part) else fits
    if fits < most:  # it takes more than was measured
        memory = RunMemory(budget // fits)
    probed = unit.chunk is None and len(runs) >= _probe_from(runs[0])
    return UnitResult(
        results=tuple(run[-1] for run in steps),
        chunk=chunk if probed else None,
        seconds=time.perf_counter() - started,
        probe_seconds=probe_seconds,
        memory=None if memory == unit.memory else memory,
        most=None if memory is None else fits,
        curves=tuple(map(tuple, steps)) if len(unit.points) > 1 else (),
    )


def _peer(unit: WorkUnit, peer: str, started: float) -> UnitResult:
    from autometa.searching.peers import run_peer  # scikit-learn: others need not wait

    found = run_peer(
        peer,
        suite=Path(unit.suite),
        checkpoints=Path(unit.checkpoints),
        seed=unit.seeds[0],
        seconds=unit.seconds_at_most,
        threads=unit.threads,
        folds=len(unit.folds),
    )
    seconds = time.perf_counter() - started
    result = RunResult(unit.to_step, found["value"], seconds=seconds, reason=found["reason"])
    return UnitResult((result,), seconds=seconds, peers=(found,))


def curve_steps(max_steps: int) -> tuple[int, ...]:
    """The steps of a learning curve: 27 that are evenly spaced, or all."""
    points = min(max_steps, _CURVE_POINTS)
    return tuple(sorted({round(max_steps * k / points) for k in range(1, points + 1)}))


def _affinities(unit: WorkUnit, device: torch.device, started: float) -> UnitResult:
    suite = TaskSuite.load(Path(unit.suite))
    initial = _read_initial(_initial_file(unit))
    results: list[RunResult] = []
    found: list[dict[str, Any] | None] = []
    for config, seed in zip(unit.configs, unit.seeds, strict=True):
        try:
            affinity = task_affinity(
                suite,
                TrialConfig.from_flat(config),
                max_steps=unit.to_step,
                per_span=_PER_SPAN,
                seed=seed,
                device=device,
                initial=initial,
            )
        except (RuntimeError, AutometaError) as exc:
            found.append(None)
            reason = f"{type(exc).__name__}: {exc}"
            results.append(RunResult(unit.from_step, None, reason=reason))
        else:
            found.append(affinity.to_json())
            results.append(RunResult(unit.to_step, None))
    seconds = time.perf_counter() - started
    return UnitResult(tuple(results), seconds=seconds, affinities=tuple(found))


def _train(unit: WorkUnit, trainer: Trainer, runs: list[Run], part: range) -> list[list[RunResult]]:
    """The results of each run at the unit's points."""
    some = [runs[k] for k in part]
    state = _start(unit, trainer, runs, part)
    saved = {*unit.at, unit.to_step} if unit.keep else set()
    steps: list[list[RunResult]] = [[] for _ in some]
    for point in unit.points:
        results, state = trainer.train(some, state, point, others=_others(runs, part))
        for step, result in zip(steps, results, strict=True):
            step.append(_first_failure(step, result, point))
        if point in saved:
            for place, k in enumerate(part):
                if steps[place][-1].reason is None:
                    save_run(state, place, runs[k], unit.checkpoint(unit.names[k], point))
    for step in steps:
        step[-1] = dataclasses.replace(step[-1], seconds=sum(one.seconds for one in step))
    if unit.cost is not None and unit.to_step == unit.max_steps:
        found = costs_of(unit.cost, trainer, some, state)
        for step, cost in zip(steps, found, strict=True):
            step[-1] = dataclasses.replace(step[-1], cost=cost)
    return steps


def _others(runs: list[Run], part: range) -> list[Run]:
    """The runs in whose network a part is trained, too: all, so that the size of the parts, which
    the clock decides, hardly matters to rounding. A run alone may round differently anyway."""
    return runs if len(part) > 1 else []


def _first_failure(before: list[RunResult], result: RunResult, point: int) -> RunResult:
    """A run that failed on the way has failed, whatever its later losses are."""
    failed = bool(before) and before[-1].reason is not None
    return dataclasses.replace(before[-1], step=point) if failed else result


def _train_part(
    unit: WorkUnit, trainer: Trainer, runs: list[Run], part: range
) -> tuple[list[list[RunResult]], int]:
    """The results of `_train`, and how many runs fit into memory at a time.

    Where memory does not suffice, the runs are trained half by half; any other error is blamed on
    the run that has it, and its neighbours go on.
    """
    try:
        return _train(unit, trainer, runs, part), len(part)
    except _TROUBLES as exc:
        if len(part) == 1:
            reason = f"{type(exc).__name__}: {exc}"
            return [[RunResult(unit.from_step, None, reason=reason)]], 1
        halve = _is_out_of_memory(exc)
    # out of the handler, which holds on to the tensors of the failed attempt
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(part) // (2 * ALIGNED) * ALIGNED or len(part) // 2
    parts = [part[:middle], part[middle:]] if halve else [part[k : k + 1] for k in range(len(part))]
    done = [_train_part(unit, trainer, runs, some) for some in parts]
    fits = min(largest for _, largest in done) if halve else len(part)
    return [run for steps, _ in done for run in steps], fits


def _is_out_of_memory(exc: BaseException) -> bool:
    """torch says it by a class of its own on a GPU, and by words on the CPU."""
    if isinstance(exc, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(exc).lower()
    return any(words in text for words in ("out of memory", "can't allocate", "not enough memory"))


def _start(unit: WorkUnit, trainer: Trainer, runs: list[Run], part: range) -> PopulationState:
    """Go on from the checkpoints; if one is gone, the runs are trained again from the start."""
    some = [runs[k] for k in part]
    if unit.from_step == 0:
        return trainer.start(some)
    paths = [unit.checkpoint(unit.names[k], unit.from_step) for k in part]
    if all(path.exists() for path in paths):
        return PopulationState.join([load_run(path) for path in paths])
    return trainer.train(some, trainer.start(some), unit.from_step, others=_others(runs, part))[1]


def _memory(unit: WorkUnit, trainer: Trainer, runs: list[Run], budget: int) -> RunMemory | None:
    """What each run takes; None where it does not matter or a run cannot be trained at all."""
    if len(runs) == 1:
        return None
    if unit.memory is not None:
        return RunMemory(*unit.memory)
    try:
        return trainer.memory(runs)
    except _TROUBLES as exc:
        return RunMemory(budget) if _is_out_of_memory(exc) else None


def _parts(n_runs: int, chunk: int, most: int) -> list[range]:
    """Split runs into parts of about `chunk` (so of at least two, where there are two), but of
    `most` at most."""
    if min(chunk, most) >= ALIGNED:
        return aligned(n_runs, chunk, most)
    n_parts = max(1, n_runs // chunk, math.ceil(n_runs / most))
    ends = [n_runs * k // n_parts for k in range(n_parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends)]


def _probe(trainer: Trainer, runs: list[Run]) -> int:
    """How many runs to step together: all, eight or four, whichever is fastest a run here.

    Not fewer than four, and not where sharing does not stack exactly: the clock must not change a
    result, and stacked products have the same bits only from every fourth run on (`aligned`).
    Stacked convolutions do not have the same bits to begin with, and may be slower than single
    ones, so networks of them are stepped one by one where that is faster.
    """
    if len(runs) < _probe_from(runs[0]) or not all(_stacks_exactly(run) for run in runs):
        return len(runs)
    sizes = {len(runs), min(8, len(runs)), min(4, len(runs))}
    sizes |= {1} if _has_convolutions(runs[0]) else set()
    best, best_time = min(sizes), math.inf
    for chunk in sorted(sizes, reverse=True):
        try:
            seconds = trainer.step_seconds(runs[:chunk], others=runs) / chunk
        except _TROUBLES as exc:
            if not _is_out_of_memory(exc):
                return len(runs)  # training says which run has it
            continue
        if seconds < 0.9 * best_time:  # prefer the larger chunk where it hardly matters
            best, best_time = chunk, seconds
    return best


def _probe_from(run: Run) -> int:
    """Fewest runs that there is a choice for."""
    return 2 if _has_convolutions(run) else _PROBE_FROM


def _stacks_exactly(run: Run) -> bool:
    sharing: Any = run.config.sharing
    return SHARING[sharing.kind].stacks_exactly


def _has_convolutions(run: Run) -> bool:
    backbone: Any = run.config.backbone
    return backbone.kind == "conv"


def _initial_file(unit: WorkUnit) -> tuple[str, int] | None:
    """The file that runs may start from, and when it was written; None if there is none."""
    path = initial_path(Path(unit.checkpoints))
    return (str(path), path.stat().st_mtime_ns) if path.is_file() else None


def _read_initial(file: tuple[str, int] | None) -> Initial | None:
    return None if file is None else Initial.load(Path(file[0]))


@lru_cache(maxsize=2)
def _trainer(
    suite: str,
    fingerprint: str,
    max_steps: int,
    device: str,
    initial: tuple[str, int] | None,
    folded: bool,
) -> Trainer:
    rows = load_saved(suite)
    fold = fold_numbers(rows, FINAL_SEEDS) if folded and isinstance(rows, TaskSuite) else None
    return Trainer(rows, max_steps, torch.device(device), _read_initial(initial), fold)
