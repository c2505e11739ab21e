"""`edict submit` on a Ray cluster of three nodes on this machine: one for the driver, and two for workers."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

from jobs.spec_file import load
from jobs.submit import SubmitError, entrypoint
from tests.jobs.commands import write_invert_spec

BIN = Path(sys.executable).parent
PATIENCE = 300.0  # seconds, several times what anything waited for here takes


class Submitted:
    """A process that runs `edict submit`, and its output."""

    def __init__(self, spec: Path, address: str, *overrides: str) -> None:
        number = len(list(spec.parent.glob("*.out")))
        self._out = spec.parent / f"{number}.out"
        arguments = [str(spec), "--address", address, *(part for one in overrides for part in ("-s", one))]
        with self._out.open("w") as out:
            self.process = subprocess.Popen([BIN / "edict", "submit", *arguments], stdout=out, stderr=out)

    def output(self) -> str:
        return self._out.read_text()

    def until(self, found: Callable[[], Any]) -> Any:
        """Return the value of `found` as soon as it is true. The process must not end before."""
        limit = time.monotonic() + PATIENCE
        while not (value := found()):
            if self.process.poll() is not None or time.monotonic() > limit:
                self.process.kill()
                pytest.fail(f"exit status {self.process.poll()}: {self.output()}")
            time.sleep(0.02)
        return value

    def until_it_prints(self, text: str) -> None:
        self.until(lambda: text in self.output())

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        return self.process.wait(timeout=PATIENCE)


class Proxy:
    """A TCP proxy to a port of this machine, which can be disconnected and connected again."""

    def __init__(self, port: int) -> None:
        self._port, self._connected = port, True
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def disconnect(self) -> None:
        self._connected = False
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def reconnect(self) -> None:
        self._connected = True

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if not self._connected:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._port))
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class SmallCluster:
    """A cluster with a head node without CPUs, and worker nodes with one CPU each."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        head = {"num_cpus": 0, "dashboard_port": port, "dashboard_agent_listen_port": free_port()}
        head |= {"include_dashboard": True, "temp_dir": str(folder)}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        # `ray start` writes this file too. Without it, Ray Jobs takes any cluster of this machine.
        (folder / "ray_current_cluster").write_text(self.cluster.address)
        self.port, self.address = port, f"http://127.0.0.1:{port}"
        self.client = JobSubmissionClient(self.address)

    def workers(self, count: int) -> None:
        """Add or remove worker nodes until there are `count`."""
        for node in list(self.cluster.worker_nodes)[count:]:
            self.cluster.remove_node(node)
        while len(self.cluster.worker_nodes) < count:
            self.cluster.add_node(num_cpus=1)

    def node_of(self, pid: str) -> Any:
        """Return the node of a worker process, whose parent is the raylet of the node."""
        parent = int(subprocess.check_output(["ps", "-o", "ppid=", "-p", pid]))
        by_raylet = {node.all_processes["raylet"][0].process.pid: node for node in self.cluster.worker_nodes}
        return by_raylet[parent]

    def jobs(self, store: Path) -> dict[str, JobStatus]:
        listed = self.client.list_jobs()
        return {
            str(job.submission_id): job.status for job in listed if (job.metadata or {}).get("output") == str(store)
        }


