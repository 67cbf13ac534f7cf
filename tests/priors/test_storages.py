"""Studies of Optuna storages as sources."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages.journal import JournalFileBackend, JournalStorage

from autometa.errors import InfrastructureError, UserError
from autometa.priors.storages import is_storage, read_storage, shown_storage
from tests.priors.test_prior_file import finished


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with a plain study, one that minimises, one of two values, and one of a search."""
    url = f"sqlite:///{tmp_path}/studies.db"
    plain = optuna.create_study(
        study_name="plain", storage=url, direction="maximize", sampler=RandomSampler(seed=0)
    )

    def objective(trial: optuna.Trial) -> float:
        value = trial.suggest_float("optimizer.lr", 1e-3, 1, log=True)
        trial.report(value, 4)
        return value

    plain.optimize(objective, n_trials=5)
    optuna.create_study(study_name="down", storage=url).optimize(objective, n_trials=3)
    both = optuna.create_study(study_name="both", storage=url, directions=["maximize", "minimize"])
    both.optimize(lambda t: (t.suggest_float("x", 0, 1), 1.0), n_trials=3)
    ours = finished("sales-1")
    optuna.copy_study(from_study_name="sales-1", from_storage=ours._storage, to_storage=url)
    copied = optuna.load_study(study_name="sales-1", storage=url)
    copied.set_user_attr("fingerprint", "f00d")
    copied.set_user_attr("probes", {"rows": 2.5, "tree": None})
    return url


def test_all_studies_that_maximise_one_value(url: str, said: list[str]) -> None:
    found = {r.facts.study: r for r in read_storage(url, False, said.append)}
    assert set(found) == {"plain", "sales-1"}
    assert sorted(text.split("`")[1] for text in said) == ["both", "down"]
    plain, ours = found["plain"], found["sales-1"]
    study = optuna.load_study(study_name="plain", storage=url)
    assert [(t.params, t.values) for t in plain.trials] == [
        (t.params, t.values) for t in study.trials
    ]
    assert {t.user_attrs["arm"] for t in plain.trials} == {"sharing"}
    assert (plain.facts.max_steps, plain.facts.episodic, plain.facts.probes) == (4, False, {})
    assert ours.facts.suite == "sales"
    assert ours.facts.probes == {"rows": 2.5, "tree": None}
    assert {t.user_attrs["arm"] for t in ours.trials} == {"sharing", "independent"}


def test_one_study(url: str, said: list[str]) -> None:
    (record,) = read_storage(f"{url}#plain", True, said.append)
    assert record.facts.study == "plain"
    assert record.facts.episodic  # it does not say, so it is taken for what is asked
    assert said == []


def test_a_journal(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "one.journal"
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(study_name="j", storage=storage, direction="maximize")
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=4)
    before = path.read_bytes()
    for text in (str(path), f"{path}#j"):
        (record,) = read_storage(text, False, said.append)
        assert len(record.trials) == 4
    assert path.read_bytes() == before
    path.write_text("no journal\nat all\n")
    with pytest.raises(InfrastructureError, match="cannot be read"):
        read_storage(str(path), False, said.append)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("#plan", "Did you mean `plain`?"),
        ("#down", "should name studies that maximise one value.*Study `down` does not"),
        ("#both", "Study `both` does not"),
    ],
)
def test_wrong_studies(url: str, rest: str, message: str, said: list[str]) -> None:
    with pytest.raises(UserError, match=message):
        read_storage(url + rest, False, said.append)


def test_wrong_storages(tmp_path: Path, said: list[str]) -> None:
    absent = tmp_path / "absent.db"
    with pytest.raises(UserError, match=r"There is no database `.*absent\.db`"):
        read_storage(f"sqlite:///{absent}", False, said.append)
    assert not absent.exists(), "looking for it must not make it"
    table = tmp_path / "table.db"
    table.write_text("a,b\n1,2\n" * 200)
    with pytest.raises(
        UserError, match="cannot be read as an SQLite database .file is not a database"
    ):
        read_storage(f"sqlite:///{table}", False, said.append)
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(UserError, match="holds no Optuna studies"):
        read_storage(f"sqlite:///{empty}", False, said.append)
    assert empty.read_bytes() == b""
    with pytest.raises(UserError, match="There is no journal"):
        read_storage(str(tmp_path / "absent.journal"), False, said.append)
    with pytest.raises(UserError, match="`prior = nonsense://x`"):
        read_storage("nonsense://x", False, said.append)


def test_a_study_that_was_tampered_with(url: str, said: list[str]) -> None:
    study = optuna.load_study(study_name="sales-1", storage=url)
    study.set_user_attr("probes", {"rows": "many"})
    with pytest.raises(UserError, match="cannot be read"):
        read_storage(f"{url}#sales-1", False, said.append)


def test_what_names_a_storage() -> None:
    assert is_storage("sqlite:///a.db")
    assert is_storage("postgresql://me:secret@host/db#x")
    assert is_storage("home/studies/a.journal#a")
    assert not is_storage("a.prior")
    assert not is_storage("name")
    shown = shown_storage("postgresql://me:secret@host/db#x")
    assert "secret" not in shown
    assert shown.endswith("@host/db#x")
    assert shown_storage("a.journal#x") == "a.journal#x"
    assert shown_storage("sqlite:///a.db#x@y") == "sqlite:///a.db#x@y"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:s3#cret@h/db#x", "postgresql://u:***@h/db#x"),
        ("postgresql://u:12#s3cret@h#x", "postgresql://u:***@h#x"),
        ("postgresql://u:s3cret@h:port/db", "postgresql://…"),
        ("postgresql://u:s3@cret@h/db", "postgresql://…"),
        ("postgresql://h/db?password=s3cret&user=u", "postgresql://h/db?password=***&user=u"),
        ("mysql://h/db?ssl_key_passwd=s3cret#x", "mysql://h/db?ssl_key_passwd=***#x"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str, said: list[str]) -> None:
    assert shown_storage(text) == shown
    if "port" in text.partition("@")[2]:  # the address is understood, and is wrong
        with pytest.raises(UserError, match="Parameter `prior` should be") as caught:
            read_storage(text, False, said.append)
        assert "cret" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Fixed parameter")
def test_trials_outside_their_ranges_are_left_out_and_counted(
    tmp_path: Path, said: list[str]
) -> None:
    """Optuna takes them, when someone enqueues them."""
    url = f"sqlite:///{tmp_path}/odd.db"
    study = optuna.create_study(
        study_name="odd", storage=url, direction="maximize", sampler=RandomSampler(seed=0)
    )
    for rate in (100.0, 5.0):
        study.enqueue_trial({"optimizer.lr": rate})
    study.optimize(lambda trial: trial.suggest_float("optimizer.lr", 1e-3, 1, log=True), 20)
    (found,) = read_storage(f"{url}#odd", False, said.append)
    assert len(found.trials) == 18
    assert found.left_out == 2
    assert {t.number for t in found.trials} == set(range(2, 20))
    assert max(t.params["optimizer.lr"] for t in found.trials) <= 1
    (text,) = said
    assert "2 of 20 trials have parameters outside their ranges and are left out." in text
    assert "`odd`" in text
