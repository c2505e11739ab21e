"""The shipped model: exact in every precision and batch, and as in the equations of the paper."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from edict import EDICT, LatticeOverflow, NonFinite, Pair
from edict.checkpoint import DEFAULT
from edict.lattice import from_lattice
from edict.samplers import SAMPLERS, sampling, with_defaults
from schemas.sampling import Sampling, count_executed_steps
from tests.edict import oracle

Pictures = list[Image.Image]


@pytest.fixture(scope="module")
def models(model: EDICT) -> dict[torch.dtype, EDICT]:
    """Return the model in each precision."""
    return {
        torch.float32: model,
        torch.bfloat16: EDICT.from_pretrained(dtype=torch.bfloat16),
        torch.float16: EDICT.from_pretrained(dtype=torch.float16),
    }


@contextmanager
def network_batches(model: EDICT) -> Iterator[list[int]]:
    """Collect the batch size of every call of the UNet."""
    batches: list[int] = []
    hook = model.network.register_forward_hook(lambda _, arguments, __: batches.append(len(arguments[0])))
    try:
        yield batches
    finally:
        hook.remove()


def equal(one: Pair, other: Pair) -> bool:
    return torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


@pytest.mark.parametrize(
    ("steps", "strength", "guidance_scale", "p", "dtype"),
    [
        (1, 1.0, 3.0, 0.93, torch.float32),
        (2, 1.0, 15.0, 0.9, torch.float32),
        (7, 1.0, 7.0, 0.97, torch.float32),
        (25, 0.3, 3.0, 1.0, torch.float32),
        (50, 0.3, 1.0, 0.93, torch.float32),
        (50, 0.8, 3.0, 0.93, torch.float32),
        (3, 1.0, 7.0, 0.9, torch.bfloat16),
        (25, 0.8, 15.0, 0.97, torch.bfloat16),
        (50, 1.0, 1.0, 0.9, torch.bfloat16),
        (51, 1.0, 3.0, 0.93, torch.bfloat16),
        (200, 0.3, 1.0, None, torch.bfloat16),
        (2, 1.0, 1.0, 0.93, torch.float16),
        (1, 1.0, 15.0, 0.97, torch.float16),
    ],
)
def test_generation_returns_the_integers_of_the_start(
    models: dict[torch.dtype, EDICT],
    images: Pictures,
    captions: list[str],
    steps: int,
    strength: float,
    guidance_scale: float,
    p: float | None,
    dtype: torch.dtype,
) -> None:
    model = models[dtype]
    assert model.network.dtype == model.backend.text_encoder.dtype == dtype
    start = model.encode(images[:1])
    pair = model.invert(start, captions[:1], steps=steps, strength=strength, guidance_scale=guidance_scale, p=p)
    assert pair.position == 0
    assert p is None or pair.sampling.p == p
    assert not torch.equal(pair.x, start.x)
    assert p == 1 or not torch.equal(pair.x, pair.y)
    same = model.generate(pair, captions[:1], output_type="latent")
    assert equal(same, start)
    assert same.digests() == start.digests()


def test_images_and_their_pair_invert_to_equal_integers(model: EDICT, images: Pictures, captions: list[str]) -> None:
    start = model.encode(images[:1], bits=10)
    of_pictures = model.invert(images[:1], captions[:1], steps=2, bits=10)
    assert of_pictures.bits == 10
    assert equal(of_pictures, model.invert(start, captions[:1], steps=2))


@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_partial_last_batch_is_exact(model: EDICT, images: Pictures, captions: list[str], batch_size: int) -> None:
    start = model.encode(images)
    with network_batches(model) as batches:
        pair = model.invert(start, captions, steps=3, batch_size=batch_size)
    assert set(batches) == {2 * batch_size}, "the network must always run in the same shape"
    assert len(pair) == 5
    assert equal(model.generate(pair, captions, output_type="latent"), start)
    rest = slice(batch_size, None)  # without the first batch, the others as they were
    assert equal(model.generate(pair[rest], captions[rest], output_type="latent"), start[rest])


@torch.inference_mode()
def test_the_layout_in_memory_makes_no_difference(model: EDICT, images: Pictures, captions: list[str]) -> None:
    """A network that gets another memory layout could have other last bits."""

    def laid_out(state: torch.Tensor) -> torch.Tensor:
        assert state.is_contiguous()
        return state.to(memory_format=torch.channels_last)

    start = model.encode(images[:3])
    latents = start.to_float()[0]
    for guidance_scale in (1.0, 3.0):
        predict = model.direct.predictor(captions[:3], guidance_scale)
        assert torch.equal(predict(latents, 501), predict(laid_out(latents), 501))
    pair = model.invert(start, captions[:3], steps=3, batch_size=2)
    other = replace(pair, x=laid_out(pair.x), y=laid_out(pair.y))
    assert other.digests() == pair.digests()
    assert equal(model.generate(other, captions[:3], output_type="latent"), start)
    latents = torch.randn(
        16, 4, 16, 16, generator=torch.Generator().manual_seed(0)
    )  # There are many images, because few pixels are so close to a rounding boundary.
    decoded, again = model.decode(latents), model.decode(laid_out(latents))
    assert [image.tobytes() for image in decoded] == [image.tobytes() for image in again]


def test_a_sample_does_not_depend_on_its_neighbours(model: EDICT, images: Pictures, captions: list[str]) -> None:
    start = model.encode(images)
    one, other = [0, 1, 2], [0, 3, 2]
    pairs = [
        model.invert(replace(start, x=start.x[rows], y=start.y[rows]), [captions[i] for i in rows], steps=3)
        for rows in (one, other)
    ]
    assert equal(pairs[0][::2], pairs[1][::2])
    assert not torch.equal(pairs[0].x[1], pairs[1].x[1])


def test_on_one_thread_a_sample_does_not_depend_on_its_slot(
    model: EDICT, images: Pictures, captions: list[str]
) -> None:
    """With more threads, the last bits of a row can depend on the thread that computes it."""
    start = model.encode(images[:3])
    pair = model.invert(start, captions[:3], steps=3)
    turned = model.invert(replace(start, x=start.x.flip(0), y=start.y.flip(0)), captions[2::-1], steps=3)
    assert pair.digests() == turned.digests()[::-1]
    assert equal(model.generate(pair[1:3], captions[1:3], output_type="latent"), start[1:3])
    separate = model.encode(images[:2], posterior_seed=1), model.encode(images[1::-1], posterior_seed=1)
    assert separate[0].digests() == separate[1].digests()[::-1]


@pytest.mark.parametrize(("guidance_scale", "branches"), [(0.0, 1), (1.0, 1), (3.0, 2), (0.5, 2)])
def test_only_the_needed_branches_are_computed(
    model: EDICT, images: Pictures, captions: list[str], guidance_scale: float, branches: int
) -> None:
    with network_batches(model) as batches:
        model.invert(images[:2], captions[:2], steps=2, guidance_scale=guidance_scale)
    assert batches == [2 * branches] * 4  # There are two calls per step.


def test_guidance_is_limited_to_its_interval(model: EDICT, images: Pictures, captions: list[str]) -> None:
    """Outside of the interval, the network computes only the conditional branch, in both directions."""
    start, interval = model.encode(images[:2]), (0.5, 5.0)
    for sampler, calls in (("edict", 2), ("bdia", 1), ("ddim_euler", 1)):
        given = {"steps": 10, "sampler": sampler, "batch_size": 2}
        with network_batches(model) as batches:
            pair = model.invert(start, captions[:2], guidance_interval=interval, **given)
        guided = [i for i in range(10) if 0.5 < pair.schedule.sigma(i) <= 5.0]
        assert 0 < len(guided) < 10
        assert pair.timesteps_without_cfg == {0, *(t for i, t in enumerate(pair.schedule.timesteps) if i not in guided)}
        assert sorted(batches) == [2] * calls * (10 - len(guided)) + [4] * calls * len(guided)
        if SAMPLERS[sampler].exact:
            assert equal(model.generate(pair, captions[:2], output_type="latent"), start)
        everywhere = model.invert(start, captions[:2], guidance_interval=(0, 100), **given)
        assert equal(everywhere, model.invert(start, captions[:2], **given))
        nowhere = model.invert(start, captions[:2], guidance_interval=(0, 0.01), **given)
        assert equal(nowhere, model.invert(start, captions[:2], guidance_scale=1.0, **given))
        assert len({one.digests()[0] for one in (pair, everywhere, nowhere)}) == 3


@torch.inference_mode()
def test_guidance_extrapolates_from_the_empty_caption(model: EDICT) -> None:
    latents = torch.randn(2, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    texts = ["red heart", "dog face"]

    def predicted(guidance_scale: float, captions: list[str] = texts) -> torch.Tensor:
        return model.direct.predictor(captions, guidance_scale)(latents, 501)

    without, with_text = predicted(0.0), predicted(1.0)
    # The tolerance is that of float32, because other batches have other last bits.
    assert torch.allclose(without, predicted(1.0, ["", ""]), atol=1e-4)
    assert not torch.allclose(without, with_text, atol=1e-3)
    assert torch.allclose(predicted(5.0), without + 5 * (with_text - without), atol=1e-4)


def test_encoding_starts_both_states_equal(model: EDICT, images: Pictures) -> None:
    start = model.encode(images)
    assert start.x.dtype == torch.int64
    assert start.x.shape == (5, 4, 16, 16)
    assert torch.equal(start.x, start.y)
    assert start.x.data_ptr() != start.y.data_ptr()
    assert start.drift().tolist() == [0.0] * 5
    assert len(set(start.digests())) == 5


def test_a_finer_lattice_has_the_same_latents(model: EDICT, images: Pictures) -> None:
    coarse, fine = model.encode(images[:2], bits=8), model.encode(images[:2], bits=16)
    distance = (coarse.to_float()[0] - fine.to_float()[0]).abs().max()
    assert 0 < distance <= 2**-9 + 2**-17


def test_a_posterior_sample_depends_on_the_seed_and_its_image_only(model: EDICT, images: Pictures) -> None:
    a, b, c, *_ = images
    first = model.encode([a, b], posterior_seed=1)
    assert equal(first, model.encode([a, b], posterior_seed=1))
    assert torch.equal(first.x, first.y)
    assert equal(first[1:2], model.encode([c, b], posterior_seed=1)[1:2])
    other_seed, mode = model.encode([a, b], posterior_seed=2), model.encode([a, b])
    for i in range(2):
        assert len({pair.digests()[i] for pair in (first, other_seed, mode)}) == 3


def test_equal_digests_are_equal_integers(model: EDICT, images: Pictures) -> None:
    start = model.encode(images[:3])
    assert replace(start, x=start.x.clone()).digests() == start.digests()
    for state in ("x", "y"):
        moved = getattr(start, state).clone()
        moved[1, 3, 15, 15] += 1
        changed = replace(start, **{state: moved}).digests()
        assert [one == other for one, other in zip(changed, start.digests(), strict=True)] == [True, False, True]
    pair = replace(start, y=start.y + 1)
    assert replace(pair, x=pair.y, y=pair.x).digests()[0] != pair.digests()[0]


def test_a_pair_in_floats_is_in_the_models_scale(model: EDICT, images: Pictures, captions: list[str]) -> None:
    """The scale is integer * 2^-bits * sqrt(alphas_cumprod), as documented for stored rows."""
    pair = model.invert(images[:2], captions[:2], steps=2)
    alpha = pair.schedule.alphas_cumprod[0]
    x, y = pair.to_float()
    assert x.dtype == y.dtype == torch.float64
    assert torch.allclose(x, pair.x.double() * 2**-12 * alpha**0.5, rtol=1e-12)
    assert torch.allclose(y, pair.y.double() * 2**-12 * alpha**0.5, rtol=1e-12)
    assert pair.drift()[1].item() == pytest.approx((x[1] - y[1]).square().mean().sqrt().item(), rel=1e-12)
    assert pair.std()[1].item() == pytest.approx(((x[1] + y[1]) / 2).std(correction=0).item(), rel=1e-12)


def test_the_autoencoder_treats_images_independently(model: EDICT, images: Pictures) -> None:
    """Images encoded and decoded in one batch have the same bits as each alone."""
    together = model.encode(images[:5])
    assert together.digests() == [model.encode([image]).digests()[0] for image in images[:5]]
    latents = together.to_float()[0]
    separate = [model.decode(one[None])[0] for one in latents]
    assert [image.tobytes() for image in model.decode(latents)] == [image.tobytes() for image in separate]


def test_one_inversion_serves_every_strength(model: EDICT, images: Pictures, captions: list[str]) -> None:
    """A pair generated under its captions to a position equals the inverted pair there, where edits branch off."""
    start = model.encode(images[:2])
    stored = model.invert(start, captions[:2], steps=10)
    depth = stored.schedule.num_steps
    direct = model.prepare(start, sampling(steps=10, strength=1.0, guidance_scale=3.0))
    for strength in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        branch = depth - count_executed_steps(10, strength)
        direct, faults = model.integrate(
            direct, captions[:2], branch
        )  # continue where the inversion of the last strength ended
        regenerated, more = model.integrate(stored, captions[:2], branch)
        assert not faults and not more
        assert direct.position == regenerated.position == branch
        assert equal(direct, regenerated)
    edit = model.generate(regenerated, captions[2:4], guidance_scale=5.0, output_type="latent")
    assert edit.position == depth
    assert not torch.equal(edit.x, start.x)
    assert equal(model.generate(regenerated, captions[:2], output_type="latent"), start)


@torch.inference_mode()
def test_the_lattice_follows_the_papers_equations(model: EDICT, images: Pictures, captions: list[str]) -> None:
    """The reference is EDICT in float64 with the same float32 network, in standard deviations of the noise.

    Rounding starts at half of 2^-12 and unmixing expands it by 1/0.93^2 a step; 0.002 was measured, 1e-5 at 20 bits.
    A wrong coefficient, order or timestep costs 0.1 and more at either.
    """
    distance = {}
    for bits in (12, 20):
        start = model.encode(images[:1], bits=bits)
        pair = model.invert(start, captions[:1], steps=10, guidance_scale=3.0)
        predict = model.direct.predictor(captions[:1], 3.0)
        plan = pair.schedule
        expected = oracle.invert(*start.to_float(), plan.timesteps, plan.alphas_cumprod, predict, 0.93)
        distance[bits] = max(
            float((ours - theirs).abs().max() / theirs.std())
            for ours, theirs in zip(pair.to_float(), expected, strict=True)
        )
    assert distance[12] < 0.03
    assert distance[20] < 5e-4
    assert distance[20] < distance[12] / 10


def test_there_is_one_caption_per_image(model: EDICT, images: Pictures, captions: list[str]) -> None:
    with pytest.raises(ValueError, match="found 2 images and 3 captions: give one caption per image"):
        model.invert(images[:2], captions[:3], steps=1)
    with pytest.raises(ValueError, match="the pair has 2 samples, but there are 1 captions"):
        model.generate(model.encode(images[:2]), captions[:1])


def test_a_position_off_the_schedule_is_an_error(model: EDICT, images: Pictures, captions: list[str]) -> None:
    ready = model.prepare(model.encode(images[:1]), sampling(steps=4, strength=0.5, guidance_scale=1.0))
    for position in (-1, 3):
        with pytest.raises(ValueError, match="schedule of 2 steps"):
            model.integrate(ready, captions[:1], position)


@pytest.mark.parametrize("p", [0.49, 1.01, 0.0])
def test_a_mixing_weight_out_of_range_is_an_error(model: EDICT, images: Pictures, p: float) -> None:
    with pytest.raises(ValueError, match=r"expected at (least 0\.5|most 1)"):
        model.prepare(model.encode(images[:1]), sampling(steps=4, strength=1.0, guidance_scale=1.0, p=p))


def test_the_default_mixing_expands_no_further_than_50_steps_do(model: EDICT, images: Pictures) -> None:
    assert with_defaults(Sampling(), 1).p == with_defaults(Sampling(p=None), 50).p == 0.93
    assert with_defaults(Sampling(), 200).p == round(0.93**0.25, 4) == 0.982
    start = model.encode(images[:1])
    for strength, p in ((1.0, 0.982), (0.25, 0.93)):  # The default depends on the executed steps.
        prepared = model.prepare(start, sampling(steps=200, strength=strength, guidance_scale=1.0))
        assert prepared.sampling.p == p


def test_an_overflow_error_has_a_remedy(model: EDICT, images: Pictures, captions: list[str]) -> None:
    """p = 0.5 expands x - y by 4 per step."""
    with pytest.raises(LatticeOverflow, match="raise p, or gamma, execute fewer steps") as caught:
        model.invert(images[:1], captions[:1], steps=40, guidance_scale=1.0, p=0.5)
    assert caught.value.__notes__ == ["sample 0 of 1"]


def test_a_fault_does_not_change_other_samples(
    models: dict[torch.dtype, EDICT], images: Pictures, captions: list[str]
) -> None:
    """One state exceeds float16's range. Its sample has a fault, and the other sample does not change."""
    model = models[torch.float16]
    sound = model.prepare(model.encode(images[:2]), sampling(steps=1, strength=1.0, guidance_scale=1.0))
    wild = replace(sound, x=sound.x.clone(), y=sound.y.clone())
    wild.x[0] = wild.y[0] = 2**40
    assert from_lattice(wild.x, wild.schedule.scale(1), wild.bits).max() > torch.finfo(torch.float16).max
    moved, faults = model.integrate(wild, captions[:2], 0)
    assert list(faults) == [0]
    assert isinstance(faults[0], NonFinite)
    expected, none = model.integrate(sound, captions[:2], 0)
    assert not none
    assert equal(moved[1:2], expected[1:2])


