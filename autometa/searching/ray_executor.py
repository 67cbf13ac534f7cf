"""Units on Ray: one `Tuner` hands them to reused actors."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray
    from ray import tune
    from ray._private import utils as ray_utils
    from ray._private.authentication import authentication_token_setup as ray_token
    from ray.exceptions import RayError
    from ray.tune import Trainable
    from ray.tune.search import Searcher

from autometa.errors import InfrastructureError
from autometa.searching.executors import FINISHED, Source
from autometa.searching.gate import Gate
from autometa.searching.units import UnitResult, WorkUnit, run_unit

#: settings of Ray and Tune that have no other way in, unless the user has them already
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
#: how often a unit is run again after its worker process died
_RETRIES = 3
#: seconds that the workers which are up wait for the others
_GATHERING = 60.0
#: one inside of a message, without its last line, which names the error
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)*")


class UnitTrainable(Trainable):
    """An actor that runs one unit a trial and is then reset to the next."""

    work = staticmethod(run_unit)

    def setup(self, config: dict[str, Any], gate: Any = None) -> None:
        self._unit = config["unit"]
        self._gate = gate

    def step(self) -> dict[str, Any]:
        if self._gate is not None:
            _gather(self._gate)
            self._gate = None
        result = self.work(WorkUnit.from_json(json.loads(self._unit)))
        return {"done_units": 1, "done": True, "result": json.dumps(result.to_json())}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._unit = new_config["unit"]
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Units write their own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Units read their own checkpoints."""


def _gather(gate: Any) -> None:
    """Wait for the others. In a step: not before it does Tune know that this worker has started."""
    with contextlib.suppress(ray.exceptions.RayActorError):  # its node is gone
        ray.get(gate.arrive.remote())
        until = time.monotonic() + _GATHERING
        while not ray.get(gate.is_open.remote()) and time.monotonic() < until:
            time.sleep(0.05)


class RayExecutor:
    """Runs units on the workers of a local Ray, or of a cluster the user named.

    Args:
        workers: number of units at a time; None takes as many as the cluster has room for.
        address: None starts a Ray of our own, never joining one that happens to run; otherwise
            the cluster's address.
        gpus_per_worker: GPUs that a worker takes, or a fraction of one.
        cpus_per_worker: cores that a worker takes, each with a thread.
        trainable: what runs a unit.

    Raises:
        InfrastructureError: the cluster cannot be reached.
    """

    def __init__(
        self,
        workers: int | None,
        address: str | None = None,
        gpus_per_worker: float = 0.0,
        trainable: type[UnitTrainable] = UnitTrainable,
        cpus_per_worker: int = 1,
    ) -> None:
        for name, value in _ENVIRONMENT.items():  # each time: the caller gets its own back
            os.environ.setdefault(name, value)
        self._needs = {"CPU": float(cpus_per_worker), "GPU": gpus_per_worker}
        self._trainable = trainable
        self.folder = tempfile.mkdtemp(prefix="autometa-tune-")
        options: dict[str, Any] = {"address": address}
        if address is not None:
            logging.getLogger("ray").setLevel(logging.ERROR)  # `ray.init` does so, too
        else:
            cpus = None if workers is None else workers * cpus_per_worker
            options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        try:
            with _own_sigterm():
                _connect(options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as exc:
            shutil.rmtree(self.folder, ignore_errors=True)
            where = f"reach the Ray cluster at {address}" if address else "start a local Ray"
            raise InfrastructureError(f"Cannot {where}: {_reasons(exc)}") from exc
        rooms = [room(node["Resources"], self._needs) for node in ray.nodes() if node["Alive"]]
        self._workers = workers or max(1, sum(rooms))
        # All may start at once. Beyond them one unit is staged (`_UnitSearcher`), since Tune keeps
        # an idle actor only for a staged trial.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self._workers)
        self._room = sum(rooms)
        beside = min(self._workers, max([1, *rooms]))  # workers on one machine
        share = min(1.0, gpus_per_worker) if gpus_per_worker else 1.0 / beside
        self._own = {"threads": cpus_per_worker, "share": share}

    def run(self, source: Source) -> bool:
        """Run units until the source is finished; False if the user interrupted."""
        first = min(self._workers, self._room)
        gate = ray.remote(num_cpus=0)(Gate).remote() if first > 1 else None
        searcher = _UnitSearcher(source, self._workers, self._own, gate, first)
        needs = {name.lower(): count for name, count in self._needs.items()}
        trainable = tune.with_resources(tune.with_parameters(self._trainable, gate=gate), needs)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                metric="done_units",
                mode="max",
                trial_dirname_creator=lambda trial: trial.trial_id,
                trial_name_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=self.folder,
                name="units",
                verbose=0,
                callbacks=[],
            ),
        )
        try:
            tuner.fit()
        except KeyboardInterrupt:
            return False
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        if searcher.error is not None:
            raise searcher.error
        return searcher.finished

    def close(self) -> None:
        """Stop the local Ray, or leave the user's cluster."""
        ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def _connect(options: dict[str, Any]) -> None:
    """`ray.init`, with this machine's token where a cluster turns out to ask for it.

    `ray start` asks for the token where there is one, and the first local Ray makes one; but
    `ray.init` with an address sends it only if the mode is set. It is not set from the start: the
    workers of a cluster that asks for none would not talk to a driver that expects one.
    """
    more: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    mode = os.environ.get(ray_token.AUTH_MODE_ENV_VAR)
    if options["address"] != "local" and mode is None:
        ray_token.Config.initialize("")  # forgets the mode of a local Ray that this process had
    try:
        ray.init(**more, **options)
    except (ConnectionError, RuntimeError, TimeoutError, RayError):
        if options["address"] == "local" or mode is not None:
            raise
        ray.shutdown()
        ray_token.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        if os.environ.get(ray_token.AUTH_MODE_ENV_VAR) is None:  # there is no token
            raise
        ray.init(**more, **options)


