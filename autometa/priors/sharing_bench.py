"""SharingBench: what 256 configurations reach on each of 20 real suites.

    bench = load()
    bench.runs                                  # a row for each suite, configuration, seed, rung
    table = bench.lookup("school-1")            # configuration → value, for a benchmark of samplers
    sources = [bench.trials(name) for name in bench.others("school-1")]

Configurations are points of the default search space with one width; `data/sharing_bench.md` says
how they were chosen, trained and scored. Suites of one family come from the same data: whatever is
left out for a test is left out by family (`SharingBench.others`). Half of the configurations of a
suite (`side`) are sources and the other half targets in an honest test of transfer, because 32 of
them are the same in all suites.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pyarrow.parquet as pq
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from autometa.errors import DataError, nearest
from autometa.networks import Problem
from autometa.space import Arm, Space
from autometa.space.parameters import Fixed, Suggests

TABLE = Path(__file__).parent / "data" / "sharing_bench.parquet"
METADATA = b"sharing_bench"
"""Key of the table's metadata that holds the suites and the space, as JSON."""
FORMAT = 2
WIDTH = 32
#: parameters that the default space has had since, and what they were before
LATER = {"backbone.norm": "layer", "backbone.linear": "none", "backbone.inputs": "plain"}
"""Of every network: the only width of the default space that is at most 64."""
FAILED = -1.0
"""What a run that diverged counts as: the lowest score there is."""

COLUMNS: dict[str, str] = {
    "suite": "name of the suite",
    "config": "number of the configuration in its suite; its side is the remainder by 2",
    "arm": "`sharing` or `independent`",
    "kind": "`sharing.kind`",
    "core": "whether this configuration is the same in all suites",
    "params": "JSON: what a search would be asked for, Optuna's name → value",
    "parameters": "numbers that are trained and needed to predict",
    "seed": "of the run",
    "rung": "0, 1, 2: after 1/9, 1/3 and all of its epochs",
    "epoch": "epochs trained so far",
    "val": "score on the validation rows: 1 perfect, 0 the training constant; missing if it failed",
    "test": "the same on the test rows",
    "val_tasks": "scores of the tasks there, in their order; missing where not judged",
    "test_tasks": "the same on the test rows",
    "seconds": "CPU time of training and scoring so far: its share of 16 runs trained as one",
}
"""Column → what it holds."""


@dataclass(frozen=True)
class BenchSuite:
    """Facts of a suite.

    Attributes:
        family: the data set that its rows come from.
        what: its tasks, in a few words.
        problem: shapes and kinds, all that is needed to build a network.
        tasks: name, kind and metric of each.
        rows: of the splits `train`, `val`, `test`.
        epochs: at which runs were scored; the last is the length of a run.
        groups: what trees of many tasks are made of; empty for up to five tasks.
        probes: the suite in numbers (`autometa.priors.probes`); None for what it has not.
        fingerprint: of the data and their split.
    """

    name: str
    family: str
    what: str
    origin: str
    licence: str
    problem: Problem
    tasks: tuple[dict[str, str], ...]
    rows: dict[str, int]
    epochs: tuple[int, ...]
    steps_per_epoch: int
    groups: tuple[str, ...]
    probes: dict[str, float | None]
    fingerprint: str

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BenchSuite:
        listed = {name: tuple(data[name]) for name in ("tasks", "epochs", "groups")}
        return cls(**{**data, **listed, "problem": Problem.model_validate(data["problem"])})


def load(path: str | Path = TABLE) -> SharingBench:
    """The table of the package, or another one that `scripts/build_sharing_bench.py` wrote.

    Raises:
        DataError: there is no such table, or it is not one of SharingBench.
    """
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[METADATA])
    except (OSError, KeyError, ValueError) as exc:
        raise DataError(f"`{path}` is not a readable table of SharingBench ({exc}).") from None
    if facts["format"] != FORMAT:
        raise DataError(f"`{path}` should have format {FORMAT}. Found {facts['format']}.")
    suites = [BenchSuite.from_json(suite) for suite in facts["suites"]]
    named = {s.name: s for s in suites}
    return SharingBench(named, table.to_pandas(), facts["space"], facts["relevance"])


