"""Every kind of checkpoint: exact, and with the predictions of the pipeline of diffusers."""

import json
import shutil
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.utils import DummyObject
from PIL import Image, ImageOps
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from edict import EDICT, Control, ModelError, Pair
from edict.checkpoint import DEFAULT, LoRA, locate_lora
from edict.control.words import find_phrase, split_words
from edict.integration import solve_floats
from edict.model_files import read_index, weights_digest
from edict.models import MODELS, describe
from edict.models.flux import pack, unpack
from edict.samplers import SAMPLERS, sampling
from edict.schedule import FLOW_END, NOISE_SCHEDULERS, noise_schedule
from tests.campaigns.slots import compare
from tests.edict.checkpoints import KINDS, NOISE, Folder

TEXTS = ["a red heart", "dog face"]
NOISE_LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WITH_TEXT = [kind for kind in KINDS if not kind.startswith("dd")]


def pipeline_of(folder: Path) -> DiffusionPipeline:
    """Return the pipeline as a user loads it, with DDIM steps for a noise schedule."""
    absent = {part: None for part, kind in read_index(folder).items() if kind == [None, None]}
    pipeline = DiffusionPipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    if "FlowMatch" not in type(pipeline.scheduler).__name__:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    return pipeline


def random_latents(model: EDICT, count: int = 2) -> torch.Tensor:
    """Return noise in the shape of the model's latents."""
    shape = model.encode([Image.new("RGB", (8, 8))]).x.shape[1:]
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_kind_round_trips_exactly_by_every_sampler(
    folder: Folder, images: list[Image.Image], kind: str, dtype: torch.dtype
) -> None:
    model = EDICT.from_pretrained(folder(kind), dtype=dtype)
    assert model.network.dtype == dtype
    texts = ["a red heart", "", "dog face"]
    start = model.encode(images[:3])
    exact = [name for name, sampler in SAMPLERS.items() if sampler.exact]
    for sampler, (steps, guidance_scale) in product(exact, [(3, 7.0), (2, 1.0)]):
        pair = model.invert(start, texts, steps=steps, guidance_scale=guidance_scale, batch_size=2, sampler=sampler)
        assert not torch.equal(pair.x, start.x) and not torch.equal(pair.x, pair.y)
        same = model.generate(pair, texts, output_type="latent")
        assert torch.equal(same.x, start.x) and torch.equal(same.y, start.y), (sampler, steps)
    decoded = model.decode(same.to_float()[0])
    assert [image.size for image in decoded] == [(model.size, model.size)] * 3


