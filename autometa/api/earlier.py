"""Which earlier model fits a suite, and which of those in the home folder is the nearest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autometa.errors import InfrastructureError, UserError
from autometa.home import Home
from autometa.model import Model
from autometa.model.storing import NETWORK, PEER, read_facts
from autometa.networks import Problem
from autometa.priors import probes, shelf
from autometa.priors.sources import distances
from autometa.tasks import EpisodicSuite, Task, TaskSuite
from autometa.tasks.encoder import TableEncoder
from autometa.training.initial import Initial

#: part of a suite's features that a model has to know
KNOWN = 0.5


class Unfit(Exception):
    """Why nothing of a model fits: a clause that ends a sentence."""


@dataclass(frozen=True)
class Candidate:
    """A model that fits, and what a study remembers of it."""

    initial: Initial
    facts: dict[str, Any]


def candidate(path: Path, suite: TaskSuite | EpisodicSuite) -> Candidate:
    """What of a model may be used on a suite.

    Raises:
        Unfit: nothing.
        UserError: it cannot be read.
    """
    return _of_model(read_model(path), path, suite)


def _of_model(model: Model, path: Path, suite: TaskSuite | EpisodicSuite) -> Candidate:
    if "study" in model.facts and model.facts.get("fingerprint") == suite.fingerprint:
        raise Unfit(
            "it was trained on the validation rows of this very suite, which could not judge it "
            "any more"
        )
    columns = _columns(model, suite)
    known = () if model.new_task is None else model.new_task.classes
    answers = _answers(model.problem, model.tasks, known)
    if isinstance(suite, EpisodicSuite):
        own = _answers(Problem.of(suite), (), suite.labels)
    else:
        own = _answers(Problem.of(suite), suite.tasks, ())
    head = answers is not None and answers == own
    initial = Initial.of(model.config, model.problem, model.member(0)[0], head=head)
    if not initial.blocks:
        kind = model.config.flat()["sharing.kind"]
        raise Unfit(f"its tasks have no block in common (`sharing.kind = {kind}`)")
    if columns is not None:
        initial = initial.with_inputs(columns)
    facts = {
        "asked": str(path),
        "model": path.name,
        "suite": model.facts.get("suite"),
        "study": model.facts.get("study"),
        "distance": None,
        "fit": 1,
    }
    return Candidate(initial, facts)


def nearest_candidate(
    home: Home, suite: TaskSuite | EpisodicSuite, fits: Callable[[Initial], object]
) -> tuple[Candidate | None, str]:
    """The fitting model of the search in the home folder whose suite is nearest by its probes.

    Args:
        fits: raises `Unfit` where no network of the space has such blocks.

    Returns:
        It, the newest if the suite cannot be measured, or None; and a sentence that says why it is
        not the nearest, which is empty if it is.
    """
    found: list[Candidate] = []
    measured: list[list[float]] = []
    reasons: list[str] = []
    for record in shelf.records(home, reasons.append):
        path = home.models / record.facts.study
        try:
            if not path.is_dir():
                raise Unfit("its model is gone")
            model = read_model(path)
            if model.facts.get("fingerprint") != record.facts.fingerprint:
                raise Unfit("it is the model of another search")
            if record.facts.suite == suite.name:
                raise Unfit(
                    "its suite has the same name, so it may have seen rows of this one; if it has "
                    "not, name it with `--init-from`"
                )
            one = _of_model(model, path, suite)
            fits(one.initial)
        except (Unfit, UserError) as exc:
            reasons.append(f"`{path.name}`: {str(exc).rstrip('.')}")
            continue
        found.append(one)
        measured.append(probes.vector(record.facts.probes))
    if not found:
        if not reasons:
            return None, "There is no earlier model yet: every run starts at random."
        return None, f"No earlier model fits, every run starts at random ({'; '.join(reasons)})."
    best, distance, why = len(found) - 1, None, ""
    if len(found) > 1:
        try:
            own = probes.vector(dict(probes.measure(suite.without_test())))
        except Exception as exc:  # whatever it stumbled over, any that fits may be tried
            why = (
                f"The suite could not be measured ({type(exc).__name__}: {exc}), so the newest "
                "earlier model that fits is taken."
            )
        else:
            far = distances(np.array([own, *measured]))
            best = int(np.argmin(far))
            distance = round(float(far[best]), 3)
    more = {"asked": "auto", "distance": distance, "fit": len(found)}
    return replace(found[best], facts={**found[best].facts, **more}), why


def read_model(path: Path) -> Model:
    """A network that may be damaged.

    Raises:
        Unfit: the model is no network and has none beside it, so it has no blocks.
        UserError: it cannot be read.
    """
    try:
        facts = read_facts(path)
        if facts["kind"] == PEER:
            path = path / NETWORK
            if not path.is_dir():
                raise Unfit(f"it is no network ({facts['words']})")
        return Model.load(path)
    except UserError as exc:
        raise UserError(f"Parameter `init_from` (`--init-from`): {exc}") from None
    except (InfrastructureError, AttributeError, KeyError, TypeError, ValueError) as exc:
        raise UserError(
            f"Parameter `init_from` (`--init-from`): model `{path}` is damaged "
            f"({' '.join(str(exc).split())}). Train it again, or choose another."
        ) from None


def _columns(model: Model, suite: TaskSuite | EpisodicSuite) -> list[int | None] | None:
    """For each feature of the suite, which of the model's it is by name; None if they are equal.

    Raises:
        Unfit: a first layer that was trained on the model's inputs is of no use here.
    """
    old, new = model.encoder, suite.encoder
    shapes = model.problem.feature_shape, tuple(suite.feature_shape)
    if isinstance(old, TableEncoder) and isinstance(new, TableEncoder):
        if old.features == new.features:
            return None
        place = {name: column for column, name in enumerate(old.features)}
        columns = [place.get(name) for name in new.features]
        unknown = [n for n, at in zip(new.features, columns, strict=True) if at is None]
        if len(unknown) > (1 - KNOWN) * len(columns):
            raise Unfit(
                f"it knows {len(columns) - len(unknown)} of the {len(columns)} features by their "
                f"names, `{unknown[0]}` for one it does not"
            )
        kind = model.config.flat()["backbone.kind"]
        if kind != "mlp":
            raise Unfit(f"its features are others or in another order, which `{kind}` cannot take")
        return columns
    if shapes[0] != shapes[1]:
        raise Unfit(f"it reads {_inputs(shapes[0])}, and this suite has {_inputs(shapes[1])}")
    if isinstance(old, TableEncoder) != isinstance(new, TableEncoder):
        raise Unfit("of one of the two the names of the features are not known")
    return None


def _inputs(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return f"images of {'×'.join(map(str, shape))}"
    return f"{shape[0]} features"


def _answers(problem: Problem, tasks: Sequence[Task], labels: Sequence[Any]) -> object:
    """What one head predicts for every task: its kind, and the labels of its classes.

    None where tasks differ in it; in episodes with classes these are new each time.

    Args:
        labels: of binary tasks, in episodes.
    """
    if problem.episode is None:
        kinds = {(task.kind, tuple(task.classes)) for task in tasks}
        return kinds.pop() if len(kinds) == 1 else None
    return problem.kinds[0], problem.episode.ways or tuple(labels)
