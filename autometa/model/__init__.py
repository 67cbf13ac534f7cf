"""A trained model: load, save, predict, take a new task, export as a plain `nn.Module`."""

from autometa.model.model import Model
from autometa.model.outputs import class_probabilities, labels_of

__all__ = ["Model", "class_probabilities", "labels_of"]
