"""Train the default model from scratch: `python -m training WORK --output FOLDER`."""

import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from training import autoencoder, diffusion, emoji, tokenizer
from training.export import export
from training.pixels import Pixels

BACKGROUNDS_PER_DRAWING = 4  # for the denoiser


def main(
    work: Annotated[Path, typer.Argument(help="Folder for the downloads and the intermediate results.")],
    output: Annotated[Path, typer.Option(help="Folder of the trained model, in the layout of diffusers.")],
    autoencoder_minutes: Annotated[float, typer.Option(help="Training time of the autoencoder.")] = 24,
    minutes: Annotated[float, typer.Option(help="Training time of the denoiser, including earlier runs.")] = 80,
    start: Annotated[Path | None, typer.Option(help="Continue from this exported model.")] = None,
    flat: Annotated[float, typer.Option(help="Share of the training time with a constant learning rate.")] = 0.55,
    batch_size: Annotated[int, typer.Option(help="Batch size of the denoiser.")] = 64,
    autoencoder_batch_size: Annotated[int, typer.Option(help="Batch size of the autoencoder.")] = 24,
    device: Annotated[str, typer.Option(help="Device of torch.")] = "cpu",
) -> None:
    """Download the drawings, train the autoencoder, the tokenizer and the denoiser, and export the model.

    A stage whose result is in WORK is skipped. To continue the training of the denoiser, give more --minutes.
    """
    emoji.download(work / "emoji")
    drawings = emoji.read_drawings(work / "emoji")
    pairs = emoji.held_out_pairs(set(drawings))
    held_out = {drawing for pair in pairs for drawing in (pair.source, pair.target)}
    train_pixels = Pixels({drawing: rgba for drawing, rgba in drawings.items() if drawing not in held_out})
    test_pixels = Pixels({drawing: rgba for drawing, rgba in drawings.items() if drawing in held_out})
    if start is not None and not (work / "vae").exists():
        shutil.copytree(start / "vae", work / "vae")
        shutil.copytree(start / "tokenizer", work / "tok")
    if not (work / "vae").exists():
        autoencoder.train(
            train_pixels,
            work / "vae",
            minutes=autoencoder_minutes,
            device=device,
            batch_size=autoencoder_batch_size,
        )
    vae = AutoencoderKL.from_pretrained(work / "vae")
    test = test_pixels.augmented(np.random.default_rng(1), 256, plain=True)
    print(f"autoencoder: mse {autoencoder.mean_squared_error(vae, test):.5f} on held-out drawings")
    if not (work / "tok").exists():
        rng = np.random.default_rng(0)
        captions = (drawing.caption(str(rng.choice(list(emoji.BACKGROUNDS)))) for drawing in drawings)
        tokenizer.train(captions, work / "tok")
    if not (work / "latents.pt").exists():
        torch.save(
            diffusion.encode(vae, train_pixels, copies=BACKGROUNDS_PER_DRAWING, device=device), work / "latents.pt"
        )
    latents, captions = torch.load(work / "latents.pt", weights_only=True)
    weights = np.repeat(train_pixels.weights, BACKGROUNDS_PER_DRAWING) / BACKGROUNDS_PER_DRAWING
    diffusion.train(
        latents,
        captions,
        weights,
        CLIPTokenizer.from_pretrained(work / "tok"),
        work / "unet",
        start=start,
        minutes=minutes,
        flat=flat,
        device=device,
        batch_size=batch_size,
    )
    export(work / "unet" / "state.pt", work / "vae", work / "tok", output)


if __name__ == "__main__":
    typer.run(main)
