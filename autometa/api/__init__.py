"""The front in Python: `search`, `train`, `load_model`."""

from autometa.api.front import search
from autometa.api.results import SearchResult, TrainResult
from autometa.api.training import read_config, train
from autometa.model import load_model

__all__ = ["SearchResult", "TrainResult", "load_model", "read_config", "search", "train"]
