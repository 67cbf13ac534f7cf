"""From numbers to findings: statements in words, each with its numbers and its rule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from autometa.diagnosis.causes import (
    CLOSES,
    DECLINES,
    HARMS,
    LATE,
    LEARNED,
    LEAST_GAIN,
    Cause,
    Groups,
    adversaries,
    find_cause,
    group,
    learned_at,
    overfits,
)
from autometa.diagnosis.measurements import Estimate, Measurements


@dataclass(frozen=True)
class Finding:
    """One statement, the numbers it rests on, and the rule that made it one."""

    kind: str
    text: str
    rule: str
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        cause: see `find_cause`.
        groups: of task numbers that should share, where the cause is `conflict`.
        adversaries: tasks that harm the others, the worst first.
    """

    cause: Cause
    all: tuple[Finding, ...]
    groups: Groups = ()
    adversaries: tuple[int, ...] = ()


def find(m: Measurements) -> Findings:
    """All findings, and the cause that they amount to."""
    harmful = adversaries(m.influences)
    groups = group(m, harmful)
    cause = find_cause(m, harmful, groups)
    found = [
        _effect(m, "sharing"),
        _effect(m, "trunk") if m.networks.get("trunk") != m.networks["sharing"] else None,
        _fit(m),
        _parameters(m),
        _because(m, cause, harmful, groups),
        *_overfitting(m),
        _speed(m),
    ]
    if cause != "conflict":
        groups = ()
    return Findings(cause, tuple(f for f in found if f is not None), groups, harmful)


# --- words ----------------------------------------------------------------------------------------


def _effect(m: Measurements, role: str) -> Finding | None:
    name = f"{role}-independent"
    effect = m.contrasts.get(name)
    if effect is None:
        return None
    effects = m.effects[name]
    helped, hurt = ([e.name for e in effects if e.effect == k] for k in ("helped", "hurt"))
    what = "the best sharing trial" if role == "sharing" else "sharing every block"
    word = {1: "better", -1: "worse", 0: "a difference within noise"}[effect.side]
    text = (
        f"On validation, {what} scores {_of(effect)} against independent networks, {word}; "
        f"helped: {names(helped)}; hurt: {names(hurt)}"
    )
    return Finding(
        "effect" if role == "sharing" else "trunk",
        f"{text}.",
        "95% interval over seeds and validation rows; a task is called after Benjamini–Hochberg "
        "at 5%, with at least 30 rows",
        {"difference": asdict(effect), "helped": helped, "hurt": hurt},
    )


def _fit(m: Measurements) -> Finding | None:
    gap = m.gaps.get("sharing-independent")
    if gap is None:
        return None
    one, two = m.networks["sharing"], m.networks["independent"]
    text = (
        f"Score on training minus validation rows: sharing {one.train - one.val:.3f}, independent "
        f"{two.train - two.val:.3f}"
    )
    if gap.side < 0:
        text += ": sharing overfits less"
    elif gap.side > 0:
        text += ": sharing overfits more"
    else:
        text += ", no difference that can be told"
    return Finding(
        "gap", f"{text}.", "95% interval of the difference of the gaps", {"difference": asdict(gap)}
    )


def _parameters(m: Measurements) -> Finding | None:
    wide, narrow = m.contrasts.get("wide-independent"), m.contrasts.get("trunk-narrow")
    parts = []
    if wide is not None:
        one = m.networks["wide"]
        parts.append(
            f"widened to {one.width} ({one.parameters:,} parameters, as many as the independent "
            f"networks have in all) sharing every block is ahead of these by {_of(wide)}"
        )
    if narrow is not None:
        one = m.networks["narrow"]
        parts.append(
            f"as it is, it is ahead of independent networks narrowed to {one.width} "
            f"({one.parameters:,} in all) by {_of(narrow)}"
        )
    if not parts:
        return None
    text = "With equal numbers of parameters, " + "; ".join(parts) + "."
    numbers = {"wide": wide and asdict(wide), "narrow": narrow and asdict(narrow)}
    return Finding("parameters", text, "95% intervals over seeds and validation rows", numbers)


