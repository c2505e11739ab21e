"""Crashes at named points: processes that SIGKILL ends there, with their work half done."""

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pipeline.io.storage
import pipeline.plan.units
import pipeline.run
import pipeline.store.checkpoint
import pipeline.workers.edit_requests
import pipeline.workers.invert
from pipeline.messages import ExcludedSamples, UnitResult
from pipeline.store.plan import Unit
from pipeline.store.store import Store

CUT = 1500  # bytes after which a write is cut


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("outlived SIGKILL")


def before(owner: Any, name: str, path: str = "") -> None:
    """Make this process die before a call of `owner.name`, with a path that begins with `path` if that is given."""
    _patch(owner, name, path, after=False)


def after(owner: Any, name: str, path: str = "") -> None:
    """Make this process die after a call of `owner.name`, before the caller gets the result."""
    _patch(owner, name, path, after=True)


def during(folder: str) -> None:
    """Make this process die while it writes a file of a store's folder, so that a part of the file exists."""
    put = Store.put

    def cut(store: Store, path: str, data: bytes) -> Any:
        if path.startswith(folder):
            if "://" in store.location:
                os.environ["AWS_ENDPOINT_URL"] = _cutting(os.environ["AWS_ENDPOINT_URL"])
                pipeline.io.storage._remote.cache_clear()
                store = Store(store.location)
            else:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (CUT, CUT))
        return put(store, path, data)

    Store.put = cut  # type: ignore[method-assign]


def _patch(owner: Any, name: str, path: str, *, after: bool) -> None:
    whole = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if path and not str(args[1]).startswith(path):
            return whole(*args, **kwargs)
        if after:
            whole(*args, **kwargs)
        die()

    setattr(owner, name, dying)


def _cutting(upstream: str) -> str:
    """Return an endpoint that passes CUT bytes on to `upstream` and then ends this process."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listening.accept()
        with socket.create_connection((urlsplit(upstream).hostname, urlsplit(upstream).port or 80)) as server:
            sent = 0
            while sent < CUT:
                some = client.recv(CUT - sent)
                server.sendall(some)
                sent += len(some)
            die()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


WORKER: Mapping[str, Callable[[Any], Any]] = {
    "while the shard is read": lambda worker: before(pipeline.workers.invert, "read_samples"),
    "while an image is decoded": lambda worker: before(pipeline.workers.invert, "prepare"),
    "in the network": lambda worker: worker.model.network.register_forward_hook(die),
    "before the data is written": lambda worker: before(Store, "put", "staging/parts/"),
    "while the data is written": lambda worker: during("staging/parts/"),
    "between the data and the commit": lambda worker: after(Store, "put", "staging/parts/"),
    "before the commit": lambda worker: before(Store, "put_new", "commits/"),
    "between the commit and the publishing of its file": lambda worker: after(Store, "put_new", "commits/"),
    "after the file is published, before the driver gets the result": lambda worker: after(Store, "publish"),
}
EDITOR: Mapping[str, Callable[[Any], Any]] = {
    "while the latents are read": lambda worker: before(pipeline.workers.edit_requests, "read_edit_rows"),
    "in the network of an edit": lambda worker: worker.model.network.register_forward_hook(die),
    "while the images are written": lambda worker: during("staging/shards/"),
    "between the images and their index": lambda worker: after(Store, "put", "staging/shards/"),
    "between the index and the rows of the contact sheet": lambda worker: after(Store, "put", "staging/parts/"),
    "between an edit's commit and the publishing of its files": lambda worker: after(Store, "put_new", "commits/"),
}
DRIVER: Mapping[str, Callable[[], Any]] = {
    "before job.json": lambda: before(Store, "put_new", "job.json"),
    "after job.json": lambda: after(Store, "put_new", "job.json"),
    "while planning": lambda: after(pipeline.plan.units, "write_entries"),
    "before the units are written": lambda: before(Store, "put_new", "plan/units"),
    "when the plan is written": lambda: after(Store, "put_new", "plan/units"),
    "when a unit is done": lambda: before(pipeline.store.checkpoint.CheckpointWriter, "done"),
    "before the ledger is written": lambda: before(Store, "put_table", "ledger/"),
    "when the last unit is done": lambda: before(pipeline.run, "finish"),
    "while the files of uncommitted attempts are removed": lambda: after(Store, "delete"),
    "before the report is written": lambda: before(Store, "put", "report.html"),
}


def crashing(worker: type, windows: Mapping[str, Callable[[Any], Any]], folder: Path) -> type:
    """Return a worker class that dies in each window: at the first attempt of unit 0 in the first window, and so on.

    `folder` gets a file for each window that an attempt entered, and one for each that it survived. The first process
    dies while it loads its model.
    """

    class Crashing(worker):  # type: ignore[misc, valid-type]
        def __init__(self, task: Any) -> None:
            if not (folder / "loading").exists():
                (folder / "loading").touch()
                die()
            super().__init__(task)

        def process(self, unit: Unit, number: int, ahead: Unit | None, excluded: ExcludedSamples) -> UnitResult:
            name = dict(enumerate(windows)).get(int(unit.unit))
            if name is None or number > 1:
                return super().process(unit, number, ahead, excluded)  # type: ignore[no-any-return]
            (folder / name).touch()
            windows[name](self)
            super().process(unit, number, ahead, excluded)
            (folder / f"alive after all: {name}").touch()
            die()

    return Crashing
