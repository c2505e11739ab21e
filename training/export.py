"""Export a trained model to a folder in the layout of diffusers."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from training import diffusion


def export(state_file: Path, vae_folder: Path, tokenizer_folder: Path, folder: Path) -> None:
    """Write the averaged weights of `state_file`, the autoencoder and the tokenizer. A model card in `folder` is kept.

    The denoiser and the autoencoder are stored in float16, which diffusers loads as float32 by default. The text
    encoder is stored in float32, because transformers loads the stored precision.
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
    # save_pretrained also saves the local path that the autoencoder was loaded from, so remove it.
    for config in folder.glob("*/config.json"):
        content = json.loads(config.read_text())
        content.pop("_name_or_path", None)
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
