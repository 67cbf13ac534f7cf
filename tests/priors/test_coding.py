from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autometa.priors.coding import NOTHING, UNKNOWN, Category, Coding, Number, fit_value

RATE = FloatDistribution(1e-4, 1.0, log=True)
KIND = CategoricalDistribution(["a", "b", None])
DEPTH = IntDistribution(1, 5)
SPACE: dict[str, BaseDistribution] = {"rate": RATE, "kind": KIND, "depth": DEPTH}


def record(**params: Any) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    return params, {name: SPACE[name] for name in params}


def coding() -> Coding:
    return Coding([[record(rate=1e-2, kind="a"), record(rate=1.0, kind="b", depth=3)]])


def squared(found: np.ndarray) -> np.ndarray:
    return ((found[:, None] - found[None]) ** 2).sum(-1)


def test_codes_and_back() -> None:
    c = coding()
    assert c.names == ["depth", "kind", "rate"]
    codes = c.codes([{"rate": 1e-2, "kind": None}, {"rate": 1.0, "depth": 5, "kind": "a"}])
    np.testing.assert_allclose(codes, [[np.nan, 2, 0.5], [1, 0, 1]])
    assert c.decode(codes[0]) == {"kind": None, "rate": pytest.approx(1e-2)}
    assert c.codes([{"kind": "new"}])[0, 1] == UNKNOWN


def test_distances() -> None:
    c = coding()
    assert c.conditional.tolist() == [True, False, False]
    params = [
        {"rate": 1e-4, "kind": "a", "depth": 1},
        {"rate": 1.0, "kind": "a", "depth": 1},
        {"rate": 1e-4, "kind": "b", "depth": 1},
        {"rate": 1e-4, "kind": "a"},
        {"rate": 1e-4, "kind": "a", "depth": 3},
    ]
    d2 = squared(c.embed(c.codes(params)))
    # a whole range, another category, and with or without a conditional parameter: from the end
    # of its range 1, from the middle 3/4
    np.testing.assert_allclose(d2[0], [0, 1, 1, 1, 0.25], atol=1e-12)
    assert d2[3, 4] == pytest.approx(0.75)
    # without an unconditional one there is no distance to be had
    assert np.isnan(c.embed(c.codes([{"kind": "a"}]))).any()
    assert not np.isnan(c.embed(c.codes([{"kind": "a", "rate": 1.0}]))).any()


def test_extension_keeps_the_codes() -> None:
    base = coding()
    space: dict[str, BaseDistribution] = {
        "rate": FloatDistribution(1e-6, 10, log=True),
        "kind": CategoricalDistribution(["c", "b"]),
        "new": FloatDistribution(0, 2),
    }
    wide = Coding([[({"rate": 1e-6, "kind": "c", "new": 1.0}, space)]], base=base)
    assert wide.names == ["depth", "kind", "rate", "new"]
    params = [{"rate": 1e-3, "kind": None, "depth": 2}]
    np.testing.assert_array_equal(wide.codes(params)[:, :3], base.codes(params))
    np.testing.assert_allclose(
        wide.codes([{"rate": 1e-6, "kind": "c", "new": 1.0}])[0], [np.nan, 3, -0.5, 0.5]
    )
    assert wide.conditional.tolist() == [True, False, False, False]
    assert wide.options("kind", space).tolist() == [3, 1]
    np.testing.assert_allclose(wide.limits("rate", space), (-0.5, 1.25))


def test_what_most_studies_say() -> None:
    numeric, choices = FloatDistribution(0, 8), CategoricalDistribution([1, 2, "many"])
    studies = [[({"x": v}, {"x": d})] for v, d in ((1.0, numeric), (2.0, numeric), (2, choices))]
    c = Coding(studies)
    assert c.parameters["x"] == Number(0, 8, log=False)
    np.testing.assert_allclose(c.codes([{"x": 2}, {"x": "many"}])[:, 0], [0.25, np.nan])
    c = Coding([studies[0], studies[2], studies[2]])
    assert c.parameters["x"] == Category((1, 2, "many"))


def test_choices_of_different_types_differ() -> None:
    category = Category((1, True, 1.0, "1"))
    assert [category.index(v) for v in (1, True, 1.0, "1", 0)] == [0, 1, 2, 3, UNKNOWN]


def test_snap() -> None:
    c = coding()
    space: dict[str, BaseDistribution] = {
        "rate": FloatDistribution(1e-3, 1e-1, log=True),
        "depth": IntDistribution(2, 4, step=2),
    }
    codes = c.snap(np.array([[0.3, 1.0, 0.1], [np.nan, 0.0, 0.5]]), space)
    found = [c.decode(row) for row in codes]
    assert found[0] == {"depth": 2.0, "kind": "b", "rate": pytest.approx(1e-3)}
    assert found[1] == {"kind": "a", "rate": pytest.approx(1e-2)}


@pytest.mark.parametrize(
    ("value", "distribution", "expected"),
    [
        (0.3, FloatDistribution(0, 1), 0.3),
        (7.0, FloatDistribution(0, 1), 1.0),
        (0.34, FloatDistribution(0, 1, step=0.25), 0.25),
        (9.0, FloatDistribution(0, 0.9, step=0.3), 0.9),
        (33.4, IntDistribution(16, 64), 33),
        (33.4, IntDistribution(16, 64, step=8), 32),
        (30, CategoricalDistribution([16, 32, 64]), 32),
        ("b", CategoricalDistribution(["a", "b"]), "b"),
        ("c", CategoricalDistribution(["a", "b"]), NOTHING),
        ("b", FloatDistribution(0, 1), NOTHING),
        (True, FloatDistribution(0, 1), NOTHING),
        (1, CategoricalDistribution([True, False]), NOTHING),
        (1, CategoricalDistribution([True, 1]), 1),
        (None, CategoricalDistribution([None, "a"]), None),
        (None, CategoricalDistribution([1, "a"]), NOTHING),
    ],
)
def test_fit_value(value: Any, distribution: BaseDistribution, expected: Any) -> None:
    found = fit_value(value, distribution)
    assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)
    assert type(found) is type(expected)
    if found is not NOTHING:
        assert distribution._contains(distribution.to_internal_repr(found))
