"""Checkpoints of every form, with LoRAs and textual inversions, by pipelines of diffusers."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edict import EDICT, ModelError
from edict.checkpoint import Checkpoint
from edict.model_files import weights_digest
from edict.models import PipelineModel, describe
from tests.edict import pipeline_checkpoints
from tests.edict.checkpoints import Folder

TEXTS = ["a red cat", "a dog"]
CALL = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a small checkpoint, saved once."""
    folders = dict[str, Path]()

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = pipeline_checkpoints.save(name, tmp_path_factory.mktemp(name) / name)
        return folders[name]

    return folder


def regenerated(model: EDICT, image: Image.Image) -> torch.Tensor:
    """Return the noise of an image after checking that it regenerates exactly."""
    start = model.encode([image, image])
    pair = model.invert(start, TEXTS, steps=3, guidance_scale=2.0)
    assert model.generate(pair, TEXTS, output_type="latent") == start
    return pair.x


def test_a_single_file_takes_its_configurations_from_a_folder(
    saved: Callable[[str], Path], tmp_path: Path, images: list[Image.Image]
) -> None:
    folder = saved("qwen-image")
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    file = tmp_path / "qwen.safetensors"
    save_file(weights, file)
    of_folder = regenerated(EDICT.from_pretrained(folder, call=CALL), images[0])
    assert torch.equal(regenerated(EDICT.from_pretrained(file, config=folder, call=CALL), images[0]), of_folder)
    save_file({name: weight * 1.1 for name, weight in weights.items()}, file)
    assert not torch.equal(regenerated(EDICT.from_pretrained(file, config=folder, call=CALL), images[0]), of_folder)
    assert len({weights_digest(folder), weights_digest(folder, extra_files=[file])}) == 2
    with pytest.raises(ModelError, match="is a single file, so its configurations are needed: give `config`"):
        EDICT.from_pretrained(file)
    with pytest.raises(ModelError, match=r"`config` is only valid for a \.safetensors file"):
        EDICT.from_pretrained(folder, config=folder)


@pytest.mark.parametrize("form", ["diffusers", "peft", "kohya"])
def test_a_lora_loads_in_each_format(
    saved: Callable[[str], Path], tmp_path: Path, images: list[Image.Image], form: str
) -> None:
    folder = saved("qwen-image")
    plain = EDICT.from_pretrained(folder, call=CALL)
    names = [name for name, _ in plain.network.named_modules() if name.endswith("attn.to_q")]
    up, down = torch.randn(plain.network.get_submodule(names[0]).out_features, 2), None
    weights = dict[str, torch.Tensor]()
    for name in names:
        module = plain.network.get_submodule(name)
        down, up = torch.randn(2, module.in_features) / 4, torch.randn(module.out_features, 2) / 4
        if form == "kohya":
            stem = "lora_unet_" + name.replace(".", "_")
            weights |= {
                f"{stem}.lora_down.weight": down,
                f"{stem}.lora_up.weight": up,
                f"{stem}.alpha": torch.tensor(2.0),
            }
        else:
            stem = f"transformer.{name}" if form == "diffusers" else f"base_model.model.{name}"
            weights |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(weights, file)
    noise = [
        regenerated(EDICT.from_pretrained(folder, call=CALL, lora=tmp_path, lora_scale=scale), images[0])
        for scale in (0.0, 0.5, 1.0)
    ]
    assert torch.equal(noise[0], regenerated(plain, images[0]))
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise[1], noise[2])


@pytest.mark.parametrize("name", ["int8", "int8_dynamic", "float8"])
def test_a_quantized_network_is_deterministic(
    saved: Callable[[str], Path], images: list[Image.Image], name: str
) -> None:
    given: dict[str, Any] = {"call": CALL, "dtype": "bfloat16"}
    model = EDICT.from_pretrained(saved("qwen-image"), **given, quantization=name)
    plain = EDICT.from_pretrained(saved("qwen-image"), **given)
    assert not torch.equal(regenerated(model, images[0]), regenerated(plain, images[0]))


def test_a_textual_inversion(folder: Folder, tmp_path: Path, images: list[Image.Image]) -> None:
    plain = EDICT.from_pretrained(folder("sd1"), call={"clip_skip": None})
    assert isinstance(plain.backend, PipelineModel)
    file = tmp_path / "learned_embeds.safetensors"
    save_file({"<toy>": torch.randn(16)}, file)
    model = EDICT.from_pretrained(folder("sd1"), textual_inversion=file)
    start = model.encode(images[:1])
    noise = [one.invert(start, "a <toy>", steps=3) for one in (plain, model)]
    assert noise[0] != noise[1]
    assert model.generate(noise[1], "a <toy>", output_type="latent") == start
    assert plain.invert(start, "a cat", steps=3) == model.invert(start, "a cat", steps=3)


def test_a_textual_inversion_without_clip_is_an_error_before_loading(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "learned_embeds.safetensors"
    save_file({"<toy>": torch.randn(16)}, file)
    checkpoint = Checkpoint(saved("qwen-image"), embeddings=(file,))
    with pytest.raises(ModelError, match="textual_inversion: a QwenImagePipeline has no CLIP text encoder"):
        describe(checkpoint).check(checkpoint)


def test_a_lora_of_another_model_is_an_error(saved: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({"other.lora_A.weight": torch.zeros(2, 4), "other.lora_B.weight": torch.zeros(4, 2)}, file)
    with pytest.raises(ModelError, match=r"lora .*lora\.safetensors cannot be loaded into a QwenImagePipeline"):
        EDICT.from_pretrained(saved("qwen-image"), call=CALL, lora=file)


def test_missing_weights_are_an_error(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved("wan"), tmp_path / "wan")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = max(weights)
    save_file({key: weight for key, weight in weights.items() if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"transformer has other weights than its class: {re.escape(name)} is missing"):
        EDICT.from_pretrained(folder, call=CALL)
    file.unlink()
    with pytest.raises(ModelError, match="transformer"):
        EDICT.from_pretrained(folder, call=CALL)


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_missing_tokenizer_is_an_error(saved: Callable[[str], Path], tmp_path: Path, is_empty: bool) -> None:
    """transformers makes a tokenizer without a vocabulary, which gives every caption the same few tokens."""
    folder = shutil.copytree(saved("wan"), tmp_path / "wan")
    shutil.rmtree(folder / "tokenizer")
    if is_empty:
        (folder / "tokenizer").mkdir()
    with pytest.raises(ModelError, match="wan: tokenizer has no files, so it is incomplete"):
        EDICT.from_pretrained(folder, call=CALL)


def test_a_pipeline_with_code_of_its_own_is_an_error(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved("wan"), tmp_path / "wan")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": ["pipeline", "Mine"]}))
    with pytest.raises(ModelError, match="Code in a checkpoint is not run"):
        EDICT.from_pretrained(folder, call=CALL)


def test_an_adapter_that_is_not_safetensors_is_an_error(saved: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(b"<html>")
    with pytest.raises(ModelError, match=r"lora .*lora\.safetensors cannot be loaded into a WanPipeline"):
        EDICT.from_pretrained(saved("wan"), call=CALL, lora=file)


def test_a_missing_scheduler_is_named_once(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved("wan"), tmp_path / "wan")
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(ModelError, match=r"^model \S+: no scheduler/scheduler_config\.json"):
        EDICT.from_pretrained(folder, call=CALL)
