"""Pipelines of diffusers as models: they invert and generate images in their own calls.

The checkpoints are small and complete: text encoder, tokenizer, autoencoder.
"""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from PIL import Image

from edict import EDICT, EDICTScheduler, ModelError
from edict.checkpoint import Checkpoint
from edict.models import PipelineModel, describe
from edict.models.packed import PackedPipeline
from tests.edict.checkpoints import Folder
from tests.edict.pipeline_checkpoints import BUILDERS, CALLS, load, save

CAPTIONS = ["a cat", "a dog with two red hearts, and a cat"]
SETTINGS = [
    ("edict", 3, True),
    ("edict", 4, False),
    ("bdia", 3, False),
    ("bdia", 4, True),
    ("obelm", 3, True),
    ("obelm", 4, False),
]
FIXED_LENGTH = ["chroma", "flux2", "flux2-klein", "pixart-alpha", "sana", "wan"]
OTHERS = sorted(BUILDERS.keys() - {*FIXED_LENGTH})
DIRECT = ["sd1", "sd2", "sdxl", "sd3", "flux-dev", "flux-schnell", "pixart-sigma"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("pipelines")
    return lambda name: root / name if (root / name).exists() else save(name, root / name)


def size_of(name: str) -> dict[str, int]:
    return {side: CALLS[name][side] for side in ("height", "width")}


def model_of(folder: Path, name: str, **given: Any) -> EDICT:
    return EDICT.from_pretrained(folder, call=size_of(name), **given)


def users_model(folder: Path, **given: Any) -> EDICT:
    """Return the user's own pipeline as a model."""
    pipe = DiffusionPipeline.from_pretrained(folder, **given)
    return EDICT(pipe, {"height": 16, "width": 16} if isinstance(pipe, FluxPipeline) else None)


def check_round_trips(model: EDICT, images: Sequence[Image.Image], settings: Sequence[tuple[str, int, bool]]) -> None:
    start = {}
    for sampler, steps, guided in settings:
        bits = 16 if sampler == "obelm" else 12
        start[bits] = model.encode(images[:2], bits=bits)
        scale = 3.0 if guided else 1.0
        noise = model.invert(start[bits], CAPTIONS, sampler=sampler, steps=steps, guidance_scale=scale)
        assert not torch.equal(noise.x, start[bits].x)
        found = model.generate(noise, CAPTIONS, output_type="latent")
        assert found == start[bits], (sampler, steps, guided)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BUILDERS)
