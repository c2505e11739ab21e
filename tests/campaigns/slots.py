"""Measure whether a prediction for a sample depends on its slot in the batch, or on the other samples.

`python -m tests.campaigns.slots` covers every kind of model (small checkpoints with random weights), network dtype,
guidance scale, number of CPU threads and batch size. One sample is put in each slot of a batch, with two sets of other
samples.
"""

import tempfile
from argparse import Namespace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.harness import dtype_name, program, run, save, show
from edict import EDICT
from edict.samplers import sampling
from tests.campaigns import RESULTS
from tests.edict.checkpoints import KINDS
from tests.edict.checkpoints import save as save_checkpoint

DTYPES = (torch.float32, torch.bfloat16)
GUIDANCE = (1.0, 3.0)
CAPTION = "a red heart"
OTHERS = ("dog", "", "a cat on a blue background", "x y z", "two apples", "dog face", "b", "moon")


@torch.inference_mode()
def predictions(model: EDICT, batch_size: int, guidance: float, seed: int) -> list[torch.Tensor]:
    """Return the predictions for one sample, put in each slot of a batch; `seed` selects the other samples."""
    shape = model.encode([Image.new("RGB", (8, 8))]).x.shape[1:]
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    timestep = model.backend.schedule(sampling(steps=2)).timesteps[0]
    found = []
    for slot in range(batch_size):
        latents, captions = others.clone(), [OTHERS[(i + seed) % len(OTHERS)] for i in range(batch_size)]
        latents[slot], captions[slot] = sample, CAPTION
        found.append(model.direct.predictor(captions, guidance)(latents, timestep)[slot])
    return found


def compare(model: EDICT, batch_size: int, guidance: float) -> tuple[int, int]:
    """Count the distinct predictions over all slots, and the slots where other samples change the prediction."""
    these, those = (predictions(model, batch_size, guidance, seed) for seed in (1, 2))
    different: list[torch.Tensor] = []
    for prediction in these:
        if not any(torch.equal(prediction, one) for one in different):
            different.append(prediction)
    return len(different), sum(not torch.equal(one, other) for one, other in zip(these, those, strict=True))


@program(sizes=list(range(2, 9)), thread_counts=[1, 2])
def slots(given: Namespace) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, dtype in product(KINDS, DTYPES):
            path = Path(folder, kind)
            model = EDICT.from_pretrained(path if path.exists() else save_checkpoint(kind, path), dtype=dtype)
            for threads, guidance in product(given.thread_counts, GUIDANCE):
                torch.set_num_threads(threads)
                counts = {size: compare(model, size, guidance) for size in given.sizes}
                rows.append(
                    {
                        "kind": kind,
                        "dtype": dtype_name(dtype),
                        "threads": threads,
                        "guidance": guidance,
                        "batch_sizes": [size for size, (by_slot, _) in counts.items() if by_slot > 1],
                        "slots_with_influence": sum(by_others for _, by_others in counts.values()),
                    }
                )
    columns: dict[str, Any] = {"model": "kind", "network": "dtype", "threads": "threads", "guidance": "guidance"}
    columns["batch sizes at which the bits depend on the slot"] = lambda row: " ".join(map(str, row["batch_sizes"]))
    show(rows, columns | {"slots where other samples change the bits": "slots_with_influence"})
    save(RESULTS / "slots", given, rows=rows)


if __name__ == "__main__":
    run(__doc__, slots)
