"""Write WebDataset tar shards that any WebDataset reader reads back under the same names."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.io.tar import split_name, unsafe_reason


class BadMemberName(ValueError):
    """A WebDataset reader would not return a member of a shard under its name."""


def write_shard(samples: Iterable[tuple[str, dict[str, bytes]]]) -> bytes:
    """Return a tar of samples, each a key and its members by extension. The same samples give the same bytes.

    Raises:
        ValueError: Two samples have the same key.
        BadMemberName: A member has an invalid name, as in `check_member`.
    """
    from webdataset.writer import TarWriter  # imports torch, which reading and planning do not need

    buffer = io.BytesIO()
    seen: set[str] = set()
    with TarWriter(buffer, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for key, members in samples:
            if key in seen:
                raise ValueError(f"sample {key!r}: is written twice; give each sample of a shard its own key")
            seen.add(key)
            for extension in members:
                check_member(key, extension)
            writer.write({"__key__": key, **members})
    return buffer.getvalue()


def check_member(key: str, extension: str) -> None:
    """Check that a WebDataset reader returns a member under the name that is written.

    Raises:
        BadMemberName: The key has a dot in its last part, has a NUL or is a meta name, or the extension has upper case.
    """
    name = f"{key}.{extension}"
    info = tarfile.TarInfo(name)
    # webdataset's writer silently omits extensions that begin with an underscore, and a name ends at a NUL.
    if split_name(info) != (key, extension) or unsafe_reason(info) or extension[:1] in ("", "_") or "\0" in name:
        raise BadMemberName(f"member {name!r}: a WebDataset reader cannot return this name; rename the sample")


def json_member(content: Mapping[str, Any]) -> bytes:
    """Return the .json member of a sample, with escapes only where UTF-8 cannot encode a lone surrogate."""
    try:
        return json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(content).encode()
