"""cluster.yaml is what Ray's own launcher accepts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_only_gpu_workers_are_spot_and_none_is_kept(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    spot = {name for name, node in types.items() if "InstanceMarketOptions" in node["node_config"]}
    assert spot == types.keys() - {cluster["head_node_type"]}
    assert all(types[name]["min_workers"] == 0 for name in spot)
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0
