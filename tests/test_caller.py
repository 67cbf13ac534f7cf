"""A call of the library leaves the program that made it as it was."""

from __future__ import annotations

import faulthandler
import inspect
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import autometa
from autometa.caller import leaves_no_trace
from autometa.errors import UserError
from tests.searching.support import SPACE, small_suite


def state() -> dict[str, Any]:
    """What a program has that a library may change."""
    root = logging.root
    mine = {name: logging.getLogger(name) for name in ("mlflow", "ray", "optuna", "mine")}
    loggers = {"root": root, **mine}
    return {
        "threads": torch.get_num_threads(),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "loggers": {
            name: (one.level, list(one.handlers), list(one.filters), one.propagate, one.disabled)
            for name, one in loggers.items()
        },
        "handlers": {name: [list(h.filters) for h in one.handlers] for name, one in mine.items()},
        "disabled": root.manager.disable,
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "excepthook": sys.excepthook,
        "faulthandler": faulthandler.is_enabled(),
    }


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_logging() -> Any:
    """The program's own handlers, also on loggers of libraries."""
    handlers = [logging.NullHandler() for _ in range(2)]
    for name, handler in zip(("mlflow", "ray"), handlers, strict=True):
        logging.getLogger(name).addHandler(handler)
    yield
    for name, handler in zip(("mlflow", "ray"), handlers, strict=True):
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture
def no_reports() -> Any:
    """No report of a crash, as in a program that has not asked for one."""
    faulthandler.disable()
    yield
    faulthandler.enable(sys.__stderr__)


def changed(before: dict[str, Any]) -> list[str]:
    after = state()
    return [name for name in before if before[name] != after[name]]


def changes_everything() -> None:
    torch.set_num_threads(1)
    os.environ["NEW"] = "1"
    os.environ["CHANGED"] = "b"
    del os.environ["GONE"]
    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *args, **kwargs: None
    mine = logging.getLogger("mine")
    mine.setLevel(logging.DEBUG)
    mine.addHandler(logging.NullHandler())
    mine.propagate = False
    logging.getLogger("mlflow").handlers[0].addFilter(lambda record: False)
    logging.root.handlers.clear()
    logging.disable(logging.ERROR)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    signal.signal(signal.SIGINT, lambda *args: None)
    sys.excepthook = lambda *args: None
    (faulthandler.disable if faulthandler.is_enabled() else faulthandler.enable)()


@pytest.mark.usefixtures("two_threads", "own_logging", "no_reports")
@pytest.mark.parametrize("fails", [False, True])
def test_all_that_is_global_is_put_back(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGED", "a")
    monkeypatch.setenv("GONE", "1")
    before = state()
    kinds: list[str] = []

    @leaves_no_trace
    def call() -> str:
        changes_everything()
        kinds.extend(changed(before))
        if fails:
            raise ValueError("as expected")
        return "done"

    if fails:
        with pytest.raises(ValueError, match="as expected"):
            call()
    else:
        assert call() == "done"
    assert kinds == list(before), "the test changes each of them"
    assert changed(before) == []


def test_calls_that_overlap_in_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGED", "a")
    inside, leave = threading.Event(), threading.Event()
    seen: list[str] = []

    @leaves_no_trace
    def first() -> None:
        os.environ["CHANGED"] = "b"
        inside.set()
        assert leave.wait(10)

    @leaves_no_trace
    def second() -> None:
        seen.append(os.environ["CHANGED"])
        os.environ["CHANGED"] = "c"

    other = threading.Thread(target=first)
    other.start()
    assert inside.wait(10)
    second()
    assert os.environ["CHANGED"] == "c", "the first one still runs"
    leave.set()
    other.join(10)
    assert seen == ["b"]
    assert os.environ["CHANGED"] == "a"


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("two_threads", "own_logging", "no_reports", "short_judgement")
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_search_leaves_no_trace(workers: int, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    before = state()
    for name in ("first", "second"):  # what was put back is there for the next one, too
        result = autometa.search(
            small_suite(),
            space=space,
            n_trials=2,
            max_epochs=2,
            workers=workers,
            diagnose=False,
            study_name=name,
            home=tmp_path,
        )
        assert result.model is not None
        assert changed(before) == []


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("call", "options"),
    [(autometa.train, {"config": {}, "max_steps": 0}), (autometa.search, {"n_trials": 0})],
)
def test_a_refused_call_leaves_no_trace(call: Callable[..., Any], options: dict[str, Any]) -> None:
    before = state()
    with pytest.raises(UserError):
        call(small_suite(), **options)
    assert changed(before) == []
    assert "suite" in inspect.signature(call).parameters
