"""The arrangement of samples in batches: required slots, the number of batches, and the order."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edict.batching import arrange


@st.composite
def slots_and_sizes(draw: st.DrawFn) -> tuple[list[int | None], int]:
    size = draw(st.integers(1, 8))
    return draw(st.lists(st.none() | st.integers(0, size - 1), max_size=40)), size


@given(slots_and_sizes())
@example(([], 3))
@example(([2, 2, None, 0, None, None, None], 3))
def test_every_sample_is_in_one_batch_at_its_slot(given: tuple[list[int | None], int]) -> None:
    slots, size = given
    batches = arrange(slots, size)
    assert {len(batch) for batch in batches} <= {size}
    placed = [(sample, slot) for batch in batches for slot, sample in enumerate(batch) if sample is not None]
    assert sorted(sample for sample, _ in placed) == list(range(len(slots)))
    assert all(slots[sample] in (None, slot) for sample, slot in placed)


@given(slots_and_sizes())
def test_the_number_of_batches_is_minimal(given: tuple[list[int | None], int]) -> None:
    slots, size = given
    batches = arrange(slots, size)
    most = max(Counter(slot for slot in slots if slot is not None).values(), default=0)
    assert len(batches) == max(-(-len(slots) // size), most)
    assert all(any(sample is not None for sample in batch) for batch in batches)


@given(st.integers(0, 40), st.integers(1, 8), st.booleans())
def test_samples_in_order_keep_their_order(count: int, size: int, fixed: bool) -> None:
    slots = [i % size if fixed else None for i in range(count)]
    flat = [sample for batch in arrange(slots, size) for sample in batch]
    assert flat == [*range(count), *[None] * (-count % size)]


def test_a_slot_without_a_sample_stays_free() -> None:
    assert arrange([0, 2, 0, 1], 3) == [[0, 3, 1], [2, None, None]]
    assert arrange([1, 1], 2) == [[None, 0], [None, 1]]


@pytest.mark.parametrize("slot", [-1, 3])
def test_a_slot_outside_the_batch_is_an_error(slot: int) -> None:
    with pytest.raises(ValueError, match=f"slot {slot} is outside a batch of 3; give 0 to 2"):
        arrange([0, slot], 3)
