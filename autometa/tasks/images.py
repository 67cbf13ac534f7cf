"""From images to the network's input, fitted on training rows only."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from autometa.errors import DataError
from autometa.tasks.reading import ReadOptions


@dataclass(frozen=True)
class ImageEncoder:
    """Images to standardised float32: x = (pixel - mean) / std, one mean and std for all pixels.

    Scaling pixels to [0, 1] first would change nothing (standardising undoes it), so mean and std
    are kept in the units of the images as given; new images have to come in the same units.
    """

    shape: tuple[int, int, int]
    mean: float
    std: float

    def encode(self, table: np.ndarray | Tensor | pd.DataFrame) -> Tensor:
        """Encode new images [rows, H, W] or [rows, C, H, W] (or flattened) in training units.

        Returns:
            float32 [rows, C, H, W].

        Raises:
            DataError: the shape is not the one of training, or a pixel is missing or infinite.
        """
        images = np.asarray(table)
        size = int(np.prod(self.shape))
        if (
            images.ndim < 2
            or int(np.prod(images.shape[1:])) != size
            or (images.ndim > 2 and tuple(images.shape[1:])[-2:] != self.shape[-2:])
        ):
            raise DataError(
                f"Images should have shape [rows, {', '.join(map(str, self.shape))}]. "
                f"Found {list(images.shape)}."
            )
        if images.dtype.kind not in "uifb":
            raise DataError(f"Images should hold numbers. Found dtype `{images.dtype}`.")
        x = images.reshape(len(images), *self.shape).astype(np.float32)
        if not np.isfinite(x).all():
            raise DataError("Images should hold finite numbers only; a pixel is NaN or infinite.")
        x -= np.float32(self.mean)
        x /= np.float32(self.std)
        return torch.from_numpy(x)

    def read(
        self, table: np.ndarray | Tensor | pd.DataFrame, options: ReadOptions | None = None
    ) -> tuple[Tensor, tuple[str, ...]]:
        """What `encode` gives; of images there is nothing to be said."""
        return self.encode(table), ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `encoder_from_json` is the inverse."""
        return {"type": "image", **asdict(self)}


class ImageInputs:
    """Raw images [rows, C, H, W]."""

    kind = "image"

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> ImageInputs:
        return self if rows.all() else ImageInputs(self.images[rows])

    def fit(self, train: np.ndarray) -> tuple[ImageEncoder, Tensor]:
        pixels = self.images[train]
        mean, std = float(pixels.mean(dtype=np.float64)), float(pixels.std(dtype=np.float64))
        if not np.isfinite(mean) or not np.isfinite(std):
            raise DataError("Images should hold finite numbers only; a pixel is NaN or infinite.")
        if std == 0:
            raise DataError(f"All pixels of the training images are equal ({mean:g}).")
        _, channels, height, width = self.images.shape
        encoder = ImageEncoder((channels, height, width), mean, std)
        return encoder, encoder.encode(self.images)

    def extremes(self) -> list[str]:
        return []

    def digest(self) -> bytes:
        into = hashlib.sha256(f"{self.images.shape}".encode())
        kind = "u1" if self.images.dtype == np.uint8 else "<f8"
        into.update(np.ascontiguousarray(self.images, dtype=kind).tobytes())
        return into.digest()
