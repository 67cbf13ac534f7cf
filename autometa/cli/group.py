"""How the command line ends: which exit code, and one sentence on stderr instead of a traceback.

0: done. 1: something of ours or of the machine failed. 2: the user's mistake, in the options or
in what they name. 130: stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from autometa.errors import AutometaError


class Cli(TyperGroup):
    """The group of all commands, with one place where errors become sentences."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        extra.setdefault("obj", words)  # the words as typed, for `command_line`
        try:
            code = super().main(
                args=words,
                prog_name=prog_name or "autometa",
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except Exception as exc:  # the edge of the program: nothing is above us
            if os.environ.get("AUTOMETA_DEBUG") == "1":
                raise
            code = _report(exc, words)
        code = code if isinstance(code, int) else 0
        if standalone_mode:
            sys.exit(code)
        return code

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("Stopped by Ctrl-C.")
            raise typer.Exit(130) from None


def fail(sentence: str) -> None:
    """Print one line on stderr, beginning with `Error: `."""
    print(f"Error: {' '.join(sentence.split())}", file=sys.stderr)


def command_line(ctx: typer.Context) -> list[str]:
    """The words after `autometa` as the user typed them."""
    return list(ctx.find_root().obj or [])


def _report(exc: Exception, words: list[str]) -> int:
    if isinstance(exc, AutometaError):
        fail(str(exc))
        return exc.exit_code
    if isinstance(exc, typer.TyperException):  # a mistake in the options
        message = exc.format_message()
        if message:  # empty where the help was printed instead, for want of any word
            fail(_usage_sentence(exc, message, words))
        return exc.exit_code
    if isinstance(exc, typer.Abort):
        fail("Stopped; nothing was changed.")
        return 1
    if isinstance(exc, BrokenPipeError):  # `autometa trials … | head` closed our stdout
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - flushed once more at exit
        return 1
    fail(
        f"This is a bug in autometa, not in what you gave: {type(exc).__name__}: {exc}. "
        "Set AUTOMETA_DEBUG=1 to see the traceback, and please report it."
    )
    return 1


def _usage_sentence(exc: Exception, message: str, words: list[str]) -> str:
    """The parser's message, with the value it refused and where to read on."""
    if message[-1] not in ".?":
        message += "."
    option = getattr(exc, "param", None)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, sign, value = word.partition("=")
        if option is not None and name.startswith("-") and name in option.opts:
            message += f" Found `{value if sign else following}`."
            break
    context = getattr(exc, "ctx", None)
    return f"{message} See `{context.command_path} --help`." if context else message
