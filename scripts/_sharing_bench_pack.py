"""From the cells of SharingBench to the table that the package ships, and its data card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from autometa.priors import gp, sharing_bench
from autometa.priors.coding import Coding
from autometa.priors.prior_file import write_prior
from autometa.priors.records import ARMS
from autometa.priors.sharing_bench import COLUMNS, FORMAT, METADATA, BenchSuite, SharingBench
from autometa.priors.shelf import SHIPPED
from autometa.priors.shipping import bench_prior
from autometa.priors.sources import history, warp

TABLE = sharing_bench.TABLE
LARGEST = 5_000_000
"""Bytes that the table may have."""
_SCHEMA = pa.schema(
    {
        "suite": pa.dictionary(pa.int8(), pa.string()),
        "config": pa.int16(),
        "arm": pa.dictionary(pa.int8(), pa.string()),
        "kind": pa.dictionary(pa.int8(), pa.string()),
        "core": pa.bool_(),
        "params": pa.string(),
        "parameters": pa.int32(),
        "seed": pa.int8(),
        "rung": pa.int8(),
        "epoch": pa.int16(),
        "val": pa.float32(),
        "test": pa.float32(),
        "val_tasks": pa.list_(pa.float32()),
        "test_tasks": pa.list_(pa.float32()),
        "seconds": pa.float32(),
    }
)
_DIGITS = {"val": 5, "test": 5, "val_tasks": 4, "test_tasks": 4, "seconds": 4}
"""Decimals that are kept: what is beyond is far below the difference between two seeds."""
_FACTS = (
    "family", "what", "origin", "licence", "problem", "tasks", "rows", "epochs", "steps_per_epoch",
    "groups", "probes", "fingerprint",
)  # fmt: skip


def pack(out: Path, names: Sequence[str], table: Path) -> dict[str, Any]:
    """Write the table of these suites, and beside it the data card and the prior that is shipped.

    Raises:
        SystemExit: a cell is missing, the suites were trained with different settings, or the table
            is too large.
    """
    plans = [_read(out / "plans" / f"{name}.json") for name in names]
    for key in ("settings", "space"):
        if len({json.dumps(plan[key]) for plan in plans}) > 1:
            raise SystemExit(f"The suites in {out} were not all trained with the same {key}.")
    records = [record for plan in plans for record in _records(out, plan)]
    frame = pa.Table.from_pylist(records, _SCHEMA)
    facts = {
        "format": FORMAT,
        "space": plans[0]["space"],
        "settings": plans[0]["settings"],
        "torch": torch.__version__,
        "suites": [{"name": p["suite"], **{key: p[key] for key in _FACTS}} for p in plans],
        "relevance": {},
    }
    suites = {s["name"]: BenchSuite.from_json(s) for s in facts["suites"]}
    bare = SharingBench(suites, frame.to_pandas(), facts["space"], relevance={})
    facts["relevance"] = relevance(bare)
    frame = frame.replace_schema_metadata({METADATA: json.dumps(facts).encode()})
    table.parent.mkdir(parents=True, exist_ok=True)
    part = table.with_suffix(".part")
    pq.write_table(frame, part, compression="zstd", compression_level=19)
    size = part.stat().st_size
    if size > LARGEST:
        part.unlink()
        raise SystemExit(f"The table has {size:,} bytes; at most {LARGEST:,} are shipped.")
    part.replace(table)
    bench = sharing_bench.load(table)
    card = table.with_suffix(".md")
    card.write_text(data_card(bench, facts, size), encoding="utf-8")
    prior = write_prior(table.with_name(SHIPPED.name), bench_prior(bench))
    return {
        "table": str(table), "card": str(card), "prior": str(prior), "bytes": size,
        "rows": len(bench.runs), "suites": len(plans), "families": len(bench.families),
        "failed_runs": int(bench.runs["val"].isna().groupby(bench.runs["rung"]).sum().iloc[-1]),
    }  # fmt: skip


def relevance(bench: SharingBench) -> dict[str, float]:
    """Parameter → inverse length of one Gaussian process of the log regret, fitted to both arms of
    all suites: how much the parameter changes what a configuration reaches."""
    histories = [
        found
        for name in bench.suites
        for arm in ARMS
        if (found := history(bench.trials(name, arm), minimise=False)).says_something()
    ]
    coding = Coding([h.records() for h in histories])
    sets = [
        gp.Data.plain(np.nan_to_num(coding.embed(coding.codes(h.params))), warp(h.values))
        for h in histories
    ]
    log = gp.fit(sets, coding.group, gp.Hyper.default(len(coding.names)))
    return {
        name: round(float(np.exp(-length)), 3)
        for name, length in zip(coding.names, log, strict=False)  # three more are not lengths
    }


def _records(out: Path, plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A record for each configuration, seed and rung of a suite."""
    draws, seeds = plan["settings"]["draws"], plan["settings"]["seeds"]
    for number, cell in enumerate(plan["cells"]):
        path = out / "cells" / plan["suite"] / f"{number:02d}.json"
        if not path.exists():
            raise SystemExit(f"{path} is missing: the suite is not finished.")
        for k, run in enumerate(_read(path)["runs"]):
            draw, seed = divmod(k, seeds)
            for rung, found in enumerate(run["rungs"]):
                yield {
                    "suite": plan["suite"],
                    "config": number * draws + draw,
                    "arm": cell["arm"],
                    "kind": cell["kind"],
                    "core": draw < cell["core"],
                    "params": json.dumps(cell["params"][draw]),
                    "parameters": run["parameters"],
                    "seed": seed,
                    "rung": rung,
                    "epoch": plan["epochs"][rung],
                    **{key: _rounded(found[key], digits) for key, digits in _DIGITS.items()},
                }


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_rounded(v, digits) for v in value]
    return None if value is None else round(value, digits)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]  # JSON
    except FileNotFoundError:
        raise SystemExit(f"{path} is missing: nothing of this suite was trained.") from None


