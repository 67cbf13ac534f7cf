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


def test_candidates_are_configurations_of_the_space() -> None:
    candidates, coding = made()
    best = candidates.seen[:3]
    rows = candidates.draw(np.random.default_rng(0), best, 200)
    assert rows.shape == (200, len(coding.names))
    there = {name: ~np.isnan(column) for name, column in zip(coding.names, rows.T, strict=True)}
    deep = rows[:, coding.names.index("model")] == coding.parameters["model"].index("deep")
    for name, active in there.items():
        if name != "gate":  # which only half of the deep ones have
            np.testing.assert_array_equal(
                active, True if name == "model" else deep ^ (name == "width")
            )
    assert not (there["gate"] & ~deep).any()


def test_half_of_the_candidates_are_like_the_best() -> None:
    candidates, _ = made()
    best = candidates.seen[:3]
    rows = candidates.draw(np.random.default_rng(0), best, 200)
    same = (rows[:, None] == best) | (np.isnan(rows[:, None]) & np.isnan(best))
    kept = same.mean(2).max(1)
    assert kept[100:].mean() > 0.6 > 0.5 > kept[:100].mean()
    assert (kept[100:] < 1).mean() > 0.5
    # numbers drawn anew are nowhere those of a trial
    width = rows[:100, candidates.coding.names.index("width")]
    assert not np.isin(width[~np.isnan(width)], candidates.seen).any()
    # over the whole range
    assert np.nanmin(width) < 0.1 < 0.9 < np.nanmax(width)
