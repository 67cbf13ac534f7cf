"""Configurations made from others stay configurations of the space."""

from __future__ import annotations

import numpy as np
import optuna
from optuna.samplers import RandomSampler

from autometa.priors.candidates import Candidates
from autometa.priors.coding import Coding
from autometa.priors.sources import history
from tests.priors.test_sampler import forked


def made() -> tuple[Candidates, Coding]:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    study.optimize(forked, n_trials=60)
    records = history(study.trials, minimise=True).records()
    coding = Coding([records])
    space = {name: d for _, distributions in records for name, d in distributions.items()}
    seen = coding.codes([params for params, _ in records])
    return Candidates(coding, space, seen, {"model"}, set()), coding


def test_a_choice_is_switched_with_what_comes_and_goes_with_it() -> None:
    candidates, coding = made()
    seen, column = candidates.seen, coding.names.index("model")
    depends = candidates.dependents[column]
    assert {coding.names[d] for d in depends} == {"width", "depth", "skip", "gate"}
    rows = seen.copy()
    at = np.arange(0, len(rows), 2)
    candidates._switch(np.random.default_rng(0), rows, at, column)
    assert (rows[at, column] != seen[at, column]).all()
    np.testing.assert_array_equal(np.delete(rows, at, 0), np.delete(seen, at, 0))
    tried = {tuple(np.nan_to_num(row[[column, *depends]], nan=-9)) for row in seen}
    found = {tuple(np.nan_to_num(row[[column, *depends]], nan=-9)) for row in rows[at]}
    assert found <= tried
    assert len(found) > 10  # not one and the same trial