def test_round_trips_are_exact(name: str, dtype: str, checkpoint: Folder, images: list[Image.Image]) -> None:
    check_round_trips(model_of(checkpoint(name), name, dtype=dtype), images, SETTINGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", DIRECT)
def test_round_trips_of_a_users_pipeline_are_exact(
    kind: str, dtype: torch.dtype, folder: Folder, images: list[Image.Image]
) -> None:
    check_round_trips(users_model(folder(kind), dtype=dtype), images, SETTINGS)


@pytest.mark.parametrize("name", BUILDERS)
def test_another_caption_gives_another_image(name: str, checkpoint: Folder, images: list[Image.Image]) -> None:
    model = model_of(checkpoint(name), name)
    noise = model.invert(images[:1], "a cat", steps=3, guidance_scale=3.0)
    same, edit = (model.generate(noise, caption, output_type="pt") for caption in ("a cat", "a dog"))
    assert same.shape == (1, 3, model.size, model.size)
    assert (same - edit).abs().max() > 1 / 255


@pytest.mark.parametrize("name", BUILDERS)
def test_guidance_scale_1_is_without_guidance(name: str, checkpoint: Folder, images: list[Image.Image]) -> None:
    """A prediction is one network call, with more rows per sample if there is guidance."""
    model = model_of(checkpoint(name), name)
    rows = list[int]()
    for scale in (1.0, 3.0):
        count = [0]

        def called(_: Any, positional: tuple[Any, ...], given: dict[str, Any], count: list[int] = count) -> None:
            latents = given.get("hidden_states", given.get("x", positional[0] if positional else None))
            count[0] += len(latents)

        hook = model.network.register_forward_pre_hook(called, with_kwargs=True)
        model.invert(images[:1], "a cat", steps=2, guidance_scale=scale)
        hook.remove()
        rows.append(count[0])
    assert rows[0] == 4
    assert rows[1] == (4 if name == "flux2" else 8)  # FLUX.2's network takes the scale itself.


@pytest.mark.parametrize("name", [*FIXED_LENGTH, "sd1", "sd2", "sd3", "pixart-sigma"])
def test_a_sample_does_not_depend_on_the_captions_of_its_batch(
    name: str, checkpoint: Folder, folder: Folder, images: list[Image.Image]
) -> None:
    model = model_of(checkpoint(name), name) if name in FIXED_LENGTH else users_model(folder(name))
    assert model.backend.supports_batches
    start = model.encode(images[:2])
    noise = model.invert(start, CAPTIONS, batch_size=2, steps=3, guidance_scale=3.0)
    single, _ = model.integrate(noise[[1]], [CAPTIONS[1]], 3, slots=[1])
    assert single == start[[1]]
    for other in ("", "a " * 100):
        both, _ = model.integrate(noise, [other, CAPTIONS[1]], 3)
        assert both[[1]] == start[[1]]


@pytest.mark.parametrize("name", OTHERS)
def test_a_sample_of_other_pipelines_runs_alone(name: str, checkpoint: Folder, images: list[Image.Image]) -> None:
    model = model_of(checkpoint(name), name)
    assert not model.backend.supports_batches
    start = model.encode(images[:2])
    noise = model.invert(start, CAPTIONS, batch_size=2, steps=3, guidance_scale=3.0)
    single = model.invert(start[[1]], [CAPTIONS[1]], steps=3, guidance_scale=3.0)
    assert torch.equal(noise[[1]].x, single.x) and torch.equal(noise[[1]].y, single.y)
    assert model.generate(noise[[1]], [CAPTIONS[1]], output_type="latent") == start[[1]]


@pytest.mark.parametrize("name", ["qwen-image", "sana", "wan", "z-image"])
def test_negative_captions_are_per_sample(name: str, checkpoint: Folder, images: list[Image.Image]) -> None:
    model = model_of(checkpoint(name), name)
    noise = model.invert(images[:2], CAPTIONS, steps=2, guidance_scale=3.0)
    plain, _ = model.integrate(noise, CAPTIONS, 2)
    none, _ = model.integrate(noise, CAPTIONS, 2, negative_captions=[None, None])
    some, _ = model.integrate(noise, CAPTIONS, 2, negative_captions=[None, "blur"])
    assert none == plain and some[[0]] == plain[[0]]
    assert some[[1]] != plain[[1]]


@pytest.mark.parametrize(
    ("name", "message"),
    [("flux2", "a negative caption has no effect on Flux2Pipeline"), ("flux2-klein", "has no effect on Flux2Klein")],
)
def test_a_pipeline_without_negative_prompt_gives_an_error(
    name: str, message: str, checkpoint: Folder, images: list[Image.Image]
) -> None:
    model = model_of(checkpoint(name), name)
    noise = model.invert(images[:1], "a cat", steps=2)
    with pytest.raises(ValueError, match=message):
        model.integrate(noise, ["a cat"], 2, negative_captions=["blur"])


def test_a_negative_caption_that_has_no_effect_is_an_error(folder: Folder, images: list[Image.Image]) -> None:
    model = EDICT(FluxPipeline.from_pretrained(folder("flux-dev")), {"height": 16, "width": 16})
    noise = model.invert(images[:1], "a cat", steps=2)
    with pytest.raises(ValueError, match="true_cfg_scale"):
        model.integrate(noise, ["a cat"], 2, negative_captions=["blur"])
    model.backend.call["true_cfg_scale"] = 2.0
    assert (
        model.integrate(noise, ["a cat"], 2, negative_captions=["blur"])[0] != model.integrate(noise, ["a cat"], 2)[0]
    )


def ordinary(pipe: Any, name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt="a cat", num_inference_steps=2, generator=generator, output_type="pt", **CALLS[name])[0]


@pytest.mark.parametrize("name", BUILDERS)
def test_a_users_pipeline_is_unchanged_after_use(name: str, checkpoint: Folder, images: list[Image.Image]) -> None:
    pipe = load(checkpoint(name))
    scheduler, bar = pipe.scheduler, dict(pipe._progress_bar_config)
    state, before = torch.get_rng_state(), ordinary(pipe, name)
    model = EDICT(pipe, size_of(name))
    pair = model.invert(images[:1], "a cat", steps=2, guidance_scale=3.0)
    assert model.generate(pair, "a cat", output_type="latent") == model.encode(images[:1])
    assert pipe.scheduler is scheduler and pipe._progress_bar_config == bar
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ordinary(pipe, name), before)


