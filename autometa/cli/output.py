"""What the commands print: lines, tables and one line of JSON."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def say(text: str = "") -> None:
    """One line of the result, on stdout."""
    print(text)


def counted(number: int, what: str, many: str | None = None) -> str:
    """ "1 trial", "2 trials"."""
    return f"{number} {what if number == 1 else many or what + 's'}"


def note(text: str) -> None:
    """One line beside the result, on stderr."""
    print(text, file=sys.stderr)


def emit_json(value: Any) -> None:
    """Print `value` as one line of strict JSON, the last line of stdout."""
    print(json.dumps(plain(value), allow_nan=False, ensure_ascii=False), flush=True)


def plain(value: Any) -> Any:
    """Reduce a value to what JSON has; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # NumPy and torch scalars
        return plain(value.item())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what libraries print on stdout to stderr, so that stdout holds the result only."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_notes(notes: Sequence[str], most: int = 30) -> None:
    """What was read as something else than it is written, or done to the table."""
    if notes:
        say("The table:")
    for text in notes[:most]:
        say(f"  {text}")
    if len(notes) > most:
        say(f"  {len(notes) - most} more notes; --json has them all.")


@contextlib.contextmanager
def told_as_notes() -> Iterator[None]:
    """Print what there is to say of a table as notes, and all other warnings as they come."""
    from autometa.errors import DataWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, DataWarning):
            note(f"Note: {warning.message}")
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[str] = ()) -> None:
    """Print a table on stdout; columns in `right` are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    right = set(right)
    head = box.SIMPLE_HEAD if sys.stdout.isatty() else None
    view = Table(box=head, pad_edge=False, show_edge=False)
    for name in columns:
        # Text that is too long for a terminal is folded, not cut: a value that cannot be read
        # in full is of no use.
        view.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        view.add_row(*[_cell(item) for item in row])
    # A file or a pipe has no width: there every row stays on one line.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
    console.print(view)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def settings(params: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Parameters as `name=value`; those in `names`, or all."""
    kept = set(params if names is None else names)
    return " ".join(f"{name}={_short(value)}" for name, value in params.items() if name in kept)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """`75` to `1 min 15 s`."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: int) -> str:
    """`2048` to `2.0 KiB`."""
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def shown(path: Path) -> str:
    """A path as the user would type it from here: relative where it is below this folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