@torch.inference_mode()
@pytest.mark.parametrize("kind", WITH_TEXT)
@pytest.mark.parametrize("guidance_scale", [1.0, 7.0])
def test_two_steps_equal_the_pipeline(folder: Folder, kind: str, guidance_scale: float) -> None:
    """This compares conditions, schedule, prediction, guidance and autoencoder, to float32."""
    model, pipeline = EDICT.from_pretrained(folder(kind)), pipeline_of(folder(kind))
    start = random_latents(model)
    given = {"prompt": TEXTS, "num_inference_steps": 2, "guidance_scale": guidance_scale}
    given |= {"height": model.size, "width": model.size, "latents": start}
    if kind.startswith("flux"):
        given["latents"] = pack(start)
        if kind == "flux-schnell":
            given |= {"negative_prompt": ["", ""], "true_cfg_scale": guidance_scale}
    if kind == "pixart-sigma":
        given["use_resolution_binning"] = False
    theirs = pipeline(**given, output_type="latent").images
    if kind.startswith("flux"):
        theirs = unpack(theirs, *start.shape[2:])
    plan, predict = model.backend.schedule(sampling(steps=2)), model.direct.predictor(TEXTS, guidance_scale)
    ours = solve_floats(start, "ddim", plan, predict, 0, 2)
    assert (ours - start).abs().max() > 0.05
    assert torch.allclose(ours.float(), theirs.float(), atol=2e-4, rtol=1e-3)
    expected_images = pipeline(**given, output_type="pil").images
    for image, other in zip(model.decode(ours), expected_images, strict=True):
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
def test_negative_captions_are_the_pipelines_negative_prompts(folder: Folder, kind: str) -> None:
    model, pipeline = EDICT.from_pretrained(folder(kind)), pipeline_of(folder(kind))
    start = random_latents(model)
    theirs = pipeline(
        TEXTS,
        negative_prompt=["red", ""],
        num_inference_steps=1,
        guidance_scale=7.0,
        latents=start,
        output_type="latent",
    ).images
    predict = model.direct.predictor(TEXTS, 7.0, ["red", ""])
    ours = solve_floats(start, "ddim", model.backend.schedule(sampling(steps=1)), predict, 0, 1)
    assert torch.allclose(ours.float(), theirs, atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_pixels_are_denoised_as_by_the_pipeline(folder: Folder) -> None:
    model, pipeline = EDICT.from_pretrained(folder("ddpm")), pipeline_of(folder("ddpm"))
    theirs = DDIMPipeline(pipeline.unet, pipeline.scheduler)
    theirs.set_progress_bar_config(disable=True)
    seeded = [torch.Generator().manual_seed(i) for i in range(2)]
    start = torch.cat([torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    expected_images = theirs(2, generator=seeded, num_inference_steps=2, output_type="np").images
    pair = solve_floats(
        start, "ddim", model.backend.schedule(sampling(steps=2)), model.direct.predictor(["", ""], 7.0), 0, 2
    )
    ours = (pair.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.allclose(ours, expected_images, atol=1e-4)


@torch.inference_mode()
def test_a_predicted_variance_is_ignored(folder: Folder) -> None:
    model, pipeline = EDICT.from_pretrained(folder("ddim")), pipeline_of(folder("ddim"))
    start = random_latents(model)
    noise, variance = pipeline.unet(start, 501).sample.chunk(2, 1)
    predicted = model.direct.predictor(TEXTS, 7.0)(start.double(), 501)
    assert predicted.shape == start.shape
    assert torch.equal(predicted, noise) and not torch.equal(predicted, variance)


def test_a_model_on_pixels_ignores_captions(folder: Folder, images: list[Image.Image]) -> None:
    model = EDICT.from_pretrained(folder("ddpm"))
    start = model.encode(images[:2])
    fitted = np.asarray(model.decode(start.to_float()[0])[0])
    assert start.x.shape == (2, 3, 8, 8) and fitted.shape == (8, 8, 3)
    assert torch.equal(model.encode([Image.fromarray(fitted)]).x, start.x[:1]), "8 bits survive 12"
    one, other = (
        model.invert(start, texts, steps=2, guidance_scale=g) for texts, g in ((TEXTS, 1.0), (["", "x"], 7.0))
    )
    assert one.digests() == other.digests()
    assert not model.truncated("a " * 1000)
    with pytest.raises(ValueError, match="no autoencoder"):
        model.encode(images[:1], posterior_seed=1)


@pytest.mark.parametrize("kind", ["sd2", "sd3", "flux-dev"])
def test_encoding_is_the_autoencoders_in_float32(folder: Folder, images: list[Image.Image], kind: str) -> None:
    model = EDICT.from_pretrained(folder(kind), dtype=torch.bfloat16)
    vae = model.backend.vae
    assert vae.dtype == torch.float32
    image = images[0].resize((16, 16))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        mode = vae.encode(pixels).latent_dist.mode()
    expected = (mode - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    assert (model.encode([image]).to_float()[0] - expected).abs().max() <= 2.0**-13 * 1.01


def test_a_v_prediction_is_converted_to_noise(folder: Folder) -> None:
    """v = sqrt(alpha) eps - sqrt(1 - alpha) x0 (Salimans & Ho, 2202.00512)."""
    model = EDICT.from_pretrained(folder("sd2"))
    start, noise = random_latents(model).double(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    alpha = float(DDIMScheduler.from_config(model.backend.scheduler_config).alphas_cumprod[501])
    noisy = alpha**0.5 * start + (1 - alpha) ** 0.5 * noise
    velocity = alpha**0.5 * noise - (1 - alpha) ** 0.5 * start
    assert torch.allclose(model.backend.noise(velocity, noisy, 501), noise, atol=1e-12)


def test_a_schedule_from_pure_noise_is_an_error_with_a_remedy() -> None:
    config = NOISE | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "steps_offset": 0}
    with pytest.raises(ValueError, match="zero terminal SNR"):
        noise_schedule(config, 10)
    assert noise_schedule(config, 10, 0.9).num_steps == 9


@pytest.mark.parametrize(
    ("kind", "strength", "depth"), [("sd3", 1.0, 5), ("flux-dev", 0.6, 3), ("flux-schnell", 1.0, 5)]
)
def test_the_sigmas_of_a_flow_equal_the_pipeline(folder: Folder, kind: str, strength: float, depth: int) -> None:
    model, pipeline = EDICT.from_pretrained(folder(kind)), pipeline_of(folder(kind))
    scheduler, tokens = pipeline.scheduler, 16
    if kind == "sd3":
        scheduler.set_timesteps(5)
    else:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 5, 5), mu=calculate_shift(tokens))
    plan = model.backend.schedule(sampling(steps=5, strength=strength))
    assert plan.sigmas == tuple(scheduler.sigmas.double().tolist()[-depth - 1 :])
    assert plan.timesteps == tuple(scheduler.timesteps.double().tolist()[-depth:])
    assert plan.num_steps == depth
    assert [plan.scale(i) for i in range(depth + 1)] == [1.0] * (depth + 1)
    assert (plan.sigma(depth), model.backend.clean_end()) == (0.0, FLOW_END)
    if strength == 1:
        assert plan.sigma(0) == 1.0
    with pytest.raises(ValueError, match="executes no step"):
        model.backend.schedule(sampling(steps=5, strength=0.1))


def test_unpack_undoes_pack() -> None:
    latents = torch.randn(2, 4, 8, 6)
    assert pack(latents).shape == (2, 12, 16)
    assert torch.equal(unpack(pack(latents), 8, 6), latents)


@pytest.mark.parametrize(
    ("kind", "guidance_scale", "calls"),
    [("flux-dev", 7.0, 2), ("flux-schnell", 7.0, 4), ("flux-schnell", 1.0, 2), ("sd3", 0.0, 2), ("ddpm", 7.0, 2)],
)
def test_only_classifier_free_guidance_has_two_branches(
    folder: Folder, images: list[Image.Image], kind: str, guidance_scale: float, calls: int
) -> None:
    model, rows = EDICT.from_pretrained(folder(kind)), list[int]()

    def count(_: object, given: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        rows.append(len(given[0] if given else named["hidden_states"]))

    with model.network.register_forward_pre_hook(count, with_kwargs=True):
        model.invert(images[:2], TEXTS, steps=1, guidance_scale=guidance_scale)
    assert rows == [calls] * 2


@torch.inference_mode()
def test_a_distilled_network_takes_the_scale_and_no_negative_caption(folder: Folder) -> None:
    model = EDICT.from_pretrained(folder("flux-dev"))
    start = random_latents(model).double()
    assert not torch.allclose(
        model.direct.predictor(TEXTS, 1.0)(start, 500.0), model.direct.predictor(TEXTS, 7.0)(start, 500.0)
    )
    with pytest.raises(ValueError, match="has no classifier-free guidance, so a negative caption has no effect"):
        model.direct.predictor(TEXTS, 7.0, ["blurry", None])


def test_control_works_on_sdxl_and_is_an_error_for_transformers(folder: Folder, images: list[Image.Image]) -> None:
    for kind in ("sd2", "sdxl"):
        model = EDICT.from_pretrained(folder(kind))
        start = model.encode(images[:2])
        pair = model.invert(start, TEXTS, steps=2, guidance_scale=3.0)
        made, faults = model.edit(pair, TEXTS, [["a blue heart"], []], control=Control())
        assert not faults and torch.equal(made.x[[0, 2]], start.x)
        free, _ = model.integrate(pair[:1], ["a blue heart"], 2)
        assert not torch.equal(made.x[1], start.x[0]) and not torch.equal(made.x[1], free.x[0])
    for kind in ("sd3", "flux-dev", "ddpm"):
        model = EDICT.from_pretrained(folder(kind))
        pair = model.invert(images[:2], TEXTS, steps=1)
        with pytest.raises(ModelError, match="attention control needs a UNet that attends to CLIP's tokens") as caught:
            model.edit(pair, TEXTS, [["x"], []], control=Control())
        assert "\n" not in str(caught.value)


def test_a_tokenizer_can_be_only_a_sentencepiece_model(folder: Folder, tmp_path: Path) -> None:
    """The published PixArt-Sigma has no tokenizer.json."""
    copy = Path(shutil.copytree(folder("pixart-sigma"), tmp_path / "copy"))
    (copy / "tokenizer" / "tokenizer.json").unlink()
    text = ["a red cat on a blue dog", "two hearts and a green apple"]
    SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(copy / "tokenizer" / "spiece"),
        vocab_size=40,
        pad_id=0,  # The ids are those of T5.
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = EDICT.from_pretrained(copy).backend.tokenizer
    expected = SentencePieceProcessor(model_file=str(copy / "tokenizer" / "spiece.model")).encode(text)
    assert tokenizer(text).input_ids == [[*ids, 1] for ids in expected]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_textual_inversion_of_several_vectors_is_read_as_by_the_pipeline(
    folder: Folder, tmp_path: Path, kind: str
) -> None:
    """Conditions and the words of attention control are compared: each vector is a word."""
    pipeline = pipeline_of(folder(kind))
    torch.manual_seed(0)
    for number in ("", "_2")[: 1 + (kind == "sdxl")]:
        encoder, tokenizer = getattr(pipeline, f"text_encoder{number}"), getattr(pipeline, f"tokenizer{number}")
        vectors = torch.randn(3, encoder.config.hidden_size)
        pipeline.load_textual_inversion({"<toy>": vectors}, "<toy>", text_encoder=encoder, tokenizer=tokenizer)
    pipeline.save_pretrained(tmp_path / "copy")
    model = EDICT.from_pretrained(tmp_path / "copy")
    prompt = "a photo of <toy>, red"
    theirs = pipeline.encode_prompt(
        prompt=prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    ours = model.backend.condition([prompt])["encoder_hidden_states"]
    assert torch.allclose(ours, theirs[0], atol=1e-5)
    assert not torch.allclose(ours, model.backend.condition(["a photo of, red"])["encoder_hidden_states"], atol=1e-5)
    words = split_words(model.backend.tokenizer, prompt)
    assert [word for word, _ in words][-5:] == ["<toy>", "<toy>_1", "<toy>_2", ",", "red"]
    assert find_phrase(words, split_words(model.backend.tokenizer, "<toy>")) == [
        tokens[0] for _, tokens in words[-5:-2]
    ]
    placeholders = model.backend.interpretation()["placeholders"]
    assert placeholders == {name: ["<toy>"] for name in model.backend.component_classes if name.startswith("tokenizer")}
    assert not describe(folder(kind)).interpretation()


@torch.inference_mode()
def test_the_statistics_of_sdxls_latents_are_applied_as_by_the_pipeline(
    folder: Folder, images: list[Image.Image], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder("sdxl"), tmp_path / "copy"))
    config = copy / "vae" / "config.json"
    statistics = {"latents_mean": [0.5, -1.0, 0.25, 2.0], "latents_std": [4.0, 5.0, 6.0, 7.0]}
    config.write_text(json.dumps(json.loads(config.read_text()) | statistics))
    model, pipeline = EDICT.from_pretrained(copy), StableDiffusionXLImg2ImgPipeline.from_pretrained(copy)
    pixels = torch.from_numpy(np.stack([np.asarray(images[0].resize((16, 16)))])).permute(0, 3, 1, 2) / 127.5 - 1
    posterior = pipeline.vae.encode(pixels).latent_dist
    mean, std = (torch.tensor(statistics[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    expected = (posterior.mode() - mean) * pipeline.vae.config.scaling_factor / std
    assert torch.allclose(model.backend.encode(pixels, None), expected, atol=1e-6)
    start = random_latents(model)
    given = {"num_inference_steps": 1, "guidance_scale": 1.0, "latents": start, "height": 16, "width": 16}
    expected_images = pipeline_of(copy)(["a", "b"], **given, output_type="np").images
    latents = pipeline_of(copy)(["a", "b"], **given, output_type="latent").images
    ours = (model.backend.decode(latents.float()) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.allclose(ours, expected_images, atol=1e-4)
    assert model.backend.interpretation() == {"latent_statistics": list(statistics.values())}


def test_schedulers_with_betas_have_the_noise_levels_of_ddim() -> None:
    """Every scheduler of diffusers with other noise levels is an error that names it."""
    for name in NOISE_SCHEDULERS:
        kind = getattr(diffusers, name)
        if isinstance(kind, DummyObject):
            continue  # It needs scipy or torchsde.
        assert torch.equal(kind(**NOISE_LEVELS).alphas_cumprod, DDIMScheduler(**NOISE_LEVELS).alphas_cumprod), name
    others = {"EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"}
    others |= {"CogVideoXDDIMScheduler", "CMStochasticIterativeScheduler", "ScoreSdeVeScheduler"}
    assert not others & NOISE_SCHEDULERS


def test_a_caption_is_truncated_at_the_limit_of_the_longest_encoder(folder: Folder) -> None:
    long = "heart " * 30
    for kind, truncated in (("sdxl", True), ("sd3", False), ("sd3-without-t5", True), ("flux-dev", False)):
        model = EDICT.from_pretrained(folder(kind))
        assert model.truncated(long) == truncated
        assert model.truncated(long * 10) and not model.truncated("a red heart")


def test_the_first_models_on_pixels_have_no_folders(folder: Folder, tmp_path: Path) -> None:
    """google/ddpm-cifar10-32 has this layout."""
    flat = shutil.copytree(folder("ddpm"), tmp_path / "flat")
    for part in ("unet", "scheduler"):
        for file in (flat / part).iterdir():
            file.rename(flat / file.name)
        (flat / part).rmdir()
    model, other = EDICT.from_pretrained(flat), EDICT.from_pretrained(folder("ddpm"))
    assert all(torch.equal(a, b) for a, b in zip(model.network.parameters(), other.network.parameters(), strict=True))
    before = weights_digest(flat)
    (flat / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert weights_digest(flat) != before


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_with_an_effect_is_in_the_digest(folder: Folder, kind: str, tmp_path: Path) -> None:
    copy = shutil.copytree(folder(kind), tmp_path / "copy")
    deciding = sorted(file for part in copy.iterdir() if part.is_dir() for file in part.iterdir())
    digests = {weights_digest(copy)}
    for file in deciding:
        file.write_bytes(file.read_bytes() + b" ")
        digests.add(weights_digest(copy))
    assert len(digests) == 1 + len(deciding)


def test_the_settings_in_the_index_are_in_the_digest(folder: Folder) -> None:
    zeros, encoded = (folder(kind) for kind in ("sdxl", "sdxl-encoded"))
    assert weights_digest(zeros) != weights_digest(encoded)
    for part in ("unet", "text_encoder_2"):
        files = [next((path / part).glob("*.safetensors")).read_bytes() for path in (zeros, encoded)]
        assert files[0] == files[1]


def test_weights_in_shards_are_read_and_in_the_digest(folder: Folder, tmp_path: Path) -> None:
    copy = shutil.copytree(folder("sd1"), tmp_path / "copy")
    UNet2DConditionModel.from_pretrained(copy / "unet").save_pretrained(tmp_path / "unet", max_shard_size="20KB")
    shutil.rmtree(copy / "unet")
    shutil.move(tmp_path / "unet", copy / "unet")
    shards = sorted((copy / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    whole, parts = EDICT.from_pretrained(folder("sd1")), EDICT.from_pretrained(copy)
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), parts.network.parameters(), strict=True))
    before = weights_digest(copy)
    shards[-1].write_bytes(shards[-1].read_bytes() + b" ")
    assert weights_digest(copy) != before


def test_a_variant_is_used_for_the_components_that_have_it(folder: Folder, tmp_path: Path) -> None:
    """The other components have the usual weights, as in repositories on the hub."""
    copy = shutil.copytree(folder("sd1"), tmp_path / "copy")
    plain = EDICT.from_pretrained(copy)
    half = UNet2DConditionModel.from_pretrained(copy / "unet").half()
    half.save_pretrained(copy / "unet", variant="fp16")
    shutil.copy(folder("sd1") / "unet" / "config.json", copy / "unet")  # `save_pretrained` writes the path to it.
    assert weights_digest(copy) == weights_digest(folder("sd1")) != weights_digest(copy, "fp16")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    model = EDICT.from_pretrained(copy, variant="fp16")
    assert model.network.dtype == torch.float32
    for ours, theirs in zip(model.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())
    with pytest.raises(ModelError, match=r"unet has weights only of the variant fp16\. Set model\.variant: fp16"):
        EDICT.from_pretrained(copy)
    with pytest.raises(ModelError, match="no weights of the variant 'bf16'"):
        EDICT.from_pretrained(copy, variant="bf16")


def lora_file(model: EDICT, file: Path, spelling: str) -> dict[str, torch.Tensor]:
    """Save LoRA weights of several ranks. Return the file and the additions by parameter."""
    generator = torch.Generator().manual_seed(0)
    state, changes = {}, {}
    layers = [
        ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", 2),
        ("unet", "down_blocks.0.resnets.0.conv1", 3),
        ("text_encoder", "encoder.layers.0.self_attn.q_proj", 2),
        ("text_encoder", "encoder.layers.0.self_attn.out_proj", 4),
    ]
    for part, module, rank in layers:
        shape = getattr(model.backend, part).get_submodule(module).weight.shape
        down = torch.randn(rank, *shape[1:], generator=generator)
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
        if spelling == "peft":
            prefix = "text_model." if part == "text_encoder" else ""  # as it was before transformers 5
            state |= {f"{part}.{prefix}{module}.lora_A.weight": down, f"{part}.{prefix}{module}.lora_B.weight": up}
            factor = 1.0
        else:
            name = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[part] + module.replace(".", "_")
            state |= {
                f"{name}.lora_down.weight": down,
                f"{name}.lora_up.weight": up,
                f"{name}.alpha": torch.tensor(1.0),
            }
            factor = 1 / rank
        changes[f"{part}.{module}.weight"] = factor * (up.flatten(1) @ down.flatten(1)).reshape(shape)
    save_file(state, file)
    return changes


@pytest.mark.parametrize("spelling", ["peft", "kohya"])
def test_lora_weights_are_added_with_their_factors(folder: Folder, tmp_path: Path, spelling: str) -> None:
    plain = EDICT.from_pretrained(folder("sd1"))
    changes = lora_file(plain, tmp_path / "lora.safetensors", spelling)
    for path in (tmp_path, tmp_path / "lora.safetensors"):
        model = EDICT.from_pretrained(folder("sd1"), lora=path, lora_scale=0.5)
        for part in ("unet", "text_encoder"):
            before = dict(getattr(plain.backend, part).named_parameters())
            for name, weight in getattr(model.backend, part).named_parameters():
                change = changes.get(f"{part}.{name}", torch.zeros(()))
                assert torch.allclose(weight, before[name] + 0.5 * change, atol=1e-6), name


def test_lora_weights_are_part_of_the_digest(folder: Folder, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    lora_file(EDICT.from_pretrained(folder("sd1")), file, "peft")
    digests = {weights_digest(folder("sd1"), lora=lora) for lora in (None, LoRA(file), LoRA(file, 0.5))}
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert len(digests | {weights_digest(folder("sd1"), lora=locate_lora(file))}) == 4


def test_a_lora_of_another_kind_is_an_error_of_one_line(folder: Folder, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    pair = {f"{module}.lora_A.weight": torch.zeros(2, 8), f"{module}.lora_B.weight": torch.zeros(8, 2)}
    wrong = {
        "layer is missing": {key.replace("attn1", "attn7"): value for key, value in pair.items()},
        "has another shape": {key: torch.zeros(9, 9) for key in pair},
        "is a DoRA": pair | {f"{module}.lora_magnitude_vector": torch.zeros(8)},
        "is not a plain LoRA of this model: .*bias is unknown": pair | {f"{module}.bias": torch.zeros(8)},
    }
    for message, state in wrong.items():
        save_file(state, file)
        with pytest.raises(ModelError, match=message) as caught:
            EDICT.from_pretrained(folder("sd1"), lora=file)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    save_file(pair, file)
    with pytest.raises(ModelError, match="a DDPMPipeline takes no LoRA weights"):
        EDICT.from_pretrained(folder("ddpm"), lora=file)
    (tmp_path / "lora.bin").write_bytes(b"")
    paths = [
        (tmp_path / "no", "there is no such"),
        (tmp_path / "lora.bin", "only .safetensors"),
        (folder("sd1"), "none"),
    ]
    for path, message in paths:
        with pytest.raises(ModelError, match=message):
            EDICT.from_pretrained(folder("sd1"), lora=path)


def test_another_number_of_channels_is_an_error(folder: Folder, tmp_path: Path) -> None:
    copy = shutil.copytree(folder("ddpm"), tmp_path / "copy")
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 3', '"in_channels": 1'))
    with pytest.raises(ModelError, match="takes 1 channels"):
        describe(copy)


@pytest.mark.parametrize("kind", ["flux-dev", "ddpm"])
def test_an_interval_needs_classifier_free_guidance(folder: Folder, images: list[Image.Image], kind: str) -> None:
    with pytest.raises(ValueError, match="guidance_interval needs a model that `EDICT` itself guides"):
        EDICT.from_pretrained(folder(kind)).invert(images[:1], [""], steps=2, guidance_interval=(0.2, 0.8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_does_not_depend_on_the_other_samples(folder: Folder, kind: str) -> None:
    """A prediction can depend on its slot: see `python -m tests.campaigns.slots`."""
    _, slots_with_influence = compare(EDICT.from_pretrained(folder(kind)), 3, 1.0)
    assert slots_with_influence == 0


def test_every_kind_is_tested(folder: Folder) -> None:
    assert {read_index(folder(kind))["_class_name"] for kind in KINDS} == MODELS.keys()


@torch.inference_mode()
def test_the_shipped_model_reproduces_its_first_integers(model: EDICT, images: list[Image.Image]) -> None:
    """The reference is EDICT on this lattice with plain networks, as the first version computed it."""
    start = model.encode(images[:2])
    pair = model.invert(start, TEXTS, steps=3, guidance_scale=3.0)
    edited, _ = model.integrate(pair, ["a blue heart", "cat face"], 3, guidance_scale=5.0)
    unet, plan = model.network, noise_schedule(model.backend.scheduler_config, 3)
    alphas, p = plan.alphas_cumprod, Fraction(93, 100)

    def encode_text(captions: Sequence[str]) -> torch.Tensor:
        tokens = model.backend.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt")
        return model.backend.text_encoder(tokens.input_ids).last_hidden_state

    def half_step(other: torch.Tensor, at: int, i: int, texts: list[str], scale: float) -> torch.Tensor:
        text, empty = encode_text(texts), encode_text([""])
        states = torch.cat([empty.expand_as(text).contiguous(), text])
        latents = (other.double() * (alphas[at] ** 0.5 / 2.0**12)).to(unet.dtype).contiguous()
        given = torch.cat([latents, latents])
        without, with_text = unet(given, plan.timesteps[i], states).sample.float().chunk(2)
        eps = without + scale * (with_text - without)
        return torch.round(eps.double() * (2.0**12 * (plan.sigma(i + 1) - plan.sigma(i)))).long()

    def divided(a: torch.Tensor, d: int) -> torch.Tensor:
        return torch.div(2 * a + d, 2 * d, rounding_mode="floor")

    m, n = p.numerator, p.denominator
    x, y = start.x, start.y
    for i in reversed(range(3)):
        y = divided(n * y - (n - m) * x, m)
        x = divided(n * x - (n - m) * y, m)
        if i % 2 == 0:
            y = y - half_step(x, i + 1, i, TEXTS, 3.0)
            x = x - half_step(y, i, i, TEXTS, 3.0)
        else:
            x = x - half_step(y, i + 1, i, TEXTS, 3.0)
            y = y - half_step(x, i, i, TEXTS, 3.0)
    assert torch.equal(pair.x, x) and torch.equal(pair.y, y)
    for i in range(3):
        texts = ["a blue heart", "cat face"]
        if i % 2 == 0:
            x = x + half_step(y, i, i, texts, 5.0)
            y = y + half_step(x, i + 1, i, texts, 5.0)
        else:
            y = y + half_step(x, i, i, texts, 5.0)
            x = x + half_step(y, i + 1, i, texts, 5.0)
        x = divided(m * x + (n - m) * y, n)
        y = divided(m * y + (n - m) * x, n)
    assert torch.equal(edited.x, x) and torch.equal(edited.y, y)
    pixels = torch.from_numpy(np.stack([np.asarray(_fitted(image)) for image in images[:2]]))
    mode = model.backend.vae.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mode()
    latents = mode * model.backend.vae.config.scaling_factor
    assert torch.equal(start.x, torch.round(latents.double() * (2.0**12 / alphas[-1] ** 0.5)).long())
    assert isinstance(pair, Pair)
    expected = "c3fa9acb17cdc6a6f2c667824fe115cfb229e1c26c15157f00c17049d60e1841"
    assert weights_digest(DEFAULT) == expected, "stores made with the shipped model are refused when this changes"


def _fitted(image: Image.Image) -> Image.Image:
    return ImageOps.fit(image.convert("RGB"), (64, 64), Image.Resampling.LANCZOS)
