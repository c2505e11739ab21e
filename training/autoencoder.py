"""Train the autoencoder, an AutoencoderKL of diffusers: images of 3 x 64 x 64 to latents of 4 x 16 x 16.

The loss also compares the decoded latents at half size with the image at half size (scale equivariance, Skorokhodov et
al., 2502.14831). This makes the latents smooth, so that a small denoiser learns them better.
"""

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from training.pixels import Pixels


def build() -> AutoencoderKL:
    """Return the autoencoder with random weights."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
    )


def train(
    pixels: Pixels, folder: Path, *, minutes: float, device: str, batch_size: int, seed: int = 0
) -> AutoencoderKL:
    """Train for this many minutes, and save to `folder`. The scaling factor gives the latents a std of 1."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = build().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=1e-3)
    start = time.monotonic()
    step = 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, done / 0.05) * (0.02 + 0.98 * min(1, (1 - done) / 0.6))
        images = pixels.augmented(rng, batch_size).to(device, memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            latents = posterior.sample()
            decoded = vae.decode(latents).sample.float()
            half = vae.decode(F.avg_pool2d(latents, 2)).sample.float()
        loss = _distance(decoded, images) + 0.25 * _distance(half, F.avg_pool2d(images, 2))
        loss = loss + 5e-5 * max(1 / 16, min(1, 2 * done)) * posterior.kl().mean()  # The weight is annealed.
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(
                f"autoencoder step {step} {done:.1%} mse {F.mse_loss(decoded, images):.5f} loss {loss:.4f}", flush=True
            )
    vae.eval()
    with torch.inference_mode():
        sample = pixels.augmented(rng, 256, plain=True).to(device)
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(sample, 64)])
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    vae.save_pretrained(folder)
    return vae


def _distance(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the loss of decoded images: absolute and squared error, and the error of the edges."""
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * error.square().mean() + 0.5 * edges


def mean_squared_error(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Return the error of images [N, 3, H, W] on [-1, 1], encoded to the mode of the posterior and decoded."""
    with torch.inference_mode():
        parts = [
            F.mse_loss(vae.decode(vae.encode(i).latent_dist.mode()).sample, i, reduction="sum")
            for i in torch.split(images, 64)
        ]
    return float(sum(parts) / images.numel())
