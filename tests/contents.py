"""The content of a store, row by row, to compare two runs of one job."""

import io
import tarfile
from collections import Counter
from hashlib import sha256

import pyarrow.parquet as pq

from pipeline.store.store import Store

Rows = Counter[tuple[str, ...]]
"""Counts of rows. A row is its source, its key, the sha256 of all its fields, and the sha256 of its image, if any."""


def contents(store: Store) -> Rows:
    """Return the rows and rejects that commits name. They do not depend on workers, units or attempts.

    Raises:
        AssertionError: A file is not the committed one.
    """
    rows = Rows()
    for commit in store.commits():
        images = dict[str, str]()
        files = {file.path: store.get(file.path) for file in commit.files}
        for file in commit.files:
            if sha256(files[file.path]).hexdigest() != file.sha256:
                raise AssertionError(f"{store.location}: {file.path} is not the committed one")
            if file.path.endswith(".tar"):
                with tarfile.open(fileobj=io.BytesIO(files[file.path])) as tar:
                    for member in tar:
                        if (content := tar.extractfile(member)) is not None:
                            images[member.name] = sha256(content.read()).hexdigest()
        for path, data in files.items():
            if path.startswith("parts/"):
                for row in pq.read_table(io.BytesIO(data)).to_pylist():
                    edited = "edit" in row
                    if edited:
                        del row["shard"]  # The tar has the name of the attempt.
                    image = next((digest for name, digest in images.items() if name.startswith(row["key"] + ".")), "")
                    source = row["source_shard"] if edited else row["shard"]
                    rows[source, row["key"], sha256(repr(sorted(row.items())).encode()).hexdigest(), image] += 1
        for reject in commit.rejects:
            rows[reject.shard, reject.key, reject.stage, reject.error] += 1
    return rows


def faults(store: Store, expected: Rows) -> Counter[str]:
    """Count the rows of a store that are lost, doubled or differ from the expected ones, and the files left over."""
    found, named = contents(store), {file.path for commit in store.commits() for file in commit.files}
    return Counter(
        {
            "rows_lost": len(expected.keys() - found.keys()),
            "rows_doubled": found.total() - len(found),
            "rows_differing": len(found.keys() - expected.keys()),
            "files_left_over": len(set(store.names("parts")) ^ named),
        }
    )