@pytest.fixture(scope="module")
def cluster() -> Iterator[SmallCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")  # As on a machine where the shell finds `ray`.
        patch.delenv("RAY_ADDRESS", raising=False)
        # The name of pytest's folder is too long for a socket.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            # No driver and no worker may import from the folder in which `ray start` was called.
            patch.chdir(clash(Path(folder, "home")))
            started = SmallCluster(Path(folder))
            yield started
            started.cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the spec of a job whose workers are not killed."""
    return write_spec(tmp_path_factory.mktemp("submit") / "undisturbed")


def clash(folder: Path) -> Path:
    """Make a folder with the names of this package's modules in it."""
    (folder / "edict").mkdir(parents=True)
    for name in ("pipeline.py", "schemas.py", "jobs.py"):
        (folder / name).write_text("raise ImportError(__file__)")
    return folder


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def write_spec(store: Path) -> Path:
    """Write the spec of a job with 32 units, which can start without workers."""
    sampler, workers = {"steps": 8, "guidance_scale": 1.0}, {"count": 2, "min_count": 0, "batch_size": 2}
    return write_invert_spec(store, sampler=sampler, workers=workers)


def rows(store: Path) -> list[dict[str, Any]]:
    found = [row for part in (store / "parts").iterdir() for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: (row["shard"], row["index"]))


def test_a_store_has_one_driver_that_keeps_running_without_its_submitter(
    cluster: SmallCluster, undisturbed: Path
) -> None:
    """There are no worker nodes at first, so the job keeps running."""
    spec, store = undisturbed, undisturbed.with_suffix("")
    cluster.workers(0)

    both = [Submitted(spec, cluster.address), Submitted(spec, cluster.address)]
    for one in both:
        one.until_it_prints("Running entrypoint")
    assert sorted("is running already" in one.output() for one in both) == [False, True]
    ((first, status),) = cluster.jobs(store).items()
    assert status == JobStatus.RUNNING
    assert cluster.client.get_job_info(first).metadata == {"output": str(store)}

    other = Submitted(spec, cluster.address, "sampler.steps=9")
    assert other.ended() == 2
    assert f"{first} is running there with another spec" in other.output()

    assert both[0].interrupt() == 130
    assert f"{first} is still running; run the same command again to follow it" in both[0].output()
    assert f"ray job stop --address {cluster.address} {first}" in both[0].output()
    assert cluster.jobs(store) == {first: JobStatus.RUNNING}
    cluster.client.stop_job(first)
    assert both[1].ended() == 1
    assert f"job {first}: stopped" in both[1].output()

    again = Submitted(spec, cluster.address)
    again.until_it_prints("Running entrypoint")
    (second,) = cluster.jobs(store).keys() - {first}
    assert (first[-2:], second[-2:]) == ("-1", "-2")
    assert f"job {second} was submitted" in again.output()
    assert again.interrupt() == 130

    proxy = Proxy(cluster.port)
    to_the_end = Submitted(spec, proxy.address)
    to_the_end.until_it_prints("Running entrypoint")
    proxy.disconnect()
    to_the_end.until_it_prints("the cluster does not answer")
    proxy.reconnect()
    cluster.workers(2)
    assert to_the_end.ended() == 0, to_the_end.output()
    assert to_the_end.output().count("Running entrypoint") == 1, "the log continues where it was"
    assert f"job {second} is running already" in to_the_end.output()
    assert f"job {second}: succeeded" in to_the_end.output()
    assert len(rows(store)) == 64

    refused = Submitted(spec, cluster.address, "sampler.steps=9")
    assert refused.ended() == 2, "the store belongs to another job"
    assert "steps" in refused.output()


def test_no_row_is_lost_with_a_node(cluster: SmallCluster, undisturbed: Path, tmp_path: Path) -> None:
    """The node of the first commit is removed while its worker processes the next unit."""
    store = tmp_path / "killed"
    cluster.workers(2)
    job = Submitted(write_spec(store), cluster.address)
    commit = job.until(lambda: next((store / "commits").glob("*.json"), None))
    cluster.cluster.remove_node(cluster.node_of(json.loads(commit.read_text())["worker"]["pid"]), allow_graceful=False)
    assert len(list((store / "commits").iterdir())) < 8
    assert job.ended() == 0, job.output()

    events = [json.loads(line) for run in (store / "runs").glob("*.jsonl") for line in run.read_text().splitlines()]
    assert "node lost" in {event["event"] for event in events}
    subprocess.run([BIN / "edict", "run", undisturbed], check=True)  # Finish it if the previous test was not run.
    assert rows(store) == rows(undisturbed.with_suffix(""))
    assert len(rows(store)) == 64


def test_the_command_of_the_driver_contains_the_unchanged_spec(tmp_path: Path) -> None:
    nasty = 'it\'s "{caption}" at $(1e-05) `now`\nSPEC \\ 雪 ☃ # %s'
    edits = [
        {"name": "snow", "prompt": nasty, "guidance_scale": 1e-05},
        {"name": "no", "replace": {"no": ["null", "1"]}},
    ]
    written, received = tmp_path / "written.json", tmp_path / "received.yaml"
    written.write_text(json.dumps({"kind": "edit", "latents": "s3://b/l", "output": "my 'edits'", "edits": edits}))
    spec = load(written)
    said = subprocess.check_output(["sh", "-c", entrypoint(spec).replace("edict run /dev/stdin", "cat")])
    received.write_bytes(said)
    assert load(received) == spec

    with pytest.raises(SubmitError, match="too long for a command"):
        entrypoint(load(write_spec(tmp_path / "long"), [f"input={json.dumps([f'{n}.tar' * 10 for n in range(9999)])}"]))


@pytest.mark.parametrize(
    ("overrides", "address", "said"),
    [
        (["sampler.stepz=3"], "http://127.0.0.1:1", "did you mean steps?"),
        ([], "http://127.0.0.1:1", "error: http://127.0.0.1:1: no Ray cluster answers there"),
        ([], "head:6379", "error: head:6379: is not the address of a Ray dashboard"),
    ],
)
def test_an_invalid_spec_or_address_submits_nothing(
    overrides: list[str], address: str, said: str, tmp_path: Path
) -> None:
    submitted = Submitted(write_spec(tmp_path / "latents"), address, *overrides)
    assert submitted.ended() == 2
    assert said in submitted.output()
    assert "Traceback" not in submitted.output()
    assert not (tmp_path / "latents").exists()


class TokenRequired(BaseHTTPRequestHandler):
    """The answer of a dashboard with token authentication to a request without the token."""

    def do_GET(self) -> None:
        status = 403 if self.headers["Authorization"] else 401
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {},
            "the Ray cluster there requires a token. Set RAY_AUTH_MODE=token. If the token is not in ~/.ray/auth_token",
        ),
        ({"RAY_AUTH_MODE": "token"}, "the token on this machine is missing or wrong. Set RAY_AUTH_TOKEN to the"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32}, "the token on this machine is missing or wrong"),
    ],
)
def test_a_cluster_that_requires_a_token_is_named_as_such(
    environment: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    with ThreadingHTTPServer(("127.0.0.1", 0), TokenRequired) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        submitted = Submitted(write_spec(tmp_path / "latents"), address)
        assert submitted.ended() == 2
        server.shutdown()
    assert submitted.output().startswith(f"error: {address}: the Ray cluster there requires a token")
    assert said in submitted.output()
    assert len(submitted.output().splitlines()) == 1