class OneLayout(PipelineModel):
    """A pipeline with an unknown layout of latents."""


def test_the_error_for_an_unknown_layout_names_pack_and_unpack(folder: Folder, images: list[Image.Image]) -> None:
    pipe, call = FluxPipeline.from_pretrained(folder("flux-dev")), {"height": 16, "width": 16}
    model = EDICT(OneLayout(None, pipe, call))
    with pytest.raises(ModelError, match=r"supply `pack` and `unpack`: subclass edict.models.PipelineModel") as raised:
        model.invert(images[:1], "a cat", steps=2)
    assert "[1, 4, 8, 8]" in str(raised.value)

    class Packed(PackedPipeline, OneLayout):
        pass

    check_round_trips(EDICT(Packed(None, pipe, call)), images, SETTINGS[:1])


def test_an_error_of_the_settings_is_not_replaced(folder: Folder, images: list[Image.Image]) -> None:
    model = EDICT(DiffusionPipeline.from_pretrained(folder("sd1")))
    with pytest.raises(ValueError, match="steps"):
        model.invert(images[:1], "a cat", steps=2000)
    with pytest.raises(ValueError, match="steps_offset"):
        EDICT(DiffusionPipeline.from_pretrained(folder("sd3"))).invert(images[:1], "a cat", steps=3, steps_offset=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"hight": 16}, "has no argument 'hight'"),
        ({"height": 16}, "Give both the same number"),
        ({"height": 16, "width": 32}, "Give both the same number"),
        ({}, "the size of its images is unknown. Give height and width"),
    ],
)
def test_arguments_that_the_call_cannot_take_are_errors(call: dict[str, Any], message: str, checkpoint: Folder) -> None:
    with pytest.raises(ModelError, match=message):
        EDICT(load(checkpoint("wan")), call)


TOKENS = dict.fromkeys(BUILDERS, 512) | {"pixart-alpha": 120, "sana": 300}
"""The default `max_sequence_length` of each call."""


@pytest.mark.parametrize("name", BUILDERS)
def test_truncated_agrees_with_the_text_encoder(name: str, checkpoint: Folder) -> None:
    """The last word of the longest untruncated caption changes the latents. One more word does not."""
    model = model_of(checkpoint(name), name)
    lengths = [n for n in range(1, 600) if not model.truncated(" cat" * n)]
    assert lengths == list(range(1, len(lengths) + 1)) and len(lengths) < 590
    longest = " cat" * (len(lengths) - 1)
    pipe = model.backend.pipe

    def embedded(caption: str) -> torch.Tensor:
        found = pipe.encode_prompt(caption, max_sequence_length=TOKENS[name])
        return torch.as_tensor(found[0][0] if isinstance(found[0], list) else found[0])

    def differ(first: str, second: str) -> bool:
        a, b = embedded(first), embedded(second)
        return a.shape != b.shape or not torch.equal(a, b)

    assert differ(longest + " cat", longest + " dog")
    beyond = longest + " cat" * 40
    assert not differ(beyond + " dog", beyond + " cat")


def test_negative_captions_and_none_share_a_call(folder: Folder, images: list[Image.Image]) -> None:
    """SDXL's guidance without a negative caption leads away from zeros instead of the empty caption."""
    model = users_model(folder("sdxl"))
    start = model.encode(images[:2])
    noise = model.invert(start, CAPTIONS, steps=3, guidance_scale=3.0)
    mixed, _ = model.integrate(noise, CAPTIONS, 3, negative_captions=[None, "a dog"])
    empty, _ = model.integrate(noise, CAPTIONS, 3, negative_captions=["", ""])
    assert mixed[0] == start[0] and mixed[1] != start[1]
    assert empty[0] != start[0]


