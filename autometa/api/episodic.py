"""Searches in episodes: what the user asks for, checked, and what a study remembers of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autometa.errors import DataError, StudyError, UserError
from autometa.searching.settings import SearchSettings
from autometa.tasks import EpisodicSuite, TaskSuite, load_suite
from autometa.tasks.episodes import EpisodeShape

#: attribute of a study: the shape of its episodes
EPISODES = "episodes"
#: query rows of an episode, or of each of its classes, unless told otherwise
QUERIES = 15


@dataclass(frozen=True)
class EpisodeRequest:
    """The episodes that were asked for; `of_suite` makes them of a suite.

    Attributes:
        ways, shots, queries: as in `EpisodeShape`; `queries`, if None, are `QUERIES`, or as many
            as there are.
        one_task: classes of an episode are all of one task.
        test_ways, test_shots: of test episodes, where they differ.
    """

    shots: int
    ways: int | None = None
    queries: int | None = None
    one_task: bool = False
    test_ways: int | None = None
    test_shots: int | None = None

    def of_suite(self, suite: TaskSuite) -> EpisodicSuite:
        """The suite in episodes.

        Raises:
            DataError: the suite cannot be cut into such episodes, or no task has so many rows.
        """
        cut = self._cut(suite, self.queries or QUERIES)
        groups = cut.task if cut.classes is None else cut.classes
        most = int(torch.bincount(groups).max()) - cut.shape.shots
        if cut.shape.queries <= most:
            return cut
        if self.queries is None:
            return self._cut(suite, most)
        of = "task" if cut.classes is None else "class"
        raise DataError(
            f"Parameter `queries` should be at most {most}: no {of} has more rows beside its "
            f"{cut.shape.shots} support rows. Found `queries = {self.queries}`."
        )

    def _cut(self, suite: TaskSuite, queries: int) -> EpisodicSuite:
        shape = EpisodeShape(ways=self.ways, shots=self.shots, queries=queries)
        test = EpisodeShape(
            ways=self.test_ways or self.ways,
            shots=self.test_shots or self.shots,
            queries=queries,
        )
        return EpisodicSuite.from_suite(
            suite, shape, one_task=self.one_task, test_shape=None if test == shape else test
        )


def asked_episodes(
    episodic: bool,
    *,
    ways: int | None,
    shots: int | None,
    queries: int | None,
    one_task: bool,
    test_ways: int | None,
    test_shots: int | None,
) -> EpisodeRequest | None:
    """The episodes that were asked for; None without.

    Raises:
        UserError: one sentence that names the setting.
    """
    given: dict[str, tuple[Any, int]] = {
        "ways": (ways, 2),
        "shots": (shots, 1),
        "queries": (queries, 1),
        "test_ways": (test_ways, 2),
        "test_shots": (test_shots, 1),
    }
    for name, (value, least) in given.items():
        if value is not None and value < least:
            raise UserError(
                f"Parameter `{name}` should be at least {least}. Found `{name} = {value}`."
            )
        if value is not None and not episodic:
            raise UserError(
                f"Parameter `{name}` is about episodes: add `episodic = True` (`--episodic`). "
                f"Found `{name} = {value}`."
            )
    if one_task and not episodic:
        raise UserError(
            "Parameter `one_task` is about episodes: add `episodic = True` (`--episodic`). Found "
            "`one_task = True`."
        )
    if not episodic:
        return None
    if shots is None:
        raise UserError(
            "Parameter `shots` should be given with `episodic = True`: how many rows (of each "
            "class) a new task is learned from, for example 5."
        )
    return EpisodeRequest(shots, ways, queries, one_task, test_ways, test_shots)


def check_settings_of_episodes(settings: SearchSettings, diagnose: bool | None) -> None:
    """Refuse what a search in episodes does not have.

    Raises:
        UserError: one sentence that names the setting.
    """
    for name in ("no_task_worse_than", "cost"):
        if (value := getattr(settings, name)) is not None:
            raise UserError(
                f"Parameter `{name}` should be left out in episodes, where networks are compared "
                f"on tasks that none has seen. Found `{name} = {value}`."
            )
    if settings.ensemble > 1:
        raise UserError(
            "Parameter `ensemble` should be 1 or left out in episodes, where one network is "
            f"delivered. Found `ensemble = {settings.ensemble}`."
        )
    if diagnose:
        raise UserError(
            "Parameter `diagnose` (`--diagnosis`) should be left out in episodes, where every task "
            "adapts and nothing is shared by force. Found `diagnose = True`."
        )


def episode_facts(suite: EpisodicSuite) -> dict[str, Any]:
    """What a study remembers of its episodes, as plain JSON."""
    shape, test = suite.shape, suite.test_shape
    return {
        "ways": shape.ways,
        "shots": shape.shots,
        "queries": shape.queries,
        "one_task": suite.one_task,
        "test_ways": test.ways,
        "test_shots": test.shots,
    }


def check_same_episodes(
    name: str, earlier: Mapping[str, Any], facts: Mapping[str, Any] | None
) -> None:
    """Refuse to resume a study with other episodes than it has trials of.

    Raises:
        StudyError: one sentence that names both.
    """
    if earlier and (before := earlier.get(EPISODES)) != facts:
        raise StudyError(
            f"Study `{name}` was started with {_words(before)}; a resumed study must keep that. "
            f"Found {_words(facts)}. Give it the same episodes, or choose another study name."
        )


def training_flags(facts: Mapping[str, Any]) -> str:
    """The flags that give episodes like those that a study trains on."""
    flags = ["--episodic"]
    flags += [f"--ways {facts['ways']}"] * (facts["ways"] is not None)
    flags += [f"--shots {facts['shots']}", f"--queries {facts['queries']}"]
    return " ".join([*flags, *(["--one-task"] * facts["one_task"])])


def _words(facts: Mapping[str, Any] | None) -> str:
    """The flags that give such episodes."""
    if facts is None:
        return "no `--episodic`"
    flags = [training_flags(facts)]
    for name in ("ways", "shots"):
        if facts[f"test_{name}"] != facts[name]:
            flags.append(f"--test-{name} {facts[f'test_{name}']}")
    return f"`{' '.join(flags)}`"


def load_any(
    suite: TaskSuite | EpisodicSuite | str | Path,
    episodes: EpisodeRequest | None,
    options: Mapping[str, Any],
) -> TaskSuite | EpisodicSuite:
    """The suite that was given or named, in episodes where they are asked for."""
    ready = isinstance(suite, TaskSuite | EpisodicSuite)
    if ready and options:
        raise UserError(f"Options {', '.join(options)} go to `load_suite`, not to a suite.")
    loaded = suite if isinstance(suite, TaskSuite | EpisodicSuite) else load_suite(suite, **options)
    if isinstance(loaded, EpisodicSuite):
        if episodes is not None:
            raise UserError(
                "Parameter `episodic` is about suites of tasks. The suite given is one of episodes "
                "already: leave out `episodic`, `ways` and `shots`."
            )
        return loaded
    return loaded if episodes is None else episodes.of_suite(loaded)
