"""The search spaces that come with autometa."""

from __future__ import annotations

from pathlib import Path


def shipped_spaces() -> dict[str, Path]:
    """Name → file of the spaces that come with autometa."""
    package = Path(__file__).parent.parent
    for folder in (package / "search_spaces", package.parent / "search_spaces"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}
