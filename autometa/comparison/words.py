"""The verdict in words: what is best, whether sharing helps, and which model to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Words(NamedTuple):
    """How the data is called: in short, and with what a reader has to know of it."""

    suite: str
    where: str


def sentence(out: Mapping[str, Any], words: Words) -> str:
    """The verdict.

    Args:
        out: the comparison as plain data.
    """
    rows = {row["name"]: row for row in out["methods"]}
    if out["recommended_why"] == "nothing":
        return (
            f"Nothing can be judged on {words.where}: the training constant makes no error on the "
            f"evaluation rows, or they have one class only; {_use(rows, out)} recommended."
        )
    parts = []
    # with no method but the two arms the second sentence says what the first would
    if set(rows) != {"sharing", "independent"}:
        parts.append(_best(out, rows, words))
    parts.append(_sharing(out, rows, words))
    parts.append(_recommended(out, rows))
    return " ".join(part for part in parts if part)


def _best(out: Mapping[str, Any], rows: Mapping[str, Any], words: Words) -> str:
    best = out["best"]
    first = rows[best["name"]]
    if best["over"] is None:
        return (
            f"No comparison on {words.where}: {_scores(first)} {_score(first)}, and there "
            "is nothing beside it."
        )
    second = rows[best["over"]]
    margin = _margin(best["margin"], best["margin_ci"])
    network = ""
    if best["network"] is not None and best["network"]["over"] != best["over"]:
        row = rows[best["network"]["over"]]
        gap = _margin(best["network"]["margin"], best["network"]["margin_ci"])
        network = f"; the best network, {row['words']}, is behind with {_score(row)} ({gap})"
    said = {best["name"], best["over"], (best["network"] or {}).get("over")}
    left = sorted((r for r in rows.values() if r["name"] not in said), key=_order)
    listed = ", ".join(f"{row['words']} {_score(row)}" for row in left)
    others = f" Others: {listed}." if left else ""
    if not best["ahead"]:
        return (
            f"No method is measurably ahead on {words.where}: {_scores(first)} "
            f"{_score(first)}, the next, {second['words']}, {_score(second)} ({margin}){network}."
            f"{others}"
        )
    return (
        f"Best on {words.where}: {first['words']}, {_score(first)}; the next, {second['words']}, "
        f"is behind with {_score(second)} ({margin}){network}.{others}"
    )


def _sharing(out: Mapping[str, Any], rows: Mapping[str, Any], words: Words) -> str:
    """Whether sharing helps against independent networks."""
    arms = [rows.get(name) for name in ("sharing", "independent")]
    missing = [
        n for n, row in zip(("sharing", "independent networks"), arms, strict=True) if not row
    ]
    if len(missing) == 2:
        return ""
    if missing:
        return (
            f"No network of the other arm can be judged, so nothing can be said about {missing[0]}."
        )
    sharing, independent = arms
    if sharing is None or independent is None or out["difference"] is None:
        return "Whether sharing helps cannot be told."
    gain = ""
    if out["layout"] == "rows":
        gain = "; Δm not defined"
    if out["delta_m"] is not None and out["delta_m_ci"] is not None:
        digits = _digits(out["delta_m_ci"], 1)
        low, high = (_signed(v, digits) for v in out["delta_m_ci"])
        gain = f"; Δm {_signed(out['delta_m'], digits)}%, {low} to {high}"
    both = (
        f"{_scores(sharing)} {_score(sharing)} against {_score(independent)} for "
        f"{independent['words']} ({_margin(out['difference'], out['difference_ci'])}{gain})"
    )
    effects = ""
    if out["layout"] == "rows":
        unlearned = sum(task["effect"] == "not learned" for task in out["tasks"])
        effects = f"; {out['helped']} of {len(out['tasks'])} tasks helped, {out['hurt']} hurt"
        effects += f", {unlearned} not learned by either" if unlearned else ""
    if not out["learned"]:
        return (
            f"Whether sharing helps on {words.suite} cannot be told, because no network has "
            f"learned anything: {both}, and predicting the mean or the most frequent class scores "
            f"0{effects}."
        )
    helps, loses, neither = _QUESTION[out["layout"]]
    if out["outcome"] == "sharing":
        return f"{helps} on {words.suite}: {both}{effects}."
    if out["outcome"] == "independent":
        return f"{loses} on {words.suite}: {both}{effects}."
    if opposed := [n for n in out["notes"] if n.startswith("the score favours")]:
        return (
            f"Whether sharing helps on {words.suite} is undecided, because {opposed[0]}: {both}"
            f"{effects}."
        )
    return f"{neither} on {words.suite}: {both}, a difference within noise{effects}."


#: layout → what is said where sharing wins, loses, and where that is undecided
_QUESTION = {
    "rows": (
        "Sharing helps",
        "Independent networks win",
        "Sharing neither helps nor hurts measurably",
    ),
    "episodes": (
        "Learning from many tasks helps",
        "Learning every task from scratch wins",
        "Learning from many tasks neither helps nor hurts measurably",
    ),
}


def _recommended(out: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    row, why = rows[out["recommended"]], out["recommended_why"]
    kept = ""
    if out["delivered"]["method"] != out["recommended"]:
        kept = f" The network that is delivered all the same: {out['delivered']['words']}."
    if why == "only":
        return f"Recommended: {row['words']}." + kept
    if why == "ahead":
        of = "the other" if len(rows) == 2 else "all others"
        return f"Recommended: {row['words']}, measurably ahead of {of}." + kept
    value = "" if row["validation"] is None else f" ({row['validation']:.3f})"
    of = "the two" if len(rows) == 2 else "those not told apart from the best"
    return f"Recommended: {row['words']}, the best of {of} on validation{value}." + kept


def _use(rows: Mapping[str, Any], out: Mapping[str, Any]) -> str:
    row = rows[out["recommended"]]
    return f"{row['words']} {'are' if out['recommended'] == 'independent' else 'is'}"


def _scores(row: Mapping[str, Any]) -> str:
    """Its name with the verb: several trees or networks score, one way to share scores."""
    head = str(row["words"]).split(",")[0].split(" (")[0]
    several = head.endswith(("networks", "trees", "forests"))
    comma = "," if "," in row["words"] else ""
    return f"{row['words']}{comma} {'score' if several else 'scores'}"


def _order(row: Mapping[str, Any]) -> float:
    return float("inf") if row["score"] is None else -row["score"]


def _score(row: Mapping[str, Any]) -> str:
    return "nothing" if row["score"] is None else f"{row['score']:.3f}"


def _margin(estimate: float | None, ends: Sequence[float] | None) -> str:
    if estimate is None or ends is None:
        return "difference not defined"
    digits = _digits(ends, 3)
    low, high = (_signed(v, digits) for v in ends)
    return f"difference {_signed(estimate, digits)}, 95% interval {low} to {high}"


def _digits(ends: Sequence[float], least: int) -> int:
    """Enough digits that no end of an interval reads as 0 that is not: its side is the finding."""
    enough = (d for d in range(least, least + 3) if all(round(v, d) or not v for v in ends))
    return next(enough, least)


def _signed(x: float, digits: int) -> str:
    return f"{round(x, digits) + 0.0:+.{digits}f}"  # + 0.0 turns −0.0 into 0.0
