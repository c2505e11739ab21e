"""Arrange samples in batches of one size, each sample in its slot."""

from collections import Counter
from collections.abc import Sequence


def arrange(slots: Sequence[int | None], batch_size: int) -> list[list[int | None]]:
    """Return batches of exactly `batch_size` slots. Each slot has the index of a sample, or None if it is free.

    `slots` has one item per sample: the slot that it requires, or None for any slot. A network's last bits can depend
    on a sample's slot in its batch, so a noise pair regenerates exactly in the slot where it was inverted. Samples
    without a required slot fill the free ones in order. There are as few batches as possible, and no batch is empty.

    Raises:
        ValueError: A slot is outside the batch.
    """
    if outside := [slot for slot in slots if slot is not None and not 0 <= slot < batch_size]:
        raise ValueError(f"slot {outside[0]} is outside a batch of {batch_size}; give 0 to {batch_size - 1}")
    used = Counter(slot for slot in slots if slot is not None)
    count = max(-(-len(slots) // batch_size), max(used.values(), default=0))
    batches: list[list[int | None]] = [[None] * batch_size for _ in range(count)]
    filled = Counter[int]()
    for sample, slot in enumerate(slots):
        if slot is not None:
            batches[filled[slot]][slot] = sample
            filled[slot] += 1
    free = [(batch, slot) for batch in batches for slot, sample in enumerate(batch) if sample is None]
    for (batch, slot), sample in zip(free, (i for i, wanted in enumerate(slots) if wanted is None), strict=False):
        batch[slot] = sample
    return batches
