"""Edit an image with a ControlNet, which keeps its edges (or its pose, or its depth).

    python examples/controlnet.py cat.jpg cat_edges.png "a photo of a cat" "a photo of a dog"

The second image is the control image. Writes regenerated.png and edited.png.
"""

import argparse

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

from edict import EDICTScheduler

parser = argparse.ArgumentParser()
parser.add_argument("image")
parser.add_argument("control")
parser.add_argument("caption")
parser.add_argument("prompt")
parser.add_argument("--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5")
parser.add_argument("--controlnet", default="lllyasviel/sd-controlnet-canny")
parser.add_argument("--steps", type=int, default=50)
args = parser.parse_args()

torch.use_deterministic_algorithms(True)  # On a GPU, set the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8, too.
controlnet = ControlNetModel.from_pretrained(args.controlnet, torch_dtype=torch.bfloat16)
pipe = StableDiffusionControlNetPipeline.from_pretrained(args.model, controlnet=controlnet, torch_dtype=torch.bfloat16)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
size = pipe.unet.config.sample_size * pipe.vae_scale_factor
control = load_image(args.control).resize((size, size))
call = {"image": control, "num_inference_steps": args.steps, "guidance_scale": 3.0}

pixels = pipe.image_processor.preprocess(load_image(args.image), size, size).to(pipe.device, pipe.dtype)
with torch.no_grad():
    latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor

start = pipe.scheduler.encode(latents)
pipe(args.caption, latents=pipe.scheduler.invert(start).to(pipe.dtype), output_type="latent", **call)
noise = pipe.scheduler.pair

pipe(args.caption, latents=pipe.scheduler.generate(noise).to(pipe.dtype), **call).images[0].save("regenerated.png")
assert pipe.scheduler.pair == start  # every integer
pipe(args.prompt, latents=pipe.scheduler.generate(noise).to(pipe.dtype), **call).images[0].save("edited.png")
