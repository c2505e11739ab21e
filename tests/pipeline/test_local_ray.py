"""The Ray cluster that a run starts on its own machine."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import signal, sys
import psutil, ray
from pipeline.execute.cluster import connected
from pipeline.messages import machine_for
from pipeline.errors import JobError

before = signal.getsignal(signal.SIGTERM)
try:
    with connected(1, machine_for(0)):
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        assert signal.getsignal(signal.SIGTERM) is before
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            for line in process.net_connections("inet"):
                if line.status == psutil.CONN_LISTEN:
                    print(line.laddr.ip)
except JobError as error:
    sys.exit(str(error))
"""


IMPORTS = """
import sys
import ray
from pipeline.execute.cluster import connected
from pipeline.messages import machine_for

def imported():
    import edict, jobs, pipeline, schemas
    return [*edict.__path__, *jobs.__path__, *pipeline.__path__, *schemas.__path__], sys.path

with connected(1, machine_for(0)):
    folders, path = ray.get(ray.remote(imported).remote())
print(*folders, *path, sep="\\n")
"""


def run(program: str = PROGRAM, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env | environment)


def test_ray_listens_on_the_loopback_interface_only_and_needs_no_home() -> None:
    ended = run(HOME="/proc/absent")
    assert ended.returncode == 0, ended.stderr
    assert set(ended.stdout.split()) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert len(ended.stdout.split()) > 5


def test_a_run_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    """A token in ~/.ray would make every later `ray start` require it."""
    ended = run(HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_whose_token_is_missing_is_an_error_of_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ended = run(HOME=str(tmp_path), RAY_ADDRESS=address, RAY_AUTH_MODE="token")
    said = f"RAY_ADDRESS is {address}, and the token for this cluster is missing or wrong. Set RAY_AUTH_MODE=token, "
    assert ended.stderr.startswith(said), ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def answer(server: socket.socket) -> None:
    """Answer one connection as a gRPC server does, with an empty SETTINGS frame of HTTP/2."""
    connection, _ = server.accept()
    with connection:
        connection.recv(64)
        connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))


def test_an_unusable_temporary_folder_is_an_error_of_one_line(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    ended = run(TMPDIR=str(long))
    said = f"Ray cannot start on this machine: the path of its folder {long} is too long for a socket; "
    assert ended.stderr == f"{said}set RAY_TMPDIR to the short path of a writable folder\n"
    assert ended.returncode == 1
    ended = run(RAY_TMPDIR="/proc/absent")
    assert ended.stderr.startswith("Ray cannot start on this machine: with its files in /proc/absent, ")
    assert len(ended.stderr.splitlines()) == 1


TERMINATED = """
import os, signal, threading, time
from pipeline.execute.cluster import connected
from pipeline.messages import machine_for

def stop(*_):
    raise KeyboardInterrupt("by the handler of this process")

def terminate():
    while signal.getsignal(signal.SIGTERM) is stop:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, stop)
threading.Thread(target=terminate, daemon=True).start()
try:
    with connected(1, machine_for(0)):
        print("connected")
except KeyboardInterrupt as error:
    print(error)
"""


def test_sigterm_while_ray_starts_calls_the_handler_of_the_process() -> None:
    ended = run(TERMINATED)
    assert (ended.returncode, ended.stdout) == (0, "by the handler of this process\n"), ended.stderr


def test_workers_import_nothing_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "edict" / "models").mkdir(parents=True)
    for name in ("pipeline.py", "schemas/__init__.py", "jobs/__init__.py", "torch.py", "datasets/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise ImportError(__file__)")
    ended = run(IMPORTS, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert ended.returncode == 0, ended.stderr
    found = ended.stdout.splitlines()
    assert found[:4] == [str(ROOT / name) for name in ("edict", "jobs", "pipeline", "schemas")]
    assert str(tmp_path) not in found


SLOW = """
import ray

def init(**given):
    raise Exception("The current node timed out during startup. The raylet failed to start.\\nMore lines.")

ray.init = init
"""


def test_a_start_that_takes_too_long_is_an_error_of_one_line() -> None:
    """Ray raises a bare Exception then. The test raises it, because a slow machine is not at hand."""
    ended = run(SLOW + PROGRAM)
    said = "Ray did not start on this machine in time: The current node timed out during startup. "
    assert ended.stderr.startswith(said), ended.stderr
    assert ended.stderr.endswith("The machine may be busy: run the same command again\n")
    assert len(ended.stderr.splitlines()) == 1
