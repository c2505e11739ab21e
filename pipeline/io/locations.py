"""The kinds of locations: local paths, object stores and web servers."""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.io.errors import StorageError
from schemas.locations import without_secrets

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https")
_CLOUDS = {"s3": "s3", "s3a": "s3", "gs": "gs"} | dict.fromkeys(("az", "azure", "adl", "abfs", "abfss"), "az")


def local_path(location: str) -> Path | None:
    """Return the absolute path of a plain path or a file:// URL; None for any other URL.

    Raises:
        StorageError: The location is empty, is a URL of an unknown kind, or contains a secret.
    """
    if not location:
        raise StorageError("the location is empty; give a path or a URL")
    if (shown := without_secrets(location)) != location:
        raise StorageError(
            f"{shown}: contains credentials or a query; give the URL without them (credentials come from the "
            "environment)"
        )
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", location)
    if scheme is None:
        # Path.resolve() would replace a link to a shard by its target, whose name is not the one in the spec.
        return Path(os.path.abspath(location))
    if scheme[1] == "file":
        return Path(os.path.abspath(unquote(location.removeprefix("file://"))))
    if scheme[1] not in SCHEMES:
        raise StorageError(f"{location}: {scheme[1]}:// is not supported; use a path, file:// or one of {SCHEMES}")
    return None


def cloud_of(location: str) -> str | None:
    """Return the cloud of a URL: "s3", "gs" or "az"; None for other locations."""
    return _CLOUDS.get(location.partition("://")[0])


def object_url(location: str) -> str:
    """Return the percent-encoded URL of a location in an object store, whose key is written without encoding."""
    scheme, _, rest = location.partition("://")
    # "@" is not encoded, because abfss://container@account... has it in the host.
    return f"{scheme}://{quote(rest, safe='/@')}"


def web_url(location: str) -> str | None:
    """Return a location on a web server, which is percent-encoded already; None for other locations.

    Raises:
        StorageError: The URL has a fragment (#), or `local_path` refuses it.
    """
    if local_path(location) is not None or not location.startswith(("http://", "https://")):
        return None
    if "#" in location:
        raise StorageError(f"{location}: # begins a fragment of a URL; write %23 for a # in a name")
    return location
