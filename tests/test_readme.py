"""What the README says works."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import typer

from autometa.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ").split("  #")[0].strip()
    for kind, body in BLOCKS
    if kind == "console"
    for line in body.splitlines()
    if line.startswith("$ ")
]
COMMANDS += re.findall(r"^\| `(autometa [^`]+)` \|", TEXT, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks run in order, as one script, in an empty folder."""
    code = "\n".join(body for kind, body in BLOCKS if kind == "python")
    assert "autometa.search" in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - our own README


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str) -> None:
    program, *words = shlex.split(command)
    if program != "autometa":
        assert os.access(ROOT / program, os.X_OK), f"{program} is not there"
        return
    name, *rest = words
    if rest == ["STUDY"] or "[" in command:
        rest = ["x"]
    typer.main.get_command(app).commands[name].make_context(name, rest)  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("http") or (ROOT / target).exists()
