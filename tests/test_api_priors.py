"""What a search leaves for the next one."""

from __future__ import annotations

from pathlib import Path

from autometa.cli import app
from autometa.home import Home
from autometa.priors import shelf
from autometa.study import read_study
from tests.searching.support import small_suite
from tests.test_judge import run


def test_a_finished_search_leaves_a_record(tmp_path: Path) -> None:
    result = run(tmp_path, small_suite(), n_trials=4)
    home = Home.find(tmp_path)
    (record,) = shelf.records(home, warn=lambda text: None)
    study = read_study(home, result.study)
    assert record.facts.study == result.study
    assert record.facts.probes["tasks"] is not None
    assert record.facts.max_epochs == study.user_attrs["settings"]["max_epochs"]
    own = [t for t in study.trials if t.params]
    assert [(t.number, t.params, t.state) for t in record.trials] == [
        (t.number, t.params, t.state) for t in own
    ]
    assert {t.user_attrs["arm"] for t in record.trials} == {"sharing", "independent"}
    # more trials: the record is of all of them
    run(tmp_path, small_suite(), n_trials=6, study_name=result.study, resume=True)
    (more,) = shelf.records(home, warn=lambda text: None)
    assert more.name == record.name
    assert len(more.trials) > len(record.trials)
    words = ["delete", result.study, "--yes", "--home", str(tmp_path)]
    assert not app([*words, "--mlflow-tracking-uri", "off"], standalone_mode=False)
    assert shelf.records(home, warn=lambda text: None) == []
