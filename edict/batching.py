"""Arrange samples in batches of one size, each at the place where it has to stand."""

from collections import Counter
from collections.abc import Sequence


def arrange(slots: Sequence[int | None], batch_size: int) -> list[list[int | None]]:
    """Return batches of exactly `batch_size` places; each place has the index of a sample, or None where it is free.

    `slots` has one item per sample: the place at which it has to stand, or None for any place. A network's last bits
    can depend on a sample's place in its batch, so a noise pair regenerates exactly at the place where it was
    inverted. The samples without a slot fill the free places in order. There are as few batches as possible, and none
    is empty.

    Raises:
        ValueError: a slot is not a place of such a batch.
    """
    if strange := [slot for slot in slots if slot is not None and not 0 <= slot < batch_size]:
        raise ValueError(f"slot {strange[0]} is not a place in a batch of {batch_size}: give 0 to {batch_size - 1}")
    used = Counter(slot for slot in slots if slot is not None)
    count = max(-(-len(slots) // batch_size), max(used.values(), default=0))
    batches: list[list[int | None]] = [[None] * batch_size for _ in range(count)]
    filled = Counter[int]()
    for sample, slot in enumerate(slots):
        if slot is not None:
            batches[filled[slot]][slot] = sample
            filled[slot] += 1
    free = [(batch, place) for batch in batches for place, sample in enumerate(batch) if sample is None]
    for (batch, place), sample in zip(free, (i for i, slot in enumerate(slots) if slot is None), strict=False):
        batch[place] = sample
    return batches
