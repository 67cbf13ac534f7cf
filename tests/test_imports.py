"""The layers are kept, and importing autometa is quick and quiet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import autometa

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "mlflow", "optuna", "pandas", "sklearn", "matplotlib", "plotly")


def python(code: str, **env: str) -> str:
    """The stdout of a fresh interpreter with telemetry switches as given."""
    # MLflow sends nothing where it recognises a test or CI, so they must not be recognisable.
    hidden = {*autometa.TELEMETRY, "CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST"}
    clean = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_layers_are_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["autometa", "autometa.cli"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(python(code))
    assert not [name for name in HEAVY if name in loaded]


def test_a_worker_starts_without_what_few_trials_need() -> None:
    code = "import json, sys, autometa.searching.units; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(python(code))
    slow = ("torchjd", "cvxpy", "scipy.stats", "scipy.optimize", "sklearn", "optuna", "mlflow")
    assert not [name for name in slow if name in loaded]


def test_telemetry_is_off_by_default_and_left_to_the_user() -> None:
    code = "import os, autometa; print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    assert python(code).strip() == "0"
    assert python(code, RAY_USAGE_STATS_ENABLED="1").strip() == "1"
    code = (
        "import autometa\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "print(is_telemetry_disabled(), usage_stats_enabled())"
    )
    assert python(code).split() == ["True", "False"]


def test_public_names_load_and_unknown_ones_do_not() -> None:
    for name in autometa.__all__:
        assert getattr(autometa, name) is not None
    assert set(autometa.__all__) <= set(dir(autometa))
    with pytest.raises(AttributeError, match="serach"):
        _ = autometa.serach
