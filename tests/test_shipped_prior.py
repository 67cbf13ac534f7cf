"""The prior that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import autometa
from autometa.cli import app
from autometa.errors import UserError
from autometa.home import Home
from autometa.priors import sharing_bench, shelf
from autometa.priors.prior_file import read_prior
from autometa.priors.shipping import bench_prior
from tests.searching.support import small_suite


def test_it_is_that_of_the_table(shipped_prior: Path) -> None:
    made, kept = bench_prior(sharing_bench.load()).records, read_prior(shipped_prior).records
    assert [r.facts for r in kept] == [r.facts for r in made]
    assert len(kept) >= 20
    for ours, theirs in zip(made, kept, strict=True):
        assert [(t.number, t.params, t.values) for t in theirs.trials] == [
            (t.number, t.params, t.values) for t in ours.trials
        ]
        assert {arm: len(theirs.of_arm(arm)) for arm in ("sharing", "independent")} == {
            "sharing": 224,
            "independent": 32,
        }


def test_it_is_listed_shown_and_named(
    shipped_prior: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not app(["prior", "list"], standalone_mode=False)
    out = capsys.readouterr()
    assert out.out.startswith("prior shipped: ")
    assert "No prior in" in out.err
    assert not app(["prior", "show", "shipped"], standalone_mode=False)
    assert "sharing-bench-diabetes" in capsys.readouterr().out
    with pytest.raises(UserError, match="other than `auto`, `off` and `shipped`"):
        shelf.named(Home.find(home), "shipped")


@pytest.mark.slow
@pytest.mark.usefixtures("short_judgement")
def test_a_search_learns_from_the_nearest_of_its_suites(
    shipped_prior: Path, tmp_path: Path
) -> None:
    result = autometa.search(
        small_suite(), space="sharing", n_trials=8, max_epochs=3, workers=0, device="cpu",
        diagnose=False, mlflow_tracking_uri="off", home=tmp_path / "a",
    )  # fmt: skip
    assert result.prior is not None
    sources = result.prior["sources"]
    assert len(sources) == 20
    assert all(source["name"].startswith("sharing-bench-") for source in sources)
    near = [source["distance"] for source in sources]
    assert near == sorted(near)
    assert result.prior["proposed"]["portfolio"] > 0
    assert result.prior["asked"] == "auto"
