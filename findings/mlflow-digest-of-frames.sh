#!/usr/bin/env bash
# MLflow 3.17.2 with pandas 3.1.1
# One would guess: the digest of a logged data set changes when its values do.
# Behaviour: truth values, dates and texts with gaps are left out of it (rows beyond 10,000, too), so
#   two tables that share no such value have one digest.
# Output seen: flag: same, day: same, gappy: same, number: other
# Source: mlflow/data/digest_utils.py, `compute_pandas_digest` ("keep string and number columns").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mlflow==3.17.2 pandas==3.1.1
cd "$folder"
MLFLOW_DISABLE_TELEMETRY=true venv/bin/python - <<'P'
import mlflow.data
import pandas as pd

frame = pd.DataFrame(
    {
        "flag": [True, False, True],
        "day": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"]),
        "gappy": ["a", None, "b"],
        "number": [1.0, 2.0, 3.0],
    }
)
others = {
    "flag": [False, True, False],
    "day": pd.to_datetime(["1999-05-05", "1999-05-06", "1999-05-07"]),
    "gappy": ["x", None, "y"],
    "number": [4.0, 5.0, 6.0],
}


def digest(table: pd.DataFrame) -> str:
    return mlflow.data.from_pandas(table).digest


same = {name: digest(frame.assign(**{name: v})) == digest(frame) for name, v in others.items()}
print(", ".join(f"{name}: {'same' if is_same else 'other'}" for name, is_same in same.items()))
assert same == {"flag": True, "day": True, "gappy": True, "number": False}, "it has changed"
P
