"""Run the store's own code under random interleavings of drivers, workers, retries, gc, readers and a new owner.

`python -m tests.campaigns.interleavings --runs 2000`, on a store in memory and on a disk. Before and after each storage
operation the program may switch to another actor, or end the actor. Stopped workers continue at the end.
In some runs the store is removed and another job begins at its location while the first one runs.

At the end four conditions are checked. Every sample is a row or a reject of this job exactly once. The files in parts/,
shards/ and pictures/ are those that commits name. No other file of the job is left. No file of a user was touched.
"""

import json
import random
import shutil
import tempfile
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import obstore
from obstore.store import MemoryStore

from benchmarks.harness import program, run, save, show
from pipeline.errors import JobError
from pipeline.inspect.status import status
from pipeline.io.local_files import write_file
from pipeline.messages import Machine
from pipeline.plan import job as jobs
from pipeline.plan import pending_units as pending_module
from pipeline.plan.job import new_record, open_job
from pipeline.plan.pending_units import RetryError, pending_units
from pipeline.store import checkpoint, files, paths
from pipeline.store.job_record import JobKey
from pipeline.store.paths import DATA, STAGING, commit_path
from pipeline.store.plan import Unit, parts_of, read_units, write_units
from pipeline.store.store import Store
from pipeline.workers import attempt as attempts
from pipeline.workers.attempt import Attempt
from schemas.rejects import Reject
from tests.campaigns import RESULTS

COUNT = 3  # samples per unit
ATTEMPTS = 3  # of a unit by one driver
ERRORS = ("WorkerDied", "WorkerHung")
FOREIGN = (
    "shards/00000000-train.tar",
    "pictures/00000000-my-cat.jpg",
    "parts/00000001-1-0000cafe.parquet",
    "notes.txt",
)


class Died(BaseException):
    """The process of an actor ends here."""


class Actor:
    """A thread that runs one step, up to its next storage operation, each time that `step` is called."""

    def __init__(self, body: Callable[[], None], name: str, weight: float, mortality: float) -> None:
        self.name, self.weight, self.mortality = name, weight, mortality
        self.error: Exception | None = None
        self.ended = False
        self._body = body
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        _CURRENT.actor = self
        self._go.acquire()
        try:
            self._body()
        except Died:
            pass
        except Exception as error:
            self.error = error
        self.ended = True
        self._paused.release()

    def step(self) -> None:
        self._go.release()
        self._paused.acquire()

    def pause(self) -> None:
        self._paused.release()
        self._go.acquire()


_CURRENT = threading.local()


class World:
    """The actors of one run, and its random numbers. One actor runs at a time, so a seed decides everything."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.actors = list[Actor]()
        self.steps = 0

    def spawn(self, body: Callable[[], None], name: str, *, weight: float = 1.0, mortality: float = 0.0) -> Actor:
        self.actors.append(Actor(body, name, weight, mortality))
        return self.actors[-1]

    def point(self) -> None:
        """Let other actors continue, or end this one."""
        actor: Actor | None = getattr(_CURRENT, "actor", None)
        if actor is not None:
            self.steps += 1
            if self.random.random() < actor.mortality:
                raise Died
            actor.pause()

    def run(self) -> None:
        """Run until every actor with a weight has ended."""
        while live := [actor for actor in self.actors if actor.weight and not actor.ended]:
            self.random.choices(live, [actor.weight for actor in live])[0].step()

    def wake(self, share: float) -> None:
        """Let some of the stopped actors continue."""
        stopped = [actor for actor in self.actors if not actor.ended]
        for actor in self.random.sample(stopped, int(share * len(stopped))):
            actor.weight = 1.0


class ScheduledObstore:
    """obstore, with a point before and after each operation. A listing may miss or have files that change meanwhile."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        operation = getattr(obstore, name)

        def scheduled(*args: Any, **kwargs: Any) -> Any:
            self._world.point()
            result = operation(*args, **kwargs)
            self._world.point()
            return result

        return scheduled

    def rename(self, store: Any, source: str, target: str) -> None:
        """Copy and then delete, as an object store does."""
        self.copy(store, source, target)
        self.delete(store, source)

    def list(self, store: Any, prefix: str | None = None, offset: str | None = None) -> Iterator[list[Any]]:
        def present() -> dict[str, Any]:
            return {item["path"]: item for batch in obstore.list(store, prefix, offset=offset) for item in batch}

        self._world.point()
        before = present()
        self._world.point()
        after = present()
        self._world.point()
        chance = self._world.random
        paths = [path for path in before | after if (path in before and path in after) or chance.random() < 0.5]
        chance.shuffle(paths)
        yield [(after | before)[path] for path in paths]