def test_a_pair_of_another_size_is_an_error(checkpoint: Folder, images: list[Image.Image]) -> None:
    folder = checkpoint("z-image")
    noise = EDICT.from_pretrained(folder, call={"height": 16, "width": 16}).invert(images[0], "a cat", steps=2)
    with pytest.raises(ValueError, match="use the model and the size of the inversion"):
        EDICT.from_pretrained(folder, call={"height": 32, "width": 32}).generate(noise, "a cat")


def test_models_of_one_pipeline_call_it_one_at_a_time(checkpoint: Folder, images: list[Image.Image]) -> None:
    pipe = load(checkpoint("qwen-image"))
    own, models = pipe.scheduler, [EDICT(pipe, {"height": 16, "width": 16}) for _ in range(2)]
    start = models[0].encode(images[:1])

    def round_trip(model: EDICT) -> bool:
        noise = model.invert(start, "a cat", steps=4)
        return bool(model.generate(noise, "a cat", output_type="latent") == start)

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(round_trip, models))
    assert pipe.scheduler is own


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("vae", "model_index.json has no vae, and a WanPipeline needs one"),
        ("transformer", "transformer has only pickled weights"),
        ("text_encoder", r"model.safetensors cannot be read"),
        ("tokenizer", "tokenizer has no files"),
    ],
)
def test_an_incomplete_checkpoint_is_found_without_loading(
    checkpoint: Folder, tmp_path: Path, part: str, message: str
) -> None:
    folder = shutil.copytree(checkpoint("wan"), tmp_path / "wan")
    index = json.loads((folder / "model_index.json").read_text())
    match part:
        case "vae":
            index[part] = [None, None]
        case "transformer":
            file = folder / part / "diffusion_pytorch_model.safetensors"
            file.rename(file.with_suffix(".bin"))
        case "text_encoder":
            file = folder / part / "model.safetensors"
            file.write_bytes(file.read_bytes()[:100])
        case "tokenizer":
            shutil.rmtree(folder / part)
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=message):
        describe(folder).check(Checkpoint(folder))


def test_a_pipeline_that_needs_an_image_is_an_error(checkpoint: Folder, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("wan"), tmp_path / "wan")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "WanImageToVideoPipeline"}))
    with pytest.raises(ModelError, match="the call of WanImageToVideoPipeline needs image"):
        describe(folder)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "sd3", "pixart-sigma"])
def test_the_direct_path_gives_the_integers_of_the_pipeline(
    kind: str, guidance_scale: float, folder: Folder, images: list[Image.Image]
) -> None:
    """This holds in float32. In bfloat16, a pipeline combines the branches of guidance in bfloat16."""
    direct, by_call = EDICT.from_pretrained(folder(kind)), users_model(folder(kind))
    start = direct.encode(images[:2])
    assert by_call.encode(images[:2]) == start
    given: dict[str, Any] = {"steps": 4, "guidance_scale": guidance_scale, "batch_size": 1}
    noise = direct.invert(start, CAPTIONS, **given)
    assert by_call.invert(start, CAPTIONS, **given) == noise
    assert by_call.generate(noise, CAPTIONS, output_type="latent") == start


def test_a_pair_of_a_larger_batch_is_an_error_for_a_pipeline_that_runs_one_image(checkpoint: Folder) -> None:
    pipe = load(checkpoint("qwen-image"))
    pipe.set_progress_bar_config(disable=True)
    model, own = EDICT(pipe, {"height": 16, "width": 16}), pipe.scheduler
    start = model.encode([Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")])
    assert model.invert(start, CAPTIONS, steps=2, batch_size=2).batch_size == 1
    pipe.scheduler = scheduler = EDICTScheduler.from_config(own.config)
    given = {"prompt": list(CAPTIONS), "num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
    pipe(**given, latents=scheduler.invert(start))
    pipe.scheduler = own
    with pytest.raises(ValueError, match="in batches of 2, and `EDICT` runs this pipeline on one image at a time"):
        model.generate(scheduler.pair, CAPTIONS, guidance_scale=1.0)
    with pytest.raises(ValueError, match="model is of type str: expected a pipeline of diffusers"):
        EDICT("owner/name")  # type: ignore[arg-type]
