"""Edit an image by a reference image, with an IP-Adapter.

    python examples/ip_adapter.py cat.jpg "a photo of a cat" dog.jpg

The inversion is given the image itself as its reference, and the edit another one. Writes regenerated.png and
edited.png.
"""

import argparse

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import load_image

from edict import EDICTScheduler

parser = argparse.ArgumentParser()
parser.add_argument("image")
parser.add_argument("caption")
parser.add_argument("reference")
parser.add_argument("--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5")
parser.add_argument("--adapter", default="h94/IP-Adapter")
parser.add_argument("--steps", type=int, default=50)
args = parser.parse_args()

torch.use_deterministic_algorithms(True)  # On a GPU, set the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8, too.
pipe = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16)
pipe.load_ip_adapter(args.adapter, subfolder="models", weight_name="ip-adapter_sd15.safetensors")
pipe.set_ip_adapter_scale(0.6)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
call = {"prompt": args.caption, "num_inference_steps": args.steps, "guidance_scale": 3.0}

image, reference = load_image(args.image), load_image(args.reference)
size = pipe.unet.config.sample_size * pipe.vae_scale_factor
pixels = pipe.image_processor.preprocess(image, size, size).to(pipe.device, pipe.dtype)
with torch.no_grad():
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor

start = pipe.scheduler.encode(latents)
pipe(**call, ip_adapter_image=image, latents=pipe.scheduler.invert(start).to(pipe.dtype), output_type="latent")
noise = pipe.scheduler.pair

pipe(**call, ip_adapter_image=image, latents=pipe.scheduler.generate(noise).to(pipe.dtype)).images[0].save(
    "regenerated.png"
)
assert pipe.scheduler.pair == start  # every integer
pipe(**call, ip_adapter_image=reference, latents=pipe.scheduler.generate(noise).to(pipe.dtype)).images[0].save(
    "edited.png"
)
