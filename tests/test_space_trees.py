"""Trees of tasks in a search space: what is asked for, equal trees as one point, and checks."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from autometa.errors import SpaceError
from autometa.networks import Problem
from autometa.sharing.tree import TreeConfig, all_trees, refinements
from autometa.space import Space, readable
from autometa.space import check as space_check
from autometa.trial import TrialConfig, build
from tests.small import same_kind

TREE = """
backbone.width: 8
backbone.depth: 3
sharing.kind: {type: categorical, choices: [tree]}
sharing.partitions: {type: partitions, when: {sharing.kind: tree}}
"""
#: of 7 tasks
NESTED = ("0000000", "0001000", "0012000", "0012003", "0012034", "0012345", "0123456")


def space(parameters: str = TREE, top: str = "") -> Space:
    indented = textwrap.indent(textwrap.dedent(parameters), "  ")
    return Space.from_yaml(f"{top}\nparameters:\n{indented}\n", "mine.yaml")


def problem(n_tasks: int, layout: str = "aligned") -> Problem:
    return same_kind(layout, n_tasks=n_tasks)


class Path:
    """A trial that takes a given choice at each question, the first one beyond them."""

    def __init__(self, turns: Sequence[int]) -> None:
        self.turns = list(turns)
        self.asked: dict[str, list[Any]] = {}
        self.taken: dict[str, Any] = {}

    def _take(self, name: str, choices: Sequence[Any]) -> Any:
        assert name not in self.asked
        position = len(self.asked)
        self.asked[name] = list(choices)
        turn = self.turns[position] if position < len(self.turns) else 0
        self.taken[name] = choices[turn]
        return choices[turn]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, choices)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._take(name, range(low, high + 1, step)))

    def suggest_float(self, *args: Any, **kwargs: Any) -> float:
        raise AssertionError("a tree asks for no float")


def every_path(bound: Space) -> list[tuple[dict[str, Any], Path]]:
    """What each sequence of answers gives."""
    found, stack = [], [[]]  # type: ignore[var-annotated]  # lists of turns
    while stack:
        turns = stack.pop()
        path = Path(turns)
        found.append((bound.suggest(path, "sharing"), path))
        sizes = [len(choices) for choices in path.asked.values()]
        # all that differ from this path first at a question beyond its turns
        for place in range(len(turns), len(sizes)):
            stack += [[*turns, *[0] * (place - len(turns)), k] for k in range(1, sizes[place])]
    return found


# --- few tasks: every tree is one point


@pytest.mark.parametrize(
    ("n_tasks", "n_blocks", "count"),
    [(2, 3, 4), (3, 3, 22), (4, 3, 154), (5, 3, 1304), (3, 1, 5), (5, 2, 358)],
)
def test_paths_are_the_trees_once_each_without_the_independent_one(
    n_tasks: int, n_blocks: int, count: int
) -> None:
    bound = space(TREE.replace("depth: 3", f"depth: {n_blocks}")).bind(problem(n_tasks))
    trees = [values["sharing.partitions"] for values, _ in every_path(bound)]
    every = all_trees(n_tasks, n_blocks)
    assert len(every) == count
    apart = "/".join(["01234"[:n_tasks]] * n_blocks)
    assert sorted(trees) == sorted(set(every) - {apart})


def test_what_a_name_may_be_never_changes_and_is_what_distributions_say() -> None:
    bound = space().bind(problem(4))
    known = bound.distributions("sharing")
    assert known.pop("sharing.kind") == CategoricalDistribution(["tree"])
    seen: dict[str, list[Any]] = {}
    for _, path in every_path(bound):
        for name, choices in path.asked.items():
            if name != "sharing.kind":
                assert seen.setdefault(name, choices) == choices
                assert len(choices) > 1
    assert known == {name: CategoricalDistribution(choices) for name, choices in seen.items()}
    assert known["sharing.partitions.1"] == CategoricalDistribution(refinements("0000")[:-1])
    assert known["sharing.partitions.3.0011"] == CategoricalDistribution(
        ["0011", "0012", "0122", "0123"]
    )


def test_one_task_has_one_tree() -> None:
    bound = space().bind(problem(1))
    (only,) = every_path(bound)
    assert only[0]["sharing.partitions"] == "0/0/0"
    assert set(only[1].asked) == {"sharing.kind"}


def test_blocks_follow_a_searched_depth() -> None:
    bound = space(TREE.replace("depth: 3", "depth: {type: int, low: 1, high: 3}")).bind(problem(3))
    trees: dict[int, set[str]] = {1: set(), 2: set(), 3: set()}
    for values, _ in every_path(bound):
        trees[values["backbone.depth"]].add(values["sharing.partitions"])
    assert {n: len(found) for n, found in trees.items()} == {1: 4, 2: 11, 3: 21}
    assert "sharing.partitions.3.000" in bound.distributions("sharing")


def test_blocks_of_a_depth_that_is_not_listed_are_the_default() -> None:
    bound = space(TREE.replace("backbone.depth: 3\n", "")).bind(problem(3))
    default = TrialConfig().flat()["backbone.depth"]
    (values, _), *_ = every_path(bound)
    assert values["sharing.partitions"].count("/") + 1 == default


# --- many tasks: cuts of one dendrogram


@pytest.mark.parametrize("n_tasks", [7, 11])
def test_many_tasks_take_non_decreasing_cuts(n_tasks: int) -> None:
    cuts = NESTED if n_tasks == 7 else None
    bound = space().bind(problem(n_tasks), cuts)
    if cuts is None:
        cuts = bound.cuts
        assert len(cuts) == 8
    most = len(cuts)
    first = 6 if n_tasks == 7 else 8  # 7 of 7 from the first block on are independent networks
    found = every_path(bound)
    expected = {
        "/".join(cuts[k - 1] for k in ks)
        for ks in itertools.combinations_with_replacement(range(1, most + 1), 3)
        if ks[0] <= first
    }
    trees = [values["sharing.partitions"] for values, _ in found]
    assert len(trees) == len(set(trees))
    assert set(trees) == expected
    for tree in trees:
        TreeConfig(partitions=tree)  # canonical, and each refines the one before
    for _, path in found:
        counts = [v for name, v in path.taken.items() if name.startswith("sharing.clusters.")]
        assert counts == sorted(counts)
    assert bound.distributions("sharing") == {
        "sharing.kind": CategoricalDistribution(["tree"]),
        "sharing.clusters.1": IntDistribution(1, first),
        "sharing.clusters.2": IntDistribution(1, most),
        "sharing.clusters.3": IntDistribution(1, most),
    }


@pytest.mark.parametrize("n_tasks", [3, 6, 12, 40])
@pytest.mark.parametrize("layout", ["aligned", "grouped"])
def test_what_is_suggested_builds(n_tasks: int, layout: str) -> None:
    bound = space().bind(problem(n_tasks, layout))
    for seed in range(6):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        values = bound.suggest(trial, "sharing")
        assert values == bound.suggest(trial, "sharing")  # asking again changes nothing
        build(TrialConfig.from_flat(values), problem(n_tasks, layout))


def test_the_independent_arm_has_no_tree() -> None:
    trial = Path([])
    values = space().bind(problem(3)).suggest(trial, "independent")
    assert "sharing.partitions" not in values
    assert trial.asked == {}


def test_a_tree_is_shown_as_one_value() -> None:
    config = {"sharing.partitions": "000/001/012", "sharing.kind": "tree"}
    asked = {"backbone.width": 8, "sharing.partitions.1": "000", "sharing.partitions.2.000": "001"}
    shown = {"backbone.width": 8, "sharing.partitions": "000/001/012"}
    assert readable(asked, config) == shown
    assert readable({"backbone.width": 8, "sharing.clusters.1": 2}, config) == shown
    assert readable({"backbone.width": 8}, config) == {"backbone.width": 8}
    assert readable(asked, None) == asked  # the driver died before it noted the configuration


# --- what a file may not say, and branches


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            TREE.replace("partitions: {", "partitions: {cuts: [a], "),
            "partitions.cuts` is not known",
        ),
        (
            TREE.replace("partitions: {", "partitions: {n_tasks: 3, "),
            "partitions.n_tasks` is not known",
        ),
        (TREE.replace("type: partitions", "type: partition"), "Did you mean `partitions`"),
        (
            TREE.replace("sharing.partitions: ", "sharing.split_at: "),
            "`type: partitions` is for `sharing.partitions` alone",
        ),
        (TREE.replace("kind: tree}", "kind: tre}"), "Did you mean `tree`"),
        (TREE.replace("kind: tree}", "kid: tree}"), "`when` should name an earlier parameter"),
        (
            TREE.replace("backbone.depth: 3\n", "") + "backbone.depth: 3",
            "`sharing.partitions` in mine.yaml should come after `backbone.depth`",
        ),
        (
            TREE + "optimizer.clip: {type: float, low: 1, high: 2, when: {sharing.partitions: a}}",
            "Found `sharing.partitions`, which is a range",
        ),
    ],
)
def test_what_the_file_may_not_say(parameters: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(parameters)
    assert message in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("n_tasks", [3, 9])
def test_partitions_of_other_kinds_of_sharing_are_found_before_any_trial(n_tasks: int) -> None:
    other = TREE.replace("choices: [tree]", "choices: [hard, tree]")
    space(other).bind(problem(n_tasks))
    with pytest.raises(SpaceError, match="`sharing.partitions` is not known"):
        space(other.replace(", when: {sharing.kind: tree}", "")).bind(problem(n_tasks))
    with pytest.raises(SpaceError, match=r"independent.*add `when: \{sharing.kind: …\}`"):
        space(TREE.replace(", when: {sharing.kind: tree}", "")).bind(problem(n_tasks))


@pytest.mark.parametrize("unbuildable", ["error", "drop"])
def test_trees_that_leave_tasks_together_before_one_head_are_found_before_any_trial(
    unbuildable: str,
) -> None:
    one_head = space(TREE + "head: single_head", f"unbuildable: {unbuildable}")
    with pytest.raises(SpaceError, match=r"`sharing.partitions = 000/000/000`.*are equal"):
        one_head.bind(problem(3))
    one_head.bind(problem(3, "grouped"))
    space(TREE + "head: single_head\nconditioning.kind: additive").bind(problem(3))


@pytest.mark.parametrize("n_tasks", [3, 9])
def test_trees_are_checked_in_pairs_too(n_tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TREE.replace("depth: 3", "depth: {type: int, low: 1, high: 3}")
    text = text.replace("width: 8", "width: {type: categorical, choices: [4, 8]}")
    monkeypatch.setattr(space_check, "MAX_BRANCHES", 3)
    seen = []
    real = space_check.check
    monkeypatch.setattr(space_check, "check", lambda c, p: (seen.append(c.flat()), real(c, p))[1])
    space(text).bind(problem(n_tasks))
    trees = {c["sharing.partitions"] for c in seen if c["sharing.kind"] == "tree"}
    one = "0" * n_tasks
    for depth in (1, 2, 3):
        assert "/".join([one] * depth) in trees
    assert any(tree.startswith(f"{one}/{one}/") and tree.count(one) == 2 for tree in trees)
    assert any(not tree.startswith(one) for tree in trees)
