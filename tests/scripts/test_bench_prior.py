"""scripts/bench_prior.py measures what it says, on sources small enough to be quick."""

from __future__ import annotations

import argparse

import pytest

from autometa.priors.records import Record
from autometa.space import Space
from scripts import bench_prior as script
from tests.searching.support import small_suite


@pytest.fixture(scope="module")
def space() -> Space:
    return Space.load("sharing").bind(small_suite())


@pytest.fixture(scope="module")
def records(space: Space) -> list[Record]:
    return [script.made_up(space, seed, 6) for seed in range(3)]


def test_suggestions_are_timed(space: Space, records: list[Record]) -> None:
    assert [len(r.of_arm(arm)) for r in records for arm in ("sharing", "independent")] == [6] * 6
    found = script.suggestions(space, records)
    assert found["first_ms"] > 0 < found["median_ms"]
    assert found["kept_characters"] > 1000


@pytest.mark.slow
def test_a_search_is_timed_up_to_its_last_trial(records: list[Record]) -> None:
    args = argparse.Namespace(suite="breast-cancer", n_trials=4, max_epochs=1)
    learned, alone = (script.searched(args, prior, records) for prior in ("auto", "off"))
    assert {"choosing", "probes", "suggestions", "training"} <= learned.keys()
    assert not {"probes", "suggestions"} & alone.keys()