# --- the data card --------------------------------------------------------------------------------


def data_card(bench: SharingBench, facts: dict[str, Any], size: int) -> str:
    """What the table is, in Markdown; its numbers are those of the table."""
    settings = facts["settings"]
    cells = sum(settings["quota"].values())
    configs = cells * settings["draws"]
    core = bench.runs[bench.runs["core"]]["config"].unique()
    most = sorted(bench.relevance, key=lambda name: -bench.relevance[name])
    hours = bench.runs[bench.runs["rung"] == bench.runs["rung"].max()]["seconds"].sum() / 3600
    return CARD.format(
        n_suites=len(bench.suites),
        n_families=len(bench.families),
        n_configs=configs,
        n_cells=cells,
        draws=settings["draws"],
        seeds=settings["seeds"],
        steps=settings["steps"],
        runs=len(bench.runs) // 3,
        core=len(core),
        core_cells=len(np.unique(core // settings["draws"])),
        quota=", ".join(f"{n} `{kind}`" for kind, n in settings["quota"].items()),
        megabytes=f"{size / 1e6:.1f}",
        hours=f"{hours:.1f}",
        torch=facts["torch"],
        width=sharing_bench.WIDTH,
        plain=nearest_says(bench, dict.fromkeys(bench.relevance, 1.0)),
        learned=nearest_says(bench, bench.relevance),
        relevant=", ".join(f"`{name}` {bench.relevance[name]:.2f}" for name in most[:4]),
        columns="\n".join(f"| `{name}` | {what} |" for name, what in COLUMNS.items()),
        suites="\n".join(map(_suite_row, bench.suites.values())),
        sources="\n".join(_source_row(bench, family) for family in bench.families),
        scores="\n".join(_score_row(bench, name) for name in bench.suites),
    )


def nearest_says(bench: SharingBench, relevance: dict[str, float]) -> float:
    """Spearman correlation of a configuration's value with that of its nearest other one, the mean
    over suites, if distances have this relevance."""
    judged = SharingBench(bench.suites, bench.runs, bench.space, relevance)
    found = []
    for name in bench.suites:
        table = judged.lookup(name)
        distances = np.array([table.distances(table.params(row)) for row in range(len(table))])
        np.fill_diagonal(distances, np.inf)
        values = pd.Series(table.val[:, -1])
        found.append(values.corr(pd.Series(values[distances.argmin(1)].to_numpy()), "spearman"))
    return float(np.mean(found))


def _suite_row(suite: sharing_bench.BenchSuite) -> str:
    kinds = [task["kind"] for task in suite.tasks]
    tasks = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    metrics = ", ".join(dict.fromkeys(task["metric"] for task in suite.tasks))
    shape = "×".join(map(str, suite.problem.feature_shape))
    rows = " / ".join(str(suite.rows[split]) for split in ("train", "val", "test"))
    steps = suite.steps_per_epoch * suite.epochs[-1]
    return (
        f"| {suite.name} | {suite.family} | {suite.what} | {tasks} | {metrics} | "
        f"{suite.problem.layout} | {shape} | {rows} | {suite.epochs[-1]} | {steps} |"
    )


def _source_row(bench: SharingBench, family: str) -> str:
    names = bench.families[family]
    first = bench.suites[names[0]]
    return f"| {family} | {', '.join(names)} | {first.origin} | {first.licence} |"


def _score_row(bench: SharingBench, name: str) -> str:
    """Best of each arm, spread, noise of a seed, and how early the order is known."""
    runs = bench.runs[bench.runs["suite"] == name]
    last = runs[runs["rung"] == runs["rung"].max()]
    by_seed = last.pivot(index="config", columns="seed", values="val")
    noise = by_seed.diff(axis=1).iloc[:, -1].abs().median() if by_seed.shape[1] > 1 else np.nan
    arms = [bench.lookup(name, arm) for arm in ("sharing", "independent")]
    val = np.concatenate([arm.val for arm in arms])
    test = np.concatenate([arm.test[:, -1] for arm in arms])
    ranks = pd.DataFrame(val).assign(test=test).corr("spearman")
    numbers = [
        *(f"{arm.val[:, -1].max():.3f}" for arm in arms),
        f"{np.median(val[:, -1]):.3f}",
        f"{noise:.3f}",
        *(f"{ranks.loc[rung, 2]:.2f}" for rung in (0, 1)),
        f"{ranks.loc['test', 2]:.2f}",
        str(int(last["val"].isna().sum())),
    ]
    return f"| {name} | " + " | ".join(numbers) + " |"


CARD = """\
# SharingBench

What {n_configs} configurations of autometa's default search space reach on each of {n_suites} real
multi-task suites from {n_families} data sets: {runs:,} training runs, scored at three rungs. One
Parquet file of {megabytes} MB with scores only; it holds no row, label or prediction of any data
set. Load it with `autometa.priors.sharing_bench.load()`.

## What it is for

- Testing samplers, pruners and transfer between searches without training anything.
- Learning a prior: where good configurations lie on suites like a new one.

Whatever is left out for a test has to be left out **by family** (`SharingBench.others`): suites of
one family share rows, inputs or handwriting. And because {core} configurations are the same in all
suites, sources have to come from one *side* (odd numbers) and the target from the other (even
numbers), or a sampler is praised for repeating rows it has seen.

## How it was made

`scripts/build_sharing_bench.py` made it. The configurations were drawn by an earlier
commit: for some suites today's draws others, so a table that is built again is another sample
of the same design.

- **Space.** The default space (`search_spaces/sharing.yaml`), with one width, {width}, of the three
  it offers: the table says nothing about width. The file is in the table's metadata as it was.
- **Configurations.** {n_cells} cells a suite (structures; some are there twice, with other draws)
  × {draws} draws of their numbers (learning rate, weight decay, dropout, schedule and the numbers
  of the kind of sharing), a Latin hypercube in the scale of each range. Cells of each kind of
  sharing: {quota}. {core_cells} of the cells
  are the same in all suites and half of their draws are, too: the {core} configurations of the
  *core*. All else is drawn for each suite from what it can build. So the table is not what a
  random search would try: that tries every kind of sharing equally often, and `independent` in half
  of its trials.
- **Runs.** {seeds} seeds each, which set initialisation, order of rows and dropout. All runs of a
  suite have the same split (60 / 20 / 20, seed 0; of multidigits that of the single images) and
  the same length, about {steps} steps of 64
  rows (of 64 rows of each of up to 8 tasks where a suite has a task column); large suites keep
  2,000 training rows (4,000 with a task column), drawn at random, and all validation and test rows.
  The schedule `cosine` spans the whole run.
- **Engine.** The {draws} draws × {seeds} seeds of a structure have one shape key and were trained
  as one population in one thread of a CPU, float32, torch {torch}. In all {hours} hours of CPU
  time.
- **Score.** 0 is the constant fitted on the training rows, 1 is perfect, at least −1: 1 − ΣE/ΣE0
  over the tasks of a metric (see `autometa.metrics`). A run whose loss or predictions became
  infinite has no score from that rung on; the loader counts it as −1.

## Distance

A proposal that is not in the table is moved to the nearest configuration (`Lookup.nearest`). What
is near was learned, or it would say little: with every parameter counting the same, the value of a
configuration and that of its nearest other one have a rank correlation of {plain:.2f} (mean over
suites, sharing arm); with the inverse lengths of one Gaussian process of all suites, the
`relevance` in the metadata, {learned:.2f}. The most relevant parameters:

{relevant}.

## Columns

One row for each suite, configuration, seed and rung.

| column | what it holds |
|---|---|
{columns}

Scores are rounded to 5 decimals, those of tasks to 4. The metadata of the file hold, as JSON, the
space, the relevance and the facts of each suite: family, origin, licence, tasks, rows, epochs,
groups of tasks for trees, probes, fingerprint.

## Suites

| suite | family | tasks | kinds | metric | layout | inputs | train / val / test | epochs | steps |
|---|---|---|---|---|---|---|---|---|---|
{suites}

## Sources and licences

The data are not part of the package and are not in the table. autometa's licence covers the table.

| family | suites | origin | licence of the data |
|---|---|---|---|
{sources}

## What is in it

Best validation score of each arm and median of all configurations, means over seeds; *seed*: median
difference between two seeds of a configuration; Spearman rank correlations over configurations, of
the validation score after 1/9 and 1/3 of the epochs with that at the end, and of validation with
test score at the end; *failed*: runs that diverged.

| suite | sharing | independent | median | seed | 1/9 | 1/3 | test | failed |
|---|---|---|---|---|---|---|---|---|
{scores}

## Limits

- One width, one depth, one batch size, AdamW, a multilayer perceptron, tables and images of at most
  196 pixels, at most 16 tasks. What is best for wide networks or long training may be something
  else: a search's default is 27 epochs whatever the number of rows.
- One split a suite. Suites of few rows have few validation rows: the column *test* above says how
  far the validation score can be trusted, *seed* how far one run can.
- Trees are partitions of a suite's own tasks, so their parameters mean something else in every
  suite.
- `seconds` were measured while other programs ran on the machine. They are CPU time, which memory
  traffic of others still lengthens.
"""
