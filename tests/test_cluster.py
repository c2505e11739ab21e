"""Files that start a cluster: cluster.yaml and deploy/.

Ray's own validation accepts cluster.yaml, and Ray's autoscaler reads deploy/kuberay.yaml, which has only fields that
KubeRay documents. hadolint checks the Dockerfile. deploy/slurm.sh runs with scripts instead of Slurm, Ray and edict.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.spec_file import load
from schemas.specs import InvertSpec

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CLUSTER = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
RAYJOB = (ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8")
SLURM = ROOT / "deploy" / "slurm.sh"

# Fields of KubeRay's ray.io/v1 types.
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
    _, manifest = yaml.safe_load_all(RAYJOB)
    return manifest


def test_ray_accepts_cluster_yaml(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_ray_accepts_cluster_yaml_on_own_machines(on_own_machines: dict[str, Any]) -> None:
    prepared = prepare_config(on_own_machines)
    validate_config(prepared)
    (machines,) = prepared["available_node_types"].values()
    assert prepared["provider"]["type"] == "local"
    assert (machines["min_workers"], machines["max_workers"]) == (2, 2)


def test_only_gpu_workers_are_spot_instances_and_all_of_them_are_removed(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    spot = {name for name, node in types.items() if "InstanceMarketOptions" in node["node_config"]}
    assert spot == types.keys() - {cluster["head_node_type"]}
    assert all(types[name]["min_workers"] == 0 for name in spot)
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0


def test_the_ray_job_has_only_fields_of_kuberay(ray_job: dict[str, Any]) -> None:
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    spec = ray_job["spec"]["rayClusterSpec"]
    assert ray_job["spec"].keys() <= RAY_JOB
    assert spec.keys() <= RAY_CLUSTER
    assert spec["headGroupSpec"].keys() <= HEAD
    assert all(group.keys() <= WORKERS for group in spec["workerGroupSpecs"])


def test_rays_autoscaler_reads_the_ray_job(ray_job: dict[str, Any]) -> None:
    """KubeRay makes a RayCluster of it, which the autoscaler in the head's pod reads."""
    cluster = {"metadata": {"name": "edict", "namespace": "default"}, "spec": ray_job["spec"]["rayClusterSpec"]}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    head = config["available_node_types"].pop(config["head_node_type"])
    (gpu,) = config["available_node_types"].values()
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert (gpu["resources"]["GPU"], gpu["min_workers"], gpu["max_workers"]) == (1, 0, 8)


def test_the_ray_job_runs_a_valid_spec(ray_job: dict[str, Any], config_map: dict[str, Any], tmp_path: Path) -> None:
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


def test_every_version_of_ray_is_the_tested_one() -> None:
    (tested,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    texts = [RAYJOB, DOCKERFILE.read_text(encoding="utf-8"), (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")]
    versions = re.findall(r"(?:rayVersion: |ray[-:])(\d+\.\d+\.\d+)", "".join(texts))
    assert len(versions) >= 4
    assert set(versions) == {tested}


def test_hadolint_accepts_the_dockerfile() -> None:
    check = subprocess.run([BIN / "hadolint", "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (check.returncode, check.stdout) == (0, "")


def test_shellcheck_accepts_the_slurm_script() -> None:
    check = subprocess.run([BIN / "shellcheck", SLURM], capture_output=True, text=True)
    assert (check.returncode, check.stdout) == (0, "")


@pytest.fixture
def start_slurm_job(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts the script as Slurm does; every program that it calls appends a line to `log`."""
    programs = {name: f'echo "{name} $*" >> log' for name in ("ray", "scontrol", "srun", "python")}
    programs["hostname"] = "echo 10.0.0.1 172.17.0.1"
    programs["edict"] = """
        echo "edict $* at ${RAY_ADDRESS:-no cluster}, token of ${#RAY_AUTH_TOKEN} characters" >> log
        trap 'exit 143' TERM
        while [ "$2" = endless.yaml ]; do sleep 0.02; done
        exit 1
        """
    for name, lines in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\n{lines}\n")
        program.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "16", "SLURMD_NODENAME": "node1"}
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def start(*arguments: str, nodes: int) -> subprocess.Popen[str]:
        env = {**path, **slurm, "SLURM_JOB_NUM_NODES": str(nodes)}
        return subprocess.Popen(["/bin/bash", SLURM, *arguments], cwd=tmp_path, env=env, text=True)

    return start


def test_a_slurm_job_of_several_nodes_starts_ray_and_stops_it(
    start_slurm_job: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    assert start_slurm_job("spec.yaml", "-s", "a=b", nodes=3).wait(30) == 1
    head, *lines = (tmp_path / "log").read_text().splitlines()
    assert head.startswith("ray start --head --node-ip-address=10.0.0.1 --port=6379 --num-cpus=16 ")
    assert lines[-1].startswith("ray stop")
    assert "edict run spec.yaml -s a=b at 10.0.0.1:6379, token of 64 characters" in lines
    assert "python - 3" in lines
    (step,) = (line for line in lines if line.startswith("srun"))
    assert step.startswith("srun --nodes=2 --ntasks=2 --exclude=node1 ")


@pytest.mark.parametrize(("sent", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_slurm_job_is_queued_again_at_the_time_limit_only(
    start_slurm_job: Callable[..., subprocess.Popen[str]], tmp_path: Path, sent: signal.Signals, requeued: bool
) -> None:
    """SIGUSR1 precedes the time limit, and `scancel` sends SIGTERM. A job of one node needs no cluster."""
    job, log = start_slurm_job("endless.yaml", nodes=1), tmp_path / "log"
    while not log.exists() or not log.read_text().endswith("\n"):
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(sent)
    assert job.wait(30) == 143
    run, *rest = log.read_text().splitlines()
    assert run == "edict run endless.yaml at no cluster, token of 0 characters"
    assert rest == ["scontrol requeue 7"] * requeued