def _reasons(exc: BaseException) -> str:
    """What was raised, and what led to it: Ray's last error is often only that it failed. Without
    the tracebacks that Ray puts into its messages."""
    said: list[str] = []
    found: BaseException | None = exc
    while found is not None:
        text = _TRACEBACK.sub("", str(found)).strip() or type(found).__name__
        if not any(text in other for other in said):
            said.append(text)
        found = found.__cause__ or found.__context__
    return "; ".join(said)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep Ray from handling SIGTERM, which would end the process without a word, from the moment
    it begins to start."""
    theirs = ray_utils.set_sigterm_handler
    ray_utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = theirs


def room(has: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many workers that need so much fit on a machine that has so much."""
    return min(int(has.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need)


class _UnitSearcher(Searcher):
    """Hands units to Tune as if they were suggestions.

    A unit whose process died is handed out again here, not by Tune: Tune gives up a trial whose
    actor dies while it is being reset.

    With several workers one unit is chosen ahead of the first free worker; with one worker a unit
    is chosen after all results are in, so that the search can be repeated exactly.

    Args:
        own: fields of a unit that say what a worker may use.
        gate, first: where the workers of so many first units gather.
    """

    def __init__(
        self,
        source: Source,
        workers: int,
        own: Mapping[str, Any] = MappingProxyType({}),
        gate: Any = None,
        first: int = 0,
    ) -> None:
        super().__init__(metric="done_units", mode="max")
        self._source = source
        self._workers = workers
        self._own = own
        self._at_most = 1 if workers == 1 else workers + 1
        self._running: dict[str, tuple[WorkUnit, int]] = {}
        self._again: list[tuple[WorkUnit, int]] = []
        self._gate = gate
        self._expected = 0 if gate is None else first
        self.finished = False
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        if self.error is not None:
            return Searcher.FINISHED
        if len(self._running) >= self._at_most:
            return None
        try:
            next_unit = self._source.next_unit
            unit, deaths = self._again.pop(0) if self._again else (next_unit(self._workers), 0)
        except BaseException as exc:  # Tune would log it and go on without us
            self.error = exc
            return Searcher.FINISHED
        if unit == FINISHED:
            self.finished = True
            return Searcher.FINISHED
        if unit is None:
            return None
        self._running[trial_id] = unit, deaths
        if self._expected:
            self._expected -= 1
            self._gate.expect.remote()
        return {"unit": json.dumps(unit.to_json() | dict(self._own))}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._expected = 0
        unit, deaths = self._running.pop(trial_id, (None, 0))
        if unit is None or self.error is not None:
            return
        if result and "result" in result:
            found = UnitResult.from_json(json.loads(result["result"]))
        elif error and deaths < _RETRIES:
            self._again.append((unit, deaths + 1))
            return
        elif error:
            found = UnitResult.lost(unit, "The worker process died and so did its replacements.")
        else:  # stopped by Ctrl-C: the unit is run again on --resume
            return
        try:
            self._source.complete(unit, found)
        except BaseException as exc:
            self.error = exc

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its tuner; the study is the only truth, so there is nothing to keep."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
