"""`load_suite`: a suite by catalog name, suite YAML, table or npz file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from autometa.config import Config, parse, read_yaml
from autometa.errors import DataError, nearest
from autometa.tasks import catalog
from autometa.tasks.npz import suite_from_npz
from autometa.tasks.reading import ReadOptions, is_table, read_table, stem
from autometa.tasks.scales import TargetScale, TaskScale
from autometa.tasks.splits import FRACTIONS
from autometa.tasks.suite import TaskSuite
from autometa.tasks.usable import Unusable

READING = tuple(field.name for field in fields(ReadOptions))
"""Options that say how a table's cells are written."""

YAML_SUFFIXES = (".suite.yaml", ".suite.yml")


#: options that an npz file cannot have, and what they are without being given
_OF_TABLES = {
    "test": None,
    "drop": (),
    "time_column": None,
    "keep": (),
    "unusable": "drop",
    "target_scale": "standard",
    "task_scale": "auto",
    **dict.fromkeys(READING),
}


class SuiteConfig(Config):
    """A `*.suite.yaml` file: where the data are and what role each column has.

    Paths are relative to the file. See `TaskSuite.from_frame` for the meaning of the keys.
    """

    data: str
    name: str | None = None
    description: str = ""
    layout: Literal["aligned", "grouped"] | None = None
    targets: tuple[str | int, ...] | None = None
    target: str | int | None = None
    task_column: str | int | None = None
    kinds: str | dict[str | int, str] | None = None
    metrics: str | dict[str | int, str] | None = None
    split_column: str | int | None = None
    group_column: str | int | None = None
    time_column: str | int | None = None
    test: str | None = None
    drop: tuple[str | int, ...] = ()
    keep: tuple[str | int, ...] = ()
    unusable: Unusable = "drop"
    target_scale: TargetScale = "standard"
    task_scale: TaskScale = "auto"
    seed: int = Field(0, ge=0)
    fractions: tuple[float, float, float] = FRACTIONS
    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    missing: tuple[str | int | float, ...] = ()
    date_order: str | None = None


def load_suite(
    name_or_path: str | os.PathLike[str],
    *,
    targets: Sequence[Any] | None = None,
    target: Any = None,
    task_column: Any = None,
    seed: int | None = None,
    **options: Any,
) -> TaskSuite:
    """Load a suite.

    Args:
        name_or_path: a name of the catalog; a `*.suite.yaml`; a table (`.csv`, `.tsv`, `.txt`,
            `.data`, `.parquet`, `.xlsx`, packed or not); a `.npz` of arrays; or a folder that
            `TaskSuite.save` wrote.
        targets, target, task_column: roles of the columns; they win over those of a YAML file.
        seed: of the split; the YAML file's, else 0.
        options: further parameters of `TaskSuite.from_frame`.

    Raises:
        DataError: not found, not readable, or not usable as asked; one sentence.
    """
    _check_options(options)
    given = {"targets": targets, "target": target, "task_column": task_column, "seed": seed}
    given = {k: v for k, v in {**given, **options}.items() if v is not None}
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if text in catalog.EMBEDDED:
        return catalog.load(text, **given)
    if text.endswith(YAML_SUFFIXES):
        return _load_yaml(path, given)
    if path.is_dir() and (path / "suite.json").is_file():
        if given:
            raise DataError(
                f"Suite `{path}` was saved ready to use. Found option `{next(iter(given))}`, "
                "which it cannot take any more."
            )
        return TaskSuite.load(path)
    looks_like_a_path = (
        path.is_file()
        or os.sep in text
        or is_table(path)
        or path.suffix.lower() in (".npz", ".yaml", ".yml", ".json")
    )
    if not looks_like_a_path:
        return catalog.load(text, **given)
    if path.suffix.lower() in (".yaml", ".yml"):
        raise DataError(
            f"File `{path}` should be named `*.suite.yaml` to be read as a suite, "
            f"e.g. `{path.stem}.suite.yaml`."
        )
    return _load_data(path, {"name": stem(path), **given})


def _load_data(path: Path, options: dict[str, Any]) -> TaskSuite:
    reading = {key: options[key] for key in READING if options.get(key)}
    if path.suffix.lower() == ".npz":
        for key, default in _OF_TABLES.items():
            if options.get(key, default) not in (default, ()):
                raise DataError(f"Parameter `{key}` is for tables; `{path}` is an npz file.")
        return suite_from_npz(path, **{k: v for k, v in options.items() if k not in _OF_TABLES})
    return TaskSuite.from_frame(read_table(path, ReadOptions.of(**reading)), **options)


def _load_yaml(path: Path, given: dict[str, Any]) -> TaskSuite:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise DataError(f"Suite file `{path}` cannot be read: {reason}.") from None
    config = parse(
        SuiteConfig, read_yaml(text, str(path), DataError), where=path.name, error=DataError
    )
    options = config.model_dump(exclude={"data", "description", "layout"}, exclude_none=True)
    options.setdefault("name", path.name.rsplit(".suite.", 1)[0])
    for key in ("kinds", "metrics"):
        if isinstance(options.get(key), dict):
            options[key] = {str(k): v for k, v in options[key].items()}
    if config.test is not None:
        options["test"] = path.parent / config.test
    if "targets" in given:
        options.pop("target", None)
    if "target" in given:
        options.pop("targets", None)
    suite = _load_data(path.parent / config.data, {**options, **given})
    if config.layout is not None and config.layout != suite.layout:
        raise DataError(
            f"Parameter `layout` of `{path}` is `{config.layout}`, but its columns make it "
            f"{suite.layout}; a grouped suite has `target` and `task_column`, an aligned one "
            "`targets`."
        )
    return suite


def option_names() -> list[str]:
    """The options that `load_suite` takes, which a suite file may have, too."""
    other = ("data", "description", "layout")
    return [key for key in SuiteConfig.model_fields if key not in other]


def _check_options(options: dict[str, Any]) -> None:
    known = option_names()
    for key in options:
        if key not in known:
            raise DataError(f"Parameter `{key}` is not known.{nearest(key, known)}")