class Inline:
    """An executor that calls each function at once, in the thread of the caller."""

    def __init__(self, *_: Any) -> None:
        pass

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        future = Future[Any]()
        try:
            future.set_result(call(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        pass


@contextmanager
def scheduled(world: World) -> Iterator[None]:
    """Make the storage operations of the pipeline points of a world for as long as the context lasts."""

    def write(path: Path, data: bytes, *, new: bool) -> None:
        world.point()
        write_file(path, data, new=new)
        world.point()

    def uuid4() -> UUID:
        return UUID(int=world.random.getrandbits(128), version=4)

    patched: list[tuple[Any, str, Any]] = [
        (jobs, "uuid4", uuid4),
        (attempts.uuid, "uuid4", uuid4),
        (files, "obstore", ScheduledObstore(world)),
        (files, "write_file", write),
        (paths, "BLOCK_SIZE", 2),
        (checkpoint, "ThreadPoolExecutor", Inline),
        (pending_module, "print", lambda *_, **__: None),
    ]
    originals = [(owner, name, getattr(owner, name, print)) for owner, name, _ in patched]
    for owner, name, value in patched:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in originals:
            setattr(owner, name, value)


class Run:
    """One run: its store, the results of its samples, and the faults that were found."""

    def __init__(self, seed: int, folder: Path | None) -> None:
        self.world = World(seed)
        self.random = self.world.random
        self.location = str(folder) if folder else f"memory-{seed}"
        self.memory = None if folder else MemoryStore()
        self.units = self.random.randint(2, 5)
        self.wrong = list[str]()
        self.replaced = self.random.random() < 0.3
        self.fate = {
            (number, i): self.random.choice(["ok"] * 5 + [*ERRORS, "either"])
            for number in range(self.units)
            for i in range(COUNT)
        }

    def store(self) -> Store:
        if self.memory is None:
            return Store(self.location, create=True)
        store = Store.__new__(Store)
        store.location, store._folder, store._objects = self.location, None, self.memory
        return store

    def begin(self, steps: int) -> None:
        store = self.store()
        open_job(store, new_record("invert", {}, {"steps": steps}, Machine("cpu", 1, 0)))
        units = [Unit(f"{i:08d}", "a.tar", 0, i * COUNT, COUNT, 1, None) for i in range(self.units)]
        write_units(store, units)

    def attempt(self, unit: Unit, number: int, key: JobKey) -> Callable[[], None]:
        def work() -> None:
            attempt = Attempt(self.store(), unit, number, key)
            samples = [i for i in range(COUNT) if not unit.retry or (i, f"key{i}") in unit.only]
            results = {i: self.result(int(unit.unit), i, unit.retry) for i in samples}
            ok = [i for i in samples if results[i] == "ok"]
            rejects = [Reject("a.tar", i, f"key{i}", "invert", results[i], "why") for i in samples if i not in ok]
            if ok:
                rows = [f"{key.id}/{unit.unit}/{i}" for i in ok]
                attempt.write(f"parts/{attempt.name}.parquet", json.dumps(rows).encode(), len(ok))
                if self.random.random() < 0.5:
                    attempt.write(f"shards/{attempt.name}.tar", b"images")
            attempt.commit(count=len(samples), ok=len(ok), filtered=0, rejects=rejects, device="cpu")

        return work

    def result(self, unit: int, i: int, retry: int) -> str:
        fate = self.fate[unit, i]
        if fate == "ok" or (retry and self.random.random() < 0.5):
            return "ok"
        return self.random.choice(["ok", *ERRORS]) if fate == "either" else fate

    def driver(self, retry: Sequence[str] = ()) -> Callable[[], None]:
        def drive() -> None:
            store, random = self.store(), self.random
            key, units = store.key(), read_units(store)
            try:
                pending = pending_units(store, units, retry)
            except RetryError:
                return
            with checkpoint.CheckpointWriter(
                store, 0 if retry else len(units), [unit.unit for unit in pending], key
            ) as checkpoints:
                for unit in random.sample(pending, len(pending)):
                    for number in range(1, ATTEMPTS + 1):
                        worker = self.world.spawn(
                            self.attempt(unit, number, key),
                            "worker",
                            weight=random.choice([0.0, 0.2, 1.0, 1.0, 1.0, 3.0]),  # 0 is stopped
                            mortality=random.choice([0.0, 0.0, 0.05, 0.2]),
                        )
                        for _ in range(random.randint(1, 80)):
                            if worker.ended:
                                break
                            self.world.point()
                        if worker.ended and not worker.error and store.has(commit_path(unit.unit, unit.retry)):
                            if not retry:
                                checkpoints.done(unit.unit)
                            break
            store.check_key(key)
            store.remove_orphan_files()

        return drive

    def gc(self) -> None:
        self.store().remove_orphan_files()

    def read(self) -> None:
        """Check that a reader of a finished store reads every row, and each row once."""
        store = self.store()
        found = status(store)
        if found.input != found.ok + found.rejected + found.filtered:
            self.wrong.append(f"the sum does not hold: {found}")
        try:
            parts = parts_of(store)
            rows = [row for path, *_ in parts for row in json.loads(store.get(path))]
        except JobError:
            return  # not done, or replaced
        if len(set(rows)) < len(rows):
            self.wrong.append(f"a reader reads rows twice: {rows}")

    def glob(self) -> None:
        """Check that a plain glob lists only committed files, at any time."""
        store = self.store()
        seen = set(store.names("parts")) - set(FOREIGN)
        named = {file.path for commit in store.commits([]) for file in commit.files}
        if not self.replaced and not seen <= named:
            self.wrong.append(f"a glob lists {seen - named}, which no commit names")

    def replace(self) -> None:
        """Remove the store, and begin another job at its location. Remove it again if files were added meanwhile."""
        store = self.store()
        while paths := [path for path in store.names("") if path not in FOREIGN]:
            for path in paths:
                store.delete(path)
        self.begin(2)
        self.driver()()

    def go(self) -> None:
        world, random = self.world, self.random
        store = self.store()
        for path in FOREIGN:
            store.put(path, b"of the user")
        self.begin(1)
        for _ in range(random.randint(1, 3)):
            world.spawn(self.driver(), "driver", mortality=random.choice([0, 0.01, 0.03]))
        for errors in ([ERRORS[0]], [ERRORS[1]], list(ERRORS)):
            for _ in range(random.randint(0, 2)):
                weight, mortality = random.choice([0.1, 0.5, 1.0]), random.choice([0, 0.02])
                world.spawn(self.driver(errors), "retry", weight=weight, mortality=mortality)
        for body in (self.gc, self.read, self.glob):
            for _ in range(random.randint(0, 3)):
                world.spawn(body, body.__name__, weight=random.choice([0.1, 0.3, 1.0]))
        if self.replaced:
            world.spawn(self.replace, "owner", weight=random.choice([0.1, 0.3, 1.0]))
        world.run()
        world.wake(0.5)  # some stopped workers go on during the last driver, the others when all is done
        world.run()
        while not status(self.store()).complete:
            world.spawn(self.driver(), "driver")
            world.run()
        world.wake(1.0)
        world.run()
        world.spawn(self.driver([ERRORS[0]]), "retry")
        world.spawn(self.gc, "gc")
        world.run()
        while not status(self.store()).complete:
            world.spawn(self.driver(), "driver")
            world.run()

    def check(self) -> Counter[str]:
        """Return the number of faults at the end, by kind."""
        store, wrong = self.store(), Counter[str]()
        store.remove_orphan_files(max_age=0)
        found, key = status(store), store.key()
        rows, named = Counter[tuple[str, int]](), set[str]()
        for commit in store.commits():
            wrong["mixed"] += commit.job != key.id
            for file in commit.files:
                named.add(file.path)
                for row in json.loads(store.get(file.path)) if file.path.startswith("parts/") else ():
                    job, unit, i = row.split("/")
                    wrong["mixed"] += job != key.id
                    rows[unit, int(i)] += 1
            rows.update((commit.unit, reject.index) for reject in commit.rejects)
        every = {(f"{number:08d}", i) for number in range(self.units) for i in range(COUNT)}
        wrong["lost"] = len(every - rows.keys())
        wrong["doubled"] = sum(rows.values()) - len(rows)
        there = set(store.names(""))
        data = {path for path in there if path.startswith(tuple(f"{folder}/" for folder in DATA))}
        wrong["glob is not the commits"] = len((data - set(FOREIGN)) ^ named)
        wrong["files left"] = sum(path.startswith(STAGING) for path in there)
        wrong["foreign files touched"] = sum(path not in there or store.get(path) != b"of the user" for path in FOREIGN)
        wrong["not complete"] = not found.complete or len(found.problems)
        wrong["faults during the run"] = len(self.wrong)
        allowed = JobError if self.replaced else ()
        wrong["actors that failed"] = sum(
            actor.error is not None and not isinstance(actor.error, allowed) for actor in self.world.actors
        )
        return +wrong


def interleave(seeds: Sequence[int], folder: Path | None) -> dict[str, Any]:
    """Run once per seed, on a disk if a folder is given. Return the counts of events and of faults."""
    total, wrong, bad = Counter[str](), Counter[str](), list[int]()
    began = time.monotonic()
    for seed in seeds:
        own = folder / str(seed) if folder else None
        one = Run(seed, own)
        with scheduled(one.world):
            one.go()
            found = one.check()
        total.update({"actors": len(one.world.actors), "operations": one.world.steps // 2})
        total["stores replaced"] += one.replaced
        wrong += found
        if found:
            bad.append(seed)
            errors = [f"{actor.name}: {type(actor.error).__name__}: {actor.error}" for actor in one.world.actors]
            print(
                f"seed {seed}: {dict(found)} {one.wrong} {[e for e in errors if 'NoneType' not in e][:3]}", flush=True
            )
        if own is not None:
            shutil.rmtree(own)
    others = ("glob is not the commits", "not complete", "faults during the run", "actors that failed")
    kinds = ("lost", "doubled", "mixed", "foreign files touched", "files left", *others)
    seconds = round(time.monotonic() - began)
    return {
        "runs": len(seeds),
        **total,
        **{kind: wrong[kind] for kind in kinds},
        "wrong seeds": bad,
        "seconds": seconds,
    }


@program(runs=2000, seed=1)
def interleavings(given: Namespace) -> None:
    seeds = range(given.seed, given.seed + given.runs)
    with tempfile.TemporaryDirectory() as folder:
        figures = {"memory": interleave(seeds, None), "disk": interleave(seeds, Path(folder))}
    show(
        [{"": kind, **{where: of[kind] for where, of in figures.items()}} for kind in figures["memory"]],
        {"": "", "memory": "memory", "disk": "disk"},
    )
    save(RESULTS / "interleavings", given, **figures)
    raise SystemExit(1 if any(of["wrong seeds"] for of in figures.values()) else 0)


if __name__ == "__main__":
    run(__doc__, interleavings)
