"""What the numbers amount to: pure rules, each with its threshold and the reason for it.

Intervals are 95%. A difference is called one where its interval is on one side of 0: with three
seeds the t quantiles are wide, so what is called rarely is luck, and what is small stays uncalled.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from autometa.diagnosis.measurements import Estimate, Influence, Measured, Measurements
from autometa.intervals import benjamini_hochberg

Groups: TypeAlias = tuple[tuple[int, ...], ...]
"""Task numbers that belong together."""
Cause: TypeAlias = Literal[
    "capacity", "conflict", "apart", "regularisation", "transfer", "settings", "unexplained", "none"
]
"""Why sharing does what it does; see `find_cause`."""

#: a larger network that closes this share of what sharing costs explains it: more than all else
CLOSES = 0.5
#: a task that costs the others less than this in score is not worth a branch: sharing's effects
#: on real suites are from 0.007 (sarcos) to 0.08 (school)
HARMS = 0.005
#: a task has been learned when 90% of what it ever gains on validation is there …
LEARNED = 0.9
#: … and has been learned at all if it gains this much over the constant
LEAST_GAIN = 0.05
#: a task is late if it needs this many times the steps of the earliest (and 1/9 of training more)
LATE = 3.0
#: a network has overfitted if its score falls by this much after its best step
DECLINES = 0.01


def sharing_costs(m: Measurements) -> bool:
    """Whether sharing all blocks is worse than independent networks, in all or for some task."""
    whole = m.contrasts.get("trunk-independent")
    effects = m.effects.get("trunk-independent", ())
    return (whole is not None and whole.side < 0) or any(e.effect == "hurt" for e in effects)


def lacks_capacity(m: Measurements) -> bool:
    """Whether what sharing costs is room: three signs that have to come together.

    It costs (as above, and in all); the trunk fits the training rows worse than the independent
    networks, so it is not overfitting; and the same trunk with as many parameters as these have in
    all is better, and closes at least half of the difference.
    """
    cost = m.contrasts.get("trunk-independent")
    fit = m.training.get("trunk-independent")
    gain, left = m.contrasts.get("wide-trunk"), m.contrasts.get("wide-independent")
    if cost is None or fit is None or gain is None or left is None:
        return False
    closes = left.value >= (1.0 - CLOSES) * cost.value
    return sharing_costs(m) and cost.value < 0 and fit.side < 0 and gain.side > 0 and closes


def adversaries(influences: tuple[Influence, ...]) -> tuple[int, ...]:
    """Tasks whose leaving the trunk raises the others' score, the worst first.

    Benjamini–Hochberg at 5% over the tasks that were tested, and by at least `HARMS`.
    """
    tested = [one for one in influences if one.others is not None and one.p is not None]
    if not tested:
        return ()
    called = benjamini_hochberg(np.array([one.p for one in tested], dtype=float))
    found = [
        (one.others.value, one.task)
        for one, is_called in zip(tested, called, strict=True)
        if is_called and one.others is not None and one.others.value >= HARMS
    ]
    return tuple(task for _, task in sorted(found, key=lambda pair: (-pair[0], pair[1])))


def group(m: Measurements, harmful: tuple[int, ...]) -> Groups:
    """Groups of tasks that are best kept together: the largest sum of influences within groups.

    Groups are merged greedily, the pair with the largest sum of weights (`pair_weights`) first,
    until every merger would bring together what harms. Without an adversary there is one group.
    """
    n_tasks = len(m.tasks)
    if not harmful:
        return (tuple(range(n_tasks)),)
    weights = pair_weights(m, harmful)
    groups = [[task] for task in range(n_tasks)]
    while len(groups) > 1:
        gains = {
            (a, b): sum(weights[i, j] for i in groups[a] for j in groups[b])
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        }
        a, b = max(gains, key=lambda pair: gains[pair])
        if gains[a, b] < 0:
            break
        groups[a] += groups.pop(b)
    return tuple(sorted(tuple(sorted(g)) for g in groups))


def pair_weights(m: Measurements, harmful: tuple[int, ...]) -> np.ndarray:
    """[task, task]: positive where two tasks help each other in the trunk.

    A pair counts the mean of what its tasks do to each other. What an adversary gains from a task
    is not weighed against what it takes: there its own influence counts alone. Other pairs count
    against being together only if a change is called, or noise would split what nothing is known
    against.
    """
    n_tasks = len(m.tasks)
    changes: dict[tuple[int, int], Estimate] = {
        (one.task, other): change
        for one in m.influences
        for other, change in enumerate(one.changes)
        if change is not None and other != one.task
    }
    weights = np.zeros((n_tasks, n_tasks))
    for i in range(n_tasks):
        for j in range(i):
            guilty = {i, j} & set(harmful)
            both = [
                changes[pair]
                for pair in ((i, j), (j, i))
                if pair in changes and (not guilty or pair[0] in guilty)
            ]
            if not both:
                continue
            weight = -float(np.mean([change.value for change in both]))
            known = guilty or any(change.side > 0 for change in both)
            weights[i, j] = weights[j, i] = weight if known else max(weight, 0.0)
    return weights


def find_cause(m: Measurements, harmful: tuple[int, ...], groups: Groups) -> Cause:
    """The cause, the first of these that holds.

    `capacity`: the shared network is too small for all tasks (`lacks_capacity`). `conflict`: some
    tasks harm the others, and there are groups that go together. `apart`: some harm the others,
    and none go together. `regularisation`: sharing helps, and by less overfitting; `transfer`: it
    helps otherwise. `unexplained`: it hurts, and no control says why. `settings`: the best sharing
    trial is worse, but sharing every block is not. `none`: neither, measurably.
    """
    if lacks_capacity(m):
        return "capacity"
    if harmful:
        together = any(len(group) > 1 for group in groups)
        return "conflict" if together and len(groups) > 1 else "apart"
    effect, gap = m.contrasts.get("sharing-independent"), m.gaps.get("sharing-independent")
    if effect is not None and effect.side > 0:
        return "regularisation" if gap is not None and gap.side < 0 else "transfer"
    if sharing_costs(m):
        return "unexplained"
    return "settings" if effect is not None and effect.side < 0 else "none"


def learned_at(m: Measurements, network: Measured) -> tuple[int | None, ...]:
    """For each task the step with 90% of what it ever gains on validation; None: not learned."""
    found: list[int | None] = []
    for task in range(len(m.tasks)):
        curve = [-np.inf if row[task] is None else float(row[task] or 0.0) for row in network.curve]
        best = max(curve, default=-np.inf)
        done = [e for e, score in zip(m.steps, curve, strict=True) if score >= LEARNED * best]
        found.append(done[0] if best >= LEAST_GAIN else None)
    return tuple(found)


def overfits(network: Measured) -> bool:
    """Whether its validation score falls after its best step."""
    fall = network.decline
    return fall is not None and fall.side > 0 and fall.value >= DECLINES
