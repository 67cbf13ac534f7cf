#!/usr/bin/env bash
# Optuna 5.0.0
# One would guess: a value that is enqueued outside of the range of its parameter is refused, or cut
#   to the range, or its trial fails.
# Behaviour: a number outside is suggested and told as it is, with one warning; the study then
#   holds a COMPLETE trial whose value its own distribution does not contain.
# Output seen: lr = 100.0, COMPLETE, contained: False
# Source: optuna/trial/_trial.py, `Trial._suggest` (fixed parameters, `_is_fixed_param`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q optuna==5.0.0
cd "$folder"
venv/bin/python - <<'P'
import optuna

study = optuna.create_study()
study.enqueue_trial({"lr": 100.0})
study.optimize(lambda trial: trial.suggest_float("lr", 1e-4, 1.0), n_trials=1)
(trial,) = study.trials
inside = trial.distributions["lr"]._contains(trial.params["lr"])
print(f"lr = {trial.params['lr']}, {trial.state.name}, contained: {inside}")
assert trial.params["lr"] == 100.0, "the behaviour has changed"
assert trial.state.name == "COMPLETE"
assert not inside
P
