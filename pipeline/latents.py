"""Reading a latent store: its parts' rows, checked, and their pairs."""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pyarrow as pa

from edict.pair import Pair
from pipeline.parts import to_pair
from pipeline.plan import Unit
from pipeline.store import Store, StoreError, read_table
from schemas.latents import NOISE


@dataclass(frozen=True)
class Latents:
    """Rows of a part: the `table` as stored, and its noise `pair`."""

    table: pa.Table
    pair: Pair

    def column(self, name: str) -> list[Any]:
        return self.table[name].to_pylist()


def read_latents(store: Store, unit: Unit) -> Latents:
    """The rows of a unit over a part, after its sha256 and its page checksums were checked.

    Raises StoreError naming the part where it is absent, damaged or not the committed one.
    """
    data = store.get(unit.source)
    name = f"{store.location}: {unit.source}"
    if sha256(data).hexdigest() != unit.version:
        raise StoreError(f"{name} is not what was committed (its sha256 differs): it was damaged or replaced")
    table = read_table(data, name).slice(unit.first, unit.count)
    if table.num_rows != unit.count:
        raise StoreError(f"{name} has no rows {unit.first} to {unit.first + unit.count}, which its commit counts")
    return Latents(table, to_pair(table, json.loads(table.schema.metadata[NOISE])))