class SharingBench:
    """The benchmark.

    Attributes:
        suites: name → facts.
        runs: a row for each suite, configuration, seed and rung, with the columns of `COLUMNS`.
        space: the default space of its time, as YAML.
        relevance: parameter → how much a change from one end of its range to the other, to another
            category, or of whether it is there, counts in the distance of two configurations.
    """

    def __init__(
        self,
        suites: Mapping[str, BenchSuite],
        runs: pd.DataFrame,
        space: str,
        relevance: Mapping[str, float],
    ) -> None:
        self.suites = dict(suites)
        self.runs = runs
        self.relevance = dict(relevance)
        self.space = space
        self._lookups: dict[tuple[str, Arm], Lookup] = {}

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """Family → its suites."""
        found: dict[str, tuple[str, ...]] = {}
        for suite in self.suites.values():
            found[suite.family] = (*found.get(suite.family, ()), suite.name)
        return found

    def others(self, suite: str) -> list[str]:
        """The suites of all other families: what may be learned from when `suite` is the target."""
        family = self.suite(suite).family
        return [name for name, other in self.suites.items() if other.family != family]

    def suite(self, name: str) -> BenchSuite:
        """Facts of a suite.

        Raises:
            DataError: no such suite.
        """
        if name not in self.suites:
            raise DataError(
                f"SharingBench has no suite `{name}`.{nearest(name, self.suites)} "
                f"It has {', '.join(self.suites)}."
            )
        return self.suites[name]

    def lookup(self, suite: str, arm: Arm = "sharing") -> Lookup:
        """Configuration → values of one arm of a suite."""
        if (suite, arm) not in self._lookups:
            facts = self.suite(suite)
            space = bench_space(self.space, facts.problem, facts.groups or None)
            runs = self.runs[(self.runs["suite"] == suite) & (self.runs["arm"] == arm)]
            self._lookups[suite, arm] = Lookup(facts, arm, space, runs, self.relevance)
        return self._lookups[suite, arm]

    def trials(
        self, suite: str, arm: Arm = "sharing", side: int | None = None
    ) -> list[FrozenTrial]:
        """One arm of a suite as finished trials to be maximised, in the order of their numbers.

        Values are means of the validation score over seeds, those of the earlier rungs are
        intermediate values at their epochs. A configuration whose runs all diverged has failed;
        where some did they count as `FAILED`.

        Args:
            side: 0 or 1, the configurations of that side alone.
        """
        return self.lookup(suite, arm).trials(side)


def bench_space(text: str, problem: Problem, groups: Sequence[str] | None = None) -> Space:
    """The space that the configurations of a suite are points of: the default one of its time,
    with one width, and without the choices of the network that came later.

    Args:
        text: the default space, as YAML.
        groups: what trees of many tasks are made of (`Space.bind`).
    """
    space = Space.from_yaml(text, "SharingBench")
    width = space.key("backbone.width", "sharing")
    if WIDTH not in getattr(space.entries()[width], "choices", ()):
        raise ValueError(f"Parameter `backbone.width` of the space should offer {WIDTH}.")
    fixed = {space.key(name, "sharing"): Fixed(value=value) for name, value in LATER.items()}
    return space.without({width: Fixed(value=WIDTH), **fixed}).bind(problem, groups)


