"""SharingBench as a prior."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from autometa.priors.prior_file import read_prior, write_prior
from autometa.priors.shipping import bench_prior, bench_record
from tests.priors.test_sharing_bench import EPOCHS, RATES, made


def test_a_record_has_both_arms_with_means_over_seeds_and_rungs() -> None:
    bench = made(lost=((1, 0), (1, 1)))
    record = bench_record(bench, "a-1")
    for arm in ("sharing", "independent"):
        table = bench.lookup("a-1", arm)
        trials = record.of_arm(arm)
        assert [t.number for t in trials] == table.numbers.tolist()
        assert [t.params for t in trials] == [table.params(k) for k in range(len(table))]
        for k, trial in enumerate(trials):
            if table.failed[k]:
                assert trial.state == TrialState.FAIL
                continue
            assert trial.value == table.val[k, -1]
            assert trial.intermediate_values == dict(zip(EPOCHS, table.val[k], strict=True))
    assert record.facts.probes == bench.suite("a-1").probes
    assert not record.facts.episodic
    assert set(RATES) <= record.facts.distributions.keys()


def test_a_family_can_be_left_out() -> None:
    bench = made()
    assert [r.facts.suite for r in bench_prior(bench).records] == ["a-1", "a-2", "b"]
    assert [r.facts.suite for r in bench_prior(bench, without="a").records] == ["b"]
    with pytest.raises(ValueError, match="one of a, b"):
        bench_prior(bench, without="c")


def test_it_is_a_prior_file(tmp_path: Path) -> None:
    prior = bench_prior(made())
    found = read_prior(write_prior(tmp_path / "x.prior", prior))
    assert found.name == prior.name
    for ours, read in zip(prior.records, found.records, strict=True):
        assert read.facts == ours.facts
        assert [t.params for t in read.trials] == [t.params for t in ours.trials]
        assert [t.value for t in read.trials] == [t.value for t in ours.trials]
