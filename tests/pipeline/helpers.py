"""Helpers that several tests of the pipeline use."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from pipeline.io.samples import Sample
from pipeline.messages import Machine

Members = list[tuple[str, bytes]]
"""The members of a tar: their names and contents."""

ShardOf = Callable[[Path, Members], Path]
"""The fixture `shard_of`: it writes members to a tar, and returns its path."""

CPU = Machine("cpu", 1, 0.0)
DEMO = Path(__file__).parents[2] / "jobs" / "demo" / "shards" / "demo-00000.tar"


def members_of(samples: Iterable[Sample], *, with_json: bool = False) -> Members:
    """Return the members of a shard of these samples: image and caption, and their JSON if wanted."""
    members: Members = []
    for sample in samples:
        members += [(f"{sample.key}.{sample.extension}", sample.image), (f"{sample.key}.txt", sample.caption.encode())]
        if with_json:
            members.append((f"{sample.key}.json", (sample.json or "{}").encode()))
    return members


def complete_members(*keys: str) -> Members:
    """Return an image and a caption for each key. Their contents are "png of KEY" and "txt of KEY"."""
    return [(f"{key}.{name}", f"{name} of {key}".encode()) for key in keys for name in ("png", "txt")]


def image_file(colour: str | tuple[int, int, int], *, side: int = 64, format: str = "PNG") -> bytes:
    """Return a square image of one colour as a file."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, format)
    return buffer.getvalue()
