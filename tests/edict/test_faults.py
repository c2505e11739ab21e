"""NaN, infinity and huge values are a fault of their own sample only."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from edict import EDICT
from edict.integration import RangeMonitor
from edict.lattice import MAX_STATE, LatticeOverflow, NonFinite, from_lattice, largest, to_lattice
from edict.samplers import sampling
from pipeline.store.parts import STATE_LIMIT, overflows
from tests.edict.checkpoints import Folder

TEXTS = ["a red heart", "dog face", "a cat"]
LEAST = torch.iinfo(torch.int64).min  # NaN, infinity and 1e30 become this integer


@pytest.fixture
def small(folder: Folder) -> EDICT:
    return EDICT.from_pretrained(folder("sd1"))


@contextmanager
def giving(network: nn.Module, value: float, call: int) -> Iterator[None]:
    """Make a module return a tensor of `value` at its `call`-th call."""
    calls = iter(range(1000))

    def spoil(_: object, __: object, output: Any) -> Any:
        return torch.full_like(output, value) if next(calls) == call else output

    with network.register_forward_hook(spoil):
        yield


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_or_infinity_in_latents_is_an_error(value: float) -> None:
    latents = torch.zeros(3, 2, 2)
    latents[1, 0, 1] = value
    with pytest.raises(NonFinite, match="the latents of the image have NaN or infinity") as caught:
        to_lattice(latents, 0.5, 12)
    assert caught.value.__notes__ == ["sample 1 of 3"]


@pytest.mark.parametrize("value", [1e30, -1e30, float(MAX_STATE), -float(MAX_STATE)])
def test_latents_beyond_the_lattice_are_an_error(value: float) -> None:
    latents = torch.zeros(3, 2, 2, dtype=torch.float64)
    latents[2, 1, 1] = value
    with pytest.raises(LatticeOverflow, match="latents of the image are this large: check the autoencoder") as caught:
        to_lattice(latents, 1.0, 0)
    assert caught.value.__notes__ == ["sample 2 of 3"]
    below = latents.clamp(1 - MAX_STATE, MAX_STATE - 1)
    assert torch.equal(from_lattice(to_lattice(below, 1.0, 0), 1.0, 0), below)


def test_the_smallest_int64_counts_as_large(small: EDICT, images: list[Image.Image]) -> None:
    """`abs` of the smallest int64 is negative."""
    assert largest(torch.tensor([[LEAST, 3], [-4, 3]])).tolist() == [torch.iinfo(torch.int64).max, 4]
    start = small.encode(images[:2])
    wild = replace(start, x=start.x.clone(), y=start.y.clone())
    wild.y[1, 0, 0, 0] = LEAST
    monitor = RangeMonitor(wild.x)
    monitor.observe_state(wild.x)
    monitor.observe_state(wild.y)
    assert (monitor.largest >= MAX_STATE).tolist() == [False, True]
    assert list(overflows(wild)) == [1] and not overflows(start)
    wild.y[1, 0, 0, 0] = STATE_LIMIT
    assert list(overflows(wild)) == [1]


@pytest.mark.parametrize("state", [LEAST, -LEAST - 1, MAX_STATE, -MAX_STATE])
def test_a_state_beyond_the_lattice_is_a_fault_from_the_start(
    small: EDICT, images: list[Image.Image], state: int
) -> None:
    start = small.prepare(small.encode(images[:3]), sampling(steps=2, strength=1.0, guidance_scale=1.0))
    wild = replace(start, x=start.x.clone(), y=start.y.clone())
    wild.x[1, 0, 0, 0] = wild.y[1, 0, 0, 0] = state
    (moved, faults), (expected, none) = (small.integrate(pair, TEXTS, 0) for pair in (wild, start))
    assert (list(faults), none) == ([1], {})
    assert not moved.x[1].any() and not moved.y[1].any()
    assert len(small.decode(moved.to_float()[0])) == 3
    assert moved[[0, 2]].digests() == expected[[0, 2]].digests()


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), NonFinite), (float("inf"), NonFinite), (1e30, LatticeOverflow)]
)
def test_an_autoencoder_that_gives_no_latents_is_a_fault_of_its_sample(
    small: EDICT, images: list[Image.Image], value: float, error: type[ArithmeticError]
) -> None:
    with giving(small.backend.vae.encoder, value, 1), pytest.raises(error) as caught:
        small.invert(images[:3], TEXTS, steps=1)
    assert caught.value.__notes__ == ["sample 1 of 3"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_autoencoder_that_gives_no_image_is_a_fault_of_its_sample(
    small: EDICT, images: list[Image.Image], value: float
) -> None:
    latents = small.encode(images[:3]).to_float()[0]
    with (
        giving(small.backend.vae.decoder, value, 2),
        pytest.raises(NonFinite, match="the decoded image has NaN or infinity") as caught,
    ):
        small.decode(latents)
    assert caught.value.__notes__ == ["sample 2 of 3"]


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3", "flux-schnell", "pixart-sigma"])
def test_a_text_encoder_that_gives_nan_is_a_fault_of_its_caption(
    folder: Folder, images: list[Image.Image], kind: str
) -> None:
    """One word has no finite embedding."""
    model = EDICT.from_pretrained(folder(kind))
    start = model.prepare(model.encode(images[:3]), sampling(steps=1, strength=1.0, guidance_scale=3.0))
    expected, none = model.integrate(start, TEXTS, 0)
    encoder, tokenizer = model.backend.text_encoder, model.backend.tokenizer
    encoder.get_input_embeddings().weight.data[_own_token(tokenizer, 1)] = torch.nan
    moved, faults = model.integrate(start, TEXTS, 0)
    assert (list(faults), none) == ([1], {})
    assert isinstance(faults[1], NonFinite)
    assert moved[[0, 2]].digests() == expected[[0, 2]].digests()


def _own_token(tokenizer: Any, i: int) -> int:
    """Return a token that only text `i` has, and the empty text does not have."""
    tokens = [set(tokenizer(text).input_ids) for text in ["", *TEXTS]]
    return min(tokens[i + 1] - set.union(*tokens[: i + 1], *tokens[i + 2 :]))
