"""Train the denoiser and the text encoder together, on encoded latents.

It uses AdamW, min-SNR weighting with gamma 5 (Hang et al., 2303.09556) and 10% empty captions. The exported weights are
an exponential moving average. The learning rate is constant, and then falls linearly in the last part of the training
time. A run is resumed from `state.pt`; to continue a finished run, give it more minutes.
"""

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.emoji import BACKGROUNDS
from training.pixels import Pixels
from training.tokenizer import LENGTH

WIDTH = 128


def scheduler() -> DDIMScheduler:
    """Return the scheduler of the model, that of Stable Diffusion 1."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build(tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """Return the denoiser, `unet`, and the text encoder, `text_encoder`, with random weights."""
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=32,
    )
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


def encode(
    vae: AutoencoderKL, pixels: Pixels, *, copies: int, device: str, seed: int = 0
) -> tuple[torch.Tensor, list[str]]:
    """Return scaled latents, float16 [copies * N, 4, 16, 16], of N drawings on `copies` backgrounds, and captions."""
    rng = np.random.default_rng(seed)
    vae = vae.to(device).eval()
    latents, captions = [], []
    for first in range(0, len(pixels.drawings), 64):
        part = range(first, min(first + 64, len(pixels.drawings)))
        chosen = [(i, b) for i in part for b in rng.choice(list(BACKGROUNDS), copies, replace=False)]
        images = np.stack([pixels.on(i, b) for i, b in chosen])
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            mode = vae.encode(tensor.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
        latents.append((mode.float() * vae.config.scaling_factor).half().cpu())
        captions += [pixels.drawings[i].caption(b) for i, b in chosen]
    return torch.cat(latents), captions


def train(
    latents: torch.Tensor,
    captions: list[str],
    weights: np.ndarray,
    tokenizer: CLIPTokenizer,
    folder: Path,
    *,
    start: Path | None = None,
    minutes: float,
    flat: float = 0.6,
    device: str,
    batch_size: int = 64,
    learning_rate: float = 6e-4,
    seed: int = 0,
) -> nn.ModuleDict:
    """Train for `minutes` in total, including earlier runs of the same `folder`. Return the averaged model.

    A run continues from `folder`/state.pt. If there is none, it starts from the weights of the exported model `start`,
    or from random ones.

    Args:
        latents: [M, 4, 16, 16].
        captions: M captions.
        weights: [M], the probability of each latent in a batch.
    """
    torch.manual_seed(seed)
    model = build(tokenizer).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = build(tokenizer).to(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    state_file = folder / "state.pt"
    if state_file.exists():
        earlier_seconds, step = _restore(state_file, model, average, optimizer, device)
    else:
        earlier_seconds, step = 0.0, 0
        if start is not None:
            model["unet"].load_state_dict(UNet2DConditionModel.from_pretrained(start / "unet").state_dict())
            model["text_encoder"].load_state_dict(CLIPTextModel.from_pretrained(start / "text_encoder").state_dict())
        average.load_state_dict(model.state_dict())
    alphas_cumprod = scheduler().alphas_cumprod.to(device)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weight_of = snr.clamp(max=5) / snr
    ids = tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
    empty = tokenizer("", padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    rng = np.random.default_rng(seed + step)
    began = saved = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    total = 0.0
    while (seconds := earlier_seconds + time.monotonic() - began) < 60 * minutes:
        done = seconds / (60 * minutes)
        rate = learning_rate * min(1, (step + 1) / 300) * (0.02 + 0.98 * min(1, (1 - done) / (1 - flat)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.from_numpy(rng.choice(len(latents), batch_size, p=weights))
        clean = latents[chosen].to(device).float()
        tokens = torch.where(torch.rand(batch_size, 1) < 0.1, empty, ids[chosen]).to(device)
        noise = torch.randn_like(clean)
        t = torch.randint(len(alphas_cumprod), (batch_size,), device=device)
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            states = model["text_encoder"](tokens).last_hidden_state
            predicted = model["unet"](noisy, t, states).sample
        error = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        loss = (error * weight_of[t]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(0.999, step / (step + 100))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        total += float(error.detach().mean())
        if step % 100 == 0:
            print(f"denoiser step {step} {done:.1%} error {total / 100:.4f} rate {rate:.1e}", flush=True)
            total = 0.0
        if time.monotonic() - saved > 300:
            _save(state_file, model, average, optimizer, seconds, step)
            saved = time.monotonic()
    _save(state_file, model, average, optimizer, earlier_seconds + time.monotonic() - began, step)
    return average.eval()


def _restore(
    file: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, device: str
) -> tuple[float, int]:
    """Load the state of a run. Return the seconds and the steps of the run so far."""
    state = torch.load(file, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["seconds"], state["step"]


def _save(
    file: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, seconds: float, step: int
) -> None:
    """Save the state of a run. The file is replaced at once, so that an interruption does not damage it."""
    state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    partial = file.with_suffix(".partial")
    torch.save(state | {"seconds": seconds, "step": step}, partial)
    partial.replace(file)
