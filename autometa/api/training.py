"""The front in Python: `train`. The command line calls it too."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autometa.api.arguments import plain_arguments
from autometa.api.episodic import asked_episodes, load_any
from autometa.api.results import TrainResult
from autometa.api.starting import start_of
from autometa.api.validating import validated
from autometa.caller import leaves_no_trace
from autometa.config import flatten, read_yaml
from autometa.errors import ConfigError, UserError
from autometa.home import HOME, Home, check_writable, stem_of
from autometa.model import Model, load_model
from autometa.searching.promotion import ladder
from autometa.searching.settings import MAX_SEED
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.training.budget import check_length, full_length, with_batch_size
from autometa.training.devices import find_device
from autometa.training.population import Trainer
from autometa.training.state import PopulationState, Run
from autometa.trial import TrialConfig


@leaves_no_trace
@plain_arguments
def train(
    suite: TaskSuite | EpisodicSuite | str | Path,
    config: Mapping[str, Any] | str | Path,
    *,
    max_steps: int | None = None,
    max_epochs: int | None = None,
    seed: int = 0,
    ensemble: int = 1,
    device: str = "auto",
    init_from: str | Path | None = None,
    episodic: bool = False,
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    one_task: bool = False,
    home: str | Path | None = None,
    out: str | Path | None = None,
    **suite_options: Any,
) -> TrainResult:
    """Train one configuration on the training rows and score it on the validation rows.

    The model is the best on the validation rows of those after max/9, max/3 and max steps, as in a
    search. With `episodic` on training tasks, and on the validation tasks, as in `search`.

    Args:
        config: dotted names to values, or a YAML file of them; what is missing takes its default,
            `adaptation.kind` in episodes `finetune`.
        max_steps: optimizer steps; by the suite if None, as in `search`.
        max_epochs: the same in passes over the training rows, in place of `max_steps`.
        ensemble: networks that are trained, with seeds from `seed` on, and predict together.
        init_from: a model (folder, or name in the home folder) whose shared blocks it starts from;
            at random if None.
        out: folder of the model; a new one in the home folder if None.

    Raises:
        UserError: bad input, or the run diverged (then no model is written).
    """
    started = time.monotonic()
    values = dict(read_config(config) if isinstance(config, str | Path) else config)
    if episodic:
        values.setdefault("adaptation.kind", "finetune")
    parsed = TrialConfig.from_flat(values)
    check_length(max_steps, max_epochs)
    if ensemble < 1:
        raise UserError(
            f"Parameter `ensemble` should be at least 1. Found `ensemble = {ensemble}`."
        )
    last = MAX_SEED - ensemble + 1
    if not 0 <= seed <= last:
        raise UserError(f"Parameter `seed` should be between 0 and {last}. Found `seed = {seed}`.")
    if out is None:
        check_writable(Home.find(home).models, HOME)
    else:
        _check_out(Path(out))
    found = find_device(device)
    episodes = asked_episodes(
        episodic,
        ways=ways,
        shots=shots,
        queries=queries,
        one_task=one_task,
        test_ways=None,
        test_shots=None,
    )
    loaded = load_any(suite, episodes, suite_options)
    stripped = loaded.without_test()
    initial = None
    if init_from is not None:
        parsed, initial = start_of(init_from, loaded, parsed, Home.find(home))
    length = full_length(loaded, max_steps, max_epochs)
    parsed = with_batch_size(parsed, loaded)
    trainer = Trainer(stripped, length, found, initial)
    runs = [Run(parsed, seed + number) for number in range(ensemble)]
    steps, state = _best(trainer, runs)
    value, tasks, calibration = validated(trainer, stripped, runs, state)
    facts = {
        "suite": loaded.name,
        "fingerprint": loaded.fingerprint,
        "steps": steps,
        "max_steps": length,
        "seed": seed,
        "validation_score": value,
    }
    folder = Path(out) if out is not None else _new_folder(Home.find(home).models, loaded.name)
    Model.of(stripped, parsed, state, facts, calibration).save(folder)
    return TrainResult(folder, value, tasks, time.monotonic() - started, loaded.notes)


def _best(trainer: Trainer, runs: list[Run]) -> tuple[int, PopulationState]:
    """The length at which the runs are best in the mean, and the runs there.

    Raises:
        UserError: one of them has a score nowhere.
    """
    state = trainer.start(runs)
    best: tuple[float, int, PopulationState] | None = None
    for step in ladder(trainer.max_steps):
        results, state = trainer.train(runs, state, step)
        if reason := next((r.reason for r in results if r.value is None), None):
            if best is None:
                rate = runs[0].config.optimizer.lr
                raise UserError(f"{reason} Lower `optimizer.lr` (now {rate:g}).")
            break  # it diverged later, and counts with what it had
        mean = sum(result.value or 0.0 for result in results) / len(results)
        if best is None or mean > best[0]:
            best = mean, step, state.select(range(len(runs)))
    if best is None:
        raise UserError("The runs have no score. Give the suite validation rows.")
    return best[1], best[2]


def read_config(path: str | Path) -> dict[str, Any]:
    """Dotted names to values from a YAML file (nested sections are fine too).

    Raises:
        ConfigError: the file cannot be read or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"Configuration `{path}` cannot be read: {exc}.") from None
    return flatten(read_yaml(text, f"Configuration `{path}`"))


def _check_out(out: Path) -> None:
    """Refuse a folder that cannot be written, or in which something else would be lost."""
    check_writable(out, "Parameter `out` (`--out`)")
    if (out / "model.json").exists():
        if {"study", "adapted"} & load_model(out).facts.keys():
            raise UserError(
                "Parameter `out` (`--out`) should not be the folder of a model of a search or one "
                f"that was adapted, which would be lost. Found `{out}`."
            )
    elif out.exists() and any(out.iterdir()):
        raise UserError(
            f"Parameter `out` (`--out`) should be a new folder. Found `{out}`, which holds other "
            "files."
        )


def _new_folder(models: Path, name: str) -> Path:
    stem, number = stem_of(name), 1
    while (models / f"{stem}-train-{number}").exists():
        number += 1
    return models / f"{stem}-train-{number}"
