"""Edit an image with a LoRA. It needs the package peft: pip install "edict-pipeline[lora]".

    python examples/lora.py cat.jpg "a cat" "a dog, pixel art"

The LoRA has the same scale in the inversion and in the generation. Writes regenerated.png and edited.png.
"""

import argparse

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import load_image

from edict import EDICTScheduler

parser = argparse.ArgumentParser()
parser.add_argument("image")
parser.add_argument("caption")
parser.add_argument("prompt")
parser.add_argument("--model", default="stabilityai/stable-diffusion-xl-base-1.0")
parser.add_argument("--lora", default="nerijs/pixel-art-xl", help="a file, a folder or a hub id")
parser.add_argument("--scale", type=float, default=0.7)
parser.add_argument("--steps", type=int, default=50)
args = parser.parse_args()

torch.use_deterministic_algorithms(True)  # On a GPU, set the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8, too.
pipe = StableDiffusionXLPipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16)
pipe.load_lora_weights(args.lora, adapter_name="lora")
pipe.set_adapters("lora", args.scale)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
call = {"num_inference_steps": args.steps, "guidance_scale": 3.0}

size = pipe.unet.config.sample_size * pipe.vae_scale_factor
pixels = pipe.image_processor.preprocess(load_image(args.image), size, size).to(pipe.device, pipe.dtype)
with torch.no_grad():
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor

start = pipe.scheduler.encode(latents)
pipe(args.caption, latents=pipe.scheduler.invert(start).to(pipe.dtype), output_type="latent", **call)
noise = pipe.scheduler.pair

pipe(args.caption, latents=pipe.scheduler.generate(noise).to(pipe.dtype), **call).images[0].save("regenerated.png")
assert pipe.scheduler.pair == start  # every integer
pipe(args.prompt, latents=pipe.scheduler.generate(noise).to(pipe.dtype), **call).images[0].save("edited.png")
