"""A bound on every task and a cost beside the score, from the front to the printed finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import autometa
from autometa.api import SearchResult
from autometa.cli import app
from autometa.cli.finding import print_finding
from autometa.errors import DataError, StudyError, UserError
from autometa.home import Home
from autometa.networks import Problem
from autometa.searching.costs import parameter_count
from autometa.study import read_study
from autometa.tasks import TaskSuite
from autometa.trial import TrialConfig
from tests.searching.support import SPACE, small_suite
from tests.small import timeless

pytestmark = pytest.mark.usefixtures("short_judgement")

# Networks of two widths; sharing both blocks of the narrow one leaves no room for the odd task.
PLANTED = """
parameters:
  backbone.width: {type: categorical, choices: [2, 16]}
  backbone.depth: 2
  backbone.norm: none
  sharing.kind: {type: categorical, choices: [hard]}
  optimizer.lr: {type: float, low: 2.0e-2, high: 4.0e-2, log: true}
  optimizer.batch_size: 32
"""


def planted_suite() -> TaskSuite:
    """Three tasks that are one, and an odd one that needs other features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    common, odd = np.abs(x[:, 0]) + x[:, 1], np.abs(x[:, 2]) - x[:, 3]
    y = np.stack([common] * 3 + [odd], axis=1) + 0.05 * rng.normal(size=(300, 4))
    return TaskSuite.from_arrays(x, y, names=[*"abc", "odd"], name="planted")


def run(home: Path, suite: TaskSuite | None = None, **options: Any) -> SearchResult:
    home.mkdir(parents=True, exist_ok=True)
    space = home / "space.yaml"
    space.write_text(options.pop("text", SPACE))
    given: dict[str, Any] = {"n_trials": 8, "max_epochs": 4, "workers": 0, "device": "cpu"}
    given |= {"diagnose": False, "deliver": "network"}
    return autometa.search(
        small_suite(rows=200) if suite is None else suite,
        space=space,
        home=home,
        mlflow_tracking_uri="off",
        **given | options,
    )


@pytest.fixture(scope="module")
def bounded(
    tmp_path_factory: pytest.TempPathFactory, short_judgement: None
) -> tuple[Path, SearchResult]:
    home = tmp_path_factory.mktemp("bounded")
    options = {"no_task_worse_than": 0.15, "pruner": "none", "text": PLANTED, "seed": 1}
    return home, run(home, planted_suite(), n_trials=12, max_epochs=12, **options)


@pytest.fixture(scope="module")
def costed(
    tmp_path_factory: pytest.TempPathFactory, short_judgement: None
) -> tuple[Path, SearchResult]:
    home = tmp_path_factory.mktemp("costed")
    return home, run(home, cost="parameters", n_trials=12, study_name="costed")


