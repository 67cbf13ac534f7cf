"""What is said of how a table was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Remark(NamedTuple):
    """What is to be said of a column, and of how many of its cells (0: of all)."""

    column: str
    text: str
    cells: int = 0


def joined(remarks: Sequence[Remark]) -> tuple[str, ...]:
    """One sentence for all columns of which the same is to be said."""
    columns: dict[str, list[Remark]] = {}
    for remark in remarks:
        columns.setdefault(remark.text, []).append(remark)
    out = []
    for text, found in columns.items():
        shown = ", ".join(_name(remark, i == 0) for i, remark in enumerate(found[:10]))
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        out.append(f"{'Columns' if len(found) > 1 else 'Column'} {shown}{more}: {text}")
    return tuple(out)


def _name(remark: Remark, first: bool) -> str:
    if not remark.cells:
        return f"`{remark.column}`"
    word = f" cell{'s' * (remark.cells > 1)}" if first else ""
    return f"`{remark.column}` ({remark.cells}{word})"
