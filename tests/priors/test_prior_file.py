"""Prior files: what is written is read back, and what someone else made up is refused."""

from __future__ import annotations

import io
import json
import math
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import Trial, TrialState

from autometa.errors import UserError
from autometa.home import Home
from autometa.priors import prior_file, shelf
from autometa.priors.prior_file import Prior, read_prior, write_prior
from autometa.priors.records import Record, record_of


def finished(name: str = "sales-1", n: int = 12, seed: int = 0) -> optuna.Study:
    """A study such as a search leaves: two arms, a range that depends on another parameter."""
    study = optuna.create_study(
        study_name=name, direction="maximize", sampler=RandomSampler(seed=seed)
    )
    attrs = {
        "id": f"{seed:08x}" + 24 * "0",
        "suite": {"name": "sales", "fingerprint": "f00d"},
        "settings": {"max_steps": 9},
        "space": "parameters: {}",
    }
    for key, value in attrs.items():
        study.set_user_attr(key, value)

    def objective(trial: Trial) -> float:
        trial.set_user_attr("arm", ("sharing", "independent")[trial.number % 2])
        depth = trial.suggest_int("depth", 1, 4)
        trial.suggest_int("split", 0, depth)
        rate = trial.suggest_float("rate", 1e-4, 1, log=True)
        if trial.suggest_categorical("kind", ["a", True, 3, None]) == "a":
            trial.suggest_float("own", 0, 1)
        for epoch in (3, 9):
            trial.report(rate * epoch, epoch)
            if epoch == 3 and trial.number % 5 == 4:
                raise optuna.TrialPruned
        if trial.number == 7:
            raise RuntimeError("diverged")
        return rate

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # of the trial that fails
    study.optimize(objective, n_trials=n, catch=RuntimeError)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return study


