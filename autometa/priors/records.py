"""What a finished search leaves for the next: its suite in numbers, its space, its trials."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import AfterValidator, Field, field_validator, model_validator

from autometa.config import Config
from autometa.space import Arm
from autometa.study import is_advised, rung_values, score_of, utc

STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
ARMS: tuple[Arm, Arm] = ("sharing", "independent")
PROBES_ATTRIBUTE = "probes"
"""Attribute of a study: the probes of its suite, name → number or None."""
MAX_PARAMETERS = MAX_CHOICES = 1_000
"""Of a record, and of one of its categories."""
MAX_END = 1e150
"""Of a range: the width of a larger one is not a number."""


def _one_line(text: str) -> str:
    """Refuse what a terminal may obey instead of printing."""
    if not text.isprintable():
        raise ValueError("it should have printable characters only")
    return text


Line = Annotated[str, AfterValidator(_one_line)]


class Facts(Config):
    """All of a record but its trials, as JSON.

    `study`, `id`, `finished`: which search it was, and when it ended (ISO 8601 in UTC, to the
    microsecond; without a zone, as older versions wrote it, local time).
    `suite`, `fingerprint`: what was searched; `episodic`: whether in episodes of held-out tasks.
    `max_steps`: optimizer steps of a trial that was never stopped early; None where training was
    counted in epochs, `max_epochs`, and the rungs of its trials are. `space`: its YAML.
    `distributions`: parameter → Optuna's JSON of its distribution, the widest of all trials.
    `probes`: name → number, None where it could not be measured (`probes.measure`).
    """

    study: Line = Field(max_length=200)
    id: Line = Field(max_length=64)
    finished: Line = Field(max_length=64)
    suite: Line = Field(max_length=500)
    fingerprint: Line = Field(max_length=200)
    episodic: bool
    max_steps: int | None = Field(None, ge=1)
    max_epochs: int | None = Field(None, ge=1)
    space: str
    distributions: dict[Line, dict[str, Any]] = Field(max_length=MAX_PARAMETERS)
    probes: dict[Line, Annotated[float, Field(allow_inf_nan=False)] | None]

    @model_validator(mode="after")
    def _has_one_length(self) -> Facts:
        if (self.max_steps is None) == (self.max_epochs is None):
            raise ValueError("A record should have either `max_steps` or `max_epochs`.")
        return self

    @field_validator("finished")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        try:
            utc(datetime.datetime.fromisoformat(value))
        except (ValueError, OverflowError, OSError) as exc:
            raise ValueError(f"`finished` should be a time in ISO 8601 ({exc}).") from None
        return value

    @field_validator("distributions")
    @classmethod
    def _readable(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, raw in value.items():
            try:
                found = json_to_distribution(json.dumps(raw))
            except (ValueError, TypeError, KeyError, ArithmeticError) as exc:
                raise ValueError(f"Distribution of `{name}` cannot be read ({exc}).") from None
            choices = getattr(found, "choices", ())
            if len(choices) > MAX_CHOICES:
                raise ValueError(f"Choices of `{name}` should be at most {MAX_CHOICES:,}.")
            if not all(isinstance(c, str | int | float | None) for c in choices):
                raise ValueError(f"Choices of `{name}` should be plain values. Found {choices}.")
            ends = [getattr(found, end, 0.0) for end in ("low", "high")]
            if not all(abs(end) <= MAX_END for end in ends):  # NaN neither
                raise ValueError(f"Range of `{name}` should be within ±{MAX_END}. Found {ends}.")
        return value


@dataclass(frozen=True)
class Record:
    """One finished search.

    Attributes:
        trials: those with parameters of their own, by number; the value is the score, higher is
            better, also in a study that minimised a cost beside it. User attribute `arm`.
        left_out: how many others the study had whose parameters are not in their ranges (Optuna
            takes those); 0 in a record that was read.
    """

    facts: Facts
    trials: tuple[FrozenTrial, ...]
    left_out: int = 0

    @property
    def name(self) -> str:
        """Of the study, with what tells two of one name apart."""
        return f"{self.facts.study}-{self.facts.id[:8]}"

    @property
    def finished(self) -> datetime.datetime:
        """When the search ended, in UTC."""
        return utc(datetime.datetime.fromisoformat(self.facts.finished))

    @property
    def order(self) -> tuple[datetime.datetime, str]:
        """Older searches come first; the name only decides between equal times."""
        return self.finished, self.name

    def of_arm(self, arm: str) -> list[FrozenTrial]:
        """The trials of one arm: what is good for one says little of the other."""
        return [t for t in self.trials if t.user_attrs["arm"] == arm]

    def odd_ones(self) -> str:
        """What is told of those that were left out."""
        n, of = self.left_out, self.left_out + len(self.trials)
        have = "trial has parameters" if n == 1 else "trials have parameters"
        return f"{n} of {of} {have} outside their ranges and {'is' if n == 1 else 'are'} left out."

    def counts(self) -> dict[str, int]:
        """State → trials."""
        return {s.name: sum(t.state == s for t in self.trials) for s in STATES}

    def best(self) -> float | None:
        """The best score of a completed trial."""
        values = [t.value for t in self.trials if t.state == TrialState.COMPLETE]
        return max((v for v in values if v is not None), default=None)


def record_of(study: optuna.Study, probes: Mapping[str, float | None]) -> Record:
    """The record of a study as `autometa search` leaves it.

    Args:
        study: with the attributes `suite`, `space`, `settings` and `id`.
        probes: of its suite; NaN or None for what could not be measured.
    """
    attrs = study.user_attrs
    return _record(
        study,
        id=attrs["id"],
        suite=_printable(attrs["suite"]["name"]),
        fingerprint=attrs["suite"]["fingerprint"],
        episodic="episodes" in attrs,
        **{name: attrs["settings"].get(name) for name in ("max_steps", "max_epochs")},
        space=attrs["space"],
        probes={n: v if v is not None and math.isfinite(v) else None for n, v in probes.items()},
    )


def record_of_any(study: optuna.Study, episodic: bool) -> Record:
    """The record of a study whose first value is to be maximised, whoever made it.

    Args:
        episodic: what is assumed where it does not say.

    Raises:
        ValueError: its trials are not what Optuna writes.
    """
    attrs = study.user_attrs
    if is_ours(study):
        return record_of(study, attrs.get(PROBES_ATTRIBUTE, {}))
    return _record(
        study,
        id=hashlib.sha256(study.study_name.encode()).hexdigest()[:32],
        suite=_printable(study.study_name),
        fingerprint="",
        episodic=episodic,
        max_steps=max([1, *(step for t in study.trials for step in t.intermediate_values)]),
        space="",
        probes={},
    )


def is_ours(study: optuna.Study) -> bool:
    """Whether a search of ours made this study."""
    return {"id", "suite", "settings", "space", "fingerprint"} <= study.user_attrs.keys()


def _record(study: optuna.Study, **facts: Any) -> Record:
    own = [t for t in study.get_trials(deepcopy=False) if t.state in STATES and not is_advised(t)]
    own = [t for t in own if t.params]
    distributions = widest(own)
    ended = max((t.datetime_complete for t in own if t.datetime_complete), default=None)
    fitting = [t for t in own if _is_inside(t, distributions)]
    arms = [t.user_attrs.get("arm") for t in fitting]
    trials = [
        trial_of(
            number=t.number,
            arm=arm if arm in ARMS else "sharing",
            state=t.state.name,
            value=score_of(t) if t.state == TrialState.COMPLETE else None,
            params=t.params,
            rungs={step: v for step, v in rung_values(t).items() if math.isfinite(v)},
            distributions=distributions,
        )
        for t, arm in zip(fitting, arms, strict=True)
    ]
    return Record(
        Facts(
            study=_printable(study.study_name)[:200],
            finished=utc(ended or datetime.datetime.now()).isoformat(timespec="microseconds"),
            distributions={
                n: json.loads(distribution_to_json(d)) for n, d in distributions.items()
            },
            **facts,
        ),
        tuple(trials),
        left_out=len(own) - len(fitting),
    )


def _is_inside(trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> bool:
    """Whether every value is in its range: Optuna runs an enqueued trial whose values are not."""
    try:
        return all(
            distributions[name]._contains(distributions[name].to_internal_repr(value))
            for name, value in trial.params.items()
        )
    except (ValueError, TypeError, OverflowError):
        return False


def trial_of(
    *,
    number: int,
    arm: str,
    state: str,
    value: float | None,
    params: Mapping[str, Any],
    rungs: Mapping[int, float],
    distributions: Mapping[str, BaseDistribution],
) -> FrozenTrial:
    """A trial of a record.

    Raises:
        ValueError: it is none: an unknown arm or state, a value where there is none or no value
            where there is one, a rung that is not finite, a parameter that is not known or is out
            of its range.
    """
    if arm not in ARMS or state not in {s.name for s in STATES}:
        raise ValueError(f"Trial {number} has arm {arm!r} and state {state!r}")
    unknown = next((name for name in params if name not in distributions), None)
    if unknown is not None:
        raise ValueError(f"Trial {number} has a parameter {unknown!r} without a distribution")
    if not all(math.isfinite(score) for score in rungs.values()):
        raise ValueError(f"Trial {number} has a rung whose score is not finite")
    trial = create_trial(
        state=TrialState[state],
        value=value,
        params=dict(params),
        distributions={name: distributions[name] for name in params},
        intermediate_values=dict(rungs),
        user_attrs={"arm": arm},
    )
    trial.number = number
    return trial


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in name)[:500]


def widest(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Parameter → a distribution that holds its values in all trials, whose ranges may depend on
    other parameters."""
    found: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            known = found.get(name)
            found[name] = distribution if known is None else _union(known, distribution)
    return found


def _union(a: BaseDistribution, b: BaseDistribution) -> BaseDistribution:
    if a == b or isinstance(a, CategoricalDistribution) or type(a) is not type(b):
        return a  # Optuna refuses other choices or another kind within one study
    if isinstance(a, IntDistribution) and isinstance(b, IntDistribution):
        # steps from different lows do not meet
        step = a.step if a.step == b.step and (a.low - b.low) % a.step == 0 else 1
        low, high = min(a.low, b.low), max(a.high, b.high)
        return IntDistribution(low, high, log=a.log, step=1 if a.log else step)
    if isinstance(a, FloatDistribution) and isinstance(b, FloatDistribution):
        same = (a.low, a.step) == (b.low, b.step)
        ends = min(a.low, b.low), max(a.high, b.high)
        return FloatDistribution(*ends, log=a.log, step=a.step if same else None)
    return a
