"""Fixtures: a real Ray and a real S3 server for the session, and samples of the shipped demo data."""

import io
import socket
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from pipeline.io.samples import Sample, read_samples
from pipeline.io.shard_index import index_shard
from tests.pipeline.helpers import DEMO, Members


@pytest.fixture(scope="session")
def s3_socket() -> Iterator[socket.socket]:
    """Bind the socket of the S3 server, and set its address and credentials in the environment."""
    with socket.socket() as bound, pytest.MonkeyPatch.context() as patch:
        bound.bind(("127.0.0.1", 0))
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_DEFAULT_REGION"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIATHEKEY")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
        yield bound


@pytest.fixture(scope="session")
def s3_server(s3_socket: socket.socket) -> Iterator[str]:
    """Return the endpoint of a moto server. It is only started if a test needs it, because its imports take seconds."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    s3_socket.listen(128)
    host, port = s3_socket.getsockname()
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server(host, port, app, threaded=True, request_handler=Quiet, fd=s3_socket.fileno())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{host}:{port}"
    server.shutdown()


@pytest.fixture
def s3(s3_server: str) -> str:
    """Return an s3:// prefix in a new bucket. Workers of `local_ray` can use it too."""
    import boto3

    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/a prefix"


@pytest.fixture(scope="session")
def local_ray(s3_socket: socket.socket) -> Iterator[None]:
    # The socket comes first, because workers have the environment in which Ray was started.
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,  # Tests here assume none; those in tests/gpu start their own Ray.
        include_dashboard=False,
        logging_level="WARNING",
        _system_config={"metrics_report_interval_ms": 500},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Return the first 24 samples of the demo data."""
    index = index_shard(str(DEMO))
    read = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries[:24])
    return [sample for sample in read if isinstance(sample, Sample)]


@pytest.fixture(scope="session")
def shard_of() -> Callable[[Path, Members], Path]:
    """Return a function that writes members, in order, to a tar as the program `tar` does."""

    def write(path: Path, members: Members) -> Path:
        with tarfile.open(path, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write