# --- a bound --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_task_that_sharing_hurts_is_found(bounded: tuple[Path, SearchResult]) -> None:
    _, found = bounded
    rows = found.trials[found.trials["arm"] == "sharing"]
    narrow = rows["params"].map(lambda params: params["backbone.width"] == 2)
    assert set(narrow) == {True, False}
    assert not rows[narrow]["feasible"].any()
    assert rows[~narrow]["feasible"].any()
    worst = [closest["task"] for closest in rows[narrow]["closest"]]
    assert worst.count("odd") > len(worst) / 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_winner_keeps_to_the_bound_and_the_result_says_so(
    bounded: tuple[Path, SearchResult],
) -> None:
    home, found = bounded
    test = found.to_json()["test"]
    json.dumps(test)
    bound = test["constraint"]
    trial = read_study(Home.find(home), found.study).trials[bound["winner"]["trial"]]
    assert trial.params["backbone.width"] == 16
    assert bound["winner"]["feasible"]
    assert bound["winner"]["closest"]["below"] <= 0.15
    assert test["winners"]["sharing"] == trial.number
    assert bound["feasible"] == (found.trials["feasible"] == True).sum()  # noqa: E712 - None too
    assert bound["trials"] == 6
    assert set(bound["reference"]["tasks"]) == {*"abc", "odd"}
    of_task = {task["name"]: task for task in test["tasks"]}
    for task in bound["tasks"]:
        both = of_task[task["name"]]
        assert task["difference"] == pytest.approx(both["shared"] - both["independent"], abs=1e-6)
        low, high = task["difference_ci"]
        assert low < task["difference"] < high
        assert (task["within"] == "yes") == (low >= -0.15)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_finding_of_a_bound_is_printed(
    bounded: tuple[Path, SearchResult], capsys: pytest.CaptureFixture[str]
) -> None:
    home, found = bounded
    print_finding(found.to_json(), Home.find(home))
    text = capsys.readouterr().out
    bound = found.to_json()["test"]["constraint"]
    assert f"{bound['feasible']} of 6 completed sharing trials kept to it" in text
    assert f"closest to the bound on {bound['winner']['closest']['task']}" in text
    assert "within 0.15" in text
    shown = CliRunner().invoke(app, ["trials", found.study, "--home", str(home)]).stdout
    assert shown.splitlines()[0].split()[:7] == [
        "trial", "state", "arm", "value", "feasible", "closest", "task"
    ]  # fmt: skip
    best = CliRunner().invoke(app, ["best", found.study, "--home", str(home), "--json"]).stdout
    assert json.loads(best)["arms"]["sharing"]["feasible"] is True


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_where_nothing_keeps_to_the_bound_independent_networks_are_recommended(
    tmp_path: Path,
) -> None:
    options = {"no_task_worse_than": 0.0, "pruner": "none", "n_trials": 4, "max_epochs": 9}
    narrow = PLANTED.replace("[2, 16]", "[2]")
    found = run(tmp_path, planted_suite(), text=narrow, **options)
    assert found.test is not None
    assert found.test["delivered"]["method"] == "independent"
    assert found.test["recommended"] != "sharing"
    assert found.test["constraint"]["feasible"] == 0
    assert found.verdict is not None
    assert found.verdict.startswith("No sharing network kept every task within 0 of independent")
    assert "none of 2 completed trials did" in found.verdict
    model = autometa.load_model(found.model or "")
    assert model.config.flat()["sharing.kind"] == "independent"
    assert model.facts["verdict"] == found.verdict


def test_a_stopped_search_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autometa.searching import executors

    original, calls = executors.run_unit, []

    def interrupted(unit: Any) -> Any:
        calls.append(unit)
        if unit.names[0].startswith("rerun-"):
            raise KeyboardInterrupt
        return original(unit)

    options: dict[str, Any] = {"no_task_worse_than": 0.1, "cost": "parameters"}
    monkeypatch.setattr(executors, "run_unit", interrupted)
    stopped = run(tmp_path / "a", **options)
    assert stopped.interrupted
    assert stopped.front is not None
    monkeypatch.setattr(executors, "run_unit", original)
    done = run(tmp_path / "a", study_name=stopped.study, resume=True, **options)
    whole = run(tmp_path / "b", **options)
    assert done.trials["value"].tolist() == whole.trials["value"].tolist()
    assert (timeless(done.test), done.front) == (timeless(whole.test), whole.front)


# --- a cost ---------------------------------------------------------------------------------------


def test_the_front_has_what_nothing_beats(costed: tuple[Path, SearchResult]) -> None:
    _, found = costed
    done = found.trials[found.trials["state"] == "COMPLETE"]
    points = dict(zip(done["number"], zip(done["value"], done["cost"], strict=True), strict=True))
    best = {
        n
        for n, (a, b) in points.items()
        if not any(c >= a and d <= b and (c, d) != (a, b) for c, d in points.values())
    }
    body = found.to_json()
    json.dumps(body)
    assert body["cost"] == "parameters"
    assert {row["number"] for row in body["front"]} == best
    problem = Problem.of(small_suite())
    for row in body["front"]:
        assert (row["score"], row["cost"]) == points[row["number"]]
        assert row["cost"] == parameter_count(TrialConfig.from_flat(row["config"]), problem)
        independent = row["arm"] == "independent"
        assert row["network"].startswith("independent networks") == independent
        assert f"width {row['config']['backbone.width']}" in row["network"]
    assert body["best"]["value"] == done["value"].max()


