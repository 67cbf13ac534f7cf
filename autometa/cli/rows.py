"""Files of rows that commands predict or learn from, and of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autometa.errors import DataError, UserError, nearest


def read_labelled(
    path: Path, target: str | None, known: str | None, reading: dict[str, Any]
) -> tuple[Any, Any]:
    """The labelled rows of a table, or images and their labels."""
    if path.suffix == ".npy":
        raise DataError(f"`{path}` has no labels; give images as .npz with arrays `x` and `y`.")
    if path.suffix != ".npz":
        return read_rows(path, reading), None
    arrays, inputs = _read_npz(path)
    if target is not None and target not in arrays:
        raise DataError(
            f"Array `{target}`, which should hold the labels, is not in `{path}`."
            f"{nearest(target, arrays)}"
        )
    for name in (target, known, "y", "Y"):
        if name in arrays:
            return inputs, arrays[name]
    raise DataError(
        f"`{path}` should hold labels in an array `y`, or name it with `--target`. "
        f"Found {', '.join(arrays)}."
    )


def _read_npz(path: Path) -> tuple[dict[str, Any], Any]:
    """All arrays of a file, and the one of inputs."""
    from autometa.tasks.npz import read_npz

    arrays = read_npz(path)
    for name in ("x", "X", "images"):
        if name in arrays:
            return arrays, arrays[name]
    raise DataError(f"`{path}` should hold an array `x`. Found {', '.join(arrays)}.")


def read_rows(path: Path, reading: dict[str, Any]) -> Any:
    """A table, or the images of a .npy or .npz file."""
    import numpy as np

    from autometa.tasks.reading import ReadOptions, read_table

    if path.suffix == ".npz":
        return _read_npz(path)[1]
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as exc:
            raise DataError(f"`{path}` is not a readable .npy file ({exc}).") from None
    return read_table(path, ReadOptions.of(**reading))


WRITERS = (".csv", ".tsv", ".parquet")


def write_rows(frame: Any, path: Path) -> None:
    try:
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False)
        else:
            frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    except OSError as exc:
        raise UserError(f"Option `--out`: `{path}` cannot be written ({exc}).") from None
