"""cluster.yaml, for AWS and for one's own machines, is what Ray's launcher accepts.

deploy/kuberay.yaml has fields that KubeRay documents, and Ray's autoscaler reads it. It was not tried on Kubernetes.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.spec_file import load
from schemas.specs import InvertSpec

ROOT = Path(__file__).parents[1]
CLUSTER = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
RAYJOB = (ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8")

# What KubeRay's ray.io/v1 types have, of what is of use here.
RAY_JOB = {
    "activeDeadlineSeconds", "backoffLimit", "entrypoint", "rayClusterSpec", "runtimeEnvYAML", "submissionMode",
    "shutdownAfterJobFinishes", "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
RAY_CLUSTER = {"autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec", "rayVersion", "workerGroupSpecs"}
HEAD = {"rayStartParams", "serviceType", "template"}
WORKERS = {"groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "template"}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER)


@pytest.fixture
def on_own_machines() -> dict[str, Any]:
    return yaml.safe_load(re.sub("^# local: ", "", CLUSTER, flags=re.MULTILINE))


@pytest.fixture
def config_map() -> dict[str, Any]:
    return next(yaml.safe_load_all(RAYJOB))


@pytest.fixture
def ray_job() -> dict[str, Any]:
    _, found = yaml.safe_load_all(RAYJOB)
    return found


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_ray_accepts_it_on_own_machines(on_own_machines: dict[str, Any]) -> None:
    prepared = prepare_config(on_own_machines)
    validate_config(prepared)
    (machines,) = prepared["available_node_types"].values()
    assert prepared["provider"]["type"] == "local"
    assert (machines["min_workers"], machines["max_workers"]) == (2, 2)


def test_only_gpu_workers_are_spot_and_none_is_kept(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    spot = {name for name, node in types.items() if "InstanceMarketOptions" in node["node_config"]}
    assert spot == types.keys() - {cluster["head_node_type"]}
    assert all(types[name]["min_workers"] == 0 for name in spot)
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0


def test_the_ray_job_has_fields_that_kuberay_knows(ray_job: dict[str, Any]) -> None:
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    spec = ray_job["spec"]["rayClusterSpec"]
    assert ray_job["spec"].keys() <= RAY_JOB
    assert spec.keys() <= RAY_CLUSTER
    assert spec["headGroupSpec"].keys() <= HEAD
    assert all(group.keys() <= WORKERS for group in spec["workerGroupSpecs"])


def test_rays_autoscaler_reads_the_ray_job(ray_job: dict[str, Any]) -> None:
    """What KubeRay makes of it, a RayCluster, as the autoscaler in the head's pod reads it."""
    made = {"metadata": {"name": "edict", "namespace": "default"}, "spec": ray_job["spec"]["rayClusterSpec"]}
    config = _derive_autoscaling_config_from_ray_cr(made)
    head = config["available_node_types"].pop(config["head_node_type"])
    (gpu,) = config["available_node_types"].values()
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert (gpu["resources"]["GPU"], gpu["min_workers"], gpu["max_workers"]) == (1, 0, 8)


def test_the_ray_job_runs_a_spec_that_is_valid(
    ray_job: dict[str, Any], config_map: dict[str, Any], tmp_path: Path
) -> None:
    head = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    ((name, text),) = config_map["data"].items()
    (volume,) = head["volumes"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert volume == {"name": mount["name"], "configMap": {"name": config_map["metadata"]["name"]}}
    assert ray_job["spec"]["entrypoint"] == f"edict run {mount['mountPath']}/{name}"

    (tmp_path / name).write_text(text)
    spec = load(tmp_path / name)
    (group,) = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert isinstance(spec, InvertSpec)
    assert (spec.workers.count, spec.workers.min_count) == (group["maxReplicas"], group["minReplicas"])


def test_every_version_of_ray_is_the_one_that_is_tested() -> None:
    (tested,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    written = RAYJOB + (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    found = re.findall(r"(?:rayVersion: |ray[-:])(\d+\.\d+\.\d+)", written)
    assert len(found) >= 4
    assert set(found) == {tested}
