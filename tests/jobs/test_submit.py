"""`edict submit` on a real Ray cluster of three nodes on this machine: the driver's, and two that work and may die."""

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
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

from jobs.spec_file import load
from jobs.submit import SubmitError, entrypoint

DEMO = Path(__file__).parents[2] / "jobs" / "demo" / "shards" / "demo-00000.tar"
BIN = Path(sys.executable).parent
PATIENCE = 300.0  # seconds, several times what anything waited for here takes


class Submitted:
    """`edict submit` as a process of its own, and what it has printed."""

    def __init__(self, spec: Path, address: str, *overrides: str) -> None:
        number = len(list(spec.parent.glob("*.out")))
        self._out = spec.parent / f"{number}.out"
        arguments = [str(spec), "--address", address, *(part for one in overrides for part in ("-s", one))]
        with self._out.open("w") as out:
            self.process = subprocess.Popen([BIN / "edict", "submit", *arguments], stdout=out, stderr=out)

    def said(self) -> str:
        return self._out.read_text()

    def until(self, found: Callable[[], Any]) -> Any:
        """What `found` finds, as soon as it does; the process must not end before."""
        limit = time.monotonic() + PATIENCE
        while not (value := found()):
            if self.process.poll() is not None or time.monotonic() > limit:
                self.process.kill()
                pytest.fail(f"exit status {self.process.poll()}: {self.said()}")
            time.sleep(0.02)
        return value

    def until_it_says(self, text: str) -> None:
        self.until(lambda: text in self.said())

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        return self.process.wait(timeout=PATIENCE)


