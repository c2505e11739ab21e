"""Parts: the integers of latents of any rank, and the settings of their pairs."""

import io

import duckdb
import pyarrow.parquet as pq
import pytest
import torch

from edict.pair import Pair
from edict.schedule import Schedule
from pipeline.store.parts import Row, from_stored, to_pair, to_parquet, to_stored, to_table
from schemas.latents import read_footer
from schemas.sampling import Sampling

FLOW = Schedule((875.0, 500.0), (1.0, 1.0, 1.0), (0.875, 0.5, 0.0))
NOISE = Schedule((999, 500), (0.0047, 0.3, 1.0))
SHAPES = {"image": (4, 3, 2), "tokens": (6, 8), "video": (4, 2, 3, 5), "vector": (7,)}


@pytest.mark.parametrize("schedule", [FLOW, NOISE], ids=["flow", "noise"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_integer_of_latents_of_any_rank_is_read_back(shape: tuple[int, ...], schedule: Schedule) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(1 - 2**31, 2**31, (2, 3, *shape), generator=generator)
    x.view(3, -1)[0, :2] = torch.tensor([2**31 - 1, 1 - 2**31])
    settings = Sampling(name="bdia", steps=2, gamma=0.96, bits=16, guidance_scale=2.5, guidance_interval=[0.5, 0.9])
    pair = Pair(x, y, schedule, 0, settings, 3)
    rows = [Row(str(i), "a.tar", i, "a dog", False, "d", "s", 64, 64, None, i) for i in range(3)]
    data = to_parquet(to_table(rows, pair, {"format": 3}))
    with pq.ParquetFile(io.BytesIO(data)) as file:
        columns = [file.metadata.row_group(0).column(i) for i in range(file.metadata.num_columns)]
        states = [column for column in columns if column.path_in_schema.startswith(("x.", "y."))]
        assert len(states) == 2 and all("BYTE_STREAM_SPLIT" in column.encodings for column in states)
        found = to_pair(file.read())
    assert found == pair and found.digests() == pair.digests()
    assert (found.x.shape, found.sampling, found.schedule) == (pair.x.shape, settings, schedule)
    assert (found.position, found.batch_size) == (0, 3)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_other_readers_see_nested_lists(shape: tuple[int, ...]) -> None:
    x = torch.arange(2 * torch.Size(shape).numel()).view(2, *shape)
    rows = [Row(str(i), "a.tar", i, "a dog", False, "d", "s", 64, 64, None, i) for i in range(2)]
    table = to_table(rows, Pair(x, x, NOISE, 2, Sampling(p=0.93, bits=12), 2), {"format": 3})
    found = duckdb.from_arrow(table).order("index").project("x")
    assert str(found.types[0]).startswith("INTEGER[")
    assert torch.equal(torch.tensor([row for (row,) in found.fetchall()]), x)
    footer = read_footer(table.schema.metadata)
    assert (footer.scale, footer.alphas_cumprod, footer.bits) == (2.0**-12, 1.0, 12)
    assert from_stored(to_stored(NOISE)) == NOISE
