"""Write a trained model as a standard diffusers folder."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from training import diffusion


def export(state_file: Path, vae_folder: Path, tokenizer_folder: Path, folder: Path) -> None:
    """The averaged weights of `state_file` with their autoencoder and tokenizer, to `folder`; a card there is kept.

    The two large networks are stored in float16; diffusers loads those as float32 unless told otherwise, while
    transformers keeps what is stored, so the text encoder stays in float32.
    """
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    model = diffusion.build(tokenizer)
    model.load_state_dict(torch.load(state_file, map_location="cpu", weights_only=True)["average"])
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae_folder).half(),
        unet=model["unet"].half(),
        text_encoder=model["text_encoder"],
        tokenizer=tokenizer,
        scheduler=diffusion.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer_folder / name, folder / "tokenizer" / name)
    for weights in folder.glob("*/*.safetensors"):
        weights.chmod(0o644)
    # saved on the way, and of no use to who loads it: the path this was loaded from
    for config in folder.glob("*/config.json"):
        content = json.loads(config.read_text())
        content.pop("_name_or_path", None)
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
