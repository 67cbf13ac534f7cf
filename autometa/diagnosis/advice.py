"""From findings to advice: words, and configurations that are tried and judged like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autometa.diagnosis.causes import Groups, overfits
from autometa.diagnosis.findings import Findings, braces, names
from autometa.diagnosis.measurements import Measurements
from autometa.errors import ConfigError
from autometa.networks import Problem
from autometa.trial import TrialConfig, check

#: configurations that are tried at most
TRIED = 2
#: groups that `sharing.partitions` has digits for
_MOST_GROUPS = 36
#: how much dropout is added against overfitting, and the most there is
_MORE_DROPOUT, _MOST_DROPOUT = 0.2, 0.6


@dataclass(frozen=True)
class Advice:
    """What to do.

    Attributes:
        text: in words.
        config: the configuration to try, dotted names to values; None where there is none.
        changes: what differs in it from the best sharing trial.
    """

    text: str
    config: dict[str, Any] | None = None
    changes: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def advise(m: Measurements, findings: Findings, problem: Problem) -> tuple[Advice, ...]:
    """What follows from the findings; at most two of it have a configuration to try.

    A configuration that cannot be built, or that is the best sharing trial's, is left out.
    """
    base = m.networks["sharing"].config
    found: list[Advice] = []
    tried: list[dict[str, Any]] = [base]
    for text, changes in [*_against_cause(m, findings), *_more_room(m), *_against_overfitting(m)]:
        config = None if changes is None else changed(base, changes, problem)
        if changes is not None and (config in tried or config is None or len(tried) > TRIED):
            continue
        if config is None:
            found.append(Advice(text))
            continue
        tried.append(config)
        differs = {key: value for key, value in config.items() if base.get(key) != value}
        found.append(Advice(text, config, differs))
    return tuple(found) or (Advice("Nothing to change that these numbers speak for."),)


Step = tuple[str, dict[str, Any] | None]


def _against_cause(m: Measurements, findings: Findings) -> list[Step]:
    base, trunk = m.networks["sharing"].config, m.networks.get("trunk")
    split, shares_all = _split(m)
    if findings.cause == "capacity":
        width = m.networks["wide"].width
        text = f"Widen the shared network to {width} units: it then has the parameters of its rival"
        return [(f"{text}.", {"sharing.split_at": m.blocks, "backbone.width": width})]
    if findings.cause == "conflict":
        return _split_groups(m, findings)
    if findings.cause == "apart":
        return [("Keep independent networks: no two tasks are better together.", None)]
    if findings.cause == "unexplained":
        if split > 1:
            text = f"Share less: the first {split - 1} of {m.blocks} blocks"
            return [(f"{text}.", {"sharing.kind": "hard", "sharing.split_at": split - 1})]
        return [("Keep independent networks.", None)]
    if findings.cause == "settings":
        text = "Share every block, which costs nothing here"
        return [(f"{text}.", {"sharing.kind": "hard", "sharing.split_at": m.blocks})]
    if findings.cause == "regularisation" and not shares_all and trunk is not None:
        text = "Share more, as sharing is what keeps these networks from overfitting: every block"
        return [(f"{text}.", {"sharing.kind": "hard", "sharing.split_at": m.blocks})]
    if findings.cause in ("regularisation", "transfer"):
        return [(f"Keep sharing as trial {m.networks['sharing'].trial} does.", None)]
    gain = m.contrasts.get("trunk-sharing")
    if gain is not None and gain.side > 0:
        text = f"Share every block: it scores better than {base['sharing.kind']} sharing as it is"
        return [(f"{text}.", {"sharing.kind": "hard", "sharing.split_at": m.blocks})]
    return []


def _more_room(m: Measurements) -> list[Step]:
    """Where the widened trunk is better than the best sharing trial, whatever else is wrong."""
    gain = m.contrasts.get("wide-sharing")
    if gain is None or gain.side <= 0:
        return []
    width = m.networks["wide"].width
    text = f"Share every block and widen them to {width} units: scores {gain.value:+.3f} higher"
    return [(f"{text}.", {"sharing.split_at": m.blocks, "backbone.width": width})]


def _split_groups(m: Measurements, findings: Findings) -> list[Step]:
    """The groups apart in every block, as was measured; then with some blocks in common."""
    groups = findings.groups
    if len(groups) > _MOST_GROUPS:
        return [(f"Train the groups {braces(m, groups)} apart.", None)]
    split, _ = _split(m)
    who = names([m.tasks[t] for t in findings.adversaries])
    since = min(
        (i.since for i in m.influences if i.task in findings.adversaries and i.since is not None),
        default=None,
    )
    when = f" after step {since}" if since is not None and since > m.steps[0] else ""
    text = f"{who} and the other tasks conflict{when}: group {braces(m, groups)}"
    first = partitions(groups, len(m.tasks), 0, m.blocks, m.blocks)
    found: list[Step] = [
        (f"{text}, split from block 1.", {"sharing.kind": "tree", "sharing.partitions": first})
    ]
    if split < m.blocks:
        text = f"The same groups in the {split} blocks that the best trial shares"
        second = partitions(groups, len(m.tasks), 0, split, m.blocks)
    elif m.blocks > 1:
        start = (m.blocks + 1) // 2
        text = f"Or split the same groups from block {start + 1} only, on common first features"
        second = partitions(groups, len(m.tasks), start, m.blocks, m.blocks)
    else:
        return found
    return [*found, (f"{text}.", {"sharing.kind": "tree", "sharing.partitions": second})]


def _against_overfitting(m: Measurements) -> list[Step]:
    if not overfits(m.networks["sharing"]):
        return []
    now = float(m.networks["sharing"].config.get("backbone.dropout", 0.0))
    more = round(min(_MOST_DROPOUT, now + _MORE_DROPOUT), 2)
    if more <= now:
        return [("The sharing network overfits: train it for fewer steps.", None)]
    text = f"The sharing network overfits: more dropout ({more:g} instead of {now:.2g})."
    return [(text, {"backbone.dropout": more})]


def _split(m: Measurements) -> tuple[int, bool]:
    """How many blocks the best sharing trial shares, and whether these are all."""
    base = m.networks["sharing"].config
    if base["sharing.kind"] != "hard":
        return m.blocks, False
    at = base.get("sharing.split_at")
    split = m.blocks if at is None else int(at)
    return split, split == m.blocks


def changed(
    base: Mapping[str, Any], changes: Mapping[str, Any], problem: Problem
) -> dict[str, Any] | None:
    """`base` with other values, or None if that cannot be built.

    Where the sharing mechanism becomes another, the old one's parameters go. Where conditioning or
    a single head does not go with it, they go too.
    """
    kept = dict(base)
    if changes.get("sharing.kind", base["sharing.kind"]) != base["sharing.kind"] or (
        "sharing.split_at" in changes and base["sharing.kind"] != "hard"
    ):
        kept = {name: value for name, value in base.items() if not name.startswith("sharing.")}
    plain = {name: value for name, value in kept.items() if not name.startswith("conditioning.")}
    for start in (kept, {**kept, "head": "multi_head"}, {**plain, "head": "multi_head"}):
        try:
            config = TrialConfig.from_flat({**start, **changes})
            check(config, problem)
        except ConfigError:
            continue
        return config.flat()
    return None


def counterparts(
    base: Mapping[str, Any], advice: Sequence[Mapping[str, Any]], problem: Problem
) -> list[Advice]:
    """What independent networks try where sharing networks try advice, so that both arms have as
    many tries: the same changes, where they can have them, else another learning rate.

    Args:
        base: the best independent configuration.
        advice: with changes, as JSON.
    """
    found: list[Advice] = []
    for one in advice:
        taken = [base, *(other.config for other in found)]
        if (other := _counterpart(base, one["changes"], taken, problem)) is not None:
            found.append(other)
    return found


def _counterpart(
    base: Mapping[str, Any], changes: Mapping[str, Any], taken: Sequence[Any], problem: Problem
) -> Advice | None:
    own = {
        name: value
        for name, value in changes.items()
        if name.startswith(("backbone.", "optimizer."))
    }
    rates = [{"optimizer.lr": base["optimizer.lr"] * factor} for factor in (0.5, 2.0, 0.25, 4.0)]
    for one in ([own] if own else []) + rates:
        config = changed(base, one, problem)
        if config is not None and config not in taken:
            return Advice("The independent networks' equal try.", config, one)
    return None


def partitions(groups: Groups, n_tasks: int, start: int, stop: int, n_blocks: int) -> str:
    """`sharing.partitions` with these groups in blocks `start` to `stop` − 1.

    The blocks before have all tasks in common, those after each task on its own.
    """
    place = {task: number for number, group in enumerate(groups) for task in group}
    grouped = [place[task] for task in range(n_tasks)]
    return "/".join(
        _digits([0] * n_tasks if b < start else grouped if b < stop else list(range(n_tasks)))
        for b in range(n_blocks)
    )


def _digits(partition: Sequence[int]) -> str:
    """Group numbers in the order of their first task, as characters."""
    order = list(dict.fromkeys(partition))
    return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[order.index(g)] for g in partition)
