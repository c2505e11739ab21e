"""Time to write and commit a unit."""

import multiprocessing
import os
import tempfile
import threading
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import boto3
import pyarrow as pa

from benchmarks import cost
from benchmarks.dataplane.data import CAPTION, SIDE, encode_all, enlarged, inverted, new_store, photos
from benchmarks.harness import program, save, show
from pipeline.io.images import prepare
from pipeline.io.shard_writer import write_shard
from pipeline.plan.units import UNIT_BATCHES
from pipeline.store.job_record import JobKey
from pipeline.store.parts import to_parquet, to_table
from pipeline.store.plan import Unit
from pipeline.store.store import Store
from pipeline.workers.attempt import Attempt
from schemas.edits import EDITS

WRITING_STAGES = ("encode", "stage", "check", "commit", "publish")
STAGE_OF = {"check_key": "check", "has_staged": "check", "commit": "commit", "publish": "publish"}  # methods of Store
AUTOENCODER = {"inversion": "vae, encode", "edit": "vae, decode"}
JOBS = (("edict, guidance 3", 50), ("bdia, guidance 1", 50), ("bdia, guidance 1", 10))  # as in benchmarks.cost; steps


Files = Callable[[str], Iterator[tuple[str, bytes, int]]]
"""Make the files of an attempt, by its name: the path, the bytes and the number of rows of each."""


@contextmanager
def s3_server() -> Iterator[Connection]:
    """Start an S3 server and name it in the environment. The connection answers with the number of requests so far."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{here.recv()}", "AWS_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    try:
        yield here
    finally:
        server.terminate()
        server.join()


def serve(connection: Connection) -> None:
    """Serve S3 until this process is ended. The name of a bucket ends with the delay of its requests, in ms."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    app, count = DomainDispatcherApplication(create_backend_app), 0

    def delayed(environ: Any, start_response: Any) -> Any:
        nonlocal count
        count += 1
        bucket = environ["PATH_INFO"].split("/")[1]
        time.sleep(int(bucket.rpartition("-")[2]) / 1000)
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, delayed, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection.send(server.port)
    while True:
        connection.recv()
        connection.send(count)


def inversion_files(given: Namespace) -> Files:
    small, rows = inverted(given)
    pair = enlarged(small, 64)

    def files(name: str) -> Iterator[tuple[str, bytes, int]]:
        yield f"parts/{name}.parquet", to_parquet(to_table(rows, pair, {})), len(rows)

    return files


def edit_files(given: Namespace) -> Files:
    """Return the files of edits, with encoded images: workers encode them while the network computes."""
    images = encode_all([prepare(image, SIDE, "center").image for image in photos(given.rows)], "png")
    values: dict[pa.DataType, Any] = {pa.string(): CAPTION, pa.bool_(): True}
    values |= dict.fromkeys((pa.int32(), pa.int64(), pa.float64()), 25)
    row = {field.name: values[field.type] for field in EDITS}
    rows = [row | {"key": f"a/{i:06d}"} for i in range(given.rows)]

    def files(name: str) -> Iterator[tuple[str, bytes, int]]:
        samples = ((row["key"], {"png": image}) for row, image in zip(rows, images, strict=True))
        yield f"shards/{name}.tar", write_shard(samples), 0
        yield f"parts/{name}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=EDITS)), len(rows)

    return files


def write_unit(store: Store, key: JobKey, number: int, count: int, files: Files) -> dict[str, float]:
    """Write and commit a unit of `count` rows. Return the seconds of each stage."""
    attempt = Attempt(store, Unit(f"{number:08d}", "a.tar", 0, 0, count, 1, None), 1, key)
    spent = dict.fromkeys(WRITING_STAGES, 0.0)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            spent[stage] += time.perf_counter() - began
            return result

        return call

    for name, stage in STAGE_OF.items():
        setattr(store, name, timed(stage, getattr(type(store), name).__get__(store)))
    made = files(attempt.name)
    while (file := timed("encode", next)(made, None)) is not None:
        timed("stage", attempt.write)(*file)
    attempt.commit(count=count, ok=count, filtered=0, rejects=(), device="cpu")
    return spent


