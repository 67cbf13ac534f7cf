"""How members predict together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, logit, softmax

from autometa.ensembles import combine, leave_one_out, mixture
from autometa.metrics import TaskSpec

NUMBER = TaskSpec("size", "regression", "rmse")
TWO = TaskSpec("sold", "binary", "auc")
THREE = TaskSpec("species", "multiclass", "accuracy", n_classes=3)
FOUR = TaskSpec("kind", "multiclass", "accuracy", n_classes=4)
SPECS = (NUMBER, THREE, TWO, FOUR)


def outputs(members: int = 3, rows: int = 40, seed: int = 0) -> np.ndarray:
    """[member, task, row, output] of the tasks above, −∞ beyond a task's classes."""
    found = np.random.default_rng(seed).normal(scale=2.0, size=(members, 4, rows, 4))
    for task, width in enumerate((1, 3, 1, 4)):
        found[:, task, :, width:] = -np.inf
    return found.astype(np.float32)


def test_two_members_by_hand():
    found = combine(np.array([[[[0.0]], [[2.0]]], [[[np.log(3)]], [[3.0]]]]), (TWO, NUMBER))
    # probabilities 1/2 and 3/4: mean 5/8, odds 5/3
    np.testing.assert_allclose(found, [[[np.log(5 / 3)]], [[2.5]]])
    three = np.log([[[[0.5, 0.3, 0.2]]], [[[0.1, 0.1, 0.8]]]]) + 7  # logits say nothing of a shift
    np.testing.assert_allclose(np.exp(combine(three, (THREE,)))[0, 0], [0.3, 0.2, 0.5])


def test_means_of_values_and_of_probabilities():
    members = outputs()
    found = combine(members, SPECS)
    assert found.shape == members.shape[1:]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, :, 0], members[:, 0, :, 0].mean(0), rtol=1e-5, atol=1e-6)
    mean = expit(members[:, 2, :, 0].astype(float)).mean(0)
    np.testing.assert_allclose(found[2, :, 0], logit(mean), rtol=1e-4, atol=1e-6)
    for task, width in ((1, 3), (3, 4)):
        mean = softmax(members[:, task, :, :width].astype(float), -1).mean(0)
        np.testing.assert_allclose(softmax(found[task, :, :width], -1), mean, rtol=1e-5)
    for task, width in enumerate((1, 3, 1, 4)):
        assert (found[task, :, width:] == -np.inf).all()


def test_grouped_rows_are_read_by_their_task():
    members = outputs()
    task = np.arange(40) % 4
    mixed = members[:, task, np.arange(40)]
    found = combine(mixed, SPECS, task)
    np.testing.assert_array_equal(found, combine(members, SPECS)[task, np.arange(40)])


def test_one_member_is_itself_to_the_bit():
    members = outputs(1)
    assert np.array_equal(combine(members, SPECS), members[0])
    assert np.array_equal(leave_one_out(members, SPECS), members)


def test_equal_members_predict_as_one():
    members = np.repeat(outputs(1), 4, axis=0)
    found = combine(members, SPECS)
    np.testing.assert_allclose(found[[0, 2]], members[0, [0, 2]], rtol=1e-6)
    for task, width in ((1, 3), (3, 4)):
        expected = softmax(members[0, task, :, :width], -1)
        np.testing.assert_allclose(softmax(found[task, :, :width], -1), expected, rtol=1e-5)


@pytest.mark.parametrize("members", [2, 5])
def test_a_row_does_not_depend_on_the_others(members):
    """Bit by bit, whatever the number of rows."""
    every = outputs(members, rows=301)
    found = combine(every, SPECS)
    for some in (slice(0, 1), slice(3, 10), slice(17, 301), slice(None, None, 7)):
        assert np.array_equal(combine(every[:, :, some], SPECS), found[:, some])


def test_sure_members_stay_finite():
    sure = np.array([[[[800.0]]], [[[900.0]]], [[[700.0]]]], dtype=np.float32)
    found = combine(sure, (TWO,))
    assert 700 <= found[0, 0, 0] <= 702  # log(3) above the least sure
    np.testing.assert_array_equal(combine(-sure, (TWO,)), -found)
    apart = np.array([[[[0.0, 500.0, 0.0]]], [[[500.0, 0.0, 0.0]]]], dtype=np.float32)
    np.testing.assert_allclose(np.exp(combine(apart, (THREE,)))[0, 0], [0.5, 0.5, 0.0])


def test_what_is_not_finite_shows():
    members = outputs()
    members[1, :, 5, 0] = np.nan
    found = combine(members, SPECS)
    assert np.isnan(found[:, 5, 0]).all()
    assert np.isfinite(np.delete(found, 5, axis=1)[:, :, 0]).all()


def test_leave_one_out_lacks_one_each():
    members = outputs(4)
    found = leave_one_out(members, SPECS)
    assert found.shape == members.shape
    for lost in range(4):
        rest = members[[m for m in range(4) if m != lost]]
        assert np.array_equal(found[lost], combine(rest, SPECS))
    two = outputs(2)
    np.testing.assert_array_equal(leave_one_out(two, SPECS), two[::-1])
    task = np.arange(40) % 4
    mixed = members[:, task, np.arange(40)]
    assert leave_one_out(mixed, SPECS, task).shape == mixed.shape


def test_gradients_flow():
    members = torch.from_numpy(outputs()).double().requires_grad_()
    found = mixture(members, torch.tensor([0, 3, 1, 4]))
    found[found.isfinite()].sum().backward()
    gradient = members.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    np.testing.assert_allclose(gradient[:, 0, :, 0], 1 / 3)
    assert (gradient[:, 1, :, 3:] == 0).all()
