"""SharingBench as a prior: a record a suite, as if each had been searched."""

from __future__ import annotations

import hashlib
import json

from optuna.distributions import distribution_to_json

from autometa.priors.prior_file import Prior
from autometa.priors.records import ARMS, Facts, Record, trial_of, widest
from autometa.priors.sharing_bench import SharingBench

NAME = "sharing-bench"
#: the searches of the table were never run as such, so that they ended when its format began
_FINISHED = "2026-01-01T00:00:00"


def bench_prior(bench: SharingBench, without: str | None = None) -> Prior:
    """All suites of the table, or those of other families than `without`.

    What is learned from them may only be tested on suites of a family that was left out.

    Raises:
        ValueError: the table has no such family.
    """
    if without is not None and without not in bench.families:
        raise ValueError(f"`without` should be one of {', '.join(bench.families)}.")
    return Prior(
        NAME,
        tuple(
            bench_record(bench, name)
            for family, names in bench.families.items()
            if family != without
            for name in names
        ),
    )


def bench_record(bench: SharingBench, name: str) -> Record:
    """What a search of all configurations of a suite would have left.

    Raises:
        DataError: no such suite.
    """
    suite = bench.suite(name)
    found = [(arm, trial) for arm in ARMS for trial in bench.trials(name, arm)]
    distributions = widest([trial for _, trial in found])
    facts = Facts(
        study=f"{NAME}-{name}",
        id=hashlib.sha256(name.encode()).hexdigest()[:32],
        finished=_FINISHED,
        suite=name,
        fingerprint=suite.fingerprint,
        episodic=False,
        max_epochs=suite.epochs[-1],
        space="",
        distributions={n: json.loads(distribution_to_json(d)) for n, d in distributions.items()},
        probes=suite.probes,
    )
    trials = [
        trial_of(
            number=trial.number,
            arm=arm,
            state=trial.state.name,
            value=trial.value,
            params=trial.params,
            rungs=trial.intermediate_values,
            distributions=distributions,
        )
        for arm, trial in found
    ]
    return Record(facts, tuple(sorted(trials, key=lambda trial: trial.number)))
