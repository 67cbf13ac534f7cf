"""The front in Python: `search`, `train`, `load_model`."""

from autometa.api.front import load_model, read_config, search, train
from autometa.api.results import SearchResult, TrainResult

__all__ = ["SearchResult", "TrainResult", "load_model", "read_config", "search", "train"]
