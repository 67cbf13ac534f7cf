"""The front in Python: `train`, `load_model`. The command line calls them too."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autometa.api.episodic import asked_episodes, load_any
from autometa.api.results import TrainResult
from autometa.api.starting import start_of
from autometa.config import flatten, read_yaml
from autometa.errors import ConfigError, UserError
from autometa.home import HOME, Home, check_writable
from autometa.model import Model
from autometa.searching.promotion import ladder
from autometa.searching.settings import MAX_SEED
from autometa.searching.units import best_point
from autometa.tasks import EpisodicSuite, TaskSuite
from autometa.training.budget import check_length, full_length, with_batch_size
from autometa.training.devices import find_device
from autometa.training.population import RunResult, Trainer
from autometa.training.state import PopulationState, Run
from autometa.trial import TrialConfig


def train(
    suite: TaskSuite | EpisodicSuite | str | Path,
    config: Mapping[str, Any] | str | Path,
    *,
    max_steps: int | None = None,
    max_epochs: int | None = None,
    seed: int = 0,
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
    if not 0 <= seed <= MAX_SEED:
        raise UserError(
            f"Parameter `seed` should be between 0 and {MAX_SEED}. Found `seed = {seed}`."
        )
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
    result, state = _best(trainer, Run(parsed, seed))
    if result.value is None:
        raise UserError(f"{result.reason} Lower `optimizer.lr` (now {parsed.optimizer.lr:g}).")
    facts = {
        "suite": loaded.name,
        "fingerprint": loaded.fingerprint,
        "steps": result.step,
        "max_steps": length,
        "seed": seed,
        "validation_score": result.value,
    }
    folder = Path(out) if out is not None else _new_folder(Home.find(home).models, loaded.name)
    Model.of(stripped, parsed, state, facts).save(folder)
    return TrainResult(folder, result.value, result.tasks, time.monotonic() - started)


def _best(trainer: Trainer, run: Run) -> tuple[RunResult, PopulationState]:
    """The run after the length that it counts with; as it ended if it reached nothing."""
    state = trainer.start([run])
    reached: list[RunResult] = []
    best = None
    for step in ladder(trainer.max_steps):
        (result,), state = trainer.train([run], state, step)
        reached.append(result)
        if best_point(reached) is result:
            best = result, state.select([0])
        if result.reason is not None:
            break
    return best or (reached[-1], state)


def load_model(path: str | Path) -> Model:
    """Load a model that a search or `train` left.

    Raises:
        UserError: the folder holds no model.
    """
    return Model.load(path)


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
        if {"study", "adapted"} & Model.load(out).facts.keys():
            raise UserError(
                "Parameter `out` (`--out`) should not be the folder of a model of a search or one "
                f"that was adapted, which would be lost. Found `{out}`."
            )
    elif out.exists() and any(out.iterdir()):
        raise UserError(
            f"Parameter `out` (`--out`) should be a new folder. Found `{out}`, which holds other "
            "files."
        )


def _new_folder(models: Path, stem: str) -> Path:
    number = 1
    while (models / f"{stem}-train-{number}").exists():
        number += 1
    return models / f"{stem}-train-{number}"
