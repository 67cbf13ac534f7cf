#!/usr/bin/env bash
# pandas 3.1.1 with pyarrow 25.0.1
# One would guess: a categorical column comes back from Parquet as categorical, whatever it holds.
# Behaviour: one of texts does, one of whole numbers comes back as plain int64, so 0/1/2 that were
#   classes are amounts. The file knows: its own pandas metadata say `categorical` for both.
# Output seen: number: int64, text: category, file: categorical, categorical
# Source: pyarrow's Parquet files keep dictionaries of texts only (Arrow schema in `ARROW:schema`);
#   pandas/io/parquet.py, `PyArrowImpl.read`; metadata format: pandas' developer guide, "Storing
#   pandas DataFrame objects in Apache Parquet format".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pandas==3.1.1 pyarrow==25.0.1
cd "$folder"
venv/bin/python - <<'P'
import json

import pandas as pd
import pyarrow.parquet as pq

frame = pd.DataFrame({"number": [0, 1, 2, 1], "text": ["a", "b", "c", "b"]}).astype("category")
frame.to_parquet("table.parquet")
found = pd.read_parquet("table.parquet").dtypes.astype(str)
columns = json.loads(pq.read_schema("table.parquet").metadata[b"pandas"])["columns"]
kept = {one["name"]: one["pandas_type"] for one in columns}
print(f"number: {found['number']}, text: {found['text']}, file: {kept['number']}, {kept['text']}")
assert found["number"] == "int64", "the behaviour has changed"
assert found["text"] == "category"
assert kept == {"number": "categorical", "text": "categorical"}
P
