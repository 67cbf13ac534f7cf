"""Studies and their storage: one Optuna study a search, the only truth about its trials.

A study is a journal file in the home folder, or lives in any database that Optuna takes. One driver
at a time changes it, through a `StudyHandle`; anyone may read it at any time with `read_study`.

    with open_study(home, "first", fingerprint=suite.fingerprint, attrs={"space": text}) as study:
        trial = study.ask("sharing", partial(make_sampler, "tpe", seed))
        assignment = space.suggest(trial, "sharing")
        study.commit()                                  # one fsync, before work is handed out
        ...
        trial.report(value, epoch)
        study.tell(trial, value)
        study.commit()                                  # and one after its results
"""

from autometa.study.databases import storage_errors
from autometa.study.handle import SamplerFor, StudyHandle
from autometa.study.journal import GroupedJournalBackend
from autometa.study.samplers import SAMPLER_TRIALS, SAMPLERS, make_sampler, visible_trials
from autometa.study.store import delete_study, list_studies, open_study, read_study, trial_rows

__all__ = [
    "SAMPLERS",
    "SAMPLER_TRIALS",
    "GroupedJournalBackend",
    "SamplerFor",
    "StudyHandle",
    "delete_study",
    "list_studies",
    "make_sampler",
    "open_study",
    "read_study",
    "storage_errors",
    "trial_rows",
    "visible_trials",
]
