"""Train the default model from nothing: `python -m training WORK --output FOLDER`.

WORK keeps the downloaded pictures, the autoencoder, the latents and the denoiser's state. Each stage is done once, and
the denoiser goes on from its state when the command is given more --minutes. Needs the `train` extra and npm.
"""

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

COPIES = 4  # backgrounds a picture is encoded on


def main(
    work: Path,
    output: Annotated[Path, typer.Option(help="The diffusers folder to write.")],
    autoencoder_minutes: Annotated[float, typer.Option(help="Wall clock for the autoencoder.")] = 24,
    minutes: Annotated[float, typer.Option(help="Wall clock for the denoiser, earlier runs counted in.")] = 80,
    start: Annotated[Path | None, typer.Option(help="Go on from this exported folder, not from nothing.")] = None,
    flat: Annotated[float, typer.Option(help="Share of it before the learning rate goes down.")] = 0.55,
    batch_size: Annotated[int, typer.Option(help="Of the denoiser; a GPU takes more.")] = 64,
    autoencoder_batch_size: int = 24,
    device: str = "cpu",
) -> None:
    """Download, train the autoencoder, the tokenizer and the denoiser, and export."""
    emoji.download(work / "emoji")
    known = emoji.pictures(work / "emoji")
    held_out = {p for pair in emoji.held_out_pairs(set(known)) for p in (pair.source, pair.target)}
    seen = Pixels({picture: rgba for picture, rgba in known.items() if picture not in held_out})
    unseen = Pixels({picture: rgba for picture, rgba in known.items() if picture in held_out})
    if start is not None and not (work / "vae").exists():
        shutil.copytree(start / "vae", work / "vae")
        shutil.copytree(start / "tokenizer", work / "tok")
    if not (work / "vae").exists():
        autoencoder.train(
            seen,
            work / "vae",
            minutes=autoencoder_minutes,
            device=device,
            batch_size=autoencoder_batch_size,
        )
    vae = AutoencoderKL.from_pretrained(work / "vae")
    test = unseen.augmented(np.random.default_rng(1), 256, plain=True)
    print(f"autoencoder: mse {autoencoder.mean_squared_error(vae, test):.5f} on pictures held out")
    if not (work / "tok").exists():
        rng = np.random.default_rng(0)
        tokenizer.train((p.caption(str(rng.choice(list(emoji.BACKGROUNDS)))) for p in known), work / "tok")
    if not (work / "latents.pt").exists():
        torch.save(diffusion.encode(vae, seen, copies=COPIES, device=device), work / "latents.pt")
    latents, captions = torch.load(work / "latents.pt", weights_only=True)
    weights = np.repeat(seen.weights, COPIES) / COPIES
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