def test_padding_has_no_faults_of_its_own(model: EDICT, images: Pictures, captions: list[str]) -> None:
    """The last batch is padded with copies of a sample. Three rows overflow, and there is one fault."""
    ready = model.prepare(model.encode(images), sampling(steps=1, strength=1.0, guidance_scale=1.0), 4)
    wild = replace(ready, x=ready.x.clone(), y=ready.y.clone())
    wild.x[4] = wild.y[4] = 2**46
    moved, faults = model.integrate(wild, captions, 0)
    assert list(faults) == [4]
    assert isinstance(faults[4], LatticeOverflow)
    assert len(moved) == 5


def test_decoded_images_have_the_size_of_the_model(model: EDICT, images: Pictures, captions: list[str]) -> None:
    start = model.encode(images)
    decoded = model.decode(start.to_float()[0])
    assert [(image.size, image.mode) for image in decoded] == [((64, 64), "RGB")] * 5
    pair = model.invert(start[0:2], captions[:2], steps=1)
    edited = model.generate(pair, captions[:2])
    again = model.decode(start[0:2].to_float()[0])
    assert [image.tobytes() for image in edited] == [image.tobytes() for image in again]


def test_a_long_caption_is_truncated(model: EDICT) -> None:
    assert not model.truncated("a red heart")
    assert model.truncated("a red heart and " * 20)


def test_device_cuda_without_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # This hides a device.
    with pytest.raises(RuntimeError, match="finds no CUDA device"):
        EDICT.from_pretrained(device="cuda")


def test_diffusers_loads_the_shipped_folder(captions: list[str]) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(DEFAULT, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    generated = pipeline(captions[0], num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
    assert [image.size for image in generated] == [(64, 64)]


def test_the_shipped_model_stays_small() -> None:
    sizes = {file.relative_to(DEFAULT).as_posix(): file.stat().st_size for file in DEFAULT.rglob("*") if file.is_file()}
    assert sum(sizes.values()) <= 30_000_000, sizes
    assert not [name for name in sizes if name.endswith((".bin", ".pt", ".ckpt", ".pkl", ".py"))]
