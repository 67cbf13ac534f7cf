"""An error of ours that stands for another keeps the reason of that one."""

from __future__ import annotations

import ast
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import autometa
from autometa.cli import app
from autometa.errors import ConfigError, StudyError, UserError, reason_of
from autometa.home import Home
from autometa.priors.storages import read_storage
from autometa.study import list_studies, make_sampler

SOURCES = sorted(Path(autometa.__file__).parent.rglob("*.py"))
#: of these nothing is left to say that the name of the error does not
PLAIN = {"BlockingIOError", "FileNotFoundError", "KeyboardInterrupt"}

#: said in full by the sentence that is raised
TOLD = {"DuplicatedStudyError", "UntrustedTypesFoundException"}


def handlers(source: Path) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler) and getattr(node.type, "id", "") not in PLAIN:
            yield node


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_is_raised_for_another_error_says_why(source: Path) -> None:
    """It has the words of the other one, or that one as its cause."""
    for handler in handlers(source):
        inside = [node for statement in handler.body for node in ast.walk(statement)]
        for one in inside:
            if not isinstance(one, ast.Raise) or one.exc is None or one.cause is None:
                continue
            if isinstance(one.cause, ast.Constant):  # `from None`: the cause is not shown
                names = {node.id for node in inside if isinstance(node, ast.Name)}
                kind = getattr(handler.type, "attr", getattr(handler.type, "id", ""))
                told = handler.name in names or kind in TOLD
                assert told, f"{source.name}:{one.lineno} hides why it is raised"


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("the server hung up."), "the server hung up"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("line 1:\n  odd"), "line 1: odd"),
    ],
)
def test_a_reason_is_never_empty(exc: Exception, reason: str) -> None:
    assert reason_of(exc) == reason


def test_a_driver_that_cannot_be_imported_says_why(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    for url in ("mysql+pymysql://me:secret@host/db", "mysql+pymysql://host/db"):
        with pytest.raises(
            StudyError, match=r"can be imported.*\(import of pymysql halted"
        ) as told:
            list_studies(Home(home), url)
        assert "secret" not in str(told.value)
        with pytest.raises(UserError, match=r"Found `prior = mysql.*\(import of pymysql halted"):
            read_storage(url, False, print)


def test_an_url_that_is_none_says_why_but_no_password(home: Path) -> None:
    with pytest.raises(StudyError, match=r"Can't load plugin: sqlalchemy.dialects:postgrse"):
        list_studies(Home(home), "postgrse://host/db")
    with pytest.raises(StudyError) as told:
        list_studies(Home(home), "postgrse://me:secret@host/db")
    assert "secret" not in str(told.value)
    assert told.value.__cause__ is None


def test_a_sampler_whose_package_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ConfigError, match=r"pip install cmaes` \(import of cmaes halted"):
        make_sampler("cmaes", 0, 0)


def test_a_value_that_is_no_yaml_says_why(home: Path) -> None:
    found = CliRunner().invoke(app, ["train", "breast-cancer", "--set", "optimizer.lr=[1,"])
    assert found.exit_code == 2
    assert "should have a YAML value (while parsing" in found.stderr
