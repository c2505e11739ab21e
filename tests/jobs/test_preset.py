"""The preset `paper` against the authors' code: image, posterior, timesteps and coefficients."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edict import EDICT
from jobs.spec_file import SpecError, load
from pipeline.io.images import prepare
from schemas.specs import InvertSpec

SPEC = "kind: invert\ninput: a.tar\noutput: latents\npreset: paper\n"
CAPTION = "red heart"


def spec(folder: Path, more: str = "") -> InvertSpec:
    (folder / "job.yaml").write_text(SPEC + more)
    read = load(folder / "job.yaml")
    assert isinstance(read, InvertSpec)
    return read


def test_a_preset_changes_defaults(tmp_path: Path) -> None:
    paper = spec(tmp_path)
    sampler, image = paper.sampler, paper.image
    assert (sampler.name, sampler.steps, sampler.strength, sampler.guidance_scale) == ("edict", 50, 0.8, 3.0)
    assert (sampler.p, sampler.steps_offset, image.posterior_seed, image.resize) == (0.93, 0, 1, "bicubic")
    assert spec(tmp_path, "sampler: {steps: 200}\n").sampler == sampler.model_copy(update={"steps": 200})
    assert InvertSpec.model_validate(paper.model_dump()) == paper
    with pytest.raises(SpecError, match=r"line 4: preset: found \"papers\", expected 'paper'"):
        (tmp_path / "job.yaml").write_text(SPEC.replace("paper", "papers"))
        load(tmp_path / "job.yaml")
    with pytest.raises(SpecError, match="p is only valid for the sampler edict, and the sampler is bdia"):
        spec(tmp_path, "sampler: {name: bdia}\n")


def published(model: EDICT, image: Image.Image, steps: int, strength: float, p: float) -> tuple[torch.Tensor, ...]:
    """Return the inversion of coupled_stablediffusion(reverse=True) in float64, except for the posterior's device."""
    width, height = image.size
    side = min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    square = image.crop(box).resize((64, 64))
    pixels = torch.from_numpy(np.array(square).astype(np.float64) / 255 * 2 - 1).permute(2, 0, 1)[None]
    posterior = model.backend.vae.encode(pixels.float()).latent_dist
    factor = model.backend.vae.config.scaling_factor
    latent = (posterior.sample(torch.Generator().manual_seed(1)) * factor).double()
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2, 0)
    timesteps = (torch.arange(steps) * (1000 // steps)).flip(0)[steps - int(steps * strength) :]
    predict = model.direct.predictor([CAPTION], 3.0)
    pair = [latent, latent.clone()]
    for i, t in enumerate(timesteps.flip(0)):
        pair[1] = (pair[1] - (1 - p) * pair[0]) / p
        pair[0] = (pair[0] - (1 - p) * pair[1]) / p
        before = int(t) - 1000 // steps
        alpha, alpha_prev = alphas[t].double(), alphas[max(before, 0)].double()  # set_alpha_to_one=False
        for j in range(2):
            ours = (j + (len(timesteps) - i) % 2) % 2
            noise = predict(pair[1 - ours], int(t)).double()
            quotient = (alpha / alpha_prev) ** 0.5
            pair[ours] = quotient * pair[ours] + (1 - alpha) ** 0.5 * noise - quotient * (1 - alpha_prev) ** 0.5 * noise
    return pair[0], pair[1]


@torch.inference_mode()
@pytest.mark.parametrize("steps", [10, 8])
def test_the_preset_equals_the_published_code(tmp_path: Path, steps: int) -> None:
    """They agree up to the rounding of 20 bits, with the p and strength of the preset and fewer steps."""
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    original = Image.fromarray(noise).resize((150, 110), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    original.save(data, "PNG")
    paper, model = spec(tmp_path, f"sampler: {{steps: {steps}, bits: 20}}\n"), EDICT.from_pretrained()
    given, image = paper.sampler, paper.image
    prepared = prepare(data.getvalue(), model.size, image.crop, image.resize).image
    start = model.encode([prepared], bits=given.bits, posterior_seed=image.posterior_seed)
    pair = model.invert(
        start,
        [CAPTION],
        steps=given.steps,
        strength=given.strength,
        guidance_scale=given.guidance_scale,
        steps_offset=given.steps_offset,
        p=given.p,
    )
    for found, expected in zip(pair.to_float(), published(model, original, steps, 0.8, 0.93), strict=True):
        assert (found - expected).abs().max() / expected.std() < 1e-3
    own = model.invert(start, [CAPTION], steps=steps, strength=given.strength, guidance_scale=3.0)
    assert (own.to_float()[0] - pair.to_float()[0]).abs().max() / pair.to_float()[0].std() > 0.01
