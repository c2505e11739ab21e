"""Edit an image: invert it with its caption, and generate with another prompt.

    python examples/edit.py cat.jpg "a photo of a cat" "a photo of a dog"

Writes regenerated.png and edited.png.
"""

import argparse

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import load_image

from edict import EDICTScheduler

parser = argparse.ArgumentParser()
parser.add_argument("image")
parser.add_argument("caption")
parser.add_argument("prompt")
parser.add_argument("--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5")
parser.add_argument("--steps", type=int, default=50)
args = parser.parse_args()

torch.use_deterministic_algorithms(True)  # On a GPU, set the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8, too.
pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
call = {"num_inference_steps": args.steps, "guidance_scale": 3.0}

size = pipe.unet.config.sample_size * pipe.vae_scale_factor
pixels = pipe.image_processor.preprocess(load_image(args.image), size, size).to(pipe.device, pipe.dtype)
with torch.no_grad():
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor

start = pipe.scheduler.encode(latents)
# A lower strength keeps more of the image: the last 80% of the steps are inverted.
pipe(args.caption, latents=pipe.scheduler.invert(start, strength=0.8).to(pipe.dtype), output_type="latent", **call)
noise = pipe.scheduler.pair

pipe(args.caption, latents=pipe.scheduler.generate(noise).to(pipe.dtype), **call).images[0].save("regenerated.png")
assert pipe.scheduler.pair == start  # every integer
pipe(args.prompt, latents=pipe.scheduler.generate(noise).to(pipe.dtype), **call).images[0].save("edited.png")
