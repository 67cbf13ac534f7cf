"""A trained model: load, save, predict, take a new task, export as a plain `nn.Module`."""

from autometa.model.conformal import Calibration, calibrate
from autometa.model.loading import load_model
from autometa.model.model import Model
from autometa.model.outputs import class_probabilities, labels_of
from autometa.model.peer import PeerModel
from autometa.model.predictor import Predictor, inference_seconds

__all__ = [
    "Calibration",
    "Model",
    "PeerModel",
    "Predictor",
    "calibrate",
    "class_probabilities",
    "inference_seconds",
    "labels_of",
    "load_model",
]
