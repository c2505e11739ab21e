"""Stores and shards on S3: a moto server on loopback, behind a proxy that simulates errors."""

from __future__ import annotations

import http.client
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from pipeline.io import storage
from pipeline.io.errors import StorageError
from pipeline.io.samples import ShardChanged, read_samples
from pipeline.io.shard_index import index_shard
from pipeline.io.storage import head
from pipeline.store.errors import StoreError
from pipeline.store.store import Store
from schemas.commit import Commit, File, Seconds

DEMO = Path(__file__).parents[2] / "jobs" / "demo" / "shards" / "demo-00000.tar"
SECRETS = ("AKIATHEKEY", "the-secret", "the-token", "the-signature")

# A status and S3's code for it. "close" cuts the connection before the server has the request, "lost" after its answer.
Fault = tuple[int, str] | str

JOB_OF_FORMAT_1 = b'{"kind": "invert", "spec": {}, "fingerprint": {}, "machine": {}}'  # a job.json, without an id

DENIED = (403, "AccessDenied")
SLOW_DOWN = (503, "SlowDown")
CONFLICT = (409, "ConditionalRequestConflict")


class Proxy(ThreadingHTTPServer):
    """Forward requests to `upstream`, each after the next of `faults`, if any. Keep the signed headers."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), ForwardingHandler)
        self.upstream = urlsplit(upstream).netloc
        self.faults: Iterator[Fault] = iter(())
        self.signed: list[str] = []

    def fail(self, faults: Iterable[Fault]) -> None:
        self.faults = iter(faults)


class ForwardingHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.signed.append(self.headers.get("Authorization", ""))
        fault = next(self.server.faults, None)
        if isinstance(fault, tuple):
            # as the answers of S3, which repeat keys and tokens
            error = (
                f"<?xml version='1.0'?>\n<Error><Code>{fault[1]}</Code><Message>no</Message><AWSAccessKeyId>AKIATHEKEY"
                "</AWSAccessKeyId><Token-0>the-token</Token-0><SignatureProvided>the-signature</SignatureProvided></Error>"
            )
            self.reply(fault[0], {"Content-Length": str(len(error))}, error.encode())
        elif fault == "close":
            self.close_connection = True
        else:
            upstream = http.client.HTTPConnection(self.server.upstream)
            upstream.request(self.command, self.path, body, dict(self.headers))
            response = upstream.getresponse()
            content = response.read()
            upstream.close()
            if fault == "lost":
                self.close_connection = True
            else:
                self.reply(response.status, dict(response.getheaders()), content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name != "Connection":
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(s3_server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_port}")
        yield running
        running.shutdown()


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Remove all credentials and the metadata server. Return the file to which a test can write profiles."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    profiles = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return profiles


FIRST, SECOND = "0f157000", "5ec09d00"  # the random parts of two attempts' names


def commit_of(attempt: str) -> Commit:
    return Commit(
        unit="00000000",
        attempt=attempt,
        source="x.tar",
        input=0,
        ok=0,
        rejected=0,
        filtered=0,
        files=(File(path=f"parts/00000000-1-{attempt}.parquet", sha256="", bytes=0),),
        rejects=(),
        seconds=Seconds(read=0, compute=0, write=0),
        started=0,
        finished=0,
        worker={},
        versions={},
    )


def message_of(act: Callable[[], object]) -> str:
    """Return the message of the error: one line without a secret, which the traceback does not have either."""
    with pytest.raises(StorageError) as caught:
        act()
    assert "\n" not in str(caught.value)
    printed = "".join(traceback.format_exception(caught.value))
    assert [secret for secret in SECRETS if secret in printed] == []
    return str(caught.value)


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("x", b"data"),
    "put_new": lambda store: store.put_new("new", b"data"),
    "get": lambda store: store.get("there"),
    "has": lambda store: store.has("there"),
    "names": lambda store: list(store.names("")),
    "delete": lambda store: store.delete("x"),
    "job": lambda store: store.job(),
    "head": lambda store: head(f"{store.location}/there"),
}


def test_a_store_on_s3_reads_what_it_wrote(s3: str) -> None:
    store = Store(s3, create=True)
    assert (store.has("a/b c.json"), list(store.names("a"))) == (False, [])
    assert store.put("a/b c.json", b'{"x": 1}').bytes == 8
    assert (store.has("a/b c.json"), store.get_json("a/b c.json")) == (True, {"x": 1})
    assert list(store.names("a")) == ["a/b c.json"]
    table = pa.table({"x": [1, 2]})
    store.put_table("t.parquet", table)
    assert store.get_table("t.parquet") == table
    store.delete("a/b c.json")
    assert list(store.names("")) == ["t.parquet"]
    with pytest.raises(StoreError, match=r"a/b c\.json does not exist"):
        store.get("a/b c.json")
    with pytest.raises(StoreError, match="is not a store"):
        store.job()
    with pytest.raises(StoreError, match="is not a store"):
        store.remove_orphan_files()

    store.put("job.json", JOB_OF_FORMAT_1)
    for attempt in (FIRST, SECOND):
        store.put(f"parts/00000000-1-{attempt}.parquet", b"")
        assert store.commit(commit_of(attempt)) == (attempt == FIRST)
    assert list(store.commits()) == [commit_of(FIRST)]
    assert store.remove_orphan_files() == 1
    assert list(store.names("parts")) == [f"parts/00000000-1-{FIRST}.parquet"]


@pytest.mark.parametrize("where", ["s3", "folder"])
def test_exactly_one_of_sixteen_writers_succeeds(s3: str, tmp_path: Path, where: str) -> None:
    store = Store(s3 if where == "s3" else str(tmp_path))
    ready = threading.Barrier(16)

    def put(writer: int) -> bool:
        ready.wait()
        return store.put_new("new", bytes([writer]))

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(put, range(16)))
    assert won.count(True) == 1
    assert store.get("new") == bytes([won.index(True)])


def test_a_shard_on_s3_is_read_like_a_local_one(s3: str) -> None:
    url, data = f"{s3}/shards/demo.tar", DEMO.read_bytes()
    store = Store(s3)
    store.put("shards/demo.tar", data)
    here, there = index_shard(str(DEMO)), index_shard(url)
    assert (there.entries, there.size) == (here.entries, here.size)

    def read(index: object, url: str, etag: str | None) -> list[object]:
        return list(read_samples(url, size=here.size, etag=etag, entries=here.entries[3:9]))

    assert read(there, url, there.etag) == read(here, str(DEMO), here.etag)
    store.put("shards/demo.tar", data[:-1] + b"\1")
    with pytest.raises(ShardChanged, match="put the planned version back"):
        read(there, url, there.etag)


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "has"])
def test_a_missing_bucket_is_an_error(s3: str, operation: str) -> None:
    store = Store(s3.replace("bucket-", "missing-"))
    text = message_of(lambda: OPERATIONS[operation](store))
    assert text.startswith(store.location) and "the bucket does not exist (NoSuchBucket); create it" in text


def test_a_missing_object_is_an_error(s3: str) -> None:
    assert message_of(lambda: head(f"{s3}/none.tar")) == f"{s3}/none.tar: does not exist"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_denied_access_is_an_error(proxy: Proxy, s3: str, operation: str) -> None:
    proxy.fail(repeat(DENIED))
    text = message_of(lambda: OPERATIONS[operation](Store(s3)))
    assert text.startswith(s3) and "access is denied" in text and "AWS_ACCESS_KEY_ID" in text


def test_rejected_credentials_are_an_error(proxy: Proxy, s3: str) -> None:
    store = Store(s3)
    for status, code in [(400, "ExpiredToken"), (403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch")]:
        proxy.fail(repeat((status, code)))
        assert f"the credentials are not accepted ({code}); renew them" in message_of(lambda: store.get("x"))
    proxy.fail(repeat((400, "MalformedXML")))
    assert "400 Bad Request" in message_of(lambda: store.get("x"))
    proxy.fail(repeat((301, "PermanentRedirect")))
    assert "set AWS_REGION" in message_of(lambda: store.get("x"))


def test_missing_credentials_are_an_error(s3: str, no_credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no credentials found; set one of: AWS_ACCESS_KEY_ID" in message_of(lambda: Store(s3))
    no_credentials.write_text("[other]\naws_access_key_id = AKIATHEKEY\naws_secret_access_key = the-secret\n")
    assert "no credentials found; set one of: AWS_ACCESS_KEY_ID" in message_of(lambda: Store(s3))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert "The config profile (mine) could not be found" in message_of(lambda: Store(s3))
    monkeypatch.setitem(sys.modules, "boto3", None)  # as if it were not installed
    assert "pip install 'edict-pipeline[aws]'" in message_of(lambda: Store(s3))


@pytest.mark.parametrize("profile", ["mine", "default"])
def test_a_profile_in_the_aws_folder_is_used(
    proxy: Proxy, s3: str, no_credentials: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    no_credentials.write_text(f"[{profile}]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = x\n")
    if profile != "default":
        monkeypatch.setenv("AWS_PROFILE", profile)
    Store(s3).put("x", b"data")
    assert Store(s3).get("x") == b"data"
    assert all("Credential=AKIAPROFILE/" in signed for signed in proxy.signed)


def test_an_endpoint_without_a_scheme_is_an_error(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRIES", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    assert "write http:// or https:// first" in message_of(lambda: Store(s3))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    text = message_of(lambda: Store(s3).get("x"))
    assert text.startswith(s3) and "http://127.0.0.1:1/" in text and "error sending request" in text


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "job"])
def test_requests_are_repeated_after_temporary_errors(proxy: Proxy, s3: str, operation: str) -> None:
    store = Store(s3)
    store.put("there", b"data")
    faults: Iterator[Fault] = iter([SLOW_DOWN, "close"])
    proxy.fail(faults)
    assert OPERATIONS[operation](store) is not False
    assert list(faults) == []


def test_a_commit_whose_answer_is_lost_succeeds(proxy: Proxy, s3: str) -> None:
    store = Store(s3)
    store.put("job.json", JOB_OF_FORMAT_1)
    proxy.fail(["lost"])
    assert store.commit(commit_of(FIRST))
    proxy.fail(["lost"])
    assert not store.commit(commit_of(SECOND))
    assert list(store.commits()) == [commit_of(FIRST)]


def test_a_conflict_over_a_missing_file_is_tried_again(proxy: Proxy, s3: str) -> None:
    store = Store(s3)
    store.put("job.json", JOB_OF_FORMAT_1)
    proxy.fail([CONFLICT])
    assert store.commit(commit_of(FIRST))
    assert store.committed_units() == {"00000000"}
