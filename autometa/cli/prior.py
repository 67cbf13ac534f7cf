"""`autometa prior`: what earlier searches left for the next ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autometa.cli import options
from autometa.cli.output import counted, emit_json, note, say, shown, table
from autometa.errors import UserError
from autometa.home import Home

if TYPE_CHECKING:
    from autometa.priors.prior_file import Prior
    from autometa.priors.records import Record

Name = Annotated[str, typer.Argument(metavar="NAME", help="A prior, a record, or a prior file.")]
#: sources in the table of a search
_SOURCES = 5
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def list_priors(home: options.Home = None, json: options.Json = False) -> None:
    """List the prior of the package, the named priors, and the records that searches left."""
    from autometa.priors import shelf

    folder = Home.find(home)
    kept = shelf.records(folder, note)
    priors = {}
    for name in shelf.names(folder):
        try:
            priors[name] = shelf.find(folder, name, note)
        except UserError as exc:
            note(f"{exc} It is left out.")
    if (ours := shelf.shipped()) is not None:
        priors = {shelf.SHIPPED_NAME: ours, **priors}
    if json:
        found = {name: [r.name for r in prior.records] for name, prior in priors.items()}
        emit_json({"priors": found, "records": [_row(record) for record in kept]})
        return
    for name, prior in priors.items():
        say(f"prior {name}: {_size(prior)}")
    if kept:
        _table(kept)
    elif priors.keys() <= {shelf.SHIPPED_NAME}:
        note(f"No prior in {shown(folder.root)} yet. Each finished search leaves a record.")


def show(name: Name, home: options.Home = None, json: options.Json = False) -> None:
    """Show the searches in a prior: their suites, trials, best scores and probes."""
    from autometa.priors import shelf

    prior = shelf.find(Home.find(home), name, note)
    if json:
        rows = [{**_row(r), "probes": r.facts.probes} for r in prior.records]
        emit_json({"name": prior.name, "records": rows})
        return
    say(f"prior {prior.name}: {_size(prior)}")
    _table(prior.records)
    for record in prior.records:
        say()
        say(f"{record.name}: probes of {record.facts.suite}")
        for probe, value in record.facts.probes.items():
            if value is not None:
                say(f"  {probe}: {value:.4g}")


def build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the new prior.")],
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART]...", help="Records, priors or files. Default: all records."),
    ] = None,
    force: Force = False,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Make a named prior of the records of finished searches."""
    from autometa.priors import shelf

    prior = shelf.build(Home.find(home), name, parts or [], note, replace=force)
    _done(prior, f"Built prior {prior.name}: {_size(prior)}.", json)


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="A prior or record. Default: all records.")
    ] = None,
    force: Force = False,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Write a prior to a file. It holds settings, scores and probes, and no row of any data."""
    from autometa.priors import shelf

    prior = shelf.export(Home.find(home), file, name, note, replace=force)
    _done(prior, f"Written to {shown(file)}: {_size(prior)}.", json)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Keep it under this name. Default: its own.")
    ] = None,
    force: Force = False,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Check a prior file that came from elsewhere and keep it under a name."""
    from autometa.priors import shelf

    prior = shelf.take_in(Home.find(home), file, name, replace=force)
    _done(prior, f"Imported prior {prior.name}: {_size(prior)}.", json)


def print_account(found: dict[str, Any]) -> None:
    """Print what earlier searches did for a search.

    Args:
        found: `SearchResult.prior`.
    """
    if not found["sources"]:
        say(f"Prior: {found['reason']}.")
        return
    by, best = found["proposed"], found["best"]
    ours = by["portfolio"] + by["model"]
    free = sum(by.values()) - ours
    p = "" if found["p"] is None else f", p = {found['p']:.2g}"
    say(
        f"Prior: {found['verdict'] or 'no trial yet'}. Earlier searches proposed {ours} of "
        f"{counted(ours + free, 'trial')} ({by['portfolio']} from the portfolio, {by['model']} by "
        f"the model), {counted(free, 'was', 'were')} prior-free (best on validation: "
        f"{_score(best['prior'])} against "
        f"{_score(best['free'])}{p})."
    )
    arms = ("sharing", "independent")
    columns = [name for arm in arms for name in (f"{arm} trials", "their weight")]
    table(
        ["learned from", "suite", "distance", *columns, "dropped at trial"],
        [
            [
                source["name"],
                source["suite"],
                source["distance"],
                *(source[key].get(arm) for arm in arms for key in ("trials", "weight")),
                " and ".join(f"{n} ({arm})" for arm, n in source["dropped"].items()) or None,
            ]
            for source in found["sources"][:_SOURCES]
        ],
        right=["distance", *columns],
    )
    if len(found["sources"]) > _SOURCES:
        say(f"{len(found['sources']) - _SOURCES} more; --json has them all.")


def _score(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _done(prior: Prior, sentence: str, json: bool) -> None:
    if json:
        emit_json({"name": prior.name, "records": [_row(record) for record in prior.records]})
    else:
        say(sentence)


def _size(prior: Prior) -> str:
    trials = sum(len(record.trials) for record in prior.records)
    n = len(prior.records)
    return f"{counted(n, 'search', 'searches')}, {counted(trials, 'trial')}"


def _row(record: Record) -> dict[str, Any]:
    facts = record.facts
    return {
        "record": record.name,
        "suite": facts.suite,
        "episodic": facts.episodic,
        "trials": len(record.trials),
        "states": record.counts(),
        "best": record.best(),
        "max_steps": facts.max_steps,
        "max_epochs": facts.max_epochs,
        "finished": record.finished.isoformat(timespec="microseconds"),
    }


def _table(records: Any) -> None:
    rows = [
        _row(record) | {"finished": f"{record.finished:%Y-%m-%d %H:%M:%S} UTC"}
        for record in records
    ]
    columns = ["record", "suite", "trials", "best", "finished"]
    table(columns, [[row[c] for c in columns] for row in rows], right=["trials", "best"])
