"""Write the checkpoints of a run: once all units of a block are committed, its commits are copied to one file."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from pipeline.store import paths
from pipeline.store.job_record import JobKey
from pipeline.store.paths import block_of
from pipeline.store.store import Store


class CheckpointWriter:
    """Write checkpoints in a thread, during the `with` block of a run.

    An error in writing is raised at the end of the block, when all units are committed.
    """

    def __init__(self, store: Store, units: int, pending: Iterable[str], key: JobKey) -> None:
        """`units` is the number of units, and `pending` those without a commit. An incomplete last block gets none."""
        self._store, self._key = store, key
        self._num_pending = Counter(block_of(unit) for unit in pending)
        self._num_blocks = units // paths.BLOCK_SIZE
        self._thread = ThreadPoolExecutor(1)
        self._writes = list[Future[None]]()
        existing = store.checkpoint_blocks(key) if self._num_blocks else ()
        for block in range(self._num_blocks):
            if not self._num_pending[block] and block not in existing:
                self._write(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for write in self._writes:
                write.result()

    def done(self, unit: str) -> None:
        """Count a pending unit as committed, and write the checkpoint of its block if it was the last one."""
        block = block_of(unit)
        self._num_pending[block] -= 1
        if not self._num_pending[block] and block < self._num_blocks:
            self._write(block)

    def _write(self, block: int) -> None:
        self._writes.append(self._thread.submit(self._store.write_checkpoint, block, self._key))
