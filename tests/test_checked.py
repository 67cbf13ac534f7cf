"""Calls that do not keep to a signature of the packages that handle tensors fail the tests."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from autometa.networks import Step
from autometa.networks.layers import dropout, per_channel
from tests.checked import check_signatures, checked

PACKAGES = ("networks", "sharing", "learners", "balancing", "training")


@checked
def outer(rows: Float[Tensor, "row left"], others: Float[Tensor, "row right"]) -> list[int]:
    return [*rows.shape, *others.shape]


@checked
def turned(rows: Float[Tensor, "row feature"]) -> Float[Tensor, "feature row"]:
    return rows if len(rows) == 4 else rows.T


@checked
@dataclass
class Pair:
    first: Float[Tensor, " row"]
    second: Float[Tensor, " row"]
    name: str = field(default="pair")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_checked(package: str) -> None:
    spec = importlib.import_module(f"autometa.{package}").__spec__
    assert type(spec.loader).__module__ == checked.__module__
    with pytest.raises(RuntimeError, match=f"Already imported.*: autometa.{package}$"):
        check_signatures(f"autometa.{package}")


def test_shapes_and_types_of_the_product() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        per_channel(torch.ones(2, 3), 2)  # [channel] was promised
    with pytest.raises(BeartypeCallHintViolation):
        per_channel(torch.ones(3), "2")  # type: ignore[arg-type]
    with pytest.raises(BeartypeCallHintViolation):
        dropout(torch.ones(3, dtype=torch.int64), Step(), 0)
    with pytest.raises(BeartypeCallHintViolation):
        Step(train="yes")  # type: ignore[arg-type]


def test_an_axis_has_one_size() -> None:
    assert outer(torch.ones(2, 3), torch.ones(2, 4)) == [2, 3, 2, 4]
    assert outer(torch.ones(5, 3), torch.ones(5, 4)) == [5, 3, 5, 4]  # of one call
    with pytest.raises(BeartypeCallHintViolation):
        outer(torch.ones(2, 3), torch.ones(3, 3))
    assert turned(torch.ones(2, 3)).shape == (3, 2)
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        turned(torch.ones(4, 3))


def test_a_dataclass() -> None:
    assert Pair(torch.ones(2), torch.ones(2)).name == "pair"
    with pytest.raises(BeartypeCallHintViolation):
        Pair(torch.ones(2), torch.ones(3))
    with pytest.raises(BeartypeCallHintViolation):
        Pair(torch.ones(2), torch.ones(2), name=3)  # type: ignore[arg-type]
