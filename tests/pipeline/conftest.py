"""A real Ray for the session, and small real shards cut from the shipped demo data."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from pipeline.shards import Sample, index_shard, read_samples

DEMO = Path(__file__).parents[2] / "jobs" / "demo" / "shards" / "demo-00000.tar"

Members = list[tuple[str, bytes]]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="WARNING")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """The first 24 samples of the demo data."""
    index = index_shard(str(DEMO))
    read = read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries[:24])
    return [sample for sample in read if isinstance(sample, Sample)]


@pytest.fixture(scope="session")
def shard_of() -> Callable[[Path, Members], Path]:
    """Write members, in order, as a tar such as anybody's `tar` would."""

    def write(path: Path, members: Members) -> Path:
        with tarfile.open(path, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write
