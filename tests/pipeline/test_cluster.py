"""The connection to a Ray cluster: the values of RAY_ADDRESS, and the errors if no cluster answers."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray

from pipeline.execute.cluster import NoCluster, check_address


@pytest.fixture
def dead() -> Iterator[int]:
    """Return a port at which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def web() -> Iterator[int]:
    """Return the port of a web server."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:{dead}", "where no Ray cluster answers"),
        ("ray://127.0.0.1:{dead}", r"RAY_ADDRESS is ray://127.0.0.1:\d+, where no Ray cluster answers"),
        ("[::1]:{dead}", "where no Ray cluster answers"),
        ("127.0.0.1:{web}", "another program listens there"),
        ("http://ann:secret@127.0.0.1:{web}", r"is http://127.0.0.1:\d+, the address of a dashboard"),
        ("nonsense", "expected host:port"),
        ("host:port", "expected host:port"),
    ],
)
def test_an_address_without_a_cluster_is_an_error_at_once(address: str, said: str, dead: int, web: int) -> None:
    began = time.monotonic()
    with pytest.raises(NoCluster, match=said) as caught:
        check_address(address.format(dead=dead, web=web))
    assert time.monotonic() - began < 10
    assert "secret" not in str(caught.value)


def test_auto_is_the_last_started_cluster(dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    check_address("auto")  # ray.init raises its own error.
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{dead}\n")
    with pytest.raises(
        NoCluster, match=r"auto, which is 127.0.0.1:.*ray_current_cluster, where no Ray cluster answers"
    ):
        check_address("auto")


@pytest.mark.usefixtures("local_ray")
def test_a_running_cluster_is_found() -> None:
    address = ray.get_runtime_context().gcs_address
    check_address(address)
    check_address(f"127.0.0.1:{address.rpartition(':')[2]}")


def test_the_error_is_one_line(dead: int, tmp_path: Path) -> None:
    """Without the check, ray.init tries for 14 minutes."""
    program = (
        "from jobs.errors import exit_on_error\n"
        "from pipeline.execute.cluster import connected\n"
        "from pipeline.messages import machine_for\n"
        "with exit_on_error(), connected(1, machine_for(0)): pass"
    )
    command = [
        sys.executable,
        "-c",
        f"import typer\ntry:\n  exec({program!r})\nexcept typer.Exit as e: exit(e.exit_code)",
    ]
    environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{dead}"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: RAY_ADDRESS is 127.0.0.1:{dead}, where no Ray cluster answers")
    assert ended.stderr.count("\n") == 1
