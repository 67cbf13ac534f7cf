"""Labelled rows of a new task: what they become, and what is refused before any work."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from autometa.errors import DataError
from autometa.tasks.images import ImageEncoder
from autometa.tasks.support import NewTask, Support, read_support
from tests.small import IMAGE, make_suite, make_table

SITES = NewTask("regression", "rmse", "size", "site", mean=100.0, std=20.0)
SPECIES = NewTask("multiclass", "accuracy", "species", "site")
SOLD = NewTask("binary", "auc", "sold", "site", ("no", "yes"))
COLUMNS = NewTask("regression", "rmse", own_scale=True)


@pytest.fixture(scope="module")
def encoder():
    return make_suite().encoder


def table(*targets: str, rows: int = 12) -> pd.DataFrame:
    return make_table(rows)[["a", "b", "c", *targets]]


def refused(told: str, new: NewTask, encoder, support, **options) -> None:
    with pytest.raises(DataError, match=told):
        read_support(new, encoder, support, **options)


def test_features_are_encoded_and_the_target_standardised_as_in_training(encoder):
    rows = table("size").iloc[::-1].set_index(pd.Index(range(50, 62)))
    found = read_support(SITES, encoder, rows)
    known = rows[rows["size"].notna()]
    assert found.unlabelled == len(rows) - len(known) == 2
    torch.testing.assert_close(found.x, encoder.encode(known))
    np.testing.assert_allclose(found.y, (known["size"] - 100) / 20, rtol=1e-5)
    assert (found.task.name, found.task.mean, found.task.std) == ("size", 100.0, 20.0)


def test_a_target_of_its_own_unit_is_standardised_by_its_rows(encoder):
    rows = table().assign(weight=np.linspace(5, 9, 12))
    found = read_support(COLUMNS, encoder, rows)
    assert found.task.name == "weight"
    assert found.y.mean().item() == pytest.approx(0, abs=1e-6)
    assert found.y.std(correction=0).item() == pytest.approx(1)
    np.testing.assert_allclose(found.task.restore(found.y.numpy()), rows["weight"], rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
def test_equal_values_tell_no_unit(encoder, rows):
    same = table(rows=rows).assign(weight=0.1)
    refused("two different values: .* Found `0.1` only.", COLUMNS, encoder, same)
    found = read_support(SITES, encoder, same, target="weight")  # the unit is that of training
    np.testing.assert_allclose(found.y, [(0.1 - 100) / 20] * rows, rtol=1e-6)


def test_classes_are_numbered_from_the_labels(encoder):
    rows = table("species")
    found = read_support(SPECIES, encoder, rows)
    assert found.task.restore(found.y.numpy()).tolist() == rows["species"].tolist()
    assert found.task.classes == ("ash", "birch", "cedar")
    whole = read_support(SPECIES, encoder, rows.assign(species=[4.0, 5.0] * 6))
    assert whole.task.classes == (4, 5)


def test_two_classes_keep_their_order_in_training(encoder):
    new = NewTask("binary", "auc", "sold", None, ("yes", "no"))
    rows = table("sold")
    found = read_support(new, encoder, rows)
    assert found.task.restore(found.y.numpy()).tolist() == rows["sold"].tolist()
    assert found.y[rows["sold"].tolist().index("yes")] == 0
    numbers = read_support(
        NewTask("binary", "auc", "sold", None, (0, 1)), encoder, rows.assign(sold=[0.0, 1.0] * 6)
    )
    assert numbers.y.tolist() == [0, 1] * 6


def test_columns_of_other_words_have_their_own_classes(encoder):
    new = NewTask("binary", "accuracy", None, None, ("no", "yes"))
    rows = table().assign(new=["off", "on"] * 6)
    assert read_support(new, encoder, rows).task.classes == ("off", "on")
    known = read_support(new, encoder, rows.assign(new=["yes", "no"] * 6))
    assert known.task.classes == ("no", "yes")


def test_labels_beside_arrays_and_tables(encoder):
    rows = table("size", "species").dropna()
    by_column = read_support(SPECIES, encoder, rows)
    for labels in (rows["species"], rows["species"].tolist(), rows["species"].to_numpy()):
        beside = read_support(SPECIES, encoder, rows.drop(columns="species"), labels=labels)
        assert beside.task == by_column.task
        assert torch.equal(beside.x, by_column.x)
        assert torch.equal(beside.y, by_column.y)
    array = read_support(SITES, encoder, rows[["a", "b", "c"]].to_numpy(), labels=rows["size"])
    torch.testing.assert_close(array.x, by_column.x)
    tensor = torch.tensor(rows["size"].to_numpy())
    assert torch.equal(read_support(SITES, encoder, rows, labels=tensor).y, array.y)


def test_the_task_column_names_the_task(encoder):
    rows = table("size").assign(site=12.0)
    assert read_support(SITES, encoder, rows).group == "12"
    assert read_support(SITES, encoder, rows.drop(columns="site")).group is None
    refused(
        "rows of one new task. Found 2 in column `site`: north, south.",
        SITES, encoder, rows.assign(site=["north", "south"] * 6),
    )  # fmt: skip
    mixed = table("species").assign(site=["north", "south"] * 6)
    assert read_support(SPECIES, encoder, mixed).group is None


def test_targets_that_are_not_there(encoder):
    rows = table("size", "species")
    refused("`sise`, which should hold the labels, .* Did you mean `size`", SITES, encoder, rows,
            target="sise")  # fmt: skip
    refused("`size`, which .* `--target`.: it has weight.", SITES, encoder,
            table().assign(weight=range(12)))  # fmt: skip
    refused("Which column .*`--target`.. Found size, species.", COLUMNS, encoder, rows)
    refused("Which column .* features only", COLUMNS, encoder, table())
    refused("Column `a` is a feature", SITES, encoder, rows, target="a")


def test_features_that_do_not_fit(encoder):
    rows = table("size")
    refused("lacks column `b`", SITES, encoder, rows.drop(columns="b"))
    refused("Column `b` should hold numbers, as in training. Found text.", SITES, encoder,
            rows.assign(b="many"))  # fmt: skip
    refused("`a` appears twice", SITES, encoder, rows.rename(columns={"b": "a"}))
    refused("an array \\[rows, 3\\]", SITES, encoder, np.ones((4, 2)), labels=range(4))


def test_labels_that_do_not_fit(encoder):
    rows = table("size", "species", "sold")
    refused("no rows", SITES, encoder, rows.iloc[:0])
    refused("should be a table, .* Found 1 dimension", SITES, encoder, np.ones(3), labels=range(3))
    refused("`size` has no value", SITES, encoder, rows.assign(size=np.nan))
    refused("`size` should hold numbers. Found text.", SITES, encoder, rows.assign(size="big"))
    refused("infinite number", SITES, encoder, rows.assign(size=np.inf))
    refused("at least two classes to learn from. Found one \\(`ash`\\)", SPECIES, encoder,
            rows.assign(species="ash"))  # fmt: skip
    refused("at least two classes .*\\(`no`\\)", SOLD, encoder, rows.assign(sold="no"))
    refused("should hold `no` or `yes`, as in training. Found `perhaps`.", SOLD, encoder,
            rows.assign(sold=["no", "perhaps"] * 6))  # fmt: skip
    refused("should have two classes. Found 3.", NewTask("binary", "auc"), encoder, rows,
            target="species")  # fmt: skip
    refused("Arrays need `labels`", SITES, encoder, np.ones((4, 3)))
    refused("one label for each of the 12 rows. Found shape \\[3\\]", SITES, encoder, rows,
            labels=[1, 2, 3])  # fmt: skip
    refused("one label for each of the 4 rows. Found shape \\[4, 2\\]", SITES, encoder,
            np.ones((4, 3)), labels=np.ones((4, 2)))  # fmt: skip


def test_images():
    encoder = ImageEncoder(IMAGE, 0.5, 2.0)
    x, y = np.random.default_rng(0).random((6, *IMAGE)), ["b", "a", None] * 2
    found = read_support(SPECIES, encoder, x, labels=y)
    assert isinstance(found, Support)
    torch.testing.assert_close(found.x, encoder.encode(x[[0, 1, 3, 4]]))
    assert found.y.tolist() == [1, 0, 1, 0]
    assert found.task.name == "species"
    refused("Images should have shape", SPECIES, encoder, x[..., :4], labels=y)
    refused("Images should hold numbers", SPECIES, encoder, x.astype(str), labels=y)


def test_json_round_trip():
    for new in (SITES, SPECIES, SOLD, COLUMNS):
        assert NewTask.from_json(new.to_json()) == new
