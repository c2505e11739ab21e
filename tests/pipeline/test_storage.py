"""Reading and writing local files, and reading from a small HTTP server."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import obstore
import pytest

from jobs.tables import read_prompts
from pipeline.errors import JobError
from pipeline.io import storage
from pipeline.io.errors import StorageError
from pipeline.io.locations import local_path
from pipeline.io.masks import MaskError, read_mask
from pipeline.io.samples import Sample, ShardChanged, read_samples
from pipeline.io.shard_index import index_shard
from pipeline.io.shard_list import expand_shards
from pipeline.io.shard_writer import write_shard
from pipeline.io.storage import Head, Reader, head, open_file, open_prefix, read_range
from pipeline.plan.selection import read_selection
from pipeline.store.store import Store
from schemas.locations import without_secrets
from schemas.specs import Edit, EditSpec
from tests.campaigns.ends import Unavailable, mounted

UNUSUAL_NAMES = [
    "a b.tar",
    "é.tar",
    "per%20cent.tar",
    "100%.tar",
    "#?&.tar",
    "[x]*{y}.tar",
    "~t.tar",
    "back\\s.tar",
    "a:b.tar",
]
CONTENT = bytes(range(256)) * 20


class Files(BaseHTTPRequestHandler):
    """Serve the files in `served` in ranges, and count the requests."""

    requests = 0
    busy = 0  # number of following requests that are answered with 503
    cut = 0  # number of following answers that are cut
    served: ClassVar = {"/a%20b/100%25.tar": CONTENT}
    redirects: ClassVar[dict[str, str]] = {}

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        Files.requests += 1
        if target := Files.redirects.get(self.path):
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if Files.busy:
            Files.busy -= 1
            self.send_error(503)
            return
        content = Files.served.get(self.path)
        if content is None:
            self.send_error(404)
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(found[1]), min(int(found[2]) + 1, len(content))) if found else (0, len(content))
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"v{len(content)}"')
        self.send_header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        self.end_headers()
        if body and Files.cut:
            Files.cut -= 1
            self.wfile.write(content[start : end - 1])
        elif body:
            self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_local_names_are_not_decoded(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "sp ace#?%41"
    folder.mkdir()
    (folder / name).write_bytes(CONTENT)
    location = str(folder / name)
    assert head(location).size == len(CONTENT)
    assert read_range(location, 3, 9) == (CONTENT[3:9], head(location))


def test_relative_paths_and_file_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    assert head("a b") == head("./x/../a b") == head(f"file://{tmp_path}/a%20b") == head(str(tmp_path / "a b"))


def test_open_prefix_creates_the_folder_and_its_parents(tmp_path: Path) -> None:
    store = open_prefix(str(tmp_path / "x y" / "z"))
    obstore.put(store, "parts/1", b"data")
    assert (tmp_path / "x y" / "z" / "parts" / "1").read_bytes() == b"data"


def test_errors_name_the_location(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for location, message in {
        "": "location is empty",
        "s4://bucket/x": "s4:// is not supported",
        "s3://bucket": "has no object name",
        "s3://bucket/": "has no object name",
        "https://host/x#part": "write %23",
        f"{tmp_path}/": "folder",
        str(tmp_path): "does not exist",
        f"{tmp_path}/missing": "does not exist",
        f"{tmp_path}/missing/file": "missing does not exist",
        f"{tmp_path}/new\nline": "illegal character",
    }.items():
        with pytest.raises(StorageError) as error:
            head(location)
        assert location in str(error.value)
        assert message in str(error.value)
        assert "Debug source" not in str(error.value)
    with pytest.raises(StorageError, match="file/x"):
        open_prefix(f"{tmp_path}/file/x")
    with pytest.raises(StorageError, match="range"):
        read_range(f"{tmp_path}/file", 0, 10)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("size=4k", "no space is left on the device; free space there, or give another location"),
        ("nr_inodes=3", r"no inodes are left on the filesystem \(df -i\); remove files there"),
        ("ro", "the filesystem is read-only; mount it writable, or give another location"),
    ],
)
def test_a_full_or_read_only_filesystem_is_an_error_with_its_reason(tmp_path: Path, options: str, reason: str) -> None:
    try:
        with mounted(tmp_path / "disk", options), pytest.raises(StorageError, match=f"{tmp_path}/disk: {reason}"):
            store = Store(str(tmp_path / "disk"), create=True)
            for i in range(9):
                store.put_new(f"commits/{i:08d}.json", b"x" * 2000)
    except Unavailable as error:
        pytest.skip(str(error))


LIMITED = """
import resource, sys
from pipeline.store.store import Store
resource.setrlimit(getattr(resource, sys.argv[2]), (int(sys.argv[3]),) * 2)
try:
    opened = [open(sys.argv[1] + "/x", "w") for _ in range(200 * (sys.argv[2] == "RLIMIT_NOFILE"))]
