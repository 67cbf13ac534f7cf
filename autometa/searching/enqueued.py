"""What a trial that someone enqueued may ask for: nothing that the space has not."""

from __future__ import annotations

from autometa.errors import nearest
from autometa.space import Arm, Space
from autometa.space.space import Assignment
from autometa.study import GivenTrial, OutsideSpaceError


def assignment_of(space: Space, trial: GivenTrial, arm: Arm) -> Assignment:
    """Every parameter's value for a trial, and no less than was asked for.

    Raises:
        OutsideSpaceError: a value that was given is not in the space, is of a parameter that the
            space fixes at another, or of one that it does not have.
    """
    given = space.suggest(trial, arm)
    for name in trial.enqueued.keys() - trial.params.keys():
        value = trial.enqueued[name]
        if name in given and given[name] != value:
            raise OutsideSpaceError(
                f"Parameter `{name}` should be left out, or `{given[name]}`: the space does not "
                f"search it by this name. Found `{name} = {value}`."
            )
        known = {n for one in space.arms for n in space.distributions(one)}
        known |= {*space.parameters, *space.independent}
        if name not in known:  # one of another branch is only not asked for
            raise OutsideSpaceError(
                f"Parameter `{name}` is not one of {space.where}.{nearest(name, known)} "
                f"Found `{name} = {value}`."
            )
    return given
