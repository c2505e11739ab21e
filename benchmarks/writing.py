"""Time to write and commit a unit, in which its worker does not compute.

`python -m benchmarks.writing`. A unit has 64 rows, as the planner cuts it at the default batch. An inversion's has
pairs of 4x64x64, as of Stable Diffusion 1.5. An edit's has a PNG of 512x512 pixels per row. One worker writes to a
local disk, and to an S3 server on this machine (moto) that delays each request. The server's own time is included.
Each round writes one unit to every store, and the fastest round counts: other work on the machine only adds time.

The share of a worker's time is for a GPU that computes at --tflops without a pause. It counts the operations of the
UNet and the autoencoder (benchmarks.cost). The edit has a strength of 0.5: it regenerates half of the steps and edits
the other half, which makes as many network calls as an inversion.
"""

import multiprocessing
import os
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import torch

from benchmarks.cost import STABLE_DIFFUSION_1_5, cost
from benchmarks.dataplane import CAPTION, drawn, inverted, photo
from benchmarks.record import numbers, parser, save
from jobs.evaluation.record import table
from jobs.evaluation.truth import pictures
from pipeline.io.images import encode, prepare
from pipeline.io.shards import write_shard
from pipeline.messages import Machine
from pipeline.plan.job import new_record, open_job
from pipeline.plan.units import UNIT_BATCHES
from pipeline.store.parts import to_parquet, to_table
from pipeline.store.plan import Unit, write_units
from pipeline.store.store import JobKey, Store
from pipeline.workers.base import Attempt
from schemas.edits import EDITS

STAGES = ("encode", "stage", "check", "commit", "publish")
OF_STORE = {"check_key": "check", "has_staged": "check", "commit": "commit", "publish": "publish"}
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

    class Quiet(WSGIRequestHandler):
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

    server = make_server("127.0.0.1", 0, delayed, threaded=True, request_handler=Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    connection.send(server.port)
    while True:
        connection.recv()
        connection.send(count)


def bucket(name: str, delay: int) -> str:
    """Create a bucket of the server, and return a location in it."""
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket=f"{name}-{delay}")
    return f"s3://{name}-{delay}/store"


def planned(location: str, units: int) -> Store:
    """Return a new store of a job with units that no worker has done."""
    store = Store(location, create=True)
    open_job(store, new_record("invert", {}, {}, Machine("cpu", 1, 0)))
    write_units(store, [Unit(f"{i:08d}", "a.tar", 0, 0, 1, 1, None) for i in range(units)])
    return store


def inversion(given: Namespace) -> Files:
    small, rows = inverted(given)
    pair = drawn(small, 64)

    def files(name: str) -> Iterator[tuple[str, bytes, int]]:
        yield f"parts/{name}.parquet", to_parquet(to_table(rows, pair, {})), len(rows)

    return files


def edit(given: Namespace) -> Files:
    """The images are encoded already: workers encode them while the network computes."""
    chance = np.random.default_rng(0)
    shown = [photo(picture.image, chance) for picture in pictures(count=given.rows)]
    images = [encode(prepare(image, 512, "center").image, "png") for image in shown]
    values: dict[pa.DataType, Any] = {pa.string(): CAPTION, pa.bool_(): True}
    values |= dict.fromkeys((pa.int32(), pa.int64(), pa.float64()), 25)
    row = {field.name: values[field.type] for field in EDITS}
    rows = [row | {"key": f"a/{i:06d}"} for i in range(given.rows)]

    def files(name: str) -> Iterator[tuple[str, bytes, int]]:
        samples = ((row["key"], {"png": image}) for row, image in zip(rows, images, strict=True))
        yield f"shards/{name}.tar", write_shard(samples), 0
        yield f"parts/{name}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=EDITS)), len(rows)

    return files


def write(store: Store, key: JobKey, number: int, count: int, files: Files) -> dict[str, float]:
    """Write and commit a unit of `count` rows. Return the seconds of each stage."""
    attempt = Attempt(store, Unit(f"{number:08d}", "a.tar", 0, 0, count, 1, None), 1, key)
    seconds = dict.fromkeys(STAGES, 0.0)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            seconds[stage] += time.perf_counter() - began
            return result

        return call

    for name, stage in OF_STORE.items():
        setattr(store, name, timed(stage, getattr(type(store), name).__get__(store)))
    made = files(attempt.name)
    while (file := timed("encode", next)(made, None)) is not None:
        timed("stage", attempt.write)(*file)
    attempt.commit(count=count, ok=count, filtered=0, rejects=(), device="cpu")
    return seconds


def units(kind: str, files: Files, given: Namespace, folder: str, server: Connection) -> list[dict[str, Any]]:
    """Return the seconds of each stage of a unit, and the requests, on each store."""

    def requests() -> int:
        server.send(None)
        return int(server.recv())

    stores = {"disk": planned(f"{folder}/{kind}", given.rounds)}
    stores |= {f"S3, {delay} ms": planned(bucket(kind, delay), given.rounds) for delay in given.delays}
    keys = {name: store.key() for name, store in stores.items()}
    seconds, count = defaultdict[str, list[dict[str, float]]](list), dict[str, int]()
    for number in range(given.rounds):
        for name, store in stores.items():
            before = requests()
            seconds[name].append(write(store, keys[name], number, given.rows, files))
            count[name] = requests() - before
    fastest = {name: min(found, key=lambda each: sum(each.values())) for name, found in seconds.items()}
    return [
        {"unit": kind, "store": name, "requests": count[name], "seconds": sum(stages.values()), **stages}
        for name, stages in fastest.items()
    ]


def computing(given: Namespace) -> dict[str, dict[str, float]]:
    """Return the seconds in which the GPU computes a unit, by its kind and the job."""
    found = defaultdict[str, dict[str, float]](dict)
    for way, steps in JOBS:
        of = cost(STABLE_DIFFUSION_1_5, steps)
        for kind, part in AUTOENCODER.items():
            operations = of["operations_of_an_inversion"][way] + of["operations"][part]
            found[kind][f"{way}, {steps} steps"] = given.rows * operations / (given.tflops * 1e12)
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(threads=1)
    arguments.add_argument("--delays", type=numbers, default=[0, 30, 100], help="of the S3 server's requests, ms")
    arguments.add_argument("--steps", type=int, default=2, help="of the inversion whose statistics the pairs have")
    arguments.add_argument("--tflops", type=float, default=300.0, help="of the GPU, for the shares")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    given.rows = UNIT_BATCHES * given.batch
    torch.set_num_threads(given.threads)
    seconds, rows = computing(given), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder, s3_server() as server:
        for kind, files in {"inversion": inversion(given), "edit": edit(given)}.items():
            rows += units(kind, files, given, folder, server)
    for row in rows:
        row["shares"] = {job: row["seconds"] / (row["seconds"] + of) for job, of in seconds[row["unit"]].items()}
    lines = [
        [row["unit"], row["store"], row["requests"]]
        + [f"{1000 * row[name]:.0f}" for name in (*STAGES, "seconds")]
        + [f"{1000 * row['seconds'] / given.rows:.1f}", *(f"{share:.1%}" for share in row["shares"].values())]
        for row in rows
    ]
    print(table(("unit", "store", "requests", *STAGES, "ms", "ms per row", *rows[0]["shares"]), lines))
    print(f"\nwritten to {save('writing', given, rows=rows)}")


if __name__ == "__main__":
    main()
