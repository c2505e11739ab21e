"""Measure whether a prediction for a sample depends on its slot in the batch, or on the other samples.

`python -m benchmarks.slots` covers every kind of model (small checkpoints with random weights), network dtype, guidance
scale, number of CPU threads and batch size. One sample is put in each slot of a batch, with two sets of other samples.
"""

import tempfile
import time
from itertools import product
from pathlib import Path

import torch
from PIL import Image

from benchmarks.record import numbers, parser, save
from edict import EDICT
from edict.samplers import sampling
from jobs.evaluation.record import table
from tests.edict.checkpoints import KINDS
from tests.edict.checkpoints import save as save_checkpoint

DTYPES = (torch.float32, torch.bfloat16)
GUIDANCE = (1.0, 3.0)
CAPTION, OTHERS = (
    "a red heart",
    ["dog", "", "a cat on a blue background", "x y z", "two apples", "dog face", "b", "moon"],
)


@torch.inference_mode()
def predictions(model: EDICT, batch_size: int, guidance: float, seed: int) -> list[torch.Tensor]:
    """Return the predictions for one sample, put in each slot of a batch; `seed` selects the other samples."""
    shape = model.encode([Image.new("RGB", (8, 8))]).x.shape[1:]
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    timestep = model.model.schedule(sampling(steps=2)).timesteps[0]
    found = []
    for slot in range(batch_size):
        latents, captions = others.clone(), [OTHERS[(i + seed) % len(OTHERS)] for i in range(batch_size)]
        latents[slot], captions[slot] = sample, CAPTION
        found.append(model.predictor(captions, guidance)(latents, timestep)[slot])
    return found


def compare(model: EDICT, batch_size: int, guidance: float) -> tuple[int, int]:
    """Count the distinct predictions over all slots, and the slots where other samples change the prediction."""
    these, those = (predictions(model, batch_size, guidance, seed) for seed in (1, 2))
    different: list[torch.Tensor] = []
    for prediction in these:
        if not any(torch.equal(prediction, one) for one in different):
            different.append(prediction)
    return len(different), sum(not torch.equal(one, other) for one, other in zip(these, those, strict=True))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", type=numbers, default=list(range(2, 9)), help="batch sizes")
    arguments.add_argument("--counts", type=numbers, default=[1, 2], help="numbers of CPU threads")
    given = arguments.parse_args()
    began, rows, lines = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as folder:
        for kind, dtype in product(KINDS, DTYPES):
            checkpoint = Path(folder, kind)
            model = EDICT.from_pretrained(
                checkpoint if checkpoint.exists() else save_checkpoint(kind, checkpoint), dtype=dtype
            )
            for threads, guidance in product(given.counts, GUIDANCE):
                torch.set_num_threads(threads)
                counts = [compare(model, size, guidance) for size in given.sizes]
                setting = {"kind": kind, "dtype": str(dtype), "threads": threads, "guidance": guidance}
                rows += [
                    setting | {"batch_size": size, "predictions": by_slot, "slots_with_influence": by_others}
                    for size, (by_slot, by_others) in zip(given.sizes, counts, strict=True)
                ]
                sizes = [str(size) for size, (by_slot, _) in zip(given.sizes, counts, strict=True) if by_slot > 1]
                influenced = sum(by_others for _, by_others in counts)
                lines.append([kind, str(dtype).removeprefix("torch."), threads, guidance, " ".join(sizes), influenced])
    head = (
        "model",
        "network",
        "threads",
        "guidance",
        "batch sizes where the slot has an influence",
        "slots where other samples have an influence",
    )
    print(table(head, lines))
    print(f"\n{time.monotonic() - began:.0f} s; written to {save('slots', given, rows=rows)}")


if __name__ == "__main__":
    main()