except OSError:
    opened = []
    files = []
    try:
        while True:
            files.append(open("/dev/null"))
    except OSError:
        pass
try:
    Store(sys.argv[1]).put("x", b"y" * 5000)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("RLIMIT_FSIZE", "4096", "the file is larger than the limit of the process"),
        ("RLIMIT_NOFILE", "50", "too many files are open; raise `ulimit -n`"),
    ],
)
def test_a_limit_of_the_process_is_an_error_with_its_reason(
    tmp_path: Path, limit: str, value: str, reason: str
) -> None:
    program = [sys.executable, "-c", LIMITED, str(tmp_path), limit, value]
    ended = subprocess.run(program, capture_output=True, text=True)
    assert ended.stderr.startswith(f"StorageError: {tmp_path}: {reason}"), ended.stderr
    assert not list(tmp_path.glob("x*#*"))


def test_a_name_that_is_too_long_or_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"xxx: the storage does not allow this name .*; rename it"):
        Store(str(tmp_path / ("x" * 300)), create=True)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StorageError, match="a folder has the name of a file to be written; move it elsewhere"):
        Store(str(tmp_path)).put("report.html", b"")


def test_read_range_ends_with_the_object(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    assert read_range(str(tmp_path / "x"), len(CONTENT) - 2, len(CONTENT) + 50)[0] == CONTENT[-2:]


def test_keys_in_buckets_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATHEKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
    store, path = open_file("s3://bucket/a b/c%20d#e?/f%20#?.tar")
    assert (getattr(store, "prefix", None), path) == ("a b/c%20d#e?", "f%20#?.tar")
    assert open_file("s3://bucket/x.tar")[0] is open_file("s3://bucket/y.tar")[0]


@pytest.mark.parametrize(
    "location",
    [
        "s3://AKIAKEY:pass@bucket/x.tar",
        "s3://AKIAKEY:pa/ss@bucket/x.tar",
        "gs://pass@bucket/x.tar",
        "https://user:pass@host/x.tar",
        "https://host/x.tar?X-Amz-Signature=pass",
        "s3://bucket/x.tar?X-Amz-Signature=pass",
        "abfss://container:pass@account.dfs.core.windows.net/x.tar",
    ],
)
def test_a_secret_in_a_location_is_an_error_that_does_not_repeat_it(location: str) -> None:
    for use in (head, open_prefix, index_shard, lambda at: expand_shards([at])):
        with pytest.raises(JobError, match="credentials or a query") as error:
            use(location)
        assert "pass" not in str(error.value) and "AKIA" not in str(error.value)


def test_a_container_of_azure_is_not_a_user() -> None:
    location = "abfss://container@account.dfs.core.windows.net/x.tar"
    assert local_path(location) is None
    assert without_secrets(f"see {location}: gone") == f"see {location}: gone"


@pytest.mark.parametrize("location", ["http://host/store", "https://bucket.s3.amazonaws.com/store"])
def test_a_web_server_cannot_be_a_store(location: str) -> None:
    with pytest.raises(StorageError, match=f"{location}: a web server can only be read"):
        Store(location, create=True)


def test_files_are_read_over_http(server: str) -> None:
    location = f"{server}/a%20b/100%25.tar"
    assert head(location) == Head(len(CONTENT), f'"v{len(CONTENT)}"')
    before = Files.requests
    assert read_range(location, 5, 12) == (CONTENT[5:12], Head(len(CONTENT), f'"v{len(CONTENT)}"'))
    assert Files.requests == before + 1
    with pytest.raises(StorageError, match="missing"):
        head(f"{server}/missing")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_redirects_are_not_followed(server: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a redirect, a server could send requests to an address that only this machine can reach."""
    target = server.replace("127.0.0.1", host) + "/a%20b/100%25.tar"
    for name in ("x.tar", "keys.txt", "table.csv", "a.png"):
        monkeypatch.setitem(Files.redirects, f"/{name}", f"{target}?X-Signature=secret")
    before = Files.requests
    edit = Edit(name="a", table=f"{server}/table.csv")
    keys = EditSpec(kind="edit", latents="x", output="y", edits=[edit], keys=f"{server}/keys.txt")
    for use in (
        lambda: head(f"{server}/x.tar"),
        lambda: read_range(f"{server}/x.tar", 0, 10),
        lambda: index_shard(f"{server}/x.tar"),
        lambda: read_prompts(edit),
        lambda: read_selection(keys),
        lambda: read_mask(f"{server}/{{key}}.png", "a"),
    ):
        with pytest.raises(JobError, match=f"{server}/.*redirects to {re.escape(target)}") as error:
            use()
        assert "secret" not in str(error.value)
        assert "give that URL, or download the file" in str(error.value)
    assert Files.requests == before + 6


def test_requests_are_repeated_after_server_and_connection_errors(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.io.web.RETRY_WAITS", (0.0,) * 3)
    monkeypatch.setattr(Files, "busy", 2)
    monkeypatch.setattr(Files, "cut", 1)
    assert read_range(f"{server}/a%20b/100%25.tar", 5, 12)[0] == CONTENT[5:12]
    monkeypatch.setattr(Files, "busy", 100)
    with pytest.raises(StorageError, match=r"the server answers 503 .*; try again later"):
        head(f"{server}/a%20b/100%25.tar")


def test_the_key_in_the_url_of_a_mask_is_encoded(server: str, tmp_path: Path) -> None:
    key = "a#b/c?d 100%"
    served = {"/masks/a%23b/c%3Fd%20100%25.png": b"a mask"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Files, "served", served)
        assert read_mask(f"{server}/masks/{{key}}.png", key) == b"a mask"
        with pytest.raises(MaskError, match="does not exist"):
            read_mask(f"{server}/masks/{{key}}.png", "other")
    (tmp_path / "a#b").mkdir()
    (tmp_path / "a#b" / "c?d 100%.png").write_bytes(b"a mask")
    for template in (f"{tmp_path}/{{key}}.png", f"{tmp_path.as_uri()}/{{key}}.png"):
        assert read_mask(template, key) == b"a mask"


def test_shards_are_read_over_http(server: str, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_shard((s.key, {s.extension: s.image, "txt": s.caption.encode()}) for s in samples[:3])
    monkeypatch.setitem(Files.served, "/x.tar", shard)
    index = index_shard(f"{server}/x.tar")
    read = list(read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries))
    assert [(s.key, s.image, s.caption) for s in read if isinstance(s, Sample)] == [
        (s.key, s.image, s.caption) for s in samples[:3]
    ]
    monkeypatch.setitem(Files.served, "/x.tar", shard + b"more")
    with pytest.raises(ShardChanged, match="put the planned version back"):
        list(read_samples(index.url, size=index.size, etag=index.etag, entries=index.entries))


@pytest.mark.parametrize(("window", "requests"), [(1 << 20, 1), (64, 5)])
def test_reader_reads_like_a_file_with_few_requests(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, requests: int
) -> None:
    monkeypatch.setattr(storage, "WINDOW", window)
    (tmp_path / "x").write_bytes(CONTENT)
    reader = Reader(f"{server}/a%20b/100%25.tar")
    before = Files.requests
    with open(tmp_path / "x", "rb") as file:
        for position, size in [(0, 10), (20, 30), (700, 3), (5, 0), (5110, 50), (9000, 4), (100, -1), (0, 1 << 60)]:
            assert (reader.seek(position), reader.read(size)) == (file.seek(position), file.read(min(size, 1 << 20)))
            assert reader.tell() == file.tell()
        assert reader.seek(-5, 2) == file.seek(-5, 2)
        assert reader.seek(2, 1) == file.seek(2, 1)
        assert reader.read() == file.read()
    assert Files.requests - before == requests


def test_reader_detects_a_replaced_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WINDOW", 16)
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    reader = Reader(str(path))
    assert reader.read(4) == CONTENT[:4]
    path.write_bytes(CONTENT + b"more")
    with pytest.raises(StorageError, match="replaced"):
        reader.read(100)
