"""Studies and their storage: one Optuna study a search, the only truth about its trials.

A study is a journal file in the home folder, or lives in any database that Optuna takes. One driver
at a time changes it, through a `StudyHandle`; anyone may read it at any time with `read_study`.

    with open_study(home, "first", fingerprint=suite.fingerprint, attrs={"space": text}) as study:
        trial = study.ask("sharing", partial(make_sampler, "tpe", seed))
        assignment = space.suggest(trial, "sharing")
        study.commit()                                  # one fsync, before work is handed out
        ...
        study.report(trial, value, step)
        study.tell(trial, value)
        study.commit()                                  # and one after its results
"""

from autometa.study.databases import hidden, storage_errors
from autometa.study.given import GivenTrial, OutsideSpaceError
from autometa.study.handle import SamplerFor, StudyHandle
from autometa.study.journal import GroupedJournalBackend
from autometa.study.rows import trial_rows
from autometa.study.samplers import (
    SAMPLER_TRIALS,
    SAMPLERS,
    WITH_OBJECTIVES,
    make_sampler,
    visible_trials,
)
from autometa.study.store import (
    broken_studies,
    delete_study,
    list_studies,
    open_study,
    read_study,
    reading,
)
from autometa.study.values import (
    ADVISED,
    BEST_STEP,
    DEFAULT,
    DROPPED,
    PROPOSED_BY,
    cost_of,
    is_advised,
    is_default,
    is_eligible,
    pareto_front,
    proposed_by,
    rung_values,
    score_of,
    utc,
    violation,
)

__all__ = [
    "ADVISED",
    "BEST_STEP",
    "DEFAULT",
    "DROPPED",
    "PROPOSED_BY",
    "SAMPLERS",
    "SAMPLER_TRIALS",
    "WITH_OBJECTIVES",
    "GivenTrial",
    "GroupedJournalBackend",
    "OutsideSpaceError",
    "SamplerFor",
    "StudyHandle",
    "broken_studies",
    "cost_of",
    "delete_study",
    "hidden",
    "is_advised",
    "is_default",
    "is_eligible",
    "list_studies",
    "make_sampler",
    "open_study",
    "pareto_front",
    "proposed_by",
    "read_study",
    "reading",
    "rung_values",
    "score_of",
    "storage_errors",
    "trial_rows",
    "utc",
    "violation",
    "visible_trials",
]
