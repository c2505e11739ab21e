"""Edit an image with a ControlNet, which keeps its edges (or its pose, or its depth).

    python examples/controlnet.py cat.jpg cat_edges.png "a photo of a cat" "a photo of a dog"

Works with Stable Diffusion 1.5 and its ControlNets. The scheduler makes the pipeline's own call exact. Writes
regenerated.png and edited.png.
"""

import argparse

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.utils import load_image

from edict import EDICT, EDICTScheduler

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image", help="the image to edit, a file or a URL")
parser.add_argument("control", help="the control image, such as the edges of the image")
parser.add_argument("caption", help="the caption of the image")
parser.add_argument("prompt", help="the caption of the image that you want")
parser.add_argument(
    "--model", default="stable-diffusion-v1-5/stable-diffusion-v1-5", help="a folder or a hub id (default: %(default)s)"
)
parser.add_argument(
    "--controlnet", default="lllyasviel/sd-controlnet-canny", help="a folder or a hub id (default: %(default)s)"
)
parser.add_argument("--steps", type=int, default=50, help="the number of steps (default: %(default)s)")
args = parser.parse_args()

# The network has to return the same bits for the same input.
# On a GPU, also set the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8.
torch.use_deterministic_algorithms(True)
controlnet = ControlNetModel.from_pretrained(args.controlnet, torch_dtype=torch.bfloat16)
pipe = StableDiffusionControlNetPipeline.from_pretrained(args.model, controlnet=controlnet, torch_dtype=torch.bfloat16)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
latents, _ = EDICT(pipe).encode(load_image(args.image)).to_float()

pipe.scheduler = EDICTScheduler.from_config(pipe.scheduler.config)
size = pipe.unet.config.sample_size * pipe.vae_scale_factor
control = load_image(args.control).resize((size, size))
call = {"image": control, "num_inference_steps": args.steps, "guidance_scale": 3.0}

start = pipe.scheduler.encode(latents)
pipe(args.caption, latents=pipe.scheduler.invert(start).to(pipe.dtype), output_type="latent", **call)
noise = pipe.scheduler.pair

pipe(args.caption, latents=pipe.scheduler.generate(noise).to(pipe.dtype), **call).images[0].save("regenerated.png")
assert pipe.scheduler.pair == start  # every integer
pipe(args.prompt, latents=pipe.scheduler.generate(noise).to(pipe.dtype), **call).images[0].save("edited.png")