def test_the_front_is_printed(
    costed: tuple[Path, SearchResult], capsys: pytest.CaptureFixture[str]
) -> None:
    home, found = costed
    body = found.to_json()
    print_finding(body, Home.find(home))
    text = capsys.readouterr().out
    assert f"Pareto front of {len(body['front'])} trials" in text
    lines = text.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("parameters "))
    assert [line.split()[0] for line in lines[at + 1 : at + 1 + len(body["front"])]] == [
        f"{row['cost']:,.0f}" for row in body["front"]
    ]
    chosen = body["test"]["winners"][body["test"]["delivered"]["method"]]
    on_it = any(row["number"] == chosen for row in body["front"])
    assert (f"{chosen}*" in text) == on_it
    assert (f"Trial {chosen}, delivered below" in text) != on_it
    shown = CliRunner().invoke(app, ["trials", "costed", "--home", str(home)]).stdout
    assert shown.splitlines()[0].split()[:5] == ["trial", "state", "arm", "value", "cost"]
    best = CliRunner().invoke(app, ["best", "costed", "--home", str(home)]).stdout
    assert ", cost " in best


def test_inference_time_is_measured(tmp_path: Path) -> None:
    found = run(tmp_path, cost="inference-time", n_trials=4, max_epochs=1)
    assert found.front
    assert all(0.0 < row["cost"] < 1000.0 for row in found.front)


# --- what is refused ------------------------------------------------------------------------------

BOUND = {"no_task_worse_than": 0.02}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_task_worse_than": -0.1}, r"at least 0\. Found `no_task_worse_than = -0\.1`"),
        ({"no_task_worse_than": float("nan")}, "no_task_worse_than = nan"),
        ({"cost": "parameter"}, r"Found `cost = parameter`\. Did you mean `parameters`\?"),
        ({**BOUND, "independent_share": 0.0}, "`independent_share = 0` with `n_trials = 8`"),
        ({**BOUND, "independent_share": 1.0}, "should leave trials for both arms"),
        ({**BOUND, "n_trials": 1}, "which gives 0 to independent networks"),
        ({**BOUND, "sampler": "cmaes"}, r"tpe, gp, random with `no_task_worse_than = 0\.02`"),
        ({"cost": "parameters", "sampler": "cmaes"}, "Found `sampler = cmaes`"),
        ({**BOUND, "text": SPACE.replace("[hard]", "[independent]").replace(
            "  sharing.split_at: {type: int, low: 1, high: 2, when: {sharing.kind: hard}}\n", ""
        )}, "has independent networks only"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, **options)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "studies").exists()


def test_a_bound_needs_a_task_that_can_be_judged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`up`, for example, has 18 evaluation rows"):
        run(tmp_path, small_suite(rows=90), **BOUND)
    assert not (tmp_path / "studies").exists()


def test_a_resumed_study_keeps_bound_and_cost(costed: tuple[Path, SearchResult]) -> None:
    home, _ = costed
    options: dict[str, Any] = {"study_name": "costed", "resume": True, "n_trials": 12}
    with pytest.raises(StudyError, match="`cost = parameters`; a resumed study must keep it"):
        run(home, cost="inference-time", **options)
    with pytest.raises(StudyError, match="Found `cost = None`"):
        run(home, **options)
    with pytest.raises(StudyError, match="`no_task_worse_than = None`; .* Found .* = 0.02`"):
        run(home, cost="parameters", **options, **BOUND)


def test_options_are_in_the_help() -> None:
    text = " ".join(CliRunner().invoke(app, ["search", "--help"]).stdout.replace("│", " ").split())
    assert "--no-task-worse-than DELTA" in text
    assert "--cost NAME" in text
    assert "parameters or inference-time" in text
    wrong = CliRunner().invoke(app, ["search", "multidigits", "--no-task-worse-than", "-1"])
    assert wrong.exit_code == 2
    assert "--no-task-worse-than" in wrong.stderr