def write_units_to_stores(
    kind: str, files: Files, given: Namespace, folder: str, server: Connection
) -> list[dict[str, Any]]:
    """Write a unit to each store per round. Return the seconds of the fastest, by stage, and its requests."""

    def requests() -> int:
        server.send(None)
        return int(server.recv())

    def bucket(delay: int) -> str:
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket=f"{kind}-{delay}")
        return f"s3://{kind}-{delay}/store"

    locations = {"disk": f"{folder}/{kind}"} | {f"S3, {delay} ms": bucket(delay) for delay in given.delays}
    stores = {name: new_store(location, given.rounds) for name, location in locations.items()}
    keys, found = {name: store.key() for name, store in stores.items()}, defaultdict[str, list[dict[str, float]]](list)
    for number in range(given.rounds):
        for name, store in stores.items():
            before = requests()
            spent = write_unit(store, keys[name], number, given.rows, files)
            total = sum(spent.values())
            found[name].append({"requests": requests() - before, "seconds": total, **spent})
    fastest: Mapping[str, dict[str, float]] = {
        name: min(rounds, key=lambda each: each["seconds"]) for name, rounds in found.items()
    }
    return [{"unit": kind, "store": name, **figures} for name, figures in fastest.items()]


def computing(given: Namespace) -> dict[str, dict[str, float]]:
    """Return the seconds in which the GPU computes a unit, by its kind and the job."""
    found = defaultdict[str, dict[str, float]](dict)
    for settings, steps in JOBS:
        counts = cost.measure(cost.STABLE_DIFFUSION_1_5, steps)
        for kind, part in AUTOENCODER.items():
            operations = counts["operations_of_an_inversion"][settings] + counts["operations"][part]
            found[kind][f"{settings}, {steps} steps"] = given.rows * operations / (given.tflops * 1e12)
    return found


@program(batch=16, threads=1, delays=[0, 30, 100], steps=2, tflops=300.0, rounds=5)
def writing(given: Namespace) -> None:
    """Measure the time to write and commit a unit, in which its worker does not compute.

    A unit has 64 rows, as at the default batch. An inversion's have pairs of 4x64x64, and an edit's a PNG of 512x512
    pixels. One worker writes to a local disk, and to an S3 server on this machine (moto) that delays each request; its
    own time is included. The fastest round counts, because other work on the machine only adds time.

    The share of a worker's time is for a GPU that computes at --tflops without a pause. It counts the operations of the
    UNet and the autoencoder (benchmarks.cost). The edit has strength 0.5 and makes as many network calls as an
    inversion: it regenerates half of the steps and edits the other half.
    """
    given.rows = UNIT_BATCHES * given.batch
    compute, rows = computing(given), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder, s3_server() as server:
        for kind, files in {"inversion": inversion_files(given), "edit": edit_files(given)}.items():
            rows += write_units_to_stores(kind, files, given, folder, server)
    for row in rows:
        row["shares"] = {
            job: row["seconds"] / (row["seconds"] + compute_seconds)
            for job, compute_seconds in compute[row["unit"]].items()
        }
    columns: dict[str, Any] = {"unit": "unit", "store": "store", "requests": "requests"}
    columns |= {name: lambda row, name=name: f"{1000 * row[name]:.0f}" for name in WRITING_STAGES}
    columns |= {"ms": lambda row: f"{1000 * row['seconds']:.0f}"}
    columns |= {"ms per row": lambda row: f"{1000 * row['seconds'] / given.rows:.1f}"}
    show(rows, columns | {job: lambda row, job=job: f"{row['shares'][job]:.1%}" for job in rows[0]["shares"]})
    save("writing", given, rows=rows)
