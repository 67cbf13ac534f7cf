"""Columns of texts: which are empty cells, which are one text in two spellings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from autometa.tasks.reading.cells import MARKS, Cells, listed
from autometa.tasks.reading.remarks import Remark
from autometa.tasks.reading.types import ColumnType, ReadOptions, Role

ODD_SHARE = 0.02
"""Share of cells that are taken for slips: they do not change what a column is."""

CODE = re.compile(r"0[0-9]+")
WHOLE = re.compile(r"[0-9]+")


def decide_names(
    name: str,
    cells: Cells,
    others: np.ndarray,
    options: ReadOptions,
    remarks: list[Remark],
) -> ColumnType:
    """Of a column of names: tasks, groups, splits."""
    kept = np.array([t not in options.missing for t in cells.texts], dtype=bool)
    _perhaps_missing(name, cells, kept & ~others, remarks)
    return ColumnType(
        "category", missing=options.missing, spelling=_spelling(name, cells, kept, remarks)
    )


def decide_category(
    name: str,
    cells: Cells,
    others: np.ndarray,
    role: Role,
    options: ReadOptions,
    remarks: list[Remark],
) -> ColumnType:
    kept = np.array([t not in options.missing for t in cells.texts], dtype=bool)
    marks = np.array([t.casefold() in MARKS for t in cells.texts], dtype=bool) & kept
    words = kept & ~others & ~marks
    odd: tuple[str, ...] = ()
    worded = any(any(c.isalnum() for c in t) for t in cells.texts[kept & ~marks])  # not + and -
    if marks.any() and worded and cells.counts[marks].sum() < 0.5 * cells.counts[kept].sum():
        found = list(zip(cells.texts[marks], cells.counts[marks], strict=True))
        odd = tuple(sorted(cells.texts[marks]))
        kept &= ~marks
        remarks.append(
            Remark(
                name,
                f"{listed(found)} count as empty cells, not as a value.",
                int(cells.counts[marks].sum()),
            )
        )
    else:
        words |= marks
    _perhaps_missing(name, cells, words, remarks)
    spelling = _spelling(name, cells, kept, remarks)
    if role == "target":
        _stray_class(name, cells, kept, dict(spelling), remarks)
    whole = [t for t in cells.texts[kept] if CODE.fullmatch(t)]
    if whole and all(WHOLE.fullmatch(t) for t in cells.texts[kept]):
        remarks.append(
            Remark(name, f"whole numbers with leading zeros (`{whole[0]}`), read as codes.")
        )
    return ColumnType("category", missing=options.missing, odd=odd, spelling=spelling)


def _perhaps_missing(name: str, cells: Cells, words: np.ndarray, remarks: list[Remark]) -> None:
    if words.any():
        found = list(zip(cells.texts[words], cells.counts[words], strict=True))
        first = min(found, key=lambda item: (-item[1], item[0]))[0]
        remarks.append(
            Remark(
                name,
                f"{listed(found)} read as values among texts; `--missing {first}` makes them "
                "empty cells.",
                int(cells.counts[words].sum()),
            )
        )


def _stray_class(
    name: str,
    cells: Cells,
    kept: np.ndarray,
    spelling: Mapping[str, str],
    remarks: list[Remark],
) -> None:
    """A class with hardly a row beside others with many."""
    counts = Counter[str]()
    for text, count in zip(cells.texts[kept], cells.counts[kept], strict=True):
        counts[spelling.get(text, text)] += int(count)
    total = sum(counts.values())
    rare = [(t, n) for t, n in counts.items() if n <= ODD_SHARE * total]
    if rare and len(counts) - len(rare) >= 2 and len(rare) <= 3:
        remarks.append(
            Remark(
                name,
                f"{listed(rare)} {'are classes' if len(rare) > 1 else 'is a class'} of hardly any "
                f"of its {total} cells; `--missing {rare[0][0]}` leaves such rows out.",
                sum(count for _, count in rare),
            )
        )


def _spelling(
    name: str, cells: Cells, kept: np.ndarray, remarks: list[Remark]
) -> tuple[tuple[str, str], ...]:
    """Texts that differ in their case alone are one: the most frequent."""
    twins: dict[str, list[tuple[int, str]]] = {}
    for text, count in zip(cells.texts[kept], cells.counts[kept], strict=True):
        twins.setdefault(text.casefold(), []).append((-int(count), text))
    out, shown = [], []
    for found in twins.values():
        if len(found) > 1:
            ordered = [text for _, text in sorted(found)]
            out += [(text, ordered[0]) for text in ordered[1:]]
            shown.append(" and ".join(f"`{text}`" for text in ordered))
    if cells.trimmed:
        remarks.append(Remark(name, "blanks at the ends left out.", cells.trimmed))
    if shown:
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        remarks.append(
            Remark(name, f"{'; '.join(shown[:3])}{more} differ in case alone and are one.")
        )
    return tuple(out)