def record(name: str = "sales-1", seed: int = 0) -> Record:
    return record_of(finished(name, seed=seed), {"rows": 2.5, "tree": math.nan})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    kept = Prior("ours", (record(), record("sales-2", 1)))
    found = read_prior(write_prior(tmp_path / "ours.prior", kept))
    assert found.name == "ours"
    assert [r.facts for r in found.records] == [r.facts for r in kept.records]
    for mine, theirs in zip(kept.records, found.records, strict=True):
        assert [
            (t.number, t.state, t.params, t.values, t.intermediate_values, t.distributions)
            for t in theirs.trials
        ] == [
            (t.number, t.state, t.params, t.values, t.intermediate_values, t.distributions)
            for t in mine.trials
        ]
        assert [t.user_attrs for t in theirs.trials] == [t.user_attrs for t in mine.trials]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_reading_leaves_no_thread_that_aborts_the_end_of_python(tmp_path: Path) -> None:
    path = write_prior(tmp_path / f"a{prior_file.SUFFIX}", Prior("a", (record(),)))
    script = f"""
import os
from pathlib import Path
from autometa.priors.prior_file import read_prior
before = os.listdir("/proc/self/task")
assert read_prior(Path({str(path)!r})).records
print(len(os.listdir("/proc/self/task")) - len(before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_a_record_is_the_study(tmp_path: Path) -> None:
    study = finished()
    kept = record()
    assert kept.facts.probes == {"rows": 2.5, "tree": None}
    assert kept.counts() == {"COMPLETE": 9, "PRUNED": 2, "FAIL": 1}
    assert kept.best() == study.best_value
    assert [t.params for t in kept.trials] == [t.params for t in study.trials]
    assert {t.number % 2 for t in kept.of_arm("independent")} == {1}
    # the widest range that `split` had
    assert kept.facts.distributions["split"]["attributes"]["high"] == max(
        t.distributions["split"].high for t in study.trials
    )
    pruned = [t for t in kept.trials if t.state == TrialState.PRUNED]
    assert [set(t.intermediate_values) for t in pruned] == [{3}, {3}]


def test_a_record_is_found_by_its_study_too(tmp_path: Path) -> None:
    home, kept = Home.find(tmp_path), record()
    shelf.keep(home, kept)
    warnings: list[str] = []
    for text in (kept.name, kept.facts.study):
        found = shelf.find(home, text, warnings.append)
        assert [r.name for r in found.records] == [kept.name]
    assert kept.name != kept.facts.study
    assert warnings == []


def parts(tmp_path: Path) -> dict[str, bytes]:
    path = write_prior(tmp_path / "good.prior", Prior("good", (record(),)))
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items() if isinstance(members, dict) else members:
            file.writestr(name, data)
    return path


def table_of(rows: list[dict[str, Any]], schema: pa.Schema | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=schema or prior_file._SCHEMA)
    pq.write_table(table, out, **{"compression": "none", **options})
    return out.getvalue()


ROW = {
    "record": 0,
    "number": 0,
    "arm": "sharing",
    "state": "COMPLETE",
    "value": 0.5,
    "params": '{"depth": 2}',
    "rungs": '{"3": 0.1}',
}


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil", "trials.parquet/../x", "C:\\evil", "model.pkl", "sub/"]
)
def test_other_members_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "bad.prior", {**parts(tmp_path), name: b"boo"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"should hold prior.json and trials.parquet only"):
        shelf.take_in(Home(tmp_path / "home"), path, "bad", replace=False)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    good = parts(tmp_path)
    path = zipped(tmp_path / "bad.prior", [*good.items(), ("prior.json", good["prior.json"])])
    with pytest.raises(UserError, match="only"):
        read_prior(path)


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = parts(tmp_path)
    path = zipped(tmp_path / "bomb.prior", {**good, "prior.json": b" " * (3 << 20)})
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(prior_file, "MAX_FILE", 1 << 20)
    with pytest.raises(UserError, match="should unpack to at most 1 MiB"):
        read_prior(path)
    path.write_bytes(b"PK" * (1 << 20))
    with pytest.raises(UserError, match="at most 1 MiB"):
        read_prior(path)


def test_a_header_that_lies_of_the_size_is_no_way_round(tmp_path: Path) -> None:
    good = parts(tmp_path)
    path = zipped(tmp_path / "lie.prior", good)
    raw = bytearray(path.read_bytes())
    true = len(good["prior.json"]).to_bytes(4, "little")
    assert raw.count(true) >= 2
    path.write_bytes(bytes(raw).replace(true, (10).to_bytes(4, "little")))
    with pytest.raises(UserError, match="not a prior"):
        read_prior(path)


def test_texts_that_a_small_table_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = json.dumps({"depth": 2, "x": "y" * 10_000})
    table = table_of([{**ROW, "params": long}] * 500)
    assert len(table) < 1 << 20
    path = zipped(tmp_path / "bad.prior", {**parts(tmp_path), "trials.parquet": table})
    monkeypatch.setattr(prior_file, "MAX_FILE", 1 << 20)
    with pytest.raises(UserError, match="1 MiB of text"):
        read_prior(path)
    monkeypatch.setattr(prior_file, "MAX_ROWS", 100)
    with pytest.raises(UserError, match="at most 100 trials"):
        read_prior(path)


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"row_group_size": 1}])
def test_a_table_that_is_larger_than_its_bytes(tmp_path: Path, options: dict[str, Any]) -> None:
    table = table_of([ROW] * 1_001, **options)
    path = zipped(tmp_path / "bad.prior", {**parts(tmp_path), "trials.parquet": table})
    with pytest.raises(UserError, match="should not be compressed itself"):
        read_prior(path)


def test_a_pickle_is_not_looked_into(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path.touch, (str(tmp_path / "hit"),)  # type: ignore[return-value]

    for name in ("prior.json", "trials.parquet"):
        data = {**parts(tmp_path), name: pickle.dumps([1, 2])}
        with pytest.raises(UserError):
            read_prior(zipped(tmp_path / "bad.prior", data))
    (tmp_path / "plain.prior").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="should be a zip file"):
        read_prior(tmp_path / "plain.prior")
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "other"}, "has arm 'other'"),
        ({"state": "RUNNING"}, "state 'RUNNING'"),
        ({"record": 1}, "of record 1, which is not there"),
        ({"record": -1}, "of record -1"),
        ({"params": '{"depth": 99}'}, "damaged or not a prior"),
        ({"params": '{"unknown": 1}'}, "'unknown' without a distribution"),
        ({"params": "[1]"}, "should be JSON objects"),
        ({"params": '{"depth": NaN}'}, "should be finite"),
        ({"params": "{" * 100_000}, "damaged or not a prior"),
        ({"params": "[" * 100_000}, "damaged or not a prior"),
        ({"params": None}, "only `value` may be missing"),
        ({"rungs": '{"x": 1}'}, "damaged or not a prior"),
        ({"rungs": '{"3": []}'}, "damaged or not a prior"),
        ({"rungs": '{"3": 1e999}'}, "rung whose score is not finite"),
        ({"value": None}, "damaged or not a prior"),
    ],
)
def test_trials_that_no_search_leaves(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = parts(tmp_path)
    path = tmp_path / "bad.prior"
    assert len(read_prior(zipped(path, {**good, "trials.parquet": table_of([ROW])})).records) == 1
    with pytest.raises(UserError, match=message):
        read_prior(zipped(path, {**good, "trials.parquet": table_of([{**ROW, **change}])}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format"),
        ({"more": 1}, "`.*more` is not known"),
        ({"records": [{}]}, "missing"),
        ({"name": 3}, "name"),
        ({"name": "red \x1b[31m"}, "printable"),
    ],
)
def test_heads_of_another_form(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = parts(tmp_path)
    head = {**json.loads(good["prior.json"]), **change}
    data = {**good, "prior.json": json.dumps(head).encode()}
    with pytest.raises(UserError, match=message):
        read_prior(zipped(tmp_path / "bad.prior", data))


@pytest.mark.parametrize(
    "distribution",
    [
        {"name": "os.system", "attributes": {}},
        {"name": "FloatDistribution", "attributes": {"low": 0, "high": 1e999}},
        {"name": "CategoricalDistribution", "attributes": {"choices": [[1], {"a": 2}]}},
        {"attributes": 3},
        {"name": "FloatDistribution", "attributes": {"low": -1.7e308, "high": 1.7e308}},
        {"name": "FloatDistribution", "attributes": {"low": 0, "high": 1, "step": 1e-320}},
        {"name": "IntDistribution", "attributes": {"low": 0, "high": 1, "step": 0.5}},
        {"name": "CategoricalDistribution", "attributes": {"choices": list(range(1_001))}},
    ],
)
@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_distributions_that_are_none(tmp_path: Path, distribution: dict[str, Any]) -> None:
    good = parts(tmp_path)
    head = json.loads(good["prior.json"])
    head["records"][0]["distributions"]["depth"] = distribution
    text = json.dumps(head).replace("Infinity", "1e999").encode()
    with pytest.raises(UserError):
        read_prior(zipped(tmp_path / "bad.prior", {**good, "prior.json": text}))


@pytest.mark.parametrize("value", ["NaN", "1e999", '"x"'])
def test_probes_are_finite_numbers(tmp_path: Path, value: str) -> None:
    good = parts(tmp_path)
    text = good["prior.json"].replace(b'"rows": 2.5', b'"rows": ' + value.encode())
    assert text != good["prior.json"]
    with pytest.raises(UserError):
        read_prior(zipped(tmp_path / "bad.prior", {**good, "prior.json": text}))


@pytest.mark.parametrize("name", ["suite", "study", "finished", "id"])
def test_what_a_terminal_would_obey_is_refused(tmp_path: Path, name: str) -> None:
    good = parts(tmp_path)
    head = json.loads(good["prior.json"])
    head["records"][0][name] = "\x1b[2J"
    data = {**good, "prior.json": json.dumps(head).encode()}
    with pytest.raises(UserError, match="printable"):
        read_prior(zipped(tmp_path / "bad.prior", data))


@pytest.mark.parametrize("value", ["yesterday", "2026-13-01", "0001-01-01T00:00:00+05:00"])
def test_the_end_of_a_search_is_a_time(tmp_path: Path, value: str) -> None:
    good = parts(tmp_path)
    head = json.loads(good["prior.json"])
    head["records"][0]["finished"] = value
    data = {**good, "prior.json": json.dumps(head).encode()}
    with pytest.raises(UserError, match=r"finished.*time in ISO 8601"):
        read_prior(zipped(tmp_path / "bad.prior", data))


def test_a_study_of_any_name_leaves_a_record_that_is_read(tmp_path: Path) -> None:
    study = finished()
    study.set_user_attr("suite", {"name": "tab\t" + "x" * 600, "fingerprint": "f00d"})
    kept = record_of(study, {})
    path = write_prior(tmp_path / "a.prior", Prior("a", (kept,)))
    (found,) = read_prior(path).records
    assert found.facts.suite.startswith("tab\N{REPLACEMENT CHARACTER}x")


def test_other_columns_and_damage(tmp_path: Path) -> None:
    good = parts(tmp_path)
    path = tmp_path / "bad.prior"
    other = table_of([{"a": 1}], pa.schema([("a", pa.int64())]))
    with pytest.raises(UserError, match=r"should have other columns. Found a int64"):
        read_prior(zipped(path, {**good, "trials.parquet": other}))
    for cut in (10, len(good["trials.parquet"]) // 2):
        with pytest.raises(UserError, match="cannot be read"):
            read_prior(zipped(path, {**good, "trials.parquet": good["trials.parquet"][:cut]}))
    whole = zipped(path, good).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="zip file"):
        read_prior(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_prior(tmp_path / "none.prior")
