"""autometa searches what prediction tasks should share, and says whether sharing helped.

The public names are loaded when they are first used, so that `import autometa` and
`autometa --help` stay quick. Telemetry of every dependency is off unless the user's own
environment says otherwise.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autometa.api import load_model, search, train
    from autometa.tasks import TaskSuite, load_suite

__version__ = "0.1.0"

__all__ = ["TaskSuite", "__version__", "load_model", "load_suite", "search", "train"]

_HOME_OF = {
    "TaskSuite": "autometa.tasks",
    "load_model": "autometa.api",
    "load_suite": "autometa.tasks",
    "search": "autometa.api",
    "train": "autometa.api",
}

#: Switches of the dependencies' telemetry. MLflow reads its own at import, Ray at `ray.init`, so
#: they are set before either is loaded.
TELEMETRY = {
    "DO_NOT_TRACK": "true",  # MLflow compares with the word "true"; others take any value but 0
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
}
for _name, _value in TELEMETRY.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
