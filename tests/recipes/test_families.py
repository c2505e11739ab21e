"""`PipelineModel` encodes, decodes and runs every pipeline with a recipe as the pipeline's own call does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from diffusers import AdaptiveProjectedMixGuidance, ClassifierFreeGuidance

from edict import EDICT, ModelError
from edict.determinism import make_deterministic
from edict.image_processor import from_decoded
from edict.models import PipelineModel, from_pipeline
from edict.models.pipeline import ONE_FRAME, RESERVED
from edict.models.unscaled import PixelPipeline
from tests.recipes.families import NO_IMAGES
from tests.recipes.trial import BATCH, Trial, normal, recipes

RECIPES = {name: made for name, made in recipes().items() if name.partition(" ")[0] not in NO_IMAGES}
WITHOUT_GUIDANCE = {"Flux2KleinKVPipeline"}
TOLERANCE = 1e-4  # The greatest difference between images on [0, 1].


@pytest.fixture(autouse=True, scope="module")
def deterministic() -> None:
    make_deterministic()


def call_of(trial: Trial, model: PipelineModel) -> dict[str, Any]:
    """Return the arguments of a call that makes one frame."""
    frames = {name: 1 for name in ONE_FRAME if name in model.parameters}
    if "conditioning_frames" in trial.call:
        frames |= {"conditioning_frames": trial.call["conditioning_frames"][:1]}
    if "controlnet_frame_indices" in trial.call:
        frames |= {"controlnet_frame_indices": [0]}
    if "control_video" in trial.call:
        frames |= {"control_video": trial.call["control_video"][:, :1]}
    return trial.call | {"height": model.size, "width": model.size} | frames


def model_of(trial: Trial) -> PipelineModel:
    sides = {side: trial.call[side] for side in ("height", "width") if side in trial.call}
    return from_pipeline(trial.pipe, sides)


def run(trial: Trial, call: Mapping[str, Any], output_type: str) -> torch.Tensor:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    given = {**call, **trial.guided, "num_inference_steps": 2, "generator": generator, "return_dict": False}
    trial.pipe.set_progress_bar_config(disable=True)
    made = trial.pipe(**given, output_type=output_type)[0]
    return torch.as_tensor(made).float()


LOOP: dict[str, Callable[[PipelineModel, torch.Tensor], torch.Tensor]] = {
    "Cosmos3OmniPipeline": lambda model, latents: latents[:, None],
    "Flux2KleinKVPipeline": lambda model, latents: model.pack(latents),
    "Flux2KleinPipeline": lambda model, latents: model.pack(latents),
    "Kandinsky6TI2VAPipeline": lambda model, latents: latents.movedim(1, -1),
    "TextToVideoSDPipeline": lambda model, latents: latents[:, :, 0],
}
"""Functions that convert the result of output_type="latent" to the layout of the loop, for calls that change it."""
IMAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Cosmos3OmniPipeline": lambda frames: frames[:1],
    "Kandinsky3Pipeline": lambda images: from_decoded(images, "pt"),
    "PRXPixelPipeline": lambda images: from_decoded(images, "pt"),
    "QwenImage21Pipeline": lambda images: images[:, :3],
    "StableDiffusionAdapterPipeline": lambda images: images.movedim(-1, 1),
}
"""Functions that convert the result of output_type="pt" to images [N, 3, H, W] on [0, 1]."""


@pytest.mark.parametrize("name", RECIPES)
def test_decoded_images_equal_those_of_the_pipeline(name: str) -> None:
    trial = RECIPES[name](torch.float32)
    model = model_of(trial)
    for norm in getattr(getattr(trial.pipe, "vae", None), "modules", list)():
        if isinstance(norm, torch.nn.BatchNorm2d):  # Its `eps` counts if the variance is small.
            norm.running_mean += 0.1
            norm.running_var *= 1e-3
    if "HunyuanVideo15" in name:  # It takes one image at a time.
        trial.pipe.vae.enable_slicing()
    call, kind = call_of(trial, model), model.kind.__name__
    latents, made = run(trial, call, "latent"), run(trial, call, "pt")
    latents = LOOP[kind](model, latents) if kind in LOOP else latents
    expected = IMAGES[kind](made) if kind in IMAGES else made[:, 0] if made.ndim == 5 else made
    found = from_decoded(model.decode(latents), "pt")
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", RECIPES)
def test_encoded_latents_have_the_layout_of_the_call(name: str) -> None:
    trial = RECIPES[name](torch.float32)
    model = model_of(trial)
    images = normal(len(trial.call.get("prompt_embeds", [0])), 3, model.size, model.size).tanh()
    latents = model.encode(images, None)
    assert latents.dtype == torch.float32
    if not {"control_video", *ONE_FRAME} & {*model.parameters}:
        assert latents.shape[1:] == trial.shape[1:]
    if isinstance(model, PixelPipeline):
        return
    unpacked = model.unpack(latents)
    assert torch.allclose(model.pack(unpacked), latents, atol=1e-5)


def with_embeddings(trial: Trial) -> EDICT:
    """Return the trial's pipeline as a model that gives its call the trial's embeddings instead of captions."""
    model = model_of(trial)
    call = call_of(trial, model)
    text = {name: call.pop(name) for name in RESERVED & call.keys()}

    class Embedded(type(model)):
        supports_batches = True

        def arguments(
            self, captions: Sequence[str], guidance_scale: float, negative_captions: Sequence[str | None] | None
        ) -> dict[str, Any]:
            own = super().arguments(captions, guidance_scale, negative_captions)
            assert {*own} <= {*self.parameters}
            if guidance_scale == 1:
                assert all(trial.unguided.get(name, value) == value for name, value in own.items())
            given = trial.guided if guidance_scale > 1 else trial.unguided
            return given | {name: value for name, value in own.items() if "prompt" not in name} | text

        @property
        def _blank(self) -> torch.Tensor:
            return self.encode(torch.zeros(batch(trial), 3, self.size, self.size), None)

    return EDICT(Embedded(None, trial.pipe, call))


def batch(trial: Trial) -> int:
    return min(trial.shape[0], BATCH)


@pytest.mark.parametrize("name", RECIPES)
def test_images_are_inverted_and_generated_exactly(name: str) -> None:
    for dtype, scales in ((torch.float32, (1.0, 3.0)), (torch.bfloat16, (3.0,))):
        trial = RECIPES[name](dtype)
        model, captions = with_embeddings(trial), [""] * batch(trial)
        start = model.encode(normal(batch(trial), 3, model.size, model.size).sigmoid())
        noises = [model.invert(start, captions, steps=2, guidance_scale=scale) for scale in scales]
        assert not torch.equal(noises[0].x, start.x)
        torch.manual_seed(1)  # as in another process
        assert model.generate(noises[0], captions, output_type="latent") == start
        if len(noises) == 2:
            assert torch.equal(noises[0].x, noises[1].x) == (name in WITHOUT_GUIDANCE)


@pytest.mark.parametrize("guider", [AdaptiveProjectedMixGuidance(), ClassifierFreeGuidance(start=0.5)])
def test_a_guider_that_depends_on_the_step_is_an_error(guider: Any) -> None:
    trial = RECIPES["MotifVideoPipeline"](torch.float32)
    trial.pipe.guider = guider
    model = with_embeddings(trial)
    with pytest.raises(ModelError, match=r"depends on the index of the step.*ClassifierFreeGuidance\(\)"):
        model.invert(torch.zeros(2, 3, model.size, model.size), ["", ""], steps=2)


def test_a_guider_keeps_its_scale_after_a_call() -> None:
    trial = RECIPES["HunyuanImagePipeline with classifier-free guidance"](torch.float32)
    model = with_embeddings(trial)
    model.invert(torch.zeros(2, 3, model.size, model.size), ["", ""], steps=2, guidance_scale=2.0)
    assert trial.pipe.guider.guidance_scale == 3.5


@pytest.mark.parametrize(("name", "reason"), [("KandinskyV22Pipeline", "has no prompt"), ("AudioLDM2Pipeline", "size")])
def test_pipelines_that_make_no_images_from_text_are_an_error(name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        from_pipeline(recipes()[name](torch.float32).pipe)


def test_every_pipeline_without_images_has_a_recipe() -> None:
    assert {*NO_IMAGES} <= {name.partition(" ")[0] for name in recipes()}
