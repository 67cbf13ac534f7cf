"""`model.json`: what every stored model says of itself, and which kind of model it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autometa.errors import InfrastructureError, UserError, reason_of

FORMAT = 2
"""What this version writes: 1 had one network, without its dimension for members."""

NETWORK, PEER = "network", "peer"
"""Kinds of models."""


def write_facts(folder: Path, kind: str, facts: dict[str, Any]) -> None:
    """Write `model.json`.

    Raises:
        InfrastructureError: the disk refuses it.
    """
    path = folder / "model.json"
    try:
        text = json.dumps({"format": FORMAT, "kind": kind, **facts}, indent=1)
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise InfrastructureError(f"Cannot write {path}: {reason_of(exc)}.") from exc


def read_facts(folder: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """The inverse of `write_facts`; `kind` is always there.

    Args:
        needed: what has to be in it.

    Raises:
        UserError: the folder holds no model that this version can read.
    """
    try:
        facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise UserError(f"Folder `{folder}` holds no autometa model ({exc}).") from None
    found = facts.get("format") if isinstance(facts, dict) else None
    if found not in range(1, FORMAT + 1):
        raise UserError(
            f"Model `{folder}` has format {found}; this version reads 1 to {FORMAT}. "
            "Install the version of autometa that wrote it."
        )
    missing = set(needed) - set(facts)
    if missing:
        raise UserError(
            f"Folder `{folder}` holds no autometa model (no {', '.join(sorted(missing))} in "
            "model.json)."
        )
    return {"kind": NETWORK, **facts}
