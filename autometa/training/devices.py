"""Choice of the device."""

from __future__ import annotations

import torch

from autometa.errors import DeviceError


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        DeviceError: the name is unknown, or CUDA was asked for and is absent.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(
            f"Parameter `device` should be `auto`, `cpu` or `cuda`. Found `device = {name}`."
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "Parameter `device` is `cuda`, and torch finds no CUDA device here. Use "
            "`--device auto` or `--device cpu`."
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")
