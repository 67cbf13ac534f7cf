"""What is given to `search` and `train` as plain Python values, and no name that neither knows.

Settings are kept with the study as JSON, which knows no number of NumPy's.
"""

from __future__ import annotations

import functools
import inspect
import operator
import typing
from collections.abc import Callable
from types import NoneType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from autometa.errors import UserError, nearest
from autometa.tasks.files import option_names

P = ParamSpec("P")
T = TypeVar("T")


def plain_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: arguments that are annotated as a number, a text or a yes and no arrive as such.

    Other keywords are options of `load_suite`; one that is not is refused with the nearest name.

    Raises:
        UserError: from the call, one sentence that names the argument.
    """
    signature = inspect.signature(function)
    kinds = {name: _kind(hint) for name, hint in typing.get_type_hints(function).items()}
    named = [name for name, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        known = [*named, *option_names()]
        for name, value in kwargs.items():
            if name not in known:
                hint = nearest(name, known) or f" Found `{name} = {value}`."
                raise UserError(f"Parameter `{name}` is not known.{hint}")
        positional = dict(zip(named, args, strict=False))
        given: dict[str, Any] = positional | kwargs
        plain = {name: _plain(name, given[name], kinds.get(name)) for name in given}
        return function(*[plain[name] for name in positional], **{n: plain[n] for n in kwargs})

    return call


def _kind(hint: Any) -> type | None:
    """The one plain type that an annotation allows beside None."""
    kinds = {*typing.get_args(hint)} - {NoneType} or {hint}
    only = kinds.pop() if len(kinds) == 1 else None
    return only if only in (int, float, bool, str) else None


def _plain(name: str, value: Any, kind: type | None) -> Any:
    """
    Raises:
        UserError: it is of another kind.
    """
    if value is None or kind is None:
        return _of_numpy(value)
    try:
        if kind is int:
            whole = isinstance(value, float) and value.is_integer()
            return int(value) if whole else operator.index(value)
        if kind is float and not isinstance(value, str):
            return float(value)
        if kind is bool and value in (False, True):
            return bool(value)
        if kind is str and isinstance(value, str):
            return str(value)
    except (TypeError, ValueError, OverflowError):
        pass
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    raise UserError(f"Parameter `{name}` should be {words[kind]}. Found `{name} = {value!r}`.")


def _of_numpy(value: Any) -> Any:
    """Options of a suite may be names of columns: a pandas index or an array of them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | pd.Index):
        return value.tolist()
    return value
