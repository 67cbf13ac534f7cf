"""A cluster that loses a node: the units that ran there are run again, no trial is lost."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autometa.searching.progress import Progress
from tests.searching.support import run, small_suite

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own, on import
    import ray
    from ray.cluster_utils import Cluster


@pytest.fixture
def cluster() -> Iterator[Any]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("short_judgement")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Cluster leaves its pipes to the collector
def test_losing_a_node_loses_no_trial(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    seen: list[Progress] = []

    def watch(step: Progress) -> None:
        seen.append(step)
        if step.phase == "search" and step.done >= 3 and len(cluster.worker_nodes) == 1:
            cluster.remove_node(node, allow_graceful=False)

    result = run(
        tmp_path,
        small_suite(rows=600),
        n_trials=14,
        max_epochs=9,
        workers=2,
        ray_address=cluster.address,
        progress=watch,
        diagnose=False,
    )
    assert not cluster.worker_nodes
    assert result.n_trials == sum(result.states.values()) == 14
    assert result.states["FAIL"] == 0
    assert result.model is not None
