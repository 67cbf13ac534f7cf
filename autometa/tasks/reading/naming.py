"""Names of columns, tasks and classes as users write them, and those that they mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from autometa.tasks.reading.cells import as_text
from autometa.tasks.reading.numbers import number_of


def split_names(given: Any, known: Iterable[str]) -> list[str]:
    """One name, several, or several in one text between commas.

    A name may have commas itself: a text is taken apart where it is not known as a whole, and
    then from its beginning on the longest name that is known comes first.
    """
    items = [given] if isinstance(given, (str, int)) else list(given)
    names = set(known)
    out: list[str] = []
    for item in items:
        text = str(item).strip()
        if text in names or "," not in text:
            out.append(text)
            continue
        parts = text.split(",")
        while parts:
            many = next(
                (n for n in range(len(parts), 1, -1) if ",".join(parts[:n]).strip() in names), 1
            )
            name = ",".join(parts[:many]).strip()
            if name:
                out.append(name)
            parts = parts[many:]
    return out


def match_names(values: Iterable[object], known: Iterable[str]) -> np.ndarray:
    """Names of a column as those that are known: object [value], None where there is none.

    A name that is not known is one that differs from it in case alone, and a number one that is
    written with leading zeros or as 1.0, where there is only one such.
    """
    given = np.asarray(list(values), dtype=object)
    texts = as_text(given)
    names = {name: name for name in known}
    folded = _only(names, str.casefold)
    numbers = _only(names, number_of)
    out = np.empty(len(texts), dtype=object)
    for row, text in enumerate(texts):
        if text is None:
            continue
        text = text.strip()
        found = names.get(text) or folded.get(text.casefold())
        if found is None and not isinstance(given[row], str):
            found = numbers.get(number_of(text))
        out[row] = found
    return out


def _only(names: Iterable[str], key: Callable[[str], Any]) -> dict[Any, str]:
    """Names by a property that only one of them has."""
    counts = Counter(key(name) for name in names)
    return {key(name): name for name in names if counts[key(name)] == 1 and key(name) is not None}
