"""What a store holds, row by row, whoever wrote it and in however many attempts: to compare two runs of one job."""

import io
import tarfile
from collections import Counter
from hashlib import sha256

import pyarrow.parquet as pq

from pipeline.store.store import Store


def contents(store: Store) -> Counter[tuple[str, ...]]:
    """How often each row is there: its source, key and edit, the sha256 of all its fields, and of its picture if any.

    Only what commits name counts, and each of these files is held against its commit. Rejects are rows here too.
    Raises AssertionError if a file is not the committed one.
    """
    rows = Counter[tuple[str, ...]]()
    for commit in store.commits():
        pictures = dict[str, str]()
        files = {file.path: store.get(file.path) for file in commit.files}
        for file in commit.files:
            if sha256(files[file.path]).hexdigest() != file.sha256:
                raise AssertionError(f"{store.location}: {file.path} is not the committed one")
            if file.path.endswith(".tar"):
                with tarfile.open(fileobj=io.BytesIO(files[file.path])) as tar:
                    for member in tar:
                        if (file_of := tar.extractfile(member)) is not None:
                            pictures[member.name] = sha256(file_of.read()).hexdigest()
        for path, data in files.items():
            if path.startswith("parts/"):
                for row in pq.read_table(io.BytesIO(data)).to_pylist():
                    edited = "edit" in row
                    if edited:
                        del row["shard"]  # the tar is named after the attempt
                    picture = next((h for name, h in pictures.items() if name.startswith(row["key"] + ".")), "")
                    source = row["source_shard"] if edited else row["shard"]
                    rows[source, row["key"], sha256(repr(sorted(row.items())).encode()).hexdigest(), picture] += 1
        for reject in commit.rejects:
            rows[reject.shard, reject.key, reject.stage, reject.error] += 1
    return rows
