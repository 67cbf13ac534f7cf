#!/usr/bin/env bash
# TorchJD 0.18.0 with torch 2.13.0, cvxpy 1.9.3, clarabel 0.11.1
# One would guess: a task whose gradient is short, because it is learned, leaves CAGrad's step near
#   the mean gradient: the step is bounded by 0.4 of its length around it.
# Behaviour: all weights are 0 as soon as one gradient is shorter than about 1e-4 of the others, so
#   no parameter moves for the tasks that are not learned.
# Output seen: length 0.001: step 1.22; length 1e-05: step 0.00 (in lengths of the mean gradient)
# Source: torchjd/aggregation/_cagrad.py, `CAGradWeighting.forward` ("approximately on the pareto
#   front", `norm_eps`); Liu et al. 2021 have ‖d − ḡ‖ ≤ c ‖ḡ‖, so that ‖d‖ ≥ (1 − c) ‖ḡ‖.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torchjd==0.18.0 torch==2.13.0 cvxpy==1.9.3 clarabel==0.11.1
cd "$folder"
venv/bin/python - <<'P'
import torch
from torchjd.aggregation import CAGrad

generator = torch.Generator().manual_seed(5)
gradients = torch.randn(3, 8, generator=generator, dtype=torch.float64)
steps = {}
for length in (1e-3, 1e-5):
    rows = gradients * torch.tensor([[length], [1.0], [1.0]])
    steps[length] = (CAGrad(c=0.4)(rows).norm() / rows.mean(0).norm()).item()
print("; ".join(f"length {length:g}: step {step:.2f}" for length, step in steps.items()))
assert steps[1e-3] > 0.6
assert steps[1e-5] == 0.0, "the behaviour has changed"
P
