"""Every test has a home folder of its own, and one thread."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checked import check_signatures

# Read when torch, NumPy and scikit-learn are first imported, so it cannot wait for a fixture.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["MPLBACKEND"] = "Agg"
# The packages that handle tensors; the rest has pydantic and typer, which read annotations in their
# own ways.
check_signatures(
    *(f"autometa.{name}" for name in ("networks", "sharing", "learners", "balancing", "training"))
)

from autometa import finals  # noqa: E402
from autometa.baselines import PEERS  # noqa: E402
from autometa.priors import shelf  # noqa: E402  # it imports NumPy
from autometa.searching import promotion  # noqa: E402

SHIPPED = shelf.SHIPPED


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder that everything uses unless told otherwise; nothing is in it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("AUTOMETA_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_shipped_prior() -> Iterator[None]:
    """The package brings no prior, unless a test asks for it or starts a process of its own: to
    learn from its suites takes longer than most of the searches in tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelf, "SHIPPED", Path("no.prior"))
        yield


@pytest.fixture
def shipped_prior(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the prior that comes with the package, which is then used."""
    monkeypatch.setattr(shelf, "SHIPPED", SHIPPED)
    return SHIPPED


@pytest.fixture(scope="module")
def early_rungs() -> Iterator[None]:
    """Trainings of a few steps have all their rungs, as those of thousands do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "FIRST_RUNG", 1)
        yield


@pytest.fixture(scope="module")
def short_judgement() -> Iterator[None]:
    """Final comparisons at the length of the search alone, and beside ridge regression alone: most
    of a small search's time, and nothing where a test is not about the verdict."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finals, "CAP", 1)
        for name in set(PEERS) - {"ridge", "ridge_pooled"}:
            patch.delitem(PEERS, name)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process is left with one at the end.

    Those with slow tests, then those with many.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path], item.path))
