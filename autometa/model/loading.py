"""A model's folder to the model, whichever kind it is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autometa.errors import UserError
from autometa.model.model import Model
from autometa.model.peer import PeerModel
from autometa.model.storing import NETWORK, PEER, read_facts

_LOADERS: dict[str, Callable[[Path], Model | PeerModel]] = {
    NETWORK: Model.load,
    PEER: PeerModel.load,
}


def load_model(folder: str | Path) -> Model | PeerModel:
    """Load a model that a search or `train` left: networks, or scikit-learn's.

    Raises:
        UserError: the folder holds no model that this version can read.
    """
    kind = read_facts(Path(folder))["kind"]
    if kind not in _LOADERS:
        raise UserError(
            f"Model `{folder}` is of kind `{kind}`; this version reads {', '.join(_LOADERS)}. "
            "Install the version of autometa that wrote it."
        )
    return _LOADERS[kind](Path(folder))
