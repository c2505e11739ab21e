"""The small checkpoints of recent pipelines load and run from captions."""

from pathlib import Path
from string import printable
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from tests.edict.checkpoints import Folder
from tests.edict.pipeline_checkpoints import BUILDERS, CALLS, classes, load, save

LONG = " ".join(["a cat"] * 30)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("pipelines")
    return lambda name: root / name if (root / name).exists() else save(name, root / name)


def latents_of(pipe: DiffusionPipeline, prompt: str | list[str], **call: Any) -> torch.Tensor:
    call |= {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    return pipe(prompt=prompt, **call, return_dict=False)[0]


@pytest.mark.parametrize("name", BUILDERS)
def test_the_latents_depend_on_the_caption(name: str, checkpoint: Folder) -> None:
    pipe = load(checkpoint(name))
    latents = {prompt: latents_of(pipe, prompt, **CALLS[name]) for prompt in ("a cat", "a dog", "", LONG)}
    assert all(made.isfinite().all() for made in latents.values())
    for prompt, made in latents.items():
        for other in latents.keys() - {prompt}:
            assert (made - latents[other]).abs().max() > 0.05, (prompt, other)
    assert torch.equal(latents_of(pipe, "a cat", **CALLS[name]), latents["a cat"])


@pytest.mark.parametrize("name", BUILDERS)
def test_a_list_of_captions_gives_images_that_differ(name: str, checkpoint: Folder) -> None:
    pipe = load(checkpoint(name))
    same = [torch.Generator().manual_seed(0) for _ in range(2)]
    call = CALLS[name] | {"num_inference_steps": 2, "generator": same, "output_type": "pt", "return_dict": False}
    images = pipe(prompt=["a cat", "a dog"], **call)[0]
    size = CALLS[name]["height"], CALLS[name]["width"]
    assert (images.shape[0], images.shape[-2:], images.shape[-3]) == (2, size, 3)
    assert (images[0] - images[1]).abs().max() > 4 / 255


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2)])
def test_wan_makes_an_image_or_a_video(frames: int, latent_frames: int, checkpoint: Folder) -> None:
    latents = latents_of(load(checkpoint("wan")), "a cat", **CALLS["wan"] | {"num_frames": frames})
    assert latents.shape == (1, 16, latent_frames, 2, 2)


def test_qwen_image_drops_only_its_template(checkpoint: Folder) -> None:
    pipe = load(checkpoint("qwen-image"))
    suffix = pipe.tokenizer("<|im_end|>\n<|im_start|>assistant\n").input_ids
    assert pipe.encode_prompt("")[0].shape[1] == len(suffix) == 5


@pytest.mark.parametrize("name", BUILDERS)
def test_each_component_loads_from_its_folder(name: str, checkpoint: Folder) -> None:
    folder = checkpoint(name)
    parts = classes(folder)
    assert {"text_encoder", "tokenizer", "transformer", "vae", "scheduler"} == set(parts)
    for part, component in parts.items():
        component.from_pretrained(folder / part, local_files_only=True)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_builder_always_gives_the_same_small_checkpoint(name: str, checkpoint: Folder, tmp_path: Path) -> None:
    files = {file.relative_to(checkpoint(name)): file.read_bytes() for file in files_of(checkpoint(name))}
    again = {file.relative_to(tmp_path): file.read_bytes() for file in files_of(save(name, tmp_path))}
    assert files == again
    assert sum(map(len, files.values())) < 3e6


def files_of(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize("name", BUILDERS)
def test_tokens_differ_if_captions_differ(name: str, checkpoint: Folder) -> None:
    parts = classes(checkpoint(name))
    tokenizer = parts["tokenizer"].from_pretrained(checkpoint(name) / "tokenizer")
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    captions = [f"a {character}cat" for character in printable.strip()]
    assert len({tuple(ids) for ids in tokenizer(captions).input_ids}) == len(captions)
    assert len(tokenizer(LONG).input_ids) >= len(LONG.split())