class Lookup:
    """The configurations of one arm of a suite and what they reached.

    Attributes:
        numbers: [row], of the configurations.
        val, test: [row, rung], means of the scores over seeds, runs that diverged as `FAILED`.
        seconds: [row, rung], means over seeds of the CPU time so far.
        failed: [row], whether all runs diverged.
        side: [row], 0 or 1.
        space: parameter → Optuna's distribution; most parameters depend on others (`suggest`).
    """

    def __init__(
        self,
        suite: BenchSuite,
        arm: Arm,
        space: Space,
        runs: pd.DataFrame,
        relevance: Mapping[str, float],
    ) -> None:
        self.suite, self.arm, self._bound = suite, arm, space
        self.space: dict[str, BaseDistribution] = space.distributions(arm)
        # what no configuration has is as far from all of them
        self._relevance = np.array([relevance.get(name, 0.0) for name in self.space])
        scored = runs.assign(lost=runs["val"].isna()).fillna({"val": FAILED, "test": FAILED})
        mean = scored.groupby(["config", "rung"])[["val", "test", "seconds"]].mean()
        self.numbers = np.sort(runs["config"].unique())
        self.val, self.test, self.seconds = (
            mean[column].unstack().loc[self.numbers].to_numpy(float)
            for column in ("val", "test", "seconds")
        )
        last = scored[scored["rung"] == scored["rung"].max()]
        self.failed = last.groupby("config")["lost"].all().loc[self.numbers].to_numpy(bool)
        self.side = self.numbers % 2
        first = runs.drop_duplicates("config").set_index("config")["params"]
        self._params: list[dict[str, Any]] = [json.loads(first[n]) for n in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def loss(self) -> np.ndarray:
        """[row]: what a search minimises, the negative validation score at the last rung."""
        return -self.val[:, -1]

    @property
    def runtime(self) -> np.ndarray:
        """[row]: seconds of a whole run."""
        return self.seconds[:, -1]

    def params(self, row: int) -> dict[str, Any]:
        """What a search would have been asked for, and the answers."""
        return dict(self._params[row])

    def distributions(self, row: int) -> dict[str, BaseDistribution]:
        """Of these parameters, as they were when it was asked."""
        given = self._params[row]
        asked = Answers(lambda name, _: given[name])
        self._bound.suggest(asked, self.arm)
        return asked.distributions

    def suggest(self, trial: Suggests) -> dict[str, Any]:
        """Ask a trial, or its look-alike, for a configuration of this arm (`Space.suggest`)."""
        return self._bound.suggest(trial, self.arm)

    def distances(self, params: Mapping[str, Any]) -> np.ndarray:
        """[row]: Euclidean, each parameter's gap times its relevance (`SharingBench.relevance`).

        A number's gap is that in its range (by ratio if the range is logarithmic). Different
        categories are 1 apart, and so are having a parameter and not having it.
        """
        codes = self._codes
        mine = self._code(params)
        gap = np.where(self._categorical, (codes != mine).astype(float), np.abs(codes - mine))
        absent, missing = np.isnan(codes), np.isnan(mine)
        gap = np.where(absent | missing, (absent != missing).astype(float), gap)
        return np.asarray(np.sqrt(((gap * self._relevance) ** 2).sum(1)))

    def nearest(self, params: Mapping[str, Any]) -> int:
        """The row of the nearest configuration, the first of several."""
        return int(np.argmin(self.distances(params)))

    def regret(self) -> np.ndarray:
        """[row]: of the loss; 0 for the best even row, 1 for the median of the even rows."""
        even = self.loss[self.side == 0]
        return (self.loss - even.min()) / (np.median(even) - even.min())

    def objective(self, trial: optuna.Trial) -> float:
        """To be maximised: the validation score of the configuration nearest to what the trial
        suggests. Reports the rungs at their epochs, and stops where the study's pruner wants it."""
        self.suggest(trial)
        row = self.nearest(trial.params)
        for epoch, value in zip(self.suite.epochs, self.val[row], strict=True):
            trial.report(float(value), epoch)
            if epoch < self.suite.epochs[-1] and trial.should_prune():
                raise optuna.TrialPruned
        return float(self.val[row, -1])

    def trials(self, side: int | None = None) -> list[FrozenTrial]:
        """See `SharingBench.trials`."""
        found = []
        for row in range(len(self)):
            if side is not None and self.side[row] != side:
                continue
            values = [float(v) for v in self.val[row]]
            failed = bool(self.failed[row])
            trial = optuna.trial.create_trial(
                state=TrialState.FAIL if failed else TrialState.COMPLETE,
                value=None if failed else values[-1],
                params=self.params(row),
                distributions=self.distributions(row),
                intermediate_values={}
                if failed
                else dict(zip(self.suite.epochs, values, strict=True)),
                user_attrs={"arm": self.arm, "suite": self.suite.name},
            )
            trial.number = int(self.numbers[row])
            found.append(trial)
        return found

    @cached_property
    def _codes(self) -> np.ndarray:
        return np.array([self._code(params) for params in self._params])

    @cached_property
    def _categorical(self) -> np.ndarray:
        return np.array([isinstance(d, CategoricalDistribution) for d in self.space.values()])

    def _code(self, params: Mapping[str, Any]) -> np.ndarray:
        """[parameter]: place in the range or number of the category, NaN where it has none."""
        codes = np.full(len(self.space), math.nan)
        for column, (name, distribution) in enumerate(self.space.items()):
            if name not in params:
                continue
            if isinstance(distribution, CategoricalDistribution):
                codes[column] = distribution.to_internal_repr(params[name])
            elif isinstance(distribution, FloatDistribution | IntDistribution):
                ends = np.array([distribution.low, distribution.high, params[name]], dtype=float)
                low, high, value = np.log(ends) if distribution.log else ends
                codes[column] = (value - low) / max(high - low, 1e-12)
        return codes


class Answers:
    """A trial whose answers come from a function of name and distribution.

    Attributes:
        params: the answers.
        distributions: of what was asked.
    """

    def __init__(self, answer: Callable[[str, BaseDistribution], Any]) -> None:
        self._answer = answer
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._take(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._take(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, CategoricalDistribution(choices))

    def _take(self, name: str, distribution: BaseDistribution) -> Any:
        self.distributions[name] = distribution
        self.params[name] = self._answer(name, distribution)
        return self.params[name]