class Line:
    """A line to a port of this machine that can be cut, and mended."""

    def __init__(self, port: int) -> None:
        self._port, self._whole = port, True
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._connect, daemon=True).start()

    def cut(self) -> None:
        self._whole = False
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole = True

    def _connect(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if not self._whole:
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


class Three:
    """A cluster with a head that does no work, and workers of one CPU each."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        head = {"num_cpus": 0, "dashboard_port": port, "dashboard_agent_listen_port": free_port()}
        head |= {"include_dashboard": True, "temp_dir": str(folder)}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        # as `ray start` leaves it there: Ray Jobs look here for their cluster, and else take any on the machine
        (folder / "ray_current_cluster").write_text(self.cluster.address)
        self.port, self.address = port, f"http://127.0.0.1:{port}"
        self.client = JobSubmissionClient(self.address)

    def workers(self, count: int) -> None:
        """Have so many worker nodes."""
        for node in list(self.cluster.worker_nodes)[count:]:
            self.cluster.remove_node(node)
        while len(self.cluster.worker_nodes) < count:
            self.cluster.add_node(num_cpus=1)

    def node_of(self, pid: str) -> Any:
        """The node that a worker process belongs to: its raylet is the parent."""
        parent = int(subprocess.check_output(["ps", "-o", "ppid=", "-p", pid]))
        by_raylet = {node.all_processes["raylet"][0].process.pid: node for node in self.cluster.worker_nodes}
        return by_raylet[parent]

    def jobs(self, store: Path) -> dict[str, JobStatus]:
        listed = self.client.list_jobs()
        return {
            str(job.submission_id): job.status for job in listed if (job.metadata or {}).get("output") == str(store)
        }


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")  # as where `ray start` was found by its name
        patch.delenv("RAY_ADDRESS", raising=False)
        # not pytest's folder, whose name is too long for a socket's
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            # No driver and no worker may import from the folder in which `ray start` was called.
            patch.chdir(clash(Path(folder, "home")))
            started = Three(Path(folder))
            yield started
            started.cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The spec of a job whose workers nobody kills."""
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
    fields = {
        "kind": "invert",
        "input": str(DEMO),
        "output": str(store),
        "sampler": {"steps": 8, "guidance_scale": 1.0},
        "workers": {"count": 2, "min_count": 0, "batch_size": 2},
    }
    store.with_suffix(".yaml").write_text(json.dumps(fields))
    return store.with_suffix(".yaml")


def rows(store: Path) -> list[dict[str, Any]]:
    found = [row for part in (store / "parts").iterdir() for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: (row["shard"], row["index"]))


def test_a_store_has_one_driver_that_outlives_those_who_submit(three: Three, undisturbed: Path) -> None:
    """The job waits for nodes all the while, so that it is known to be running."""
    spec, store = undisturbed, undisturbed.with_suffix("")
    three.workers(0)

    both = [Submitted(spec, three.address), Submitted(spec, three.address)]
    for one in both:
        one.until_it_says("Running entrypoint")
    assert sorted("is running already" in one.said() for one in both) == [False, True]
    ((first, status),) = three.jobs(store).items()
    assert status == JobStatus.RUNNING
    assert three.client.get_job_info(first).metadata == {"output": str(store)}

    other = Submitted(spec, three.address, "sampler.steps=9")
    assert other.ended() == 2
    assert f"{first} is running there with another spec" in other.said()

    assert both[0].interrupt() == 130
    assert f"{first} is still running; run the same command again to follow it" in both[0].said()
    assert f"ray job stop --address {three.address} {first}" in both[0].said()
    assert three.jobs(store) == {first: JobStatus.RUNNING}
    three.client.stop_job(first)
    assert both[1].ended() == 1
    assert f"job {first}: stopped" in both[1].said()

    again = Submitted(spec, three.address)
    again.until_it_says("Running entrypoint")
    (second,) = three.jobs(store).keys() - {first}
    assert (first[-2:], second[-2:]) == ("-1", "-2")
    assert f"job {second} was submitted" in again.said()
    assert again.interrupt() == 130

    line = Line(three.port)
    to_the_end = Submitted(spec, line.address)
    to_the_end.until_it_says("Running entrypoint")
    line.cut()
    to_the_end.until_it_says("the cluster does not answer")
    line.mend()
    three.workers(2)
    assert to_the_end.ended() == 0, to_the_end.said()
    assert to_the_end.said().count("Running entrypoint") == 1, "the log is printed on from where it was"
    assert f"job {second} is running already" in to_the_end.said()
    assert f"job {second}: succeeded" in to_the_end.said()
    assert len(rows(store)) == 64

    refused = Submitted(spec, three.address, "sampler.steps=9")
    assert refused.ended() == 2, "what the driver says of a store that is another job's"
    assert "steps" in refused.said()


def test_a_node_that_is_killed_takes_no_row_with_it(three: Three, undisturbed: Path, tmp_path: Path) -> None:
    """The node goes whose worker committed first, and is at work on the next unit by then."""
    store = tmp_path / "killed"
    three.workers(2)
    job = Submitted(write_spec(store), three.address)
    commit = job.until(lambda: next((store / "commits").glob("*.json"), None))
    three.cluster.remove_node(three.node_of(json.loads(commit.read_text())["worker"]["pid"]), allow_graceful=False)
    assert len(list((store / "commits").iterdir())) < 8
    assert job.ended() == 0, job.said()

    events = [json.loads(line) for run in (store / "runs").glob("*.jsonl") for line in run.read_text().splitlines()]
    assert "node lost" in {event["event"] for event in events}
    subprocess.run([BIN / "edict", "run", undisturbed], check=True)  # where the test before has not done so
    assert rows(store) == rows(undisturbed.with_suffix(""))
    assert len(rows(store)) == 64


def test_the_command_hands_the_spec_over_as_it_is(tmp_path: Path) -> None:
    nasty = 'it\'s "{caption}" at $(1e-05) `now`\nSPEC \\ 雪 ☃ # %s'
    edits = [
        {"name": "snow", "prompt": nasty, "guidance_scale": 1e-05},
        {"name": "no", "replace": {"no": ["null", "1"]}},
    ]
    written, handed_over = tmp_path / "written.json", tmp_path / "handed-over.yaml"
    written.write_text(json.dumps({"kind": "edit", "latents": "s3://b/l", "output": "my 'edits'", "edits": edits}))
    spec = load(written)
    said = subprocess.check_output(["sh", "-c", entrypoint(spec).replace("edict run /dev/stdin", "cat")])
    handed_over.write_bytes(said)
    assert load(handed_over) == spec

    with pytest.raises(SubmitError, match="braces"):
        entrypoint(load(write_spec(tmp_path / "long"), [f"input={json.dumps([f'{n}.tar' * 10 for n in range(9999)])}"]))


@pytest.mark.parametrize(
    ("overrides", "address", "said"),
    [
        (["sampler.stepz=3"], "http://127.0.0.1:1", "did you mean steps?"),
        ([], "http://127.0.0.1:1", "error: http://127.0.0.1:1: no Ray cluster answers there"),
        ([], "head:6379", "error: head:6379: is not the address of a Ray dashboard"),
    ],
)
def test_nothing_is_sent_where_something_is_wrong(
    overrides: list[str], address: str, said: str, tmp_path: Path
) -> None:
    submitted = Submitted(write_spec(tmp_path / "latents"), address, *overrides)
    assert submitted.ended() == 2
    assert said in submitted.said()
    assert "Traceback" not in submitted.said()
    assert not (tmp_path / "latents").exists()