def _because(
    m: Measurements,
    cause: Cause,
    harmful: tuple[int, ...],
    groups: Groups,
) -> Finding:
    numbers: dict[str, Any] = {}
    if cause == "capacity":
        fit, gain = m.training["trunk-independent"], m.contrasts["wide-trunk"]
        cost = m.contrasts["trunk-independent"]
        numbers = {"fit": asdict(fit), "widened": asdict(gain), "cost": asdict(cost)}
        text = (
            f"Capacity, not conflict: at width {m.networks['trunk'].width} the shared network "
            f"fits even its training rows worse than independent networks ({_of(fit)}), and "
            f"widening it gains {_of(gain)}, of the {-cost.value:.3f} that sharing costs"
        )
    elif cause == "conflict":
        numbers = _harm(m, harmful)
        worst = "; ".join(_harms(m, task) for task in harmful)
        text = f"Conflict: {worst}. Groups that go together: {braces(m, groups)}"
    elif cause == "apart":
        numbers = _harm(m, harmful)
        text = "Every group of tasks is better apart: " + "; ".join(_harms(m, t) for t in harmful)
    elif cause == "regularisation":
        text = "Sharing helps by overfitting less"
    elif cause == "transfer":
        text = "Sharing helps, and not by overfitting less: the tasks learn from each other"
    elif cause == "unexplained":
        text = "Sharing hurts, and these controls do not say why"
        if m.influences:
            text += "; no single task is to blame"
        room = m.contrasts.get("wide-trunk")
        if room is not None and room.side > 0:
            text += f"; more room gains {_of(room)}, which does not make up for it"
    elif cause == "settings":
        text = "Not the sharing: the best sharing trial is worse, but sharing every block is not"
    elif "independent" not in m.networks:
        text = "Without independent networks to compare with, nothing says whether sharing pays"
    else:
        text = "No cause to look for: validation rows show neither help nor harm"
    return Finding("cause", f"{text}.", _RULES[cause], numbers)


_RULES: dict[Cause, str] = {
    "capacity": "the trunk is worse than independent networks on validation and on training rows, "
    f"and a trunk of their size is better and closes at least {CLOSES:.0%} of the difference",
    "conflict": "a task's leaving the trunk raises the others' validation score by at least "
    f"{HARMS}, after Benjamini–Hochberg at 5%, and some tasks are better together",
    "apart": f"as for a conflict ({HARMS}, 5%), and no two tasks are better together",
    "regularisation": "sharing is better, and its training − validation gap is smaller",
    "transfer": "sharing is better, and its training − validation gap is not smaller",
    "settings": "the best sharing trial is worse than independent networks, and the trunk is not, "
    "neither in all nor for any task",
    "unexplained": "sharing every block is worse, in all or for some task, and no rule explains it",
    "none": "no interval excludes 0",
}


def _harms(m: Measurements, task: int) -> str:
    one = next(i for i in m.influences if i.task == task)
    since = f" from step {one.since} on" if one.since is not None else ""
    cost = f" ({_of(one.others)} in score without it)" if one.others else ""
    return f"{m.tasks[task]} harms the other tasks{since}{cost}"


def _harm(m: Measurements, harmful: tuple[int, ...]) -> dict[str, Any]:
    return {
        m.tasks[one.task]: {"others": one.others and asdict(one.others), "since": one.since}
        for one in m.influences
        if one.task in harmful
    }


def _overfitting(m: Measurements) -> list[Finding]:
    found = []
    for role in ("sharing", "independent"):
        one = m.networks.get(role)
        if one is not None and one.decline is not None and overfits(one):
            what = "The sharing network" if role == "sharing" else "Independent networks"
            verb = "overfits" if role == "sharing" else "overfit"
            found.append(
                Finding(
                    f"overfitting-{role}",
                    f"{what} {verb}: validation is best after step {one.peak} of {m.steps[-1]} "
                    f"and falls by {one.decline.value:.3f} until the end.",
                    f"a fall of at least {DECLINES}, its 95% interval over the seeds above 0",
                    {"decline": asdict(one.decline), "peak": one.peak},
                )
            )
    return found


def _speed(m: Measurements) -> Finding | None:
    network = m.networks.get("trunk", m.networks["sharing"])
    done = learned_at(m, network)
    known = {m.tasks[t]: step for t, step in enumerate(done) if step is not None}
    never = [m.tasks[t] for t, step in enumerate(done) if step is None]
    parts = []
    if known:
        first = min(known.values())
        late = [n for n, e in known.items() if e >= LATE * first and e - first >= m.steps[-1] / 9]
        if late:
            early = [n for n, e in known.items() if e == first]
            parts.append(
                f"{names(early)} after step {first}, {names(late)} not before step "
                f"{min(known[n] for n in late)}"
            )
        else:
            parts.append(f"all at about the same time, by step {max(known.values())}")
    text = f"The tasks are learned {'; '.join(parts)}" if parts else "No task is learned"
    if never and parts:
        text += f"; {names(never)} not at all"
    return Finding(
        "speed",
        f"{text}.",
        f"{LEARNED:.0%} of the best validation score; late: {LATE:g} times the earliest step; "
        f"not learned: best score below {LEAST_GAIN}",
        {"steps": dict(zip(m.tasks, done, strict=True))},
    )


def names(tasks: list[str], most: int = 6) -> str:
    """A list in words, cut where it is long."""
    if not tasks:
        return "none"
    if len(tasks) > most:
        return f"{', '.join(tasks[:most])} and {len(tasks) - most} more"
    return ", ".join(tasks)


def _of(estimate: Estimate) -> str:
    e = estimate
    return f"{e.value:+.3f} ({e.low:+.3f} to {e.high:+.3f})"


def braces(m: Measurements, groups: Groups) -> str:
    """Groups of tasks as `{a, b}, {c}`."""
    return ", ".join("{" + names([m.tasks[t] for t in group], 8) + "}" for group in groups)
