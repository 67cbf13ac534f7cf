#!/usr/bin/env bash
# MLflow 3.17.2
# One would guess: two processes may be the first to use one new SQLite file, as `sqlite:///FILE` is
#   MLflow's default store; the one that comes second waits, or finds the tables made.
# Behaviour: both make the tables and run all migrations, without a lock, and one of them fails. It
#   is a race: up to five pairs are started until it is seen.
# Output seen: pair 1: ok; OperationalError: (sqlite3.OperationalError) duplicate column name: step
#   (or, elsewhere in the race, that a table already exists)
# Source: mlflow/store/tracking/sqlalchemy_store.py, `SqlAlchemyStore.__init__` calls
#   `_initialize_tables`; the `_safe_initialize_tables` beside it, with a lock, is for servers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mlflow==3.17.2
cd "$folder"
cat > pairs.py <<'P'
import multiprocessing

from mlflow import MlflowClient


def use(uri, barrier, answers):
    barrier.wait()
    try:
        MlflowClient(uri).search_experiments()
        answers.put("ok")
    except Exception as exc:
        answers.put(f"{type(exc).__name__}: {str(exc).splitlines()[0]}")


if __name__ == "__main__":
    for pair in range(1, 6):
        barrier, answers = multiprocessing.Barrier(2), multiprocessing.Queue()
        both = [
            multiprocessing.Process(target=use, args=(f"sqlite:///{pair}.db", barrier, answers))
            for _ in range(2)
        ]
        for process in both:
            process.start()
        found = sorted((answers.get() for _ in both), reverse=True)
        for process in both:
            process.join()
        print(f"pair {pair}: {'; '.join(found)}")
        if found != ["ok", "ok"]:
            break
    else:
        raise SystemExit("five pairs went well: the behaviour has changed")
P
MLFLOW_DISABLE_TELEMETRY=true venv/bin/python pairs.py 2> messages
